"""The error of a pipeline that does not fit, and the nearest name to a misspelt one."""

from collections.abc import Iterable

from tandem.protocol import nearest


class PipelineError(Exception):
    """A pipeline, its settings or its environment name something that does not exist or does not fit."""


def check_known(kind: str, name: str, known: Iterable[str], where: str) -> None:
    """Raise PipelineError with the nearest known name unless `name` is known."""
    names = sorted(known)
    if name not in names:
        raise PipelineError(f"{where} names the {kind} '{name}', which does not exist{nearest(name, names)}.")

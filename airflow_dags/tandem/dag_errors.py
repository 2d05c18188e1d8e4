"""The error of a pipeline that is written wrongly, and the nearest name to a misspelt one."""

from collections.abc import Iterable
from difflib import get_close_matches


class PipelineError(Exception):
    """A pipeline, its settings or its environment name something that does not exist or does not fit."""


def check_known(kind: str, name: str, known: Iterable[str], where: str) -> None:
    """Raise PipelineError, naming the nearest known name, if `name` is none of them."""
    names = sorted(known)
    if name not in names:
        nearest = get_close_matches(name, names, n=1, cutoff=0)
        advice = f"did you mean '{nearest[0]}'?" if nearest else "there is none here, take it out."
        raise PipelineError(f"{where} names the {kind} '{name}', which does not exist: {advice}")

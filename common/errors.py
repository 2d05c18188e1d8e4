"""Exceptions of a job, each with the exit code by which a scheduler decides on a retry."""

import re

from common.protocol import EXIT_ARGUMENTS, EXIT_INPUT, EXIT_REFUSED, EXIT_STALE

MAX_SENTENCE = 4000  # characters: names in it may have any length
CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # and halves of surrogate pairs


def one_line(text: str, limit: int = MAX_SENTENCE) -> str:
    """Return the text as one line of bounded length; control characters, which names may contain, are escaped."""
    escaped = CONTROL_CHARACTERS.sub(lambda match: match[0].encode("unicode_escape").decode(), text[: limit + 1])
    return escaped if len(escaped) <= limit else f"{escaped[:limit]}…"


class TaskError(Exception):
    """A failure described in one sentence; any other exception exits with 1 and is worth a retry."""

    exit_code = 1


class ArgumentError(TaskError):
    """The command line or `job.toml` is wrong."""

    exit_code = EXIT_ARGUMENTS


class InputError(TaskError):
    """An input is missing or breaks its contract."""

    exit_code = EXIT_INPUT


class GateRefused(TaskError):
    """A quality gate refused the result."""

    exit_code = EXIT_REFUSED


class StaleAttempt(TaskError):
    """This attempt, or a newer one, has published already."""

    exit_code = EXIT_STALE

"""The failures that a job tells apart, each with the exit code by which a scheduler decides on a retry."""


class Failure(Exception):
    """A failure told in one sentence; anything that is none of its kinds exits with 1 and is worth a retry."""

    exit_code = 1


class ArgumentError(Failure):
    """The command line or `job.toml` is wrong."""

    exit_code = 2


class InputError(Failure):
    """An input is missing or breaks its contract."""

    exit_code = 3


class Refused(Failure):
    """A quality gate refused the result."""

    exit_code = 4


class Fenced(Failure):
    """This attempt, or a newer one, has published already."""

    exit_code = 5

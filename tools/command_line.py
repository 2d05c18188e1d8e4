"""The command lines of tools: a failure is one sentence on stderr and exit code 1."""

import contextlib
import sys
from collections.abc import Iterator

from common.errors import TaskError


@contextlib.contextmanager
def exit_on_task_error() -> Iterator[None]:
    """End the process with the sentence of a TaskError; a decorator of `main`."""
    try:
        yield
    except TaskError as error:
        sys.exit(str(error))

"""A process that forgets users in child processes, each killed in one of its operations on the lake.

It reads one line of JSON per child, [lake, user, number of the operation from 0], and answers true if the child reached
that operation. Children are forked, because starting Python a hundred times takes minutes.
"""

import itertools
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.handover import storage
from tools import environment, tables
from tools.lake import forget, forget_content, forget_lake, forget_requests

OPERATIONS = [
    (storage, "replace"),
    (storage, "write"),
    (storage, "stream"),
    (storage, "delete_files"),
    (forget_content, "copy_lines"),
    (forget_lake, "replace_stream"),
    (forget_requests, "save"),
]


def forget_until(lake: str, user: str, number: int) -> bool:
    """Forget a user in a child that is killed before or after an operation; True if it was killed."""
    child = os.fork()
    if child:
        status = os.waitpid(child, 0)[1]
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
        return os.WIFSIGNALED(status)
    moments = itertools.count()

    def count_calls(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            kill_at(number, next(moments))
            result = function(*arguments, **more)
            kill_at(number, next(moments))
            return result

        return call

    for module, name in OPERATIONS:
        setattr(module, name, count_calls(getattr(module, name)))
    os._exit(forget.forget(lake, environment.load("laptop"), [user], 0))


def kill_at(number: int, moment: int) -> None:
    if moment == number:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    tables.LOCAL = forget.REPLAYS = Path("/nowhere")  # no tables, and no replays of this checkout
    forget.console.quiet = True
    for line in sys.stdin:
        print(json.dumps(forget_until(*json.loads(line))), flush=True)

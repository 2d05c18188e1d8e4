"""Interruptions of a publication at one of its calls of a store or of a store's client, and its right ends."""

from collections.abc import Callable, Collection
from typing import Any, ClassVar


class Killed(BaseException):
    """Death of a process, which no handler catches."""


class InterruptedCalls:
    """An object that calls `action` once, before or after the call `number` of its methods in `names`."""

    names: ClassVar[Collection[str]]

    def __init__(self, real: Any, number: int, action: Callable[[], None], after: bool = False) -> None:
        self.real, self.number, self.action, self.after = real, number, action, after
        self.called: list[str] = []

    def __getattr__(self, name: str) -> Any:
        real = getattr(self.real, name)
        if name not in self.names:
            return real

        def call(*arguments: Any, **options: Any) -> Any:
            self.called.append(name)
            now = len(self.called) - 1 == self.number
            if now and not self.after:
                self.action()
            response = real(*arguments, **options)
            if now and self.after:
                self.action()
            return response

        return call


def check_end(action: str, switched: bool, codes: list[int], code: int, shown: str, where: str) -> None:
    """Assert that the publication of d over c, interrupted by an action, ends with the right code and version.

    `switched`: d was live at the interruption; `codes` are those of publications which the action made.
    """
    if action == "rollback":
        assert (code, shown) == ((0, "c") if switched else (5, "b")), where
    elif action == "newer":
        assert (code, shown) == (0 if switched else 5, "newer"), where
    elif action == "older":
        assert codes == [5 if switched else 0], where
        assert (code, shown) in ([(0, "d")] if switched else [(1, "older"), (0, "d")]), where


def end_of_retry(action: str, shown: str) -> tuple[int, str]:
    """Return the right code of a retry, and the version that is live after it; `shown` was before."""
    return {"rollback": (5, shown), "newer": (5, "newer")}.get(action, (0, "d"))

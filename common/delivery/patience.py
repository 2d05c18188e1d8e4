"""Requests to a busy store, retried after growing, random waits until nothing was processed for ten minutes."""

import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

from common.errors import TaskError

MAX_WAIT = 20.0  # seconds between two attempts
PATIENCE = 600.0  # seconds without progress before a request fails
Result = TypeVar("Result")


def send_all(name: str, waiting: list[Any], send: Callable[[list[Any]], tuple[list[Any], str]]) -> int:
    """Send until nothing is left, and return the number of items re-sent.

    `send` returns the items that the store `name` did not process, and the reason with a remedy: "is throttled; …".
    Raises TaskError if the store processes nothing for PATIENCE.
    """
    attempts, resent, deadline = 0, 0, time.monotonic() + PATIENCE
    while True:
        left, reason = send(waiting)
        if not left:
            return resent
        if len(left) < len(waiting):
            attempts, deadline = 0, time.monotonic() + PATIENCE
        elif time.monotonic() > deadline:
            raise TaskError(f"{name} accepted no requests for {PATIENCE:.0f} s, because it {reason}, then retry.")
        waiting, attempts, resent = left, attempts + 1, resent + len(left)
        # Full jitter: threads that were throttled together do not retry together.
        time.sleep(random.uniform(0, min(MAX_WAIT, 0.05 * 2 ** min(attempts, 20))))


def persist(name: str, call: Callable[[], Result], reason: Callable[[Exception], str | None]) -> Result:
    """Return the result of a call, repeated while it fails because the store is busy: if its error has a `reason`."""
    results: list[Result] = []

    def send(waiting: list[Any]) -> tuple[list[Any], str]:
        try:
            results.append(call())
        except Exception as error:
            if busy := reason(error):
                return waiting, busy
            raise
        return [], ""

    send_all(name, [call], send)
    return results[0]

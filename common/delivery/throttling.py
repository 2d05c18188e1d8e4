"""Requests to DynamoDB, retried with a limit while it throttles them or is unavailable."""

import random
import time
from collections.abc import Callable
from typing import Any

from botocore.exceptions import ClientError

from common.delivery.tables import Table
from common.errors import TaskError

MAX_WAIT = 20.0  # seconds between two attempts
PATIENCE = 600.0  # seconds without progress before a request fails
THROTTLED = {
    "ProvisionedThroughputExceeded",  # of an item in a transaction or in a batch of statements
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "ThrottlingError",
    "ThrottlingException",
}
UNAVAILABLE = {
    "InternalServerError",
    "ServiceUnavailable",
    "TransactionConflict",  # another transaction is writing the same item
    "TransactionConflictException",
    "TransactionInProgressException",
}


def request(table: Table, operation: str, **arguments: Any) -> Any:
    """Return the response of one request, retried while DynamoDB is too busy; TaskError after PATIENCE."""
    responses = []

    def send(_: list[str]) -> list[str]:
        responses.append(getattr(table.client, operation)(**arguments))
        return []

    send_all(table, [operation], send)
    return responses[0]


def send_all(table: Table, waiting: list[Any], send: Callable[[list[Any]], list[Any]]) -> int:
    """Send until nothing is left, and return the number of items re-sent. `send` returns the unprocessed items.

    Raises TaskError if DynamoDB processes nothing for PATIENCE.
    """
    attempts, resent, deadline = 0, 0, time.monotonic() + PATIENCE
    while True:
        reasons = THROTTLED
        try:
            left = send(waiting)
        except ClientError as error:
            reasons = codes(error)
            if not is_busy(reasons):
                raise
            left = waiting
        if not left:
            return resent
        if len(left) < len(waiting):
            attempts, deadline = 0, time.monotonic() + PATIENCE
        elif time.monotonic() > deadline:
            why = "is throttled; raise its capacity" if reasons & THROTTLED else f"answers {', '.join(sorted(reasons))}"
            raise TaskError(f"{table.name} accepted no requests for {PATIENCE:.0f} s, because it {why}, then retry.")
        waiting, attempts, resent = left, attempts + 1, resent + len(left)
        # Full jitter: threads that were throttled together do not retry together.
        time.sleep(random.uniform(0, min(MAX_WAIT, 0.05 * 2 ** min(attempts, 20))))


def codes(error: ClientError) -> set[str]:
    """Return the error code of a refused request; of a transaction, those of its items."""
    reasons = {reason["Code"] for reason in error.response.get("CancellationReasons", [])} - {"None"}
    return reasons or {error.response["Error"]["Code"]}


def is_busy(reasons: set[str]) -> bool:
    """Return True if the same request may succeed a little later."""
    return reasons <= THROTTLED | UNAVAILABLE


def transact(table: Table, *actions: tuple[str, dict[str, Any]]) -> bool:
    """Write all of these atomically; return False, with nothing written, if one of their conditions does not hold."""
    items = [{kind: {"TableName": table.name, **action}} for kind, action in actions]
    try:
        request(table, "transact_write_items", TransactItems=items)
    except table.client.exceptions.TransactionCanceledException as error:
        if "ConditionalCheckFailed" not in codes(error):
            raise
        return False
    return True

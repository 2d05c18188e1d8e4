"""Requests to DynamoDB, repeated while it throttles them or is unavailable, but not for ever."""

import random
import time
from collections.abc import Callable
from typing import Any

from botocore.exceptions import ClientError

from common.delivery.tables import Table
from common.errors import TaskError

MAX_WAIT = 20.0  # seconds between two tries
PATIENCE = 600.0  # seconds without progress before a request is given up
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
    """Response of one request, repeated while DynamoDB is too busy for it; TaskError after PATIENCE."""
    responses = []

    def send(_: list[str]) -> list[str]:
        responses.append(getattr(table.client, operation)(**arguments))
        return []

    send_all(table, [operation], send)
    return responses[0]


def send_all(table: Table, waiting: list[Any], send: Callable[[list[Any]], list[Any]]) -> int:
    """Send until nothing is left; the number of repetitions. `send` returns what DynamoDB did not process.

    Raises TaskError if DynamoDB processes nothing for PATIENCE.
    """
    tries, sent_again, deadline = 0, 0, time.monotonic() + PATIENCE
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
            return sent_again
        if len(left) < len(waiting):
            tries, deadline = 0, time.monotonic() + PATIENCE
        elif time.monotonic() > deadline:
            why = "is throttled; raise its capacity" if reasons & THROTTLED else f"answers {', '.join(sorted(reasons))}"
            raise TaskError(f"{table.name} took nothing for {PATIENCE:.0f} s, because it {why}, then try again.")
        waiting, tries, sent_again = left, tries + 1, sent_again + len(left)
        # Full jitter: threads that were refused together do not come back together.
        time.sleep(random.uniform(0, min(MAX_WAIT, 0.05 * 2 ** min(tries, 20))))


def codes(error: ClientError) -> set[str]:
    """The code with which DynamoDB refused a request; of a transaction, those of its items."""
    reasons = {reason["Code"] for reason in error.response.get("CancellationReasons", [])} - {"None"}
    return reasons or {error.response["Error"]["Code"]}


def is_busy(reasons: set[str]) -> bool:
    """True if the same request may succeed a little later."""
    return reasons <= THROTTLED | UNAVAILABLE


def transact(table: Table, *actions: tuple[str, dict[str, Any]]) -> bool:
    """Write all of these, or nothing and return False if a condition of one of them does not hold."""
    items = [{kind: {"TableName": table.name, **action}} for kind, action in actions]
    try:
        request(table, "transact_write_items", TransactItems=items)
    except table.client.exceptions.TransactionCanceledException as error:
        if "ConditionalCheckFailed" not in codes(error):
            raise
        return False
    return True

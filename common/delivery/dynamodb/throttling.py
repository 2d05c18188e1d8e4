"""Requests to DynamoDB, retried with a limit while it throttles them or is unavailable."""

from collections.abc import Callable
from typing import Any

from botocore.exceptions import ClientError

from common.delivery import patience
from common.delivery.dynamodb.tables import Table

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
BUSY = "is throttled; raise its capacity"


def request(table: Table, operation: str, **arguments: Any) -> Any:
    """Return the response of one request, retried while DynamoDB is too busy; TaskError after a while."""
    return patience.persist(table.name, lambda: getattr(table.client, operation)(**arguments), reason)


def send_all(table: Table, waiting: list[Any], send: Callable[[list[Any]], list[Any]]) -> int:
    """Send until nothing is left, and return the number of items re-sent. `send` returns the unprocessed items."""

    def send_some(waiting: list[Any]) -> tuple[list[Any], str]:
        try:
            return send(waiting), BUSY
        except ClientError as error:
            if why := reason(error):
                return waiting, why
            raise

    return patience.send_all(table.name, waiting, send_some)


def reason(error: Exception) -> str | None:
    """Return why DynamoDB is too busy for a request that may succeed a little later, else None."""
    if not isinstance(error, ClientError) or not (found := codes(error)) <= THROTTLED | UNAVAILABLE:
        return None
    return BUSY if found & THROTTLED else f"answers {', '.join(sorted(found))}"


def codes(error: ClientError) -> set[str]:
    """Return the error code of a refused request; of a transaction, those of its items."""
    reasons = {reason["Code"] for reason in error.response.get("CancellationReasons", [])} - {"None"}
    return reasons or {error.response["Error"]["Code"]}


def transact(table: Table, *actions: tuple[str, dict[str, Any]]) -> bool:
    """Write all of these atomically; return False, with nothing written, if one of their conditions does not hold."""
    items = [{kind: {"TableName": table.name, **action}} for kind, action in actions]
    try:
        if len(actions) == 1:  # a put or delete, at half the price of a transaction
            ((kind, action),) = actions
            request(table, f"{kind.lower()}_item", TableName=table.name, **action)
        else:
            request(table, "transact_write_items", TransactItems=items)
    except table.client.exceptions.ConditionalCheckFailedException:
        return False
    except table.client.exceptions.TransactionCanceledException as error:
        if "ConditionalCheckFailed" not in codes(error):
            raise
        return False
    return True

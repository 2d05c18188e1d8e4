"""Items of a version in a table: written in parallel, counted, read back, and finally expired."""

import itertools
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from boto3.dynamodb.types import TypeDeserializer

from common.delivery.items import Items
from common.delivery.reader import Item, primary_key
from common.delivery.tables import EXPIRY, Table
from common.delivery.throttling import THROTTLED, UNAVAILABLE, request, send_all
from common.errors import TaskError

BATCH = 25  # items; the limit of one BatchWriteItem or BatchExecuteStatement
GET_BATCH = 100  # items of one BatchGetItem


def write(
    table: Table, items: Items, version: str, buckets: int, resume: bool, progress: Callable[[int], None]
) -> dict[str, int]:
    """Write the items of a version; `progress` gets the number of items stored so far.

    To resume, look up first which items an earlier attempt has stored. Returns the numbers of items written, found, and
    re-sent because the table was throttled.
    """
    counts = {"written": 0, "found": 0, "sent_again": 0}
    lock = threading.Lock()

    def count(**more: int) -> None:
        with lock:
            for name, number in more.items():
                counts[name] += number
            progress(counts["written"] + counts["found"])

    def write_some(first: int) -> None:
        after = min(first + GET_BATCH, len(items.keys))
        keys = items.keys[first:after]
        stored = lasting_keys(table, version, buckets, keys) if resume else set()
        count(found=len(stored))
        requests = [
            {"PutRequest": {"Item": {**primary_key(version, buckets, key), "content": content}}}
            for key, content in zip(keys, items.contents(first, after))
            if key not in stored
        ]
        for start in range(0, len(requests), BATCH):
            batch = requests[start : start + BATCH]
            count(sent_again=put_batch(table, batch))
            count(written=len(batch))

    for_each(table, write_some, range(0, len(items.keys), GET_BATCH))
    return counts


def expire(table: Table, version: str, buckets: int, progress: Callable[[int], None], *, expires: int) -> None:
    """Make DynamoDB delete the items of a version from `expires` on, in seconds since 1970.

    Items that expire already are left unchanged, so this resumes. `progress` gets the number of further items.
    """
    for_each_batch(table, version, buckets, lambda part, keys: expire_batch(table, part, keys, expires), progress)


def delete(table: Table, version: str, buckets: int, progress: Callable[[int], None]) -> None:
    """Delete the items of a version that no reader has seen; `progress` gets the number of further items."""

    def delete_batch(part: str, keys: list[str]) -> None:
        put_batch(table, [{"DeleteRequest": {"Key": {"part": {"S": part}, "id": {"S": key}}}} for key in keys])

    for_each_batch(table, version, buckets, delete_batch, progress)


def for_each_batch(
    table: Table,
    version: str,
    buckets: int,
    function: Callable[[str, list[str]], None],
    progress: Callable[[int], None],
) -> None:
    """Call a function for the keys of a version that do not expire, 25 of a partition at a time."""

    def whole_bucket(bucket: int) -> int:
        part, count = f"{version}/{bucket}", 0
        keys = (item["id"]["S"] for item in items_of(table, part, ProjectionExpression="id"))
        while batch := list(itertools.islice(keys, BATCH)):
            function(part, batch)
            count += len(batch)
        return count

    for_each(table, whole_bucket, range(buckets), progress)


def expire_batch(table: Table, part: str, keys: list[str], expires: int) -> None:
    """Set the expiry of at most 25 items; an update, because a put would recreate items deleted by now."""

    def send(waiting: list[str]) -> list[str]:
        statement = f'UPDATE "{table.name}" SET expires = ? WHERE part = ? AND id = ?'
        statements = [
            {"Statement": statement, "Parameters": [{"N": str(expires)}, {"S": part}, {"S": key}]} for key in waiting
        ]
        responses = table.client.batch_execute_statement(Statements=statements)["Responses"]
        errors = {key: response["Error"] for key, response in zip(waiting, responses) if "Error" in response}
        for error in errors.values():
            if error["Code"] not in {"ConditionalCheckFailed", *THROTTLED, *UNAVAILABLE}:
                raise TaskError(
                    f"{table.name} does not let items expire ({error['Code']}: {error.get('Message')}), expected "
                    "UPDATE to be allowed; see the policy of the job."
                )
        return [key for key, error in errors.items() if error["Code"] != "ConditionalCheckFailed"]

    send_all(table, keys, send)


def put_batch(table: Table, requests: list[Any]) -> int:
    """Write or delete at most 25 items, and return the number re-sent because the table was throttled."""

    def send(waiting: list[Any]) -> list[Any]:
        response = table.client.batch_write_item(RequestItems={table.name: waiting})
        left: list[Any] = response["UnprocessedItems"].get(table.name, [])
        return left

    return send_all(table, requests, send)


def check(table: Table, items: Items, version: str, buckets: int, sample: int, progress: Callable[[int], None]) -> None:
    """Raise TaskError unless the table has all these items of a version, those of a sample with equal content.

    Looks up keys, and does not count buckets: other shards write into these, too.
    """
    found = 0

    def count(first: int) -> int:
        return len(items_by_key(table, version, buckets, items.keys[first : first + GET_BATCH]))

    def add(number: int) -> None:
        nonlocal found
        found += number
        progress(found)

    for_each(table, count, range(0, len(items.keys), GET_BATCH), add)
    if found != len(items.keys):
        raise TaskError(
            f"{table.name} contains {found:,} items of version {version}, expected {len(items.keys):,}; the pointer "
            "was not moved, rerun the task."
        )
    chosen = random.Random(version).sample(range(len(items.keys)), min(sample, len(items.keys)))
    stored = contents_of(table, version, buckets, [items.keys[position] for position in chosen])
    for position in chosen:
        key = items.keys[position]
        if comparable(stored.get(key)) != comparable(items.contents(position, position + 1)[0]):
            raise TaskError(
                f"{table.name} returns other content for '{key}' of version {version} than was written; the pointer "
                "was not moved, rerun the task with a new input."
            )


def lasting_keys(table: Table, version: str, buckets: int, keys: list[str]) -> set[str]:
    """Return those of the keys that a version has stored and that do not expire."""
    found = items_by_key(table, version, buckets, keys)
    return {key for key, item in found.items() if EXPIRY not in item}


def contents_of(table: Table, version: str, buckets: int, keys: list[str]) -> dict[str, Any]:
    """Return the content of each key that a version lists."""
    return {key: item["content"] for key, item in items_by_key(table, version, buckets, keys, "content").items()}


def items_by_key(table: Table, version: str, buckets: int, keys: list[str], *attributes: str) -> dict[str, Item]:
    """Return the items of those keys that a version lists, with their expiry, if any, and other named attributes."""
    found: dict[str, Item] = {}
    # Moto's server takes three times as long to evaluate the same as a ProjectionExpression.
    options = {"ConsistentRead": True, "AttributesToGet": ["id", EXPIRY, *attributes]}

    def send(waiting: list[Any]) -> list[Any]:
        response = table.client.batch_get_item(RequestItems={table.name: {"Keys": waiting, **options}})
        found.update({item["id"]["S"]: item for item in response["Responses"].get(table.name, [])})
        left: list[Any] = response["UnprocessedKeys"].get(table.name, {}).get("Keys", [])
        return left

    for start in range(0, len(keys), GET_BATCH):
        send_all(table, [primary_key(version, buckets, key) for key in keys[start : start + GET_BATCH]], send)
    return found


def items_of(table: Table, part: str, **options: Any) -> Iterator[Item]:
    """Yield all items in a partition that do not expire, sorted by their keys."""
    query = {
        "TableName": table.name,
        "KeyConditionExpression": "part = :part",
        "FilterExpression": "attribute_not_exists(expires)",
        "ExpressionAttributeValues": {":part": {"S": part}},
        "ConsistentRead": True,
        **options,
    }
    while True:
        page = request(table, "query", **query)
        yield from page["Items"]
        if "LastEvaluatedKey" not in page:
            return
        query["ExclusiveStartKey"] = page["LastEvaluatedKey"]


def comparable(value: Any) -> Any:
    """Return an attribute value in a form to compare, however DynamoDB writes its numbers."""
    return value and TypeDeserializer().deserialize(value)


def for_each(
    table: Table, function: Callable[[int], Any], numbers: range, on_result: Callable[[Any], None] = lambda _: None
) -> None:
    """Call a function for each number, on the threads of the table; `on_result` gets each result as it arrives.

    The first exception ends it; calls that wait are not started.
    """
    with ThreadPoolExecutor(table.threads) as pool:
        futures = [pool.submit(function, number) for number in numbers]
        try:
            for future in as_completed(futures):
                on_result(future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise

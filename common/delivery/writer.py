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
from common.delivery.tables import Table
from common.delivery.throttling import THROTTLED, UNAVAILABLE, request, send_all
from common.errors import TaskError

BATCH = 25  # items; the limit of one BatchWriteItem or BatchExecuteStatement
GET_BATCH = 100  # items of one BatchGetItem


def write(table: Table, items: Items, version: str, progress: Callable[[int], None]) -> dict[str, int]:
    """Write the missing items of a version; `progress` gets the number of items stored so far.

    Returns the numbers of items written, found from a killed attempt, and re-sent because the table was throttled.
    """
    counts = {"written": 0, "found": 0, "sent_again": 0}
    lock = threading.Lock()

    def count(**more: int) -> None:
        with lock:
            for name, number in more.items():
                counts[name] += number
            progress(counts["written"] + counts["found"])

    def write_bucket(bucket: int) -> None:
        first, after = int(items.buckets[bucket]), int(items.buckets[bucket + 1])
        stored = keys_of(table, f"{version}/{bucket}") if after > first else set()
        count(found=len(stored))
        for start in range(first, after, BATCH):
            end = min(start + BATCH, after)
            contents = zip(items.keys[start:end], items.contents(start, end))
            requests = [
                {"PutRequest": {"Item": {"part": {"S": f"{version}/{bucket}"}, "id": {"S": key}, "content": content}}}
                for key, content in contents
                if key not in stored
            ]
            if requests:
                count(sent_again=put_batch(table, requests))
                count(written=len(requests))

    for_each_bucket(table, write_bucket, range(len(items.buckets) - 1))
    return counts


def expire(table: Table, version: str, buckets: int, expires: int, progress: Callable[[int], None]) -> None:
    """Make DynamoDB delete the items of a version from `expires` on, in seconds since 1970.

    Items that expire already are left unchanged, so this resumes. `progress` gets the number of further items.
    """

    def expire_bucket(bucket: int) -> int:
        part, count = f"{version}/{bucket}", 0
        keys = (item["id"]["S"] for item in items_of(table, part, ProjectionExpression="id"))
        while batch := list(itertools.islice(keys, BATCH)):
            expire_batch(table, part, batch, expires)
            count += len(batch)
        return count

    for_each_bucket(table, expire_bucket, range(buckets), progress)


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
    """Write at most 25 items, and return the number re-sent because the table was throttled."""

    def send(waiting: list[Any]) -> list[Any]:
        response = table.client.batch_write_item(RequestItems={table.name: waiting})
        left: list[Any] = response["UnprocessedItems"].get(table.name, [])
        return left

    return send_all(table, requests, send)


def check(table: Table, items: Items, version: str, sample: int, progress: Callable[[int], None]) -> None:
    """Raise TaskError unless the table has all items of a version, those of a sample with equal content."""
    done = 0

    def count_bucket(bucket: int) -> int:
        expected = int(items.buckets[bucket + 1] - items.buckets[bucket])
        return len(keys_of(table, f"{version}/{bucket}")) if expected else 0

    def add(number: int) -> None:
        nonlocal done
        done += number
        progress(done)

    for_each_bucket(table, count_bucket, range(len(items.buckets) - 1), add)
    if done != len(items.keys):
        raise TaskError(
            f"{table.name} contains {done:,} items of version {version}, expected {len(items.keys):,}; the pointer was "
            "not moved, rerun the task."
        )
    chosen = random.Random(version).sample(range(len(items.keys)), min(sample, len(items.keys)))
    buckets = len(items.buckets) - 1
    stored = contents_of(table, version, buckets, [items.keys[position] for position in chosen])
    for position in chosen:
        key = items.keys[position]
        if comparable(stored.get(key)) != comparable(items.contents(position, position + 1)[0]):
            raise TaskError(
                f"{table.name} returns other content for '{key}' of version {version} than was written; the pointer "
                "was not moved, rerun the task with a new input."
            )


def keys_of(table: Table, part: str) -> set[str]:
    """Return the keys of all items in a partition that do not expire."""
    return {item["id"]["S"] for item in items_of(table, part, ProjectionExpression="id")}


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


def contents_of(table: Table, version: str, buckets: int, keys: list[str]) -> dict[str, Any]:
    """Return the content of each key that a version lists."""
    contents: dict[str, Any] = {}

    def send(waiting: list[Any]) -> list[Any]:
        response = table.client.batch_get_item(RequestItems={table.name: {"Keys": waiting, "ConsistentRead": True}})
        contents.update({item["id"]["S"]: item["content"] for item in response["Responses"].get(table.name, [])})
        left: list[Any] = response["UnprocessedKeys"].get(table.name, {}).get("Keys", [])
        return left

    for start in range(0, len(keys), GET_BATCH):
        send_all(table, [primary_key(version, buckets, key) for key in keys[start : start + GET_BATCH]], send)
    return contents


def comparable(value: Any) -> Any:
    """Return an attribute value in a form to compare, however DynamoDB writes its numbers."""
    return value and TypeDeserializer().deserialize(value)


def for_each_bucket(
    table: Table, function: Callable[[int], Any], buckets: range, on_result: Callable[[Any], None] = lambda _: None
) -> None:
    """Call a function for all buckets, on the threads of the table; `on_result` gets each result as it arrives.

    The first exception ends it; calls that wait are not started.
    """
    with ThreadPoolExecutor(table.threads) as pool:
        futures = [pool.submit(function, bucket) for bucket in buckets]
        try:
            for future in as_completed(futures):
                on_result(future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise

"""Items of a version into a table: written in parallel, counted, read back, in the end left to expire."""

import itertools
import random
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from boto3.dynamodb.types import TypeDeserializer

from common.delivery.items import Items
from common.delivery.reader import Item, place_of
from common.delivery.tables import Table
from common.delivery.throttling import THROTTLED, UNAVAILABLE, request, send_all
from common.errors import TaskError

BATCH = 25  # items; DynamoDB takes no more in one BatchWriteItem or BatchExecuteStatement
GET_BATCH = 100  # items of one BatchGetItem


def write(table: Table, items: Items, version: str, progress: Callable[[int], None]) -> dict[str, int]:
    """Write the items of a version that are not there yet; `progress` is told how many are there.

    Returns how many were written, how many were there from an attempt that was killed, and how many were sent again
    because the table was throttled.
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
        there = keys_of(table, f"{version}/{bucket}") if after > first else set()
        count(found=len(there))
        for start in range(first, after, BATCH):
            end = min(start + BATCH, after)
            contents = zip(items.keys[start:end], items.contents(start, end))
            requests = [
                {"PutRequest": {"Item": {**place, "content": content}}}
                for key, content in contents
                if key not in there
                for place in [{"part": {"S": f"{version}/{bucket}"}, "id": {"S": key}}]
            ]
            if requests:
                count(sent_again=put_batch(table, requests))
                count(written=len(requests))

    at_once(table, write_bucket, range(len(items.buckets) - 1))
    return counts


def expire(table: Table, version: str, buckets: int, expires: int, told: Callable[[int], None]) -> None:
    """Let DynamoDB delete the items of a version from `expires` on, in seconds since 1970.

    What expires already is left as it is, so this goes on where it was stopped. `told` gets how many more do.
    """

    def expire_bucket(bucket: int) -> int:
        part, count = f"{version}/{bucket}", 0
        keys = (item["id"]["S"] for item in items_of(table, part, ProjectionExpression="id"))
        while batch := list(itertools.islice(keys, BATCH)):
            expire_batch(table, part, batch, expires)
            count += len(batch)
        return count

    at_once(table, expire_bucket, range(buckets), told)


def expire_batch(table: Table, part: str, keys: list[str], expires: int) -> None:
    """Set when at most 25 items expire; those that are gone by now stay gone, which a put would bring back."""

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
    """Write at most 25 items, however often the table is throttled; how many had to be sent again."""

    def send(waiting: list[Any]) -> list[Any]:
        response = table.client.batch_write_item(RequestItems={table.name: waiting})
        left: list[Any] = response["UnprocessedItems"].get(table.name, [])
        return left

    return send_all(table, requests, send)


def check(table: Table, items: Items, version: str, sample: int, progress: Callable[[int], None]) -> None:
    """TaskError unless the table holds as many items of a version as it should, and those of a sample as they are."""
    done = 0

    def count_bucket(bucket: int) -> int:
        expected = int(items.buckets[bucket + 1] - items.buckets[bucket])
        return len(keys_of(table, f"{version}/{bucket}")) if expected else 0

    def counted(number: int) -> None:
        nonlocal done
        done += number
        progress(done)

    at_once(table, count_bucket, range(len(items.buckets) - 1), counted)
    if done != len(items.keys):
        raise TaskError(
            f"{table.name} holds {done:,} items of version {version}, expected {len(items.keys):,}; the pointer was "
            "not moved, run the task again."
        )
    chosen = random.Random(version).sample(range(len(items.keys)), min(sample, len(items.keys)))
    buckets = len(items.buckets) - 1
    found = contents_of(table, version, buckets, [items.keys[position] for position in chosen])
    for position in chosen:
        key = items.keys[position]
        if comparable(found.get(key)) != comparable(items.contents(position, position + 1)[0]):
            raise TaskError(
                f"{table.name} gives back something else for '{key}' of version {version} than was written; the "
                "pointer was not moved, run the task again with a new input."
            )


def keys_of(table: Table, part: str) -> set[str]:
    """The keys of all items that lie in a partition and do not expire."""
    return {item["id"]["S"] for item in items_of(table, part, ProjectionExpression="id")}


def items_of(table: Table, part: str, **wanted: Any) -> Iterator[Item]:
    """All items that lie in a partition and do not expire, sorted by their keys."""
    query = {
        "TableName": table.name,
        "KeyConditionExpression": "part = :part",
        "FilterExpression": "attribute_not_exists(expires)",
        "ExpressionAttributeValues": {":part": {"S": part}},
        "ConsistentRead": True,
        **wanted,
    }
    while True:
        page = request(table, "query", **query)
        yield from page["Items"]
        if "LastEvaluatedKey" not in page:
            return
        query["ExclusiveStartKey"] = page["LastEvaluatedKey"]


def contents_of(table: Table, version: str, buckets: int, keys: list[str]) -> dict[str, Any]:
    """What a version shows for each of the keys that it lists."""
    found: dict[str, Any] = {}

    def send(waiting: list[Any]) -> list[Any]:
        response = table.client.batch_get_item(RequestItems={table.name: {"Keys": waiting, "ConsistentRead": True}})
        found.update({item["id"]["S"]: item["content"] for item in response["Responses"].get(table.name, [])})
        left: list[Any] = response["UnprocessedKeys"].get(table.name, {}).get("Keys", [])
        return left

    for start in range(0, len(keys), GET_BATCH):
        send_all(table, [place_of(version, buckets, key) for key in keys[start : start + GET_BATCH]], send)
    return found


def comparable(value: Any) -> Any:
    """An attribute value in a form in which equal ones are equal, however DynamoDB writes their numbers."""
    return value and TypeDeserializer().deserialize(value)


def at_once(
    table: Table, function: Callable[[int], Any], numbers: Iterable[int], told: Callable[[Any], None] = lambda _: None
) -> None:
    """Call a function for all numbers, as many at once as the table has threads; `told` gets each result as it comes.

    The first exception ends it, without a start of what waits.
    """
    with ThreadPoolExecutor(table.threads) as pool:
        futures = [pool.submit(function, number) for number in numbers]
        try:
            for future in as_completed(futures):
                told(future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise

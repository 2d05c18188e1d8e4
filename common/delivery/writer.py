"""Items of a version into a table: written in parallel, counted, read back, in the end left to expire."""

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from boto3.dynamodb.types import TypeDeserializer
from botocore.exceptions import ClientError

from common.delivery.items import Items
from common.delivery.reader import Item, place_of
from common.delivery.tables import Table
from common.failures import Failure

BATCH = 25  # items; DynamoDB takes no more in one BatchWriteItem
GET_BATCH = 100  # items of one BatchGetItem
LONGEST_WAIT = 20.0  # seconds between two tries of a batch
PATIENCE = 600.0  # seconds in which a batch may get nothing written before the task gives up
THROTTLED = ("ProvisionedThroughputExceededException", "ThrottlingException", "RequestLimitExceeded")


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
        items, count = items_of(table, f"{version}/{bucket}"), 0
        while batch := list(itertools.islice(items, BATCH)):
            put_batch(table, [{"PutRequest": {"Item": {**item, "expires": {"N": str(expires)}}}} for item in batch])
            count += len(batch)
        return count

    at_once(table, expire_bucket, range(buckets), told)


def put_batch(table: Table, requests: list[Any]) -> int:
    """Write at most 25 items, however often the table is throttled; how many had to be sent again."""
    sent_again, tries, deadline = 0, 0, time.monotonic() + PATIENCE
    while True:
        try:
            answer = table.client.batch_write_item(RequestItems={table.name: requests})
            left = answer["UnprocessedItems"].get(table.name, [])
        except ClientError as error:
            if error.response["Error"]["Code"] not in THROTTLED:
                raise
            left = requests
        if not left:
            return sent_again
        if len(left) < len(requests):
            tries, deadline = 0, time.monotonic() + PATIENCE
        elif time.monotonic() > deadline:
            raise Failure(
                f"{table.name} took nothing for {PATIENCE:.0f} s, because it is throttled; raise its capacity and run "
                "the task again, it goes on where it stopped."
            )
        requests, tries, sent_again = left, tries + 1, sent_again + len(left)
        # Full jitter: threads that were refused together do not come back together.
        time.sleep(random.uniform(0, min(LONGEST_WAIT, 0.05 * 2**tries)))


def check(table: Table, items: Items, version: str, sample: int, progress: Callable[[int], None]) -> None:
    """Failure unless the table holds as many items of a version as it should, and those of a sample as they are."""
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
        raise Failure(
            f"{table.name} holds {done:,} items of version {version}, expected {len(items.keys):,}; the pointer was "
            "not moved, run the task again."
        )
    chosen = random.Random(version).sample(range(len(items.keys)), min(sample, len(items.keys)))
    buckets = len(items.buckets) - 1
    found = contents_of(table, version, buckets, [items.keys[position] for position in chosen])
    for position in chosen:
        key = items.keys[position]
        if comparable(found.get(key)) != comparable(items.contents(position, position + 1)[0]):
            raise Failure(
                f"{table.name} gives back something else for '{key}' of version {version} than was written; the "
                "pointer was not moved, run the task again with a new input."
            )


def keys_of(table: Table, part: str) -> set[str]:
    """The keys of all items that lie in a partition and do not expire."""
    return {item["id"]["S"] for item in items_of(table, part, ProjectionExpression="id")}


def items_of(table: Table, part: str, **wanted: str) -> Iterator[Item]:
    """All items that lie in a partition and do not expire, sorted by their keys."""
    pages = table.client.get_paginator("query").paginate(
        TableName=table.name,
        KeyConditionExpression="part = :part",
        FilterExpression="attribute_not_exists(expires)",
        ExpressionAttributeValues={":part": {"S": part}},
        ConsistentRead=True,
        **wanted,
    )
    return (item for page in pages for item in page["Items"])


def contents_of(table: Table, version: str, buckets: int, keys: list[str]) -> dict[str, Any]:
    """What a version shows for each of the keys that it lists."""
    found: dict[str, Any] = {}
    for start in range(0, len(keys), GET_BATCH):
        waiting: Any = [place_of(version, buckets, key) for key in keys[start : start + GET_BATCH]]
        tries = 0
        while waiting:
            asked = {table.name: {"Keys": waiting, "ConsistentRead": True}}
            answer = table.client.batch_get_item(RequestItems=asked)
            found |= {item["id"]["S"]: item["content"] for item in answer["Responses"].get(table.name, [])}
            waiting = answer["UnprocessedKeys"].get(table.name, {}).get("Keys", [])
            if waiting:
                tries += 1
                time.sleep(random.uniform(0, min(LONGEST_WAIT, 0.05 * 2**tries)))
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

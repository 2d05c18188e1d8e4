"""Items per second into DynamoDB: write_product's writer compared with a loop around boto3's batch_writer.

The loop writes rows as nested attributes, as boto3's documents do, the writer as compressed JSON.
"""

import argparse
import contextlib
import itertools
import json
import statistics
import sys
import time
import uuid
from decimal import Decimal
from typing import Any

import boto3
import pyarrow as pa

from benchmarks import measure
from common import contracts
from common.delivery import writer
from common.delivery.dynamodb.store import DynamoDB
from common.delivery.dynamodb.tables import client
from common.delivery.items import bucket_count, make_items
from tools.sandbox import local_dynamodb

CONTRACT = "recommendations@2"
ROWS = 10  # per user
PARALLEL = 8


def recommendations(users: int) -> pa.Table:
    """Return ten rows per user, as the shop's pipeline writes them."""
    numbers = range(users * ROWS)
    return pa.table(
        {
            "user_id": [f"{10_000_000 + number // ROWS}" for number in numbers],
            "style": ["mixed"] * len(numbers),
            "rank": [1 + number % ROWS for number in numbers],
            "item_id": [f"{(number * 7919) % 90_000 + 10_000}A" for number in numbers],
            "item_name": [f"WHITE HANGING HEART {number % 4999} T-LIGHT HOLDER" for number in numbers],
            "score": [1 / (1 + number % ROWS) + number % 101 / 1009 for number in numbers],
            "reason": ["bought with RED WOOLLY HOTTIE WHITE HEART" if number % 3 else None for number in numbers],
        }
    )


def plain(name: str, rows: pa.Table, delay: float) -> int:
    """Write with a straightforward loop; return the number of items written."""
    table = boto3.resource("dynamodb", endpoint_url=client().meta.endpoint_url).Table(name)
    add_delay(table.meta.client, delay)
    count = 0
    with table.batch_writer() as batch:
        for user, group in itertools.groupby(rows.to_pylist(), key=lambda row: row["user_id"]):
            content = [
                {
                    "style": row["style"],
                    "item_id": row["item_id"],
                    "item_name": row["item_name"],
                    "score": Decimal(str(row["score"])),
                    "reason": row["reason"],
                }
                for row in group
            ]
            batch.put_item(Item={"part": "plain", "id": user, "content": content})
            count += 1
    return count


def ours(name: str, rows: pa.Table, delay: float) -> int:
    """Write with the writer of write_product: convert, write."""
    store = DynamoDB(client(PARALLEL), name, PARALLEL)
    add_delay(store.client, delay)
    items = make_items(rows, contracts.load(CONTRACT))
    buckets = bucket_count(items.product, items.rows)
    return writer.write(store, items, "ours", buckets, False, lambda done: None)["written"]


def add_delay(caller: Any, delay: float) -> None:
    """Delay each request of a client by some seconds, as to a distant server."""
    if delay:
        caller.meta.events.register("before-send.dynamodb", lambda **_: time.sleep(delay))


def write_once(way: str, users: int, delay: float) -> None:
    """Write once, into a new table, and print the speed."""
    name = f"benchmark-{uuid.uuid4().hex}"
    DynamoDB(client(), name, 1).create(None)
    rows = recommendations(users)
    with contextlib.ExitStack() as stack:
        stack.callback(client().delete_table, TableName=name)
        began = time.perf_counter()
        written = {"ours": ours, "plain": plain}[way](name, rows, delay)
        seconds = time.perf_counter() - began
        assert written == users, f"{written} items of {users}"
    print(json.dumps({"items_per_second": users / seconds}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=10_000, help="number of items")
    parser.add_argument("--runs", type=int, default=3, help="of each, alternately")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds added to each request")
    parser.add_argument("--way", choices=("ours", "plain"), help="only this writer, once, in this process")
    arguments = parser.parse_args()
    if arguments.way:
        write_once(arguments.way, arguments.users, arguments.delay)
        return
    with local_dynamodb.running():
        common = [sys.executable, "-m", "benchmarks.delivery", "--users", str(arguments.users)]
        common += ["--delay", str(arguments.delay), "--way"]
        found = measure.alternate({way: [*common, way] for way in ("plain", "ours")}, arguments.runs)
    speed = {way: statistics.median(run.figures["items_per_second"] for run in runs) for way, runs in found.items()}
    body = measure.table(found, {"items per second": lambda run: run.figures["items_per_second"]})
    print(f"\n{body}\n\nours is {speed['ours'] / speed['plain']:.1f} times as fast ({measure.versions('boto3')}).")


if __name__ == "__main__":
    main()

"""Items per second into each store of products: write_product's writer against the plainest loop of the client."""

import argparse
import contextlib
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks import delivery, measure
from common import contracts
from common.delivery import writer
from common.delivery.items import bucket_count, make_items
from common.delivery.stores import open_store
from tools.sandbox import local_bigtable, local_dynamodb, local_redis

PARALLEL = 8
BATCH = 1000  # rows or commands of the plain loop, as the clients' documents have it
URLS = {"dynamodb": "dynamodb:", "bigtable": "bigtable://project/instance", "redis": "redis:"}


def lists(rows: pa.Table) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield each user with the rows that a frontend shows."""
    for user, group in itertools.groupby(rows.to_pylist(), key=lambda row: row["user_id"]):
        yield user, [{name: row[name] for name in row if name not in ("user_id", "rank")} for row in group]


def plain_bigtable(store: Any, rows: pa.Table) -> int:
    """Write with the client's batcher, a row for each user."""
    from google.cloud.bigtable.data import RowMutationEntry, SetCell

    count = 0
    with store.table.mutations_batcher(flush_limit_mutation_count=BATCH) as batcher:
        for user, content in lists(rows):
            batcher.append(
                RowMutationEntry(f"plain/{user}", SetCell("items", b"content", json.dumps(content).encode()))
            )
            count += 1
    return count


def plain_redis(store: Any, rows: pa.Table) -> int:
    """Write with a pipeline, a key for each user."""
    count = 0
    pipeline = store.client.pipeline(transaction=False)
    for user, content in lists(rows):
        pipeline.set(f"{store.name}:plain/{user}", json.dumps(content))
        count += 1
        if count % BATCH == 0:
            pipeline.execute()
    pipeline.execute()
    return count


PLAIN: dict[str, Callable[[Any, pa.Table], int]] = {
    "dynamodb": lambda store, rows: delivery.plain(store.name, rows, 0),
    "bigtable": plain_bigtable,
    "redis": plain_redis,
}


def ours(store: Any, rows: pa.Table) -> int:
    """Write with the writer of write_product: convert, write."""
    items = make_items(rows, contracts.load(delivery.CONTRACT))
    buckets = bucket_count(items.product, items.rows)
    return writer.write(store, items, "ours", buckets, False, lambda done: None)["written"]


def write_once(way: str, kind: str, users: int) -> None:
    """Write once, into a new store, and print the speed."""
    store = open_store(URLS[kind], f"benchmark-{uuid.uuid4().hex}", PARALLEL)
    store.create(None)
    rows = delivery.recommendations(users)
    began = time.perf_counter()
    written = (ours if way == "ours" else PLAIN[kind])(store, rows)
    seconds = time.perf_counter() - began
    assert written == users, f"{written} items of {users}"
    print(json.dumps({"items_per_second": users / seconds}))


@contextlib.contextmanager
def servers() -> Iterator[None]:
    """Run a server of each store on this machine."""
    with (
        tempfile.TemporaryDirectory() as folder,
        local_dynamodb.running(),
        local_bigtable.serve() as bigtable,
        local_redis.serve(Path(folder)) as redis,
    ):
        os.environ.update({**bigtable, **redis})
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=5000, help="number of items")
    parser.add_argument("--runs", type=int, default=3, help="of each, alternately")
    parser.add_argument("--way", nargs=2, metavar=("WAY", "STORE"), help="only this, once, in this process")
    arguments = parser.parse_args()
    if arguments.way:
        way, kind = arguments.way
        write_once(way, kind, arguments.users)
        return
    with servers():
        common = [sys.executable, "-m", "benchmarks.stores", "--users", str(arguments.users), "--way"]
        ways = {f"{kind}, {way}": [*common, way, kind] for kind in URLS for way in ("plain", "ours")}
        found = measure.alternate(ways, arguments.runs)
    speed = {way: statistics.median(run.figures["items_per_second"] for run in runs) for way, runs in found.items()}
    print(f"\n{measure.table(found, {'items per second': lambda run: run.figures['items_per_second']})}\n")
    for kind in URLS:
        print(f"{kind}: ours is {speed[f'{kind}, ours'] / speed[f'{kind}, plain']:.1f} times as fast.")
    print(measure.versions("boto3", "google-cloud-bigtable", "redis"))


if __name__ == "__main__":
    main()

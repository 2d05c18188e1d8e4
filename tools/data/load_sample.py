"""Load the sample of real shop transactions into the raw level, as a tracking system would have delivered it.

One file of events per day of arrival, and one list of items with the last day. Dirty data of the source is kept:
events without a user, test and postage codes as items, quantities and prices that are zero or negative, several
descriptions of one item. A missing customer, in the source empty or, from 2010-12-10 on, 0, becomes an event without
a user: a common ID for all of them would be the shop's best customer.
"""

import argparse
import csv
import gzip
import hashlib
import io
import itertools
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from common.handover import storage

SOURCE = Path(__file__).parents[2] / "sample_data" / "online-retail-ii" / "transactions.parquet"


def load(source: Path, lake: str) -> int:
    """Write the deliveries to the lake at a root URI; return the number of files written, 0 if all exist already."""
    marker = f"{lake}/raw/{source.parent.name}.json"
    made_from = hashlib.sha256(source.read_bytes() + Path(__file__).read_bytes()).hexdigest()
    if is_loaded(marker, made_from, lake):
        return 0
    transactions = pq.read_table(source)
    deliveries = itertools.chain(event_files(transactions), [item_file(transactions)])

    def deliver(delivery: tuple[str, bytes]) -> tuple[str, int]:
        name, content = delivery
        packed = gzip.compress(content, mtime=0) if name.endswith(".gz") else content
        storage.write(f"{lake}/raw/{name}", packed)
        return name, len(packed)

    with ThreadPoolExecutor(8) as pool:
        sizes = dict(pool.map(deliver, deliveries))
    storage.write(marker, json.dumps({"made_from": made_from, "files": sizes}, indent=1).encode())
    return len(sizes)


def is_loaded(marker: str, made_from: str, lake: str) -> bool:
    """Return True if the marker has the same source and code, and its files exist with their sizes."""
    try:
        document = json.loads(storage.read(marker)[0])
    except FileNotFoundError:
        return False
    listed = [file for level in ("events", "items") for file in storage.files(f"{lake}/raw/{level}")]
    sizes = {file.uri: file.bytes for file in listed}
    return document["made_from"] == made_from and all(
        sizes.get(f"{lake}/raw/{name}") == size for name, size in document["files"].items()
    )


def event_files(transactions: pa.Table) -> Iterator[tuple[str, bytes]]:
    """Yield path below `raw` and JSON lines of each day with events; transactions are in the order of their time."""
    customers = transactions["customer_id"]
    lines = pc.binary_join_element_wise(
        '{"event_id":"',
        text(transactions["invoice"]),  # letters and digits
        "-",
        text(line_numbers(transactions)),
        '","user_id":',
        pc.fill_null(json_strings(text(pc.if_else(pc.equal(customers, 0), None, customers))), "null"),
        ',"item_id":',
        json_strings(transactions["stock_code"]),
        ',"type":',
        pc.if_else(is_cancellation(transactions), '"cancellation"', '"purchase"'),
        ',"quantity":',
        text(pc.if_else(is_cancellation(transactions), pc.abs(transactions["quantity"]), transactions["quantity"])),
        ',"unit_price":',
        text(transactions["price"]),
        ',"time":"',
        times(transactions["invoice_date"]),
        '","country":',
        json_strings(transactions["country"]),
        "}\n",
        "",
    ).to_pylist()
    days = pc.strftime(transactions["invoice_date"], "%Y-%m-%d").to_pylist()
    end = 0
    for day, of_day in itertools.groupby(days):
        start, end = end, end + sum(1 for _ in of_day)
        yield f"events/arrival={day}/events.jsonl.gz", "".join(lines[start:end]).encode()


def item_file(transactions: pa.Table) -> tuple[str, bytes]:
    """Return path below `raw` and CSV of items: one line per item and description, with the time of its last use."""
    last = pc.strftime(pc.max(transactions["invoice_date"]), "%Y-%m-%d")
    seen = transactions.group_by(["stock_code", "description"]).aggregate([("invoice_date", "max")])
    seen = seen.sort_by([("stock_code", "ascending"), ("description", "ascending")])
    lines = io.StringIO(newline="")
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(["item_id", "description", "seen"])
    writer.writerows(
        zip(
            seen["stock_code"].to_pylist(),
            seen["description"].to_pylist(),
            times(seen["invoice_date_max"]).to_pylist(),
            strict=True,
        )
    )
    return f"items/arrival={last}/items.csv", lines.getvalue().encode()


def is_cancellation(transactions: pa.Table) -> pa.ChunkedArray:
    return pc.starts_with(transactions["invoice"], "C")


def line_numbers(transactions: pa.Table) -> pa.Array:
    """Number the rows within each invoice, from 1."""
    counters: dict[str, Iterator[int]] = {}
    return pa.array(
        [next(counters.setdefault(invoice, itertools.count(1))) for invoice in transactions["invoice"].to_pylist()]
    )


def json_strings(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return each value as a JSON string; null stays null."""
    distinct = column.combine_chunks().dictionary_encode()
    escaped = pa.array([json.dumps(value) for value in distinct.dictionary.to_pylist()], pa.string())
    return escaped.take(distinct.indices)


def times(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Format times as ISO 8601, to the second, in UTC."""
    return pc.strftime(column.cast(pa.timestamp("s")), "%Y-%m-%dT%H:%M:%SZ")


def text(column: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray:
    return pc.cast(column, pa.string())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--lake", required=True, help="root URI of the lake, file:///…, s3://… or gs://…")
    lake = parser.parse_args().lake.rstrip("/")
    written = load(SOURCE, lake)
    print(f"{lake}/raw: {written} files written." if written else f"{lake}/raw: the sample is loaded already.")


if __name__ == "__main__":
    main()

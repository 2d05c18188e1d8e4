"""Fill a lake with a synthetic shop of any size: events, users with subscriptions, items; reproducible by its seed."""

import argparse
import csv
import datetime
import gzip
import hashlib
import io
import itertools
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.progress import track

from common import protocol
from common.engines.arrow import schema_of
from common.handover import manifest, partitions, storage
from common.handover.storage import File, in_parallel
from tools.data import shop_model
from tools.data.shop_model import BLOCK, DAY, EVENTS_PER_CHUNK, Settings

DUPLICATES, LATE, MALFORMED = 0.02, 0.03, 0.001  # of the lines of a delivery
MAX_DELAY = 5  # days
COLOURS = ("", "RED ", "BLUE ", "PINK ", "IVORY ", "BLACK ")
PATTERNS = ("SPOTTY", "RETROSPOT", "STRIPED", "FLORAL", "HEART", "STAR", "ROSE")
THINGS = (
    "MUG",
    "LUNCH BAG",
    "CAKE STAND",
    "PICTURE FRAME",
    "DOORMAT",
    "ALARM CLOCK",
    "NAPKINS",
    "BUNTING",
    "STORAGE JAR",
)
NOTES = ("damages", "found", "?", "wrongly coded")
MAX_ITEMS = 90_000 * 27  # five digits, optionally followed by a letter


class DayFile(NamedTuple):
    """A file of one day, and its number of events."""

    day: str
    file: File
    rows: int


def generate(settings: Settings, level: str, root: str, processes: int) -> int:
    """Write the deliveries (and, at level `curated`, the curated events) of a shop; return the number of files.

    0 if they exist already; ValueError if the lake has other data.
    """
    document = {**asdict(settings), "start": str(settings.start), "level": level}
    marker = f"{root}/truth/settings.json"
    if (existing := manifest.load_or_none(marker)) and existing.document == document:
        return 0
    if levels := [name for name in ("raw", "curated", "truth") if storage.files(f"{root}/{name}")]:
        raise ValueError(
            f"{root} contains {levels[0]} data already, expected an empty lake; name another one, or remove the data."
        )
    with tempfile.TemporaryDirectory() as scratch, workers(processes) as pool:
        shape = (settings.weeks, settings.shoppers)
        for name, kind, size in (("visits", np.uint8, shape), ("ended", np.int64, shape[1:])):
            np.lib.format.open_memmap(f"{scratch}/{name}.npy", "w+", kind, size)  # type: ignore[no-untyped-call]
        blocks = range(settings.blocks)
        drawn = pool.map(draw_block, *zip(*[(settings, root, scratch, block) for block in blocks], strict=True))
        visits, changes = zip(*track(drawn, "subscriptions", len(blocks)), strict=True)
        basket = max(1.0, settings.events / (1 + shop_model.CANCELLED) / max(1, sum(visits)))
        chunks = -(-settings.events // settings.weeks // EVENTS_PER_CHUNK)
        pairs = list(itertools.product(range(settings.weeks), range(chunks)))
        write = write_curated_events if level == "curated" else write_raw_events
        written = pool.map(
            write, *zip(*[(settings, root, scratch, *pair, chunks, basket) for pair in pairs], strict=True)
        )
        events = [each for of_pair in track(written, "events", len(pairs)) for each in of_pair]
        weeks = by_week(settings, shop_model.stacked(("shopper", "time", "kind", "plan"), list(changes)))
        delivered = pool.map(write_users, *zip(*[(settings, root, week, rows) for week, rows in weeks], strict=True))
        files = len(events) + sum(track(delivered, "users", settings.weeks))
    storage.write(f"{root}/raw/items/generated_shop/arrival={last_day(settings)}/items.csv", items_csv(settings))
    if level == "curated":
        publish(root, document, events)
    storage.write(marker, manifest.to_json(document))
    return files + 1


def workers(processes: int) -> ProcessPoolExecutor:
    """Return a pool of spawned processes: forked ones would share connections to the lake's store."""
    return ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"))


def draw_block(settings: Settings, root: str, scratch: str, block: int) -> tuple[int, tuple[np.ndarray, ...]]:
    """Draw the subscriptions of a block of shoppers, write the truth; return the number of visits, and the changes."""
    drawn = shop_model.subscriptions(settings, block)
    rows = slice(block * BLOCK, block * BLOCK + len(drawn.ended))
    np.load(f"{scratch}/visits.npy", "r+")[:, rows] = drawn.visits
    np.load(f"{scratch}/ended.npy", "r+")[rows] = drawn.ended
    start = np.datetime64(settings.start)
    table = pa.table(
        {
            "user_id": user_ids(settings, drawn.odds["shopper"]),
            "cut": pa.array(start + drawn.odds["period"].astype(int) * shop_model.WEEKS_PER_PERIOD * 7, pa.date32()),
            "probability": pa.array(drawn.odds["probability"], pa.float64()),
            "cancelled": pa.array(drawn.odds["cancelled"].astype(bool)),
        }
    )
    storage.write(f"{root}/truth/cancellations/part-{block:05}.parquet", parquet(table))
    return int(drawn.visits.sum(dtype=np.int64)), tuple(drawn.changes.values())


def events_of(settings: Settings, scratch: str, week: int, chunk: int, chunks: int, basket: float) -> dict[str, Any]:
    """Draw the events of a chunk of shoppers in a week, with their IDs."""
    first, after = (settings.shoppers * number // chunks for number in (chunk, chunk + 1))
    visits, ended = np.load(f"{scratch}/visits.npy", "r"), np.load(f"{scratch}/ended.npy", "r")
    events = shop_model.events(settings, week, first, visits[week, first:after], ended[first:after], basket)
    ids = pc.binary_join_element_wise(f"{week}-{chunk}-", text(np.arange(len(events["item"]))), "")
    countries = np.searchsorted(
        np.cumsum(shop_model.COUNTRY_SHARES)[:-1],
        shop_model.chance(settings, shop_model.COUNTRY, events["shopper"]),
        side="right",
    )
    return {**events, "event_id": ids, "country": countries}


def write_curated_events(
    settings: Settings, root: str, scratch: str, week: int, chunk: int, chunks: int, basket: float
) -> list[DayFile]:
    """Write events as `ingest_events` would: one file per day of the week."""
    events = events_of(settings, scratch, week, chunk, chunks, basket)
    count = len(events["event_id"])
    columns = {
        "source": pa.array(["generated_shop"] * count),
        "event_id": events["event_id"],
        "user_id": user_ids(settings, events["shopper"]),
        "item_id": coded(events["item"], item_ids(settings)),
        "type": coded(events["kind"], ["purchase", "cancellation"]),
        "quantity": events["quantity"],
        "unit_price": events["pennies"] / 100,
        "time": pa.array(events["time"]).cast(pa.timestamp("s", "UTC")).cast(pa.timestamp("us", "UTC")),
        "country": coded(events["country"], shop_model.COUNTRIES),
        "arrival": pa.array(events["time"] // DAY, pa.int32()).cast(pa.date32()),
    }
    schema = schema_of("events@3")
    table = pa.table({field.name: columns.get(field.name, pa.nulls(count, field.type)) for field in schema})
    files = []
    for day, rows in by_day(events["time"]):
        uri = f"{root}/curated/events/date={day}/{version(settings)}/part-{week:03}-{chunk:03}.parquet"
        content = parquet(table.slice(rows.start, rows.stop - rows.start))
        storage.write(uri, content)
        files.append(DayFile(day, File(uri, len(content)), rows.stop - rows.start))
    return files


def write_raw_events(
    settings: Settings, root: str, scratch: str, week: int, chunk: int, chunks: int, basket: float
) -> list[DayFile]:
    """Write events as a tracking system would deliver them: one file of lines per day of arrival."""
    events = events_of(settings, scratch, week, chunk, chunks, basket)
    lines = pc.binary_join_element_wise(
        '{"event_id":"',
        events["event_id"],
        '","user_id":',
        pc.fill_null(pc.binary_join_element_wise('"', user_ids(settings, events["shopper"]), '"', ""), "null"),
        ',"item_id":"',
        item_ids(settings).take(pa.array(events["item"])),
        '","type":"',
        pa.array(["purchase", "cancellation"]).take(pa.array(events["kind"])),
        '","quantity":',
        text(events["quantity"]),
        ',"unit_price":',
        text(events["pennies"] / 100),
        ',"time":"',
        moments(events["time"]),
        '","country":"',
        pa.array(shop_model.COUNTRIES).take(pa.array(events["country"])),
        '"}',
        "",
    )
    random = shop_model.generator(settings, shop_model.BASKETS, week, chunk, 1)
    return deliver(
        f"{root}/raw/events/generated_shop", f"events-{week:03}-{chunk:03}.jsonl.gz", lines, events["time"], random
    )


def write_users(settings: Settings, root: str, week: int, changes: dict[str, np.ndarray]) -> int:
    """Write the changes of subscriptions in a week (in the first, earlier ones, too); return the number of files."""
    random = shop_model.generator(settings, shop_model.PLATFORM, week)
    shopper, plan = changes["shopper"], changes["plan"]
    country = shop_model.chance(settings, shop_model.COUNTRY, shopper)
    platform = np.floor(len(shop_model.PLATFORMS) * shop_model.chance(settings, shop_model.PLATFORM, shopper) ** 1.5)
    lines = pc.binary_join_element_wise(
        '{"user_id":"',
        user_ids(settings, shopper),
        '","time":"',
        moments(changes["time"]),
        '","change":"',
        pa.array(["subscribe", "change", "cancel"]).take(pa.array(changes["kind"])),
        '","plan":"',
        pa.array(shop_model.PLANS).take(pa.array(plan)),
        '","country":"',
        pa.array(shop_model.COUNTRIES).take(
            pa.array(np.searchsorted(np.cumsum(shop_model.COUNTRY_SHARES)[:-1], country, side="right"))
        ),
        '","platform":"',
        pa.array(shop_model.PLATFORMS).take(pa.array(platform.astype(int))),
        '"}',
        "",
    )
    times = np.maximum(changes["time"], settings.first_second)
    return len(deliver(f"{root}/raw/users", f"users-{week:03}.jsonl.gz", lines, times, random))


def by_week(settings: Settings, changes: dict[str, np.ndarray]) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Yield the changes of each week in the order of time; earlier ones belong to the first week."""
    order = np.argsort(changes["time"], kind="stable")
    week = np.maximum(0, changes["time"][order] - settings.first_second) // (7 * DAY)
    ends = np.searchsorted(week, np.arange(settings.weeks), side="right")
    for number, rows in enumerate(np.split(order, ends[:-1])):
        yield number, {name: column[rows] for name, column in changes.items()}


def deliver(folder: str, name: str, lines: pa.Array, times: np.ndarray, random: np.random.Generator) -> list[DayFile]:
    """Write lines by day of arrival: some late, some twice, and malformed copies of some."""
    number = len(lines)
    late = np.where(random.random(number) < LATE, random.integers(1, MAX_DELAY + 1, number), 0)
    repeated = np.flatnonzero(random.random(number) < DUPLICATES)
    broken = np.flatnonzero(random.random(number) < MALFORMED)
    copies = pa.array(map(malform, lines.take(pa.array(broken)).to_pylist()), pa.string())
    everything = pa.concat_arrays([lines, lines.take(pa.array(repeated)), copies])
    day = times // DAY + late
    day = np.concatenate([day, day[repeated] + random.integers(0, 2, len(repeated)), day[broken]])
    order = np.lexsort((np.concatenate([times, times[repeated], times[broken]]), day))
    files = []
    for start, rows in by_day(day[order] * DAY):
        uri = f"{folder}/arrival={start}/{name}"
        text = "\n".join(everything.take(pa.array(order[rows])).to_pylist()) + "\n"
        content = gzip.compress(text.encode(), 1, mtime=0)
        storage.write(uri, content)
        files.append(DayFile(start, File(uri, len(content)), rows.stop - rows.start))
    return files


def malform(line: str) -> str:
    """Return a malformed copy of a line: truncated, or without its time."""
    return line[: len(line) // 2] if len(line) % 2 else line.replace('"time":"', '"moment":"')


def by_day(times: np.ndarray) -> Iterator[tuple[str, slice]]:
    """Yield the days in ascending seconds since 1970, each with its rows."""
    days, starts = np.unique(times // DAY, return_index=True)
    for day, start, stop in zip(days, starts, np.append(starts, len(times))[1:], strict=True):
        yield str(np.datetime64(int(day), "D")), slice(int(start), int(stop))


def publish(root: str, parameters: dict[str, Any], events: list[DayFile]) -> None:
    """Publish the manifest of each day, as the task of `ingest_events` would."""
    task = {"dag_id": "generate_data", "run_id": f"seed={parameters['seed']}", "task_id": "events", "attempt": 1}
    task |= {"map_index": None, "map_count": None}
    common = {
        "format": manifest.FORMAT,
        "task": task,
        "job": "generate_data",
        "fingerprint": "",
        "parameters": parameters,
    }
    common |= {"metrics": {}, "parents": []}

    def publish_day(day: str, files: list[DayFile]) -> None:
        folder = f"{root}/curated/events/date={day}"
        paths = [{"path": each.file.uri.removeprefix(f"{folder}/"), "bytes": each.file.bytes} for each in files]
        output = {"contract": "events@3", "rows": sum(each.rows for each in files), "files": paths}
        output["arrivals"] = {day: output["rows"]}
        output["bytes"] = sum(each.file.bytes for each in files)
        storage.write(protocol.manifest_uri(folder), manifest.to_json({**common, "outputs": {"events": output}}))

    by_day = {day: list(files) for day, files in itertools.groupby(sorted(events), lambda each: each.day)}
    partitions.register(f"{root}/curated/events", set(by_day))
    in_parallel(lambda day: publish_day(*day), by_day.items())


def version(settings: Settings) -> str:
    return f"version={hashlib.sha256(repr(settings).encode()).hexdigest()[:16]}-1"


def items_csv(settings: Settings) -> bytes:
    """Return a CSV with one line per description: most items have one, some an older one or a stock keeper's note."""
    random = shop_model.generator(settings, shop_model.CATALOGUE, 1)
    last = f"{last_day(settings)}T00:00:00Z"
    first = f"{settings.start}T00:00:00Z"
    lines = io.StringIO(newline="")
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(["item_id", "description", "seen"])
    for number, (item, odd) in enumerate(
        zip(item_ids(settings).to_pylist(), random.random(settings.items), strict=True)
    ):
        family = number // family_size(settings)
        colour = COLOURS[number % family_size(settings) % len(COLOURS)]
        name = f"{colour}{PATTERNS[family % len(PATTERNS)]} {THINGS[family // len(PATTERNS) % len(THINGS)]}"
        if odd > 0.001:
            writer.writerow([item, name, last])
        if odd < 0.01:
            writer.writerow([item, NOTES[number % len(NOTES)], last])
        elif odd < 0.05:
            writer.writerow([item, f"SET OF 2 {name}", first])
    return lines.getvalue().encode()


def family_size(settings: Settings) -> int:
    return max(4, -(-settings.items // 90_000))


def item_ids(settings: Settings) -> pa.Array:
    """Return the IDs: five digits per family, and a letter for each item but the first."""
    size = family_size(settings)
    letters = ["", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ"]
    return pa.array([f"{10_000 + number // size}{letters[number % size]}" for number in range(settings.items)])


def user_ids(settings: Settings, shoppers: np.ndarray) -> pa.Array:
    """Return IDs of equal length; null for guests."""
    digits = pc.utf8_lpad(text(shoppers), width=max(7, len(str(settings.users))), padding="0")
    known = pa.array(shoppers < settings.users)
    return pc.if_else(known, pc.binary_join_element_wise("u", digits, ""), pa.scalar(None, pa.string()))


def moments(seconds: np.ndarray) -> pa.Array:
    """Format times as ISO 8601, to the second, in UTC."""
    return pc.strftime(pa.array(seconds).cast(pa.timestamp("s")), "%Y-%m-%dT%H:%M:%SZ")


def coded(codes: np.ndarray, values: Any) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), values)


def text(numbers: np.ndarray) -> pa.Array:
    return pc.cast(pa.array(numbers), pa.string())


def parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    repeated = [name for name in table.column_names if name != "event_id"]
    pq.write_table(table, sink, compression="zstd", use_dictionary=repeated, store_schema=False)
    return sink.getvalue()


def last_day(settings: Settings) -> datetime.date:
    return settings.start + datetime.timedelta(days=settings.days - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--users", type=int, default=10_000, help="known users, including some without purchases")
    parser.add_argument("--items", type=int, default=2_000)
    parser.add_argument("--events", type=int, default=1_000_000, help="approximate number, before duplicates")
    parser.add_argument("--days", type=int, default=364)
    parser.add_argument(
        "--start", type=datetime.date.fromisoformat, default=datetime.date(2025, 1, 1), help="first day"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--level", choices=["raw", "curated"], default="raw", help="the level of events")
    parser.add_argument("--lake", required=True, help="root URI of an empty lake, file:///…, s3://… or gs://…")
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count(), help="parallel processes; do not affect the data"
    )
    arguments = parser.parse_args()
    for name, minimum, maximum in (
        ("users", 1, 2**31), ("items", 1, MAX_ITEMS), ("events", 1, 2**40), ("days", 7, 3650), ("seed", 0, 2**32)
    ):  # fmt: skip
        if not minimum <= getattr(arguments, name) <= maximum:
            parser.error(f"--{name} is {getattr(arguments, name)}, expected {minimum:,} to {maximum:,}.")
    settings = Settings(
        arguments.users, arguments.items, arguments.events, arguments.seed, arguments.days, arguments.start
    )
    root = arguments.lake.rstrip("/")
    try:
        files = generate(settings, arguments.level, root, arguments.processes)
    except ValueError as error:
        sys.exit(str(error))
    print(f"{root}: {files} files written." if files else f"{root}: this shop exists already.")


if __name__ == "__main__":
    main()

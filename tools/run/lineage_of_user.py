"""Print a user's rows in a lineage: in hand-overs and datasets, by delivery, and as frontends read them."""

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Shown

from common import contracts
from common.delivery.json_values import unpacked
from common.delivery.store import Store, bucket_of, place_of
from common.delivery.versions import pointer
from common.engines.arrow import filesystem, path
from common.errors import ArgumentError
from common.handover import storage
from common.handover.manifest import Manifest
from common.reporting.lineage import Walk, place
from common.sources import source

ROWS = 40  # of a table
EVENT = ("time", "source", "arrival")


class Found(NamedTuple):
    """A file of a manifest with the user's rows; `events` counts them by day, source and day of arrival."""

    place: str
    role: str
    file: str
    bucket: int | None
    rows: int | None  # None: the file can't be read
    events: Counter[tuple[str, str, str]]


def show(walked: Walk, user: str, store: Store | None, product: str, console: Console) -> None:
    """Print all rows of a user that the manifests of a walk name; ArgumentError if there are none."""
    files = list(files_of(walked, user))
    with console.status(f"reading {len(files):,} files"):
        found = storage.in_parallel(lambda each: search(*each, user), files)
    unread = sum(each.rows is None for each in found)
    if not any(each.rows for each in found):
        raise ArgumentError(
            f"User '{user}' has no rows in the {len(files) - unread:,} files of this lineage ({unread:,} can't be read)"
            "; correct USER: IDs are compared letter by letter, as 17 and 017."
        )
    print_hand_overs([each for each in found if each.rows and not each.place.startswith("curated/")], console)
    print_datasets([each for each in found if each.rows and each.place.startswith("curated/")], console)
    if unread:
        console.print(
            f"{unread:,} files of this lineage can't be read; retention or a later run may have deleted them."
        )
    if store and key_of(product) == "user_id":
        print_rows(store, user, console)


def files_of(walked: Walk, user: str) -> Iterator[tuple[str, str, dict[str, Any], str]]:
    """Yield the files that may have rows of a user: place, role, entry in the manifest, and URI."""
    for found in walked.found.values():
        if found is None:
            continue
        for role, output in found.document["outputs"].items():
            if not has_users(str(output.get("contract"))):
                continue
            wanted = bucket_of(user, output["buckets"]) if output.get("buckets") else None
            for file in output.get("files", ()):
                if file["path"].endswith(".parquet") and file.get("bucket") in (None, wanted):
                    yield name_of(walked, found), role, file, f"{found.uri.rpartition('/')[0]}/{file['path']}"


def has_users(contract: str) -> bool:
    """Return True if files of a contract have a column of user IDs; also if this checkout does not know it."""
    try:
        return "user_id" in contracts.load(contract).columns
    except ArgumentError:
        return True


def name_of(walked: Walk, found: Manifest) -> str:
    """Return the name of a task or dataset, with its shard or day."""
    of = place(walked.lake, found.uri)
    shard = of.part if of.kind == "dataset" else of.part.partition("/")[2]
    return f"{of.node}/{shard}".removesuffix("/")


def search(name: str, role: str, file: dict[str, Any], uri: str, user: str) -> Found:
    """Return the number of a user's rows in a file; statistics rule out row groups without any."""
    events = Counter[tuple[str, str, str]]()
    try:
        names = set(pq.read_schema(path(uri), filesystem=filesystem(uri)).names)
        columns = ["user_id", *(EVENT if names.issuperset(EVENT) else ())]
        if "user_id" not in names:
            return Found(name, role, file["path"], file.get("bucket"), 0, events)
        rows = pq.read_table(
            path(uri), filesystem=filesystem(uri), columns=columns, filters=[("user_id", "=", user)], use_threads=False
        )
    except (OSError, pa.ArrowInvalid):
        return Found(name, role, file["path"], file.get("bucket"), None, events)
    if len(columns) > 1:
        for row in rows.to_pylist():
            events[str(row["time"].date()), row["source"], str(row["arrival"] or "")] += 1
    return Found(name, role, file["path"], file.get("bucket"), rows.num_rows, events)


def print_hand_overs(found: list[Found], console: Console) -> None:
    """Print the files of hand-overs that have rows of the user."""
    shown = Shown("task", "output", "rows", "bucket", title="Hand-overs", title_justify="left")
    shown.add_column("file", overflow="fold")
    for each in found[:ROWS]:
        bucket = "" if each.bucket is None else str(each.bucket)
        shown.add_row(escape(each.place), each.role, f"{each.rows:,}", bucket, escape(each.file))
    console.print(shown)
    print_rest(len(found), "files", console)


def print_datasets(found: list[Found], console: Console) -> None:
    """Print the user's rows in datasets, and their events by day and delivery."""
    rows = Counter[str]()
    events = Counter[tuple[str, str, str]]()
    for each in found:
        rows[each.place.rpartition("/")[0]] += each.rows or 0
        events.update(each.events)
    for dataset, count in rows.items():
        console.print(f"{dataset}: {count:,} rows")
    if not events:
        return
    folders = {each.name: each.deliveries for each in source.load("events")}
    shown = Shown("day", "source", "events", "delivery", title="Events by day and delivery", title_justify="left")
    for (day, name, arrival), count in sorted(events.items(), reverse=True)[:ROWS]:
        folder = folders.get(name, "raw/events")
        delivery = f"{folder}/arrival={arrival}" if arrival else "unknown: ingested before it was recorded"
        shown.add_row(day, escape(name), f"{count:,}", escape(delivery))
    console.print(shown)
    print_rest(len(events), "days and deliveries", console)


def print_rest(count: int, name: str, console: Console) -> None:
    if count > ROWS:
        console.print(f"… and {count - ROWS:,} more {name}")


def key_of(product: str) -> str:
    """Return the column that names the items of a product."""
    newest = max(
        file.name.removesuffix(".toml") for file in contracts.FOLDER.iterdir() if file.name.startswith(f"{product}@")
    )
    described = contracts.load(newest).product
    return described.key if described else ""


def print_rows(store: Store, user: str, console: Console) -> None:
    """Print the rows that frontends read for a user: own ones, else the default rows."""
    with store.explained():
        live = pointer(store)
        values = live.values if live else {}
        own = store.get([place_of(values["version"], values["buckets"], user)]).get(user) if live else None
    rows = unpacked(own) if own else values.get("content") or []
    rows = rows if isinstance(rows, list) else [rows]
    console.print(f"Frontends read {'own' if own else 'the default'} rows of {store.name}")
    shown = Shown(*(rows[0] if rows else ()))
    for row in rows[:ROWS]:
        shown.add_row(*("" if value is None else escape(str(value)) for value in row.values()))
    console.print(shown)

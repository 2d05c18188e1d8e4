"""A few users and items of a run by name: what they had, what is shown now, what was shown before, and why."""

import itertools
import zlib
from collections import Counter
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from common import protocol
from common.engines.arrow import batches_of
from common.handover import manifest, storage
from common.handover.manifest import Manifest
from common.reporting.record import Record

USERS, ITEMS = 3, 2  # examples
PAIRS = 5  # items that a user had, in an example
FIRST_ROWS = 100_000  # read of a hand-over: its first bucket has whole users
CATALOGUE_ROWS = 2_000_000  # searched for names
BATCH = 16 * 1024  # rows
THREADS = 16
GONE = (FileNotFoundError, KeyError, pa.ArrowInvalid)  # deleted, of another version of the contract, or cut off
COLUMNS = {
    "recommendations": ("user_id", "style", "rank", "item_name", "reason"),
    "interactions": ("user_id", "item_id", "events", "last_time"),
    "similar_items": ("item_id", "rank", "similar_item_name", "reason"),
}


class Had(msgspec.Struct, omit_defaults=True):
    """An item that a user had, with the number of target events and the last of them."""

    item: str  # its name, else its ID
    events: int = 1
    last: datetime | None = None


class Shown(msgspec.Struct, omit_defaults=True):
    """A row that frontends show."""

    rank: int
    item: str
    style: str = ""  # of recommendations: mixed, again, new
    reason: str | None = None


class UserExample(msgspec.Struct, omit_defaults=True):
    """A user with rows of their own; `yesterday` is None if the former run's result is gone."""

    user: str
    had: list[Had]  # the latest first
    had_in_all: int  # items, of which `had` has a few
    now: list[Shown]
    yesterday: list[Shown] | None = None


class ItemExample(msgspec.Struct, omit_defaults=True):
    """An item with the items that are shown as similar; `yesterday` is None if the former run's result is gone."""

    item: str
    now: list[Shown]
    yesterday: list[Shown] | None = None


class Rows(NamedTuple):
    """The first rows of a hand-over, all of each key; `complete` if these are all rows."""

    table: pa.Table
    complete: bool


def user_examples(lake: str, record: Record, former: Record | None) -> list[UserExample]:
    """Return a few users of a run that made recommendations, compared with a former run's; none if files are gone.

    Users with few, some and many items: of each the one with the smallest hash, so that it is often the same one.
    """
    made, now = first_rows(lake, record, "recommendations")
    had = first_rows(lake, record, "interactions")[1]
    if made is None or now is None or had is None:
        return []
    before = first_rows(lake, former, "recommendations")[1] if former else None
    counts = Counter(had.table["user_id"].to_pylist())
    listed = set(now.table["user_id"].to_pylist())
    users = spread({user: count for user, count in counts.items() if user in listed})
    pairs = {user: latest(had.table.filter(pc.equal(had.table["user_id"], user))) for user in users}
    names = names_of(made, {pair["item_id"] for each in pairs.values() for pair in each})
    return [
        UserExample(
            user,
            [Had(names.get(pair["item_id"], pair["item_id"]), pair["events"], pair["last_time"]) for pair in of_user],
            counts[user],
            shown(now, "user_id", user) or [],
            shown(before, "user_id", user),
        )
        for user, of_user in pairs.items()
    ]


def item_examples(lake: str, record: Record, former: Record | None) -> list[ItemExample]:
    """Return a few items of a run that made similar items, compared with a former run's; none if files are gone.

    One item for each of the most frequent reasons: the one with the smallest hash.
    """
    made, now = first_rows(lake, record, "similar_items")
    if made is None or now is None:
        return []
    before = first_rows(lake, former, "similar_items")[1] if former else None
    reasons: dict[str, list[str]] = {}
    for row in now.table.filter(pc.equal(now.table["rank"], 1)).to_pylist():
        reasons.setdefault(row["reason"], []).append(row["item_id"])
    items = [min(each, key=by_hash) for each in sorted(reasons.values(), key=len, reverse=True)[:ITEMS]]
    names = names_of(made, set(items))
    return [
        ItemExample(names.get(item, item), shown(now, "item_id", item) or [], shown(before, "item_id", item))
        for item in items
    ]


def spread(counts: dict[str, int]) -> list[str]:
    """Return keys with few, some and many: of each third by count the one with the smallest hash."""
    ordered = sorted(counts, key=lambda key: (counts[key], by_hash(key)))
    ends = [len(ordered) * third // USERS for third in range(USERS + 1)]
    return [min(ordered[first:after], key=by_hash) for first, after in itertools.pairwise(ends) if first < after]


def by_hash(key: str) -> tuple[int, str]:
    return zlib.crc32(key.encode()), key


def latest(pairs: pa.Table) -> list[dict[str, Any]]:
    """Return the rows of a user's latest items."""
    ordered = pairs.sort_by([("last_time", "descending"), ("events", "descending"), ("item_id", "ascending")])
    rows: list[dict[str, Any]] = ordered.slice(0, PAIRS).to_pylist()
    return rows


def shown(rows: Rows | None, key: str, value: str) -> list[Shown] | None:
    """Return what a key is shown; None if the rows are gone, or have no such key and are not all."""
    if rows is None:
        return None
    found = rows.table.filter(pc.equal(rows.table[key], value)).sort_by("rank").to_pylist()
    if not found and not rows.complete:
        return None
    name = "item_name" if key == "user_id" else "similar_item_name"
    return [Shown(row["rank"], row[name], row.get("style", ""), row["reason"]) for row in found]


# Files


def first_rows(lake: str, record: Record, contract: str) -> tuple[Manifest | None, Rows | None]:
    """Return the manifest of the hand-over of a contract that a run made, of several shards the first's; and its rows.

    Either is None if it is gone.
    """
    made = made_by(lake, record, contract)
    if made is None:
        return None, None
    try:
        return made, read_first(made, contract)
    except GONE:
        return made, None


def made_by(lake: str, record: Record, contract: str) -> Manifest | None:
    """Return the manifest of a run's task with an output of a contract, of several shards the first."""
    keys = [
        protocol.task_key(lake, record.dag, record.run, task.task, index)
        for task in record.tasks
        if task.job
        for index in (None, 0)
    ]
    found = storage.in_parallel(manifest.load_or_none, map(protocol.manifest_uri, keys), THREADS)
    return next((each for each in found if each and output_of(each, contract)), None)


def output_of(made: Manifest, contract: str) -> dict[str, Any] | None:
    """Return the output of a manifest that has files of any version of a contract."""
    outputs = made.document["outputs"].values()
    return next((each for each in outputs if str(each.get("contract")).partition("@")[0] == contract), None)


def read_first(made: Manifest, contract: str) -> Rows:
    """Return the first rows of a hand-over, without the last key unless these are all: it may have more."""
    output = output_of(made, contract) or {}
    tables, count = [], 0
    for file in output["files"]:
        for batch in batches_of(f"{made.uri.rpartition('/')[0]}/{file['path']}", COLUMNS[contract], BATCH):
            tables.append(pa.table(batch))
            count += batch.num_rows
            if count >= FIRST_ROWS:
                break
        if count >= FIRST_ROWS:
            break
    table = pa.concat_tables(tables)
    if count < output["rows"]:
        key = table[COLUMNS[contract][0]]
        return Rows(table.filter(pc.fill_null(pc.not_equal(key, key[-1]), True)), False)
    return Rows(table, True)


def names_of(made: Manifest, items: set[str]) -> dict[str, str]:
    """Return the names of items by the catalogue that a task read; fewer if it is gone or very large."""
    names: dict[str, str] = {}
    searched = 0
    for parent in made.document["parents"]:
        catalogue = manifest.load_or_none(parent["uri"]) if parent["role"] == "items" else None
        try:
            for file in manifest.partition_files(catalogue):
                for batch in batches_of(file.uri, ("item_id", "name"), BATCH):
                    found = batch.filter(pc.is_in(batch["item_id"], value_set=pa.array(items, pa.string())))
                    names |= {row["item_id"]: row["name"] for row in found.to_pylist() if row["name"]}
                    searched += batch.num_rows
                    if searched >= CATALOGUE_ROWS or len(names) == len(items):
                        return names
        except GONE:
            continue
    return names

"""The catalogue of a job: items by position, as they are shown, and those that may be recommended."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from common.engines import arrow
from common.errors import GateRefused
from common.handover.task import Task

NEVER, FOREVER = np.iinfo(np.int64).min, np.iinfo(np.int64).max


class Catalogue(NamedTuple):
    """Items by position: IDs, names to show, numbers of the families, and the dates of availability, if it has any.

    `since` and `until` are microseconds since 1970: NEVER and FOREVER where they are open.
    """

    ids: pa.Array
    names: pa.Array
    families: np.ndarray
    dated: np.ndarray
    since: np.ndarray
    until: np.ndarray

    def available(self, last_event: np.ndarray, earliest: int, as_of: int) -> np.ndarray:
        """Mark the items that may be recommended: by their dates, else by an event from `earliest` on.

        All in microseconds since 1970; `last_event` is NEVER for an item without one.
        """
        by_dates = (self.since <= as_of) & (as_of < self.until)
        return np.where(self.dated, by_dates, (last_event > NEVER) & (last_event >= earliest))


def read_catalogue(task: Task, role: str, others: pa.Array) -> Catalogue:
    """Return the items of an input; if it has none, the `others`, each with its ID as its name."""
    items = arrow.read(task, role, ["item_id", "name", "family", "available_from", "available_until"])
    if not items.num_rows:
        items = pa.table({"item_id": others}, pa.schema({"item_id": pa.string()}))
        for name in ("name", "family"):
            items = items.append_column(name, pa.nulls(len(others), pa.string()))
        for name in ("available_from", "available_until"):
            items = items.append_column(name, pa.nulls(len(others), arrow.TYPES["timestamp"]))
    columns = {name: items[name].combine_chunks() for name in items.column_names}
    ids = columns["item_id"]
    since, until = columns["available_from"], columns["available_until"]
    return Catalogue(
        ids,
        pc.coalesce(columns["name"], ids),
        family_numbers(columns["family"]),
        pc.or_(since.is_valid(), until.is_valid()).to_numpy(zero_copy_only=False),
        since.cast(pa.int64()).fill_null(NEVER).to_numpy(),
        until.cast(pa.int64()).fill_null(FOREVER).to_numpy(),
    )


def family_numbers(families: pa.Array) -> np.ndarray:
    """Return a number per family; an item without one gets a number of its own."""
    known = families.dictionary_encode()
    own = np.arange(len(families)) + len(known.dictionary)
    return np.where(families.is_valid().to_numpy(zero_copy_only=False), known.indices.fill_null(-1).to_numpy(), own)


def check_listed(task: Task, rows: str, unlisted: pa.Array, total: int) -> None:
    """Count the `rows` (their name) whose items the catalogue lacks, `unlisted` being these items, one per row.

    GateRefused if they are more than `max_unlisted_share` of all.
    """
    task.metrics[f"{rows}_without_item_in_catalogue"] = len(unlisted)
    task.metrics["unlisted_share"] = round(len(unlisted) / max(total, 1), 5)
    limit = task.parameters["max_unlisted_share"]
    if len(unlisted) > limit * total:
        most = sorted(pc.value_counts(unlisted).to_pylist(), key=lambda entry: -entry["counts"])[:3]
        raise GateRefused(
            f"{len(unlisted):,} of {total:,} {rows} ({len(unlisted) / total:.0%}) are with items that curated/items "
            f"lacks, such as {', '.join(repr(entry['values']) for entry in most)}; expected at most {limit:.0%}: "
            "deliver these items, correct the source's items.toml, or raise max_unlisted_share."
        )


def positions(ids: pa.Array | pa.ChunkedArray, known: pa.Array) -> np.ndarray:
    """Return the position of each ID among the known ones, -1 for others and for null."""
    indices = pc.index_in(ids, value_set=known, skip_nulls=True)
    numbers: np.ndarray = indices.fill_null(-1).to_numpy().astype(np.int64)
    return numbers

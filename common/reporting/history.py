"""Records of earlier runs, found by their names alone: month by month, the newest first."""

import contextlib
from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

import msgspec

from common import protocol
from common.handover import storage
from common.reporting import index_entry, record
from common.reporting.index_entry import IndexEntry
from common.reporting.record import Record

KEPT = 90  # runs of each pipeline on the index page
FORMER = 60  # runs that a card is compared with: 30 of the same kind that succeeded should be among them
THREADS = 32  # as many as connections to an object store


def records_folder(lake: str) -> str:
    """URI of the folder that has a folder of records for each pipeline."""
    return f"{lake}/{protocol.REPORTS}/records"


def uris(folder: str, limit: int, before: str | None = None) -> list[str]:
    """Return the newest records in a pipeline's folder, the newest first: those before a `report_name`, if given."""
    found: list[str] = []
    for month in reversed(storage.folders(folder)):
        if before and month > before[: len(month)]:
            continue
        names = [file.uri for file in storage.files(f"{folder}/{month}") if file.uri.endswith(".json")]
        found += [uri for uri in reversed(names) if before is None or uri < f"{folder}/{before}.json"]
        if len(found) >= limit:
            break
    return found[:limit]


def read(lake: str, dag_id: str, limit: int, before: str | None = None) -> list[Record]:
    """Return the newest records of a pipeline, the newest first; unreadable ones are left out."""
    folder = f"{records_folder(lake)}/{protocol.encode(dag_id)}"
    return [each for each in storage.in_parallel(load_or_none, uris(folder, limit, before), THREADS) if each]


def read_all(lake: str, limit: int) -> list[tuple[str, Record]]:
    """Return the newest records of each pipeline with their URIs."""
    folder = records_folder(lake)
    names = [uri for dag in storage.folders(folder) for uri in uris(f"{folder}/{dag}", limit)]
    found = zip(names, storage.in_parallel(load_or_none, names, THREADS), strict=True)
    return [(uri, each) for uri, each in found if each]


def load_or_none(uri: str) -> Record | None:
    """Return the record at a URI; None if it was deleted, or is of another format or no record."""
    with contextlib.suppress(FileNotFoundError, msgspec.DecodeError, ValueError):
        found = record.decode(storage.read(uri)[0])
        return found if found.format == record.FORMAT else None
    return None


def card_of(lake: str, uri: str) -> str:
    """Return the path of the card that belongs to a record, below the folder of reports."""
    return f"cards{uri.removeprefix(records_folder(lake)).removesuffix('.json')}.html"


def card_path(uri: str) -> str:
    """Return the path of a card below the folder of reports."""
    return uri.rpartition(f"{protocol.REPORTS}/")[2]


def entries(lake: str, limit: int) -> list[IndexEntry]:
    """Return the newest runs of each pipeline as the index page shows them."""
    return [index_entry.entry_of(found, card_of(lake, uri)) for uri, found in read_all(lake, limit)]


class ShippedModel(NamedTuple):
    """A model that a run shipped, and its quality when it was chosen."""

    time: datetime
    dag: str
    run: str
    task: str
    style: str
    model: str
    figure: str
    value: float
    low: float | None
    high: float | None
    published: bool | None  # False if a guard refused a product of the run; None if it publishes none
    card: str


def models(lake: str, limit: int) -> list[ShippedModel]:
    """Return the models that the newest runs shipped, the newest first."""
    found = [each for uri, of_run in read_all(lake, limit) for each in shipped(of_run, card_of(lake, uri))]
    return sorted(found, key=lambda each: each.time, reverse=True)


def shipped(found: Record, card: str) -> Iterator[ShippedModel]:
    """Yield the models that the trainings of a run shipped."""
    published = all(each.version for each in found.published) if found.published else None
    succeeded = {task.task: task.ended for task in found.tasks if task.state == "succeeded"}
    for comparison in found.comparisons:
        for model in comparison.models:
            if model.chosen and comparison.task in succeeded:
                yield ShippedModel(
                    succeeded[comparison.task] or found.run_after,
                    found.dag,
                    found.run,
                    comparison.task,
                    comparison.style,
                    model.name,
                    comparison.figure,
                    model.figures.get(comparison.figure, 0.0),
                    model.low,
                    model.high,
                    published,
                    card,
                )

"""Ledger of deliveries: the raw files that a dataset has ingested, so that a run takes only new and changed ones.

A run reads the ledger before it lists the raw level, and writes it after its manifest was published. So a kill at any
moment leads to files that are taken again, never to lost ones. A ledger that is lost or unreadable has the same effect.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from common import protocol
from common.handover import Task, manifest, storage
from common.handover.inputs import NOT_COME, Input, in_window
from common.handover.storage import Conflict, File
from common.protocol import LedgerEntry

Value = TypeVar("Value")
MAX_NAMES = 20  # changed files that a metric names


@dataclass
class Ledger:
    """The files that a dataset has ingested, by path in the lake, as a run finds them.

    `select` sets the others: `gone` are deleted ones, `waiting` have a day of arrival that has not come yet, and
    `may_be_idle` is True if a run without any readable file is not an error.
    """

    lake: str
    kind: str
    entries: dict[str, LedgerEntry]
    exists: bool
    gone: dict[str, LedgerEntry] = field(default_factory=dict)
    waiting: list[tuple[File, str]] = field(default_factory=list)
    may_be_idle: bool = False

    @classmethod
    def load(cls, task: Task, kind: str) -> "Ledger":
        """Return the ledger of a kind of deliveries: events, items or users. Load it before listing any delivery."""
        documents = storage.files(protocol.ledger_folder(task.lake, kind))
        found = storage.in_parallel(read, [file.uri for file in documents])
        entries = {path: entry for document, _ in found for path, entry in document.items()}
        return cls(task.lake, kind, entries, bool(documents))

    def path(self, file: File) -> str:
        return file.uri.removeprefix(f"{self.lake}/")

    def is_new(self, file: File) -> bool:
        """Return True for a file that was not ingested yet, or has changed since."""
        return not protocol.is_ingested(self.entries.get(self.path(file)), file.bytes, file.tag)

    def select(self, task: Task, role: str, found: list[Input]) -> list[Input]:
        """Return deliveries with only the files to ingest: the new ones; those of a window that a person set, all.

        Files that wait for their day of arrival are in neither. Sets the metrics files_new, files_changed (and their
        names), files_waiting and files_deleted.
        """
        table = task.job.inputs[role]
        windowed = any(task.parameters[name] is not None for name in table.dates or ())
        paths = {self.path(file) for each in found for file in [*each.files, *(file for file, _ in each.left_out)]}
        self.gone = {path: entry for path, entry in self.entries.items() if path not in paths}
        if windowed:  # the days outside of the window were not listed
            days = {path: protocol.arrival_day(path) for path in self.gone}
            inside = {None, *in_window(task, [day for day in days.values() if day], table)}
            self.gone = {path: entry for path, entry in self.gone.items() if days[path] in inside}
        self.may_be_idle = self.exists and not windowed
        self.waiting = [left for each in found for left in each.left_out if left[1] == NOT_COME]
        found = [replace(each, left_out=[left for left in each.left_out if left[1] != NOT_COME]) for each in found]
        listed = [file for each in found for file in [*each.files, *(file for file, _ in each.left_out)]]
        new = [file for file in listed if self.is_new(file)]
        changed = sorted(path for path in map(self.path, new) if path in self.entries)
        task.metrics |= {
            "files_new": len(new) - len(changed),
            "files_changed": len(changed),
            "files_waiting": len(self.waiting),
            "files_deleted": len(self.gone),
        }
        if changed:
            task.metrics["changed_files"] = changed[:MAX_NAMES]
        task.log("ledger", known=len(self.entries), **task.metrics)
        if windowed:
            return found
        task.taken = [self.path(file) for file in new]
        kept = {file.uri for file in new}
        return [
            replace(
                each,
                files=[file for file in each.files if file.uri in kept],
                left_out=[left for left in each.left_out if left[0].uri in kept],
            )
            for each in found
        ]

    def record(self, task: Task, unusable: Mapping[File, int]) -> None:
        """Write files to the ledger once the task has published, with their numbers of quarantined records.

        A quarantined file counts 1. Deleted files leave the ledger; their rows stay.
        """
        taken = {
            self.path(file): LedgerEntry(bytes=file.bytes, tag=file.tag, unusable=count)
            for file, count in unusable.items()
        }
        task.after_publishing(lambda: update(self.lake, self.kind, taken, self.gone))


def read(uri: str) -> tuple[dict[str, LedgerEntry], str | None]:
    """Return the entries of a document of a ledger and its tag; no entries if it is lost or unreadable."""
    try:
        content, tag = storage.read(uri)
    except FileNotFoundError:
        return {}, None
    return protocol.ledger_entries(content), tag


def update(lake: str, kind: str, taken: dict[str, LedgerEntry], gone: dict[str, LedgerEntry]) -> None:
    """Add entries to a ledger, and remove those that are still as they were; safe if several do it concurrently."""

    def changed(former: dict[str, LedgerEntry], added: dict[str, LedgerEntry]) -> dict[str, LedgerEntry]:
        return {path: entry for path, entry in former.items() if gone.get(path) != entry} | added

    added = by_document(lake, kind, taken)
    for uri in sorted(added.keys() | by_document(lake, kind, gone).keys()):
        change(uri, functools.partial(changed, added=added.get(uri, {})))


def by_document(lake: str, kind: str, values: Mapping[str, Value]) -> dict[str, dict[str, Value]]:
    """Return values by path, grouped by the document of the ledger that has the path."""
    groups: dict[str, dict[str, Value]] = {}
    for path, value in values.items():
        groups.setdefault(protocol.ledger_uri(lake, kind, path), {})[path] = value
    return groups


def change(uri: str, changed: Callable[[dict[str, LedgerEntry]], dict[str, LedgerEntry]]) -> None:
    """Apply a function to the entries of a document, again after each conflict."""
    while True:
        former, tag = read(uri)
        entries = changed(former)
        if entries == former:
            return
        try:
            storage.replace(uri, manifest.to_json({"format": protocol.LEDGER_FORMAT, "files": entries}), tag)
            return
        except Conflict:
            continue


def keep_ingested(lake: str, kind: str, rewritten: Mapping[str, tuple[File, File]]) -> None:
    """Record that files which were ingested have been rewritten, so that no run takes them again.

    `rewritten` has each file before and after, by path.
    """

    def changed(former: dict[str, LedgerEntry], files: dict[str, tuple[File, File]]) -> dict[str, LedgerEntry]:
        entries = dict(former)
        for path, (before, after) in files.items():
            entry = former.get(path)
            if entry and protocol.is_ingested(entry, before.bytes, before.tag):
                entries[path] = LedgerEntry(bytes=after.bytes, tag=after.tag, unusable=entry["unusable"])
        return entries

    for uri, files in by_document(lake, kind, rewritten).items():
        change(uri, functools.partial(changed, files=files))

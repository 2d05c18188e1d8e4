"""What of a lake can go: runs, versions of partitions and folders of processes that nothing needs any more.

Raw deliveries are never among it. All is found by one listing of each level and judged by manifests. What a published
version of a product descends from is needed, and so is what a task at work may have begun to read.
"""

import datetime
import functools
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from common import protocol
from common.handover import manifest, s3, storage
from common.handover.manifest import Manifest

CLOCKS = datetime.timedelta(hours=1)  # by which those of two machines, and a write and its effect, may differ


class Entry(NamedTuple):
    """A file of a level: its path in it, its bytes, and when it was last changed, in seconds."""

    path: str
    bytes: int
    changed: float


@dataclass(frozen=True)
class Garbage:
    """A folder that can go, its kind and entries, and the check to repeat just before it is deleted."""

    kind: str
    name: str
    entries: list[Entry]
    unneeded: Callable[[], bool]

    @property
    def bytes(self) -> int:
        return sum(entry.bytes for entry in self.entries)

    @property
    def changed(self) -> float:
        return max(entry.changed for entry in self.entries)


@dataclass
class Lake:
    """A lake as listed: the entries of its folders, and when the runs that live products come from began to read."""

    root: str
    limit: float  # what changed at this time or later stays
    live: set[str]  # runs as <pipeline>/<run>
    runs: dict[str, list[Entry]] = field(default_factory=dict)
    strays: list[str] = field(default_factory=list)
    read: dict[str, list[datetime.datetime]] = field(default_factory=dict)  # by partition: when live runs read it

    def old(self, entries: Iterable[Entry]) -> bool:
        return all(entry.changed < self.limit for entry in entries)

    def still_old(self, folder: str) -> bool:
        return self.old(entries(f"{self.root}/{folder}"))


def find(root: str, limit: float, live: set[str]) -> tuple[Lake, list[Garbage]]:
    """A lake, and what of it can go."""
    found = Lake(root, limit, live)
    for entry in entries(f"{root}/intermediate"):
        parts = entry.path.split("/")
        if len(parts) > 2 and not {"", ".", ".."} & set(parts[:2]):
            found.runs.setdefault("/".join(parts[:2]), []).append(entry)
        elif parts[-1]:  # no marker of a folder
            found.strays.append(entry.path)
    for run in live & found.runs.keys():
        note_reads(found, run)
    return found, [*old_runs(found), *uncounted_processes(found), *unnamed_versions(found)]


def note_reads(found: Lake, run: str) -> None:
    """Note which partitions the tasks of a run read, and since when."""
    uris = [f"{found.root}/intermediate/{entry.path}" for entry in found.runs[run] if is_manifest(entry.path)]
    for each in filter(None, storage.in_parallel(manifest.load_or_none, uris)):
        started = datetime.datetime.fromisoformat(each.document["started"])
        for parent in each.document["parents"]:
            folder = parent["uri"].removesuffix("/manifest.json").removeprefix(f"{found.root}/")
            found.read.setdefault(folder, []).append(started)


def old_runs(found: Lake) -> Iterator[Garbage]:
    """Runs in which nothing changed lately. Tasks read hand-overs of their own run only, so no run needs another's."""
    for run, of_run in sorted(found.runs.items()):
        if found.old(of_run) and run not in found.live:
            folder = f"intermediate/{run}"
            yield Garbage("run", folder, of_run, functools.partial(found.still_old, folder))


def uncounted_processes(found: Lake) -> Iterator[Garbage]:
    """Folders of processes, in runs that stay, of which the task's manifest names nothing."""
    for run, of_run in sorted(found.runs.items()):
        if found.old(of_run) and run not in found.live:
            continue
        manifests = {entry.path: entry for entry in of_run if is_manifest(entry.path)}
        for (key, folder), of_process in grouped(of_run, re.compile(r"(.+?)/(attempt-\d+/[^/]+)/.+")).items():
            own = manifests.get(f"{key}/manifest.json")
            if own and found.old([own, *of_process]):
                uri = f"{found.root}/intermediate/{own.path}"

                def unneeded(uri: str = uri, key: str = key, folder: str = folder) -> bool:
                    there = manifest.load_or_none(uri)
                    unnamed = there is not None and not any(path.startswith(f"{folder}/") for path in paths(there))
                    return unnamed and found.still_old(f"intermediate/{key}/{folder}")

                if unneeded():
                    yield Garbage("process", f"intermediate/{key}/{folder}", of_process, unneeded)


def unnamed_versions(found: Lake) -> Iterator[Garbage]:
    """Versions of partitions that the partition's manifest does not name; without a manifest nothing is judged."""
    versions = grouped(entries(f"{found.root}/curated"), re.compile(r"(.+?)/(version=[^/]+)/.+"))
    old = {place: of_version for place, of_version in versions.items() if found.old(of_version)}
    partitions = sorted({partition for partition, _ in old})
    uris = [protocol.manifest_uri(f"{found.root}/curated/{partition}") for partition in partitions]
    there = dict(zip(partitions, storage.in_parallel(manifest.load_or_none, uris)))
    for (partition, version), of_version in sorted(old.items()):
        folder = f"curated/{partition}"

        def unneeded(
            partition: str = partition, folder: str = folder, version: str = version, entries: list[Entry] = of_version
        ) -> bool:
            now = manifest.load_or_none(protocol.manifest_uri(f"{found.root}/{folder}"))
            return may_go(found, folder, version, entries, now) and found.still_old(f"{folder}/{version}")

        if may_go(found, folder, version, of_version, there[partition]):
            yield Garbage("version", f"{folder}/{version}", of_version, unneeded)


def may_go(found: Lake, folder: str, version: str, of_version: list[Entry], there: Manifest | None) -> bool:
    """True if nothing needs a version: it is not named, and no running task or live run read it while it was."""
    if there is None or any(path.startswith(f"{version}/") for path in paths(there)):
        return False
    reads = found.read.get(folder, [])
    if dropped := there.document.get("dropped", {}).get(version):
        at = datetime.datetime.fromisoformat(dropped) + CLOCKS
        return at.timestamp() < found.limit and not any(started <= at for started in reads)
    # Never named, or dropped at a time of which the manifest says nothing any more.
    now = datetime.datetime.now(datetime.UTC)
    told_since = now - manifest.DROPPED_KEPT if "dropped" in there.document else now
    changed = max(entry.changed for entry in of_version)
    return not any(started < told_since and changed <= started.timestamp() for started in reads)


def paths(there: Manifest) -> list[str]:
    """The paths that a manifest names."""
    return [file["path"] for file in manifest.files_of(there.document)]


def is_manifest(path: str) -> bool:
    return path.endswith("/manifest.json") and "/attempt-" not in path


def grouped(of: Iterable[Entry], pattern: re.Pattern[str]) -> dict[tuple[str, str], list[Entry]]:
    """Entries by the two groups of a pattern that their paths match."""
    found: dict[tuple[str, str], list[Entry]] = {}
    for entry in of:
        if match := pattern.fullmatch(entry.path):
            found.setdefault((match[1], match[2]), []).append(entry)
    return found


def entries(folder: str) -> Iterator[Entry]:
    """Every file below a folder, hidden ones too; what can't be listed is an error."""
    if storage.is_s3(folder):
        bucket, prefix = s3.bucket_and_key(f"{folder}/")
        for page in s3.client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for each in page.get("Contents", []):
                yield Entry(each["Key"].removeprefix(prefix), each["Size"], each["LastModified"].timestamp())
        return
    root = storage.local(folder)
    for parent, _, names in os.walk(root, onerror=raise_unless_gone):
        for name in names:
            try:
                status = os.lstat(f"{parent}/{name}")
            except FileNotFoundError:  # deleted meanwhile
                continue
            yield Entry(f"{parent}/{name}".removeprefix(f"{root}/"), status.st_size, status.st_mtime)


def raise_unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error

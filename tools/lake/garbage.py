"""Find garbage in a lake: runs, versions of partitions, folders of processes and reports that nothing needs any more.

Raw deliveries are never garbage. One listing per level finds all folders, manifests decide. The ancestors of a
published version of a product are needed, and so are files that a running task may have begun to read.
"""

import datetime
import functools
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from common import protocol
from common.handover import manifest, storage
from common.handover.manifest import Manifest

CLOCKS = datetime.timedelta(hours=1)  # maximum difference of two machines' clocks, and of a write and its effect


class Entry(NamedTuple):
    """A file of a level: its path below it, its bytes, and its modification time in seconds since 1970."""

    path: str
    bytes: int
    changed: float


@dataclass(frozen=True)
class Garbage:
    """A deletable folder, its kind and entries, and the check to repeat just before deletion."""

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
    """A listed lake: the entries of its folders, and the times when the runs of live products began to read."""

    root: str
    limit: float  # folders that changed at this time or later stay
    live: set[str]  # runs as <pipeline>/<run>
    runs: dict[str, list[Entry]] = field(default_factory=dict)
    strays: list[str] = field(default_factory=list)
    read: dict[str, list[datetime.datetime]] = field(default_factory=dict)  # times of reads by live runs, by partition

    def old(self, entries: Iterable[Entry]) -> bool:
        return all(entry.changed < self.limit for entry in entries)

    def still_old(self, folder: str) -> bool:
        return self.old(entries(f"{self.root}/{folder}"))


def find(root: str, limit: float, live: set[str]) -> tuple[Lake, list[Garbage]]:
    """List a lake; return it and its garbage."""
    listed = Lake(root, limit, live)
    for entry in entries(f"{root}/intermediate"):
        parts = entry.path.split("/")
        if len(parts) > 2 and not {"", ".", ".."} & set(parts[:2]):
            listed.runs.setdefault("/".join(parts[:2]), []).append(entry)
        elif parts[-1]:  # not the marker of a folder
            listed.strays.append(entry.path)
    for run in live & listed.runs.keys():
        record_reads(listed, run)
    return listed, [*old_runs(listed), *uncounted_processes(listed), *unnamed_versions(listed)]


def record_reads(listed: Lake, run: str) -> None:
    """Record the partitions that the tasks of a run read, and the times."""
    uris = [f"{listed.root}/intermediate/{entry.path}" for entry in listed.runs[run] if is_manifest(entry.path)]
    for each in filter(None, storage.in_parallel(manifest.load_or_none, uris)):
        started = datetime.datetime.fromisoformat(each.document["started"])
        for parent in each.document["parents"]:
            folder = parent["uri"].removesuffix("/manifest.json").removeprefix(f"{listed.root}/")
            listed.read.setdefault(folder, []).append(started)


def old_runs(listed: Lake) -> Iterator[Garbage]:
    """Yield runs without recent changes. Tasks only read hand-overs of their own run, so no run needs another one."""
    for run, of_run in sorted(listed.runs.items()):
        if listed.old(of_run) and run not in listed.live:
            folder = f"intermediate/{run}"
            yield Garbage("run", folder, of_run, functools.partial(listed.still_old, folder))


def uncounted_processes(listed: Lake) -> Iterator[Garbage]:
    """Yield folders of processes, in runs that stay, without any file in the task's manifest."""
    for run, of_run in sorted(listed.runs.items()):
        if listed.old(of_run) and run not in listed.live:
            continue
        manifests = {entry.path: entry for entry in of_run if is_manifest(entry.path)}
        for (key, folder), of_process in group_by_match(of_run, re.compile(r"(.+?)/(attempt-\d+/[^/]+)/.+")).items():
            published = manifests.get(f"{key}/manifest.json")
            if published and listed.old([published, *of_process]):
                uri = f"{listed.root}/intermediate/{published.path}"

                def unneeded(uri: str = uri, key: str = key, folder: str = folder) -> bool:
                    now = manifest.load_or_none(uri)
                    unnamed = now is not None and not any(path.startswith(f"{folder}/") for path in paths(now))
                    return unnamed and listed.still_old(f"intermediate/{key}/{folder}")

                if unneeded():
                    yield Garbage("process", f"intermediate/{key}/{folder}", of_process, unneeded)


def unnamed_versions(listed: Lake) -> Iterator[Garbage]:
    """Yield versions that the partition's manifest does not name; without a manifest all versions stay."""
    versions = group_by_match(entries(f"{listed.root}/curated"), re.compile(r"(.+?)/(version=[^/]+)/.+"))
    old = {key: of_version for key, of_version in versions.items() if listed.old(of_version)}
    partitions = sorted({partition for partition, _ in old})
    uris = [protocol.manifest_uri(f"{listed.root}/curated/{partition}") for partition in partitions]
    manifests = dict(zip(partitions, storage.in_parallel(manifest.load_or_none, uris)))
    for (partition, version), of_version in sorted(old.items()):
        folder = f"curated/{partition}"

        def unneeded(
            partition: str = partition, folder: str = folder, version: str = version, entries: list[Entry] = of_version
        ) -> bool:
            now = manifest.load_or_none(protocol.manifest_uri(f"{listed.root}/{folder}"))
            return is_garbage(listed, folder, version, entries, now) and listed.still_old(f"{folder}/{version}")

        if is_garbage(listed, folder, version, of_version, manifests[partition]):
            yield Garbage("version", f"{folder}/{version}", of_version, unneeded)


def old_reports(root: str, limit: float) -> Iterator[Garbage]:
    """Yield months of a pipeline's records, and of its cards, that did not change since a time."""
    listed = Lake(root, limit, set())
    months = group_by_match(entries(f"{root}/{protocol.REPORTS}"), re.compile(r"((?:cards|records)/[^/]+)/([^/]+)/.+"))
    for (kind, month), of_month in sorted(months.items()):
        if listed.old(of_month):
            folder = f"{protocol.REPORTS}/{kind}/{month}"
            yield Garbage("report", folder, of_month, functools.partial(listed.still_old, folder))


def is_garbage(listed: Lake, folder: str, version: str, of_version: list[Entry], current: Manifest | None) -> bool:
    """Return True if nothing needs a version: it is not named, and no running task or live run read it before."""
    if current is None or any(path.startswith(f"{version}/") for path in paths(current)):
        return False
    reads = listed.read.get(folder, [])
    if dropped := current.document.get("dropped", {}).get(version):
        at = datetime.datetime.fromisoformat(dropped) + CLOCKS
        return at.timestamp() < listed.limit and not any(started <= at for started in reads)
    # Never named, or dropped so long ago that the manifest does not record it any more.
    now = datetime.datetime.now(datetime.UTC)
    recorded_since = now - manifest.DROPPED_KEPT if "dropped" in current.document else now
    changed = max(entry.changed for entry in of_version)
    return not any(started < recorded_since and changed <= started.timestamp() for started in reads)


def paths(current: Manifest) -> list[str]:
    """Return the paths that a manifest names."""
    return [file["path"] for file in manifest.files_of(current.document)]


def is_manifest(path: str) -> bool:
    return path.endswith("/manifest.json") and "/attempt-" not in path


def group_by_match(listed: Iterable[Entry], pattern: re.Pattern[str]) -> dict[tuple[str, str], list[Entry]]:
    """Group entries by the two groups of a pattern that their paths match."""
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in listed:
        if match := pattern.fullmatch(entry.path):
            groups.setdefault((match[1], match[2]), []).append(entry)
    return groups


def entries(folder: str) -> Iterator[Entry]:
    """Yield every file below a folder, hidden ones too; raise an error if a folder can't be listed."""
    return (Entry(*each) for each in storage.entries(folder))

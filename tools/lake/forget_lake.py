"""Erase people from the files of a lake: publish new files without them, delete the old ones.

Files of a manifest are rewritten, and one conditional write makes the manifest name the new ones. A file that no
manifest names is deleted as soon as no task can read or publish it any more. Deliveries keep their name and all other
lines; reports keep all but the examples and the IDs of these people. In a bucket with versions, former versions that
name people are deleted too.
"""

import contextlib
import copy
import datetime
import io
import os
import re
import shutil
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

from rich.console import Console
from rich.progress import track

from common import contracts, protocol
from common.engines.arrow import filesystem, path
from common.errors import TaskError
from common.handover import manifest, storage
from common.handover.job_toml import Job, load
from common.handover.manifest import Manifest
from common.handover.storage import File
from common.ingestion import ledger
from common.ingestion.suppression import People
from tools.lake import forget_content, forget_deliveries, garbage, objects
from tools.lake.forget_content import Named, Unreadable
from tools.lake.forget_requests import Requests
from tools.packaging.fingerprint import ROOT

FILES_AT_ONCE = 4
BUFFER = 8 << 20  # bytes per request of a delivery
MAX_CONFLICTS = 20  # of a conditional write with running tasks, each of which publishes once
LEFTOVER = re.compile(r"\.[0-9a-f]{32}")  # a file that storage.write had not finished when it was killed
REPORTS_OF_TASKS = ("failure.json", "scheduler.json", "run.json")
OTHER = (".svg", ".lock", ".crc")  # drawings show sums, the other files no data
FRESH = 2.0  # seconds in which a file may change without a new modification time

Found = dict["Entry", "Named | Unreadable"]
Listing = tuple[dict[str, Any], dict[str, Any]]  # an output of a manifest, and one of its files
Item = TypeVar("Item")


class Entry(NamedTuple):
    """A file of the lake by its path below the root; `version` only of a former version."""

    path: str
    bytes: int
    changed: float  # seconds since 1970
    version: str = ""

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def is_delivery(self) -> bool:
        return self.path.startswith("raw/")

    @property
    def is_ledger(self) -> bool:
        return re.match(r"curated/[^/]+/ingested/", self.path) is not None

    @property
    def is_report(self) -> bool:
        return self.path.startswith(f"{protocol.REPORTS}/") or self.name in REPORTS_OF_TASKS

    @property
    def is_document(self) -> bool:
        return self.name == "manifest.json" or self.is_report


@dataclass
class Pass:
    """One search of all files: their number, changed and waiting files, files that the tool cannot change."""

    files: int = 0
    bytes: int = 0
    changed: int = 0
    waiting: int = 0
    waiting_since: float = 0.0  # of the newest waiting file
    unreadable: list[str] = field(default_factory=list)
    models: list[str] = field(default_factory=list)


class Lake:
    """A lake that is searched for some people; a file that names none of them is read once."""

    def __init__(self, root: str, people: People, requests: Requests, grace: float, console: Console) -> None:
        self.root = root
        self.people = people
        self.requests = requests
        self.grace = grace  # seconds during which a task may use files from before
        self.console = console
        self.objects = objects.of(root)
        self.sources = forget_deliveries.load()
        self.clean: set[Entry] = set()
        self.rewritten: dict[str, dict[str, tuple[File, File]]] = {}  # deliveries before and after, by kind and path
        self.result = Pass()

    def sweep(self) -> Pass:
        """Search all files, and erase the people in them."""
        self.result = Pass()
        begun = time.time()
        entries = [entry for folder in personal_folders() for entry in self.entries(folder)]
        units = {entry.path.rpartition("/")[0] for entry in entries if entry.name == "manifest.json"}
        entries += self.former_versions()
        self.result.files, self.result.bytes = len(entries), sum(entry.bytes for entry in entries)
        found: Found = {}
        new = [entry for entry in entries if entry not in self.clean]
        with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
            results = self.with_progress(pool.map(self.search, new), "reading", len(new))
            for entry, named in zip(new, results):
                if named:
                    found[entry] = named
                elif entry.changed < begun - FRESH:
                    self.clean.add(entry)
        by_unit: dict[str, Found] = {}
        for entry, named in found.items():
            if entry.version:
                self.delete_version(entry, named)
            elif entry.is_delivery:
                self.rewrite_delivery(entry, named)
            else:
                by_unit.setdefault(unit_of(entry.path, units), {})[entry] = named
        for unit, found in self.with_progress(by_unit.items(), "writing", len(by_unit)):
            self.publish(unit, found)
        for kind, rewritten in self.rewritten.items():
            ledger.keep_ingested(self.root, kind, rewritten)
        self.rewritten.clear()
        self.abort_uploads()
        self.requests.save()
        return self.result

    def with_progress(self, items: Iterable[Item], label: str, total: int) -> Iterable[Item]:
        """Iterate over items with a progress bar."""
        hidden = not self.console.is_terminal
        return track(items, label, total=total, console=self.console, transient=True, disable=hidden)

    def search(self, entry: Entry) -> Named | Unreadable:
        """Return the people in a file, or the reason why it is unreadable."""
        if LEFTOVER.fullmatch(entry.name):
            return Unreadable("its writer was killed")
        if (entry.name.endswith(OTHER) and not entry.is_delivery) or entry.is_ledger:
            return Counter()
        if not storage.is_remote(self.root) and is_special(storage.local(self.uri(entry))):
            return Unreadable("not a regular file")
        try:
            with self.opened(entry) as file:
                if entry.is_delivery:
                    return forget_deliveries.find(self.sources.of(entry.path), file, self.people)[0]
                if entry.is_document:
                    return self.redact(entry, file.read())[1]
                if entry.name.endswith((".json", ".npy")):
                    return forget_content.count_model(entry.name, file, self.people)
                is_table = entry.name.endswith(".parquet") or forget_content.is_parquet(file)
                return forget_content.count_parquet(file, self.people) if is_table else Counter()
        except Unreadable as error:
            return error
        except FileNotFoundError:  # deleted concurrently
            return Counter()

    def rewrite_delivery(self, entry: Entry, named: Named | Unreadable) -> None:
        """Rewrite a delivery without the records of people, unless it changed."""
        if isinstance(named, Unreadable):
            self.report_unreadable(entry, named)
            return
        uri, source = self.uri(entry), self.sources.of(entry.path)
        with contextlib.suppress(FileNotFoundError, storage.Conflict):  # the next pass searches it again
            tag = tag_of(uri)
            with self.opened(entry) as file:
                named, records = forget_deliveries.find(source, file, self.people)
            self.requests.record(entry.path, named)
            self.requests.save()
            with self.opened(entry) as file:
                after = replace_stream(uri, tag, lambda target: forget_deliveries.copy(source, file, target, records))
            kind = entry.path.split("/")[1]
            self.rewritten.setdefault(kind, {})[entry.path] = File(uri, entry.bytes, listed_tag(tag)), after
        self.result.changed += 1

    def report_unreadable(self, entry: Entry, reason: Unreadable) -> None:
        """Report an unreadable file; delete it if a killed writer left it."""
        if LEFTOVER.fullmatch(entry.name):
            self.remove(entry, 0)
        else:
            self.result.unreadable.append(f"{entry.path} ({reason})")

    def publish(self, unit: str, found: Found) -> None:
        """Republish the manifest of a task or partition with files without people, also while others publish there."""
        for entry, named in found.items():
            if entry.path == f"{unit}/manifest.json" and isinstance(named, Unreadable):
                self.report_unreadable(entry, named)
                return
        for _ in range(MAX_CONFLICTS):
            try:
                self.publish_once(
                    manifest.load_or_none(protocol.manifest_uri(f"{self.root}/{unit}")) if unit else None, unit, found
                )
                return
            except storage.Conflict:
                continue
        raise TaskError(f"{self.root}/{unit} had {MAX_CONFLICTS} concurrent publications; rerun make forget later.")

    def publish_once(self, current: Manifest | None, unit: str, found: Found) -> None:
        document = copy.deepcopy(current.document) if current else {"outputs": {}}
        listed = {
            f"{unit}/{file['path']}": (output, file)
            for output in document["outputs"].values()
            for file in output.get("files", ())
        }
        named_now = {entry: named for entry, named in found.items() if entry.path in listed or entry.is_document}
        for entry in found.keys() - named_now.keys():
            self.remove(entry, published(current))
        changed = [
            entry for entry, named in named_now.items() if self.change(entry, named, listed.get(entry.path), unit)
        ]
        if changed and current:
            self.requests.save()  # the time of a replacement is saved before it
            self.republish(current, document)

    def change(self, entry: Entry, named: Named | Unreadable, listing: Listing | None, unit: str) -> bool:
        """Rewrite a file that names people, if possible; True if the manifest changes."""
        if isinstance(named, Unreadable):
            self.report_unreadable(entry, named)
            return False
        if listing and entry.name.endswith((".json", ".npy")):
            self.result.models.append(entry.path)
            return False
        self.requests.record(entry.path, named)
        if listing:
            self.copy(unit, entry, *listing)
            self.requests.record_replacement(entry.path)
        elif entry.is_report:
            self.requests.save()
            self.rewrite_report(entry)
            return False
        return True

    def republish(self, current: Manifest, changed: dict[str, Any]) -> None:
        """Replace the manifest that was read by one with changed outputs and without people in the rest."""
        document = forget_content.Redaction(self.people).document(changed)
        now = datetime.datetime.now(datetime.UTC)
        document["people_forgotten"] = now.isoformat(timespec="seconds")
        if "dropped" in document:
            document["dropped"] = manifest.dropped_versions(current, manifest.files_of(document), now)
        storage.replace(current.uri, manifest.to_json(document), current.tag)
        self.result.changed += 1

    def copy(self, unit: str, entry: Entry, output: dict[str, Any], file: dict[str, Any]) -> None:
        """Write a file without people into a new folder, and list it in an output instead of the old one."""
        first, *rest = file["path"].split("/")
        folder = f"forget-{uuid.uuid4().hex[:8]}"
        new = "/".join([f"version={folder}", *rest] if first.startswith("version=") else [first, folder, *rest])
        uri = f"{self.root}/{unit}/{new}"
        with self.opened(entry) as source, storage.stream(uri) as target:
            dropped = forget_content.copy_parquet(source, target, self.people)
        output["rows"] -= dropped.total()
        for arrival in output.get("arrivals", ()):
            output["arrivals"][arrival] -= dropped[arrival]
        output.pop("counts", None)  # by values that these people may be the only ones to have
        file |= {"path": new, "bytes": storage.sizes([uri])[uri]}
        output["bytes"] = sum(each["bytes"] for each in output["files"])

    def rewrite_report(self, entry: Entry) -> None:
        """Rewrite a document or page about a task or a run without people."""
        with contextlib.suppress(FileNotFoundError, storage.Conflict):  # the next pass searches it again
            content, tag = storage.read(self.uri(entry))
            storage.replace(self.uri(entry), self.redact(entry, content)[0], tag)
        self.result.changed += 1

    def redact(self, entry: Entry, content: bytes) -> tuple[bytes, Named]:
        return forget_content.redact(content, self.people, is_page=entry.name.endswith(".html"))

    def remove(self, entry: Entry, published: float) -> None:
        """Delete a file that no manifest names, if no running task can read or publish it any more.

        The grace begins when this tool replaced the file, else when the manifest without it was published.
        """
        since = self.requests.replaced_at(entry.path) or max(entry.changed, published)
        if since + self.grace > time.time():
            self.result.waiting += 1
            self.result.waiting_since = max(self.result.waiting_since, since)
            return
        storage.delete_files([self.uri(entry)])
        self.result.changed += 1

    # Buckets with versions

    def former_versions(self) -> Iterator[Entry]:
        """Yield former versions of files, if the bucket keeps any."""
        if self.objects:
            for folder in personal_folders():
                for name, size, changed, version in self.objects.former_versions(f"{self.root}/{folder}"):
                    yield Entry(f"{folder}/{name}", size, changed, version)

    def delete_version(self, entry: Entry, named: Named | Unreadable) -> None:
        """Delete a former version, also an unreadable one: nobody reads it, and it may name anyone."""
        if not isinstance(named, Unreadable):
            self.requests.record(f"{entry.path}?versionId={entry.version}", named)
            self.requests.save()
        assert self.objects
        self.objects.delete_version(self.uri(entry), entry.version)
        self.result.changed += 1

    def abort_uploads(self) -> None:
        """Abort uploads that no running task can continue; their parts are stored and in no listing."""
        if self.objects:
            for folder in personal_folders():
                self.objects.abort_uploads(f"{self.root}/{folder}", time.time() - self.grace)

    # Files

    def uri(self, entry: Entry) -> str:
        return f"{self.root}/{entry.path}"

    @contextlib.contextmanager
    def opened(self, entry: Entry) -> Iterator[Any]:
        """Open a file for random access, a delivery for reading in order."""
        uri = self.uri(entry)
        if entry.version and self.objects:
            with tempfile.TemporaryFile() as file:
                self.objects.download_version(uri, entry.version, file)
                file.seek(0)
                yield file
            return
        with filesystem(uri).open_input_file(path(uri)) as native:
            yield io.BufferedReader(native, BUFFER) if entry.is_delivery else native

    def entries(self, folder: str) -> list[Entry]:
        """Return all files below a folder, hidden ones too."""
        listed = garbage.entries(f"{self.root}/{folder}")
        files = [Entry(f"{folder}/{each.path}", each.bytes, each.changed) for each in listed]
        return [entry for entry in files if entry.name]  # some tools mark folders by objects whose name ends in /


def is_special(file: Path) -> bool:
    """Return True for a link, whose target may be anywhere, or a pipe, which has no end."""
    return file.is_symlink() or (file.exists() and not file.is_file())


def personal_folders() -> list[str]:
    """Return the folders of the lake that may name people; raw ones if jobs derive user data from them."""
    jobs = [load(file.parent) for file in sorted((ROOT / "jobs").glob("*/job.toml"))]
    raw = {table.raw for job in jobs if ingests_users(job) for table in job.inputs.values() if table.raw}
    return [*sorted(raw), "curated", "intermediate", protocol.REPORTS]


def ingests_users(job: Job) -> bool:
    """Return True if a job derives data about users from deliveries."""
    contract_names = [output.contract for output in job.outputs.values() if output.contract]
    about_users = any("user_id" in contracts.load(name).columns for name in contract_names)
    return about_users and any(table.raw for table in job.inputs.values())


def unit_of(name: str, units: set[str]) -> str:
    """Return the folder with the manifest for a file: task, map instance or partition; empty if there is none."""
    folder = name
    while folder:
        folder = folder.rpartition("/")[0]
        if folder in units:
            return folder
    return ""


def published(current: Manifest | None) -> float:
    """Return the time of a manifest's publication in seconds since 1970; 0 if there is none."""
    moments = [current.document.get(name) for name in ("ended", "people_forgotten")] if current else []
    return max((datetime.datetime.fromisoformat(moment).timestamp() for moment in moments if moment), default=0)


def tag_of(uri: str) -> Any:
    """Return a value that changes when a file does; FileNotFoundError if there is no file."""
    if found := objects.of(uri):
        return found.tag_of(uri)
    status = os.stat(storage.local(uri))
    return status.st_ino, status.st_size, status.st_mtime_ns


def listed_tag(tag: Any) -> str:
    """Return the tag that a listing has for a file, from that of `tag_of`."""
    return tag if isinstance(tag, str) else str(tag[-1])


def replace_stream(uri: str, tag: Any, write: Callable[[IO[bytes]], None]) -> File:
    """Replace a file by written bytes, through a local temporary file, and return it; Conflict if its tag changed."""
    if found := objects.of(uri):
        with tempfile.TemporaryFile() as file:
            write(file)
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            if (after := found.replace(uri, file, tag)) is None:
                raise storage.Conflict(uri)
            return File(uri, size, after)
    target = storage.local(uri)
    hidden = target.with_name(f".{uuid.uuid4().hex}")
    try:
        with hidden.open("wb") as file:
            shutil.copymode(target, hidden)
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if tag_of(uri) != tag:
            raise storage.Conflict(uri)
        status = hidden.stat()
        hidden.rename(target)
        return File(uri, status.st_size, str(status.st_mtime_ns))
    finally:
        hidden.unlink(missing_ok=True)

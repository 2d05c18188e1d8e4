"""Files of a lake that name some people: found, published anew without them, the former ones deleted.

What a manifest names is written to new files, which it names from one conditional write on. A file that no manifest
names is deleted once no task can read or publish it any more. Deliveries stay where they are, with all other lines.
Of a bucket with versions, the former ones that name people are deleted too.
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
from common.handover import manifest, s3, storage
from common.handover.job_toml import Job, load
from common.handover.manifest import Manifest
from common.ingestion.suppression import People
from tools.lake import forget_content, garbage
from tools.lake.forget_content import Named, Unreadable
from tools.lake.forget_requests import Requests
from tools.packaging.fingerprint import ROOT

FILES_AT_ONCE = 4
BUFFER = 8 << 20  # bytes of a delivery that are asked for at a time
TRIES = 20  # of a conditional write beside running tasks, each of which publishes once
LEFTOVER = re.compile(r"\.[0-9a-f]{32}")  # a file that storage.write had not finished when it was killed
OTHER = (".svg", ".lock", ".crc")  # drawings show sums, the others nothing
FRESH = 2.0  # seconds in which a file may change without another time of its change

Found = dict["Entry", "Named | Unreadable"]
Place = tuple[dict[str, Any], dict[str, Any]]  # an output of a manifest, and one of its files
Thing = TypeVar("Thing")


class Entry(NamedTuple):
    """A file of the lake by its path below the root; `version` only of one that is no longer in place."""

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
    def is_document(self) -> bool:
        return self.name in ("manifest.json", "failure.json")


@dataclass
class Pass:
    """One look at all files: how many, what changed by it, what has to wait, what the tool cannot do."""

    files: int = 0
    bytes: int = 0
    changed: int = 0
    waiting: int = 0
    waiting_since: float = 0.0  # of the last of those that wait
    unreadable: list[str] = field(default_factory=list)
    models: list[str] = field(default_factory=list)


class Lake:
    """A lake in which some people are looked for; a file that names none of them is read once."""

    def __init__(self, root: str, people: People, requests: Requests, grace: float, console: Console) -> None:
        self.root = root
        self.people = people
        self.requests = requests
        self.grace = grace  # seconds for which a task may work with what it found
        self.console = console
        self.clean: set[Entry] = set()
        self.result = Pass()

    def sweep(self) -> Pass:
        """Look at all files, and forget the people in those that name them."""
        self.result = Pass()
        begun = time.time()
        entries = [entry for folder in personal_folders() for entry in self.entries(folder)]
        units = {entry.path.rpartition("/")[0] for entry in entries if entry.name == "manifest.json"}
        entries += self.former_versions()
        self.result.files, self.result.bytes = len(entries), sum(entry.bytes for entry in entries)
        found: Found = {}
        new = [entry for entry in entries if entry not in self.clean]
        with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
            looks = self.shown(pool.map(self.look, new), "reading", len(new))
            for entry, named in zip(new, looks):
                if named:
                    found[entry] = named
                elif entry.changed < begun - FRESH:
                    self.clean.add(entry)
        by_unit: dict[str, Found] = {}
        for entry, named in found.items():
            if entry.version:
                self.delete_version(entry, named)
            elif entry.is_delivery:
                self.deliver(entry, named)
            else:
                by_unit.setdefault(unit_of(entry.path, units), {})[entry] = named
        for unit, found in self.shown(by_unit.items(), "writing", len(by_unit)):
            self.publish(unit, found)
        self.abort_uploads()
        self.requests.save()
        return self.result

    def shown(self, things: Iterable[Thing], what: str, total: int) -> Iterable[Thing]:
        """Some things with a bar of progress while they are worked on."""
        hidden = not self.console.is_terminal
        return track(things, what, total=total, console=self.console, transient=True, disable=hidden)

    def look(self, entry: Entry) -> Named | Unreadable:
        """Whom a file names, or why nobody knows."""
        if LEFTOVER.fullmatch(entry.name):
            return Unreadable("its writer was killed")
        if entry.name.endswith(OTHER) and not entry.is_delivery:
            return Counter()
        if not storage.is_s3(self.root) and is_special(storage.local(self.uri(entry))):
            return Unreadable("not a regular file")
        try:
            with self.opened(entry) as file:
                if entry.is_delivery:
                    return forget_content.find_lines(file, self.people)[0]
                if entry.is_document:
                    return forget_content.without(forget_content.parsed(file.read()), self.people)[1]
                if entry.name.endswith((".json", ".npy")):
                    return forget_content.count_model(entry.name, file, self.people)
                is_table = entry.name.endswith(".parquet") or forget_content.is_parquet(file)
                return forget_content.count_parquet(file, self.people) if is_table else Counter()
        except Unreadable as error:
            return error
        except FileNotFoundError:  # deleted meanwhile
            return Counter()

    def deliver(self, entry: Entry, named: Named | Unreadable) -> None:
        """Write a delivery again without the lines of people, if it is still the same."""
        if isinstance(named, Unreadable):
            self.leave(entry, named)
            return
        uri = self.uri(entry)
        with contextlib.suppress(FileNotFoundError, storage.Conflict):  # the next pass looks at it again
            tag = tag_of(uri)
            with self.opened(entry) as file:
                named, lines = forget_content.find_lines(file, self.people)
            self.requests.note(entry.path, named)
            self.requests.save()
            with self.opened(entry) as file:
                replace_stream(uri, tag, lambda target: forget_content.copy_lines(file, target, lines))
        self.result.changed += 1

    def leave(self, entry: Entry, why: Unreadable) -> None:
        """Tell of a file that cannot be read, unless a killed writer left it: that is deleted."""
        if LEFTOVER.fullmatch(entry.name):
            self.remove(entry, 0)
        else:
            self.result.unreadable.append(f"{entry.path} ({why})")

    def publish(self, unit: str, found: Found) -> None:
        """Let the manifest of a task or of a partition name files without people, whoever else publishes there."""
        for entry, named in found.items():
            if entry.path == f"{unit}/manifest.json" and isinstance(named, Unreadable):
                self.leave(entry, named)
                return
        for _ in range(TRIES):
            try:
                self.publish_once(
                    manifest.load_or_none(protocol.manifest_uri(f"{self.root}/{unit}")) if unit else None, unit, found
                )
                return
            except storage.Conflict:
                continue
        raise TaskError(f"{self.root}/{unit} was published {TRIES} times meanwhile; forget the user again later.")

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
            self.requests.save()  # when files were replaced is known before they are
            self.republish(current, document)

    def change(self, entry: Entry, named: Named | Unreadable, place: Place | None, unit: str) -> bool:
        """Write again what names people, if this can; whether the manifest changes by it."""
        if isinstance(named, Unreadable):
            self.leave(entry, named)
            return False
        if place and entry.name.endswith((".json", ".npy")):
            self.result.models.append(entry.path)
            return False
        self.requests.note(entry.path, named)
        if place:
            self.copy(unit, entry, *place)
            self.requests.replace(entry.path)
        elif entry.name == "failure.json":
            self.requests.save()
            self.rewrite_document(entry)
            return False
        return True

    def republish(self, current: Manifest, changed: dict[str, Any]) -> None:
        """Publish a manifest in place of the one that was read: its outputs were changed, the rest names nobody."""
        document = forget_content.without(changed, self.people)[0]
        now = datetime.datetime.now(datetime.UTC)
        document["people_forgotten"] = now.isoformat(timespec="seconds")
        if "dropped" in document:
            document["dropped"] = manifest.dropped_versions(current, manifest.files_of(document), now)
        storage.replace(current.uri, manifest.to_json(document), current.tag)
        self.result.changed += 1

    def copy(self, unit: str, entry: Entry, output: dict[str, Any], file: dict[str, Any]) -> None:
        """Write a file without people into a new folder, and name it in an output in place of the former one."""
        first, *rest = file["path"].split("/")
        own = f"forget-{uuid.uuid4().hex[:8]}"
        new = "/".join([f"version={own}", *rest] if first.startswith("version=") else [first, own, *rest])
        uri = f"{self.root}/{unit}/{new}"
        with self.opened(entry) as source, storage.stream(uri) as target:
            output["rows"] -= forget_content.copy_parquet(source, target, self.people)
        file |= {"path": new, "bytes": storage.sizes([uri])[uri]}
        output["bytes"] = sum(each["bytes"] for each in output["files"])

    def rewrite_document(self, entry: Entry) -> None:
        """Write a failure document again without people."""
        with contextlib.suppress(FileNotFoundError, storage.Conflict):  # the next pass looks at it again
            content, tag = storage.read(self.uri(entry))
            document = forget_content.without(forget_content.parsed(content), self.people)[0]
            storage.replace(self.uri(entry), manifest.to_json(document), tag)
        self.result.changed += 1

    def remove(self, entry: Entry, published: float) -> None:
        """Delete a file that no manifest names, if no task is at work any more that could read or publish it.

        That is counted from when this tool replaced it, else from when the manifest that does not name it came.
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
        """The versions of files that are no longer in place, where a bucket keeps any."""
        if not storage.is_s3(self.root):
            return
        bucket, prefix = s3.bucket_and_key(f"{self.root}/")
        if "Status" not in s3.client().get_bucket_versioning(Bucket=bucket):
            return
        pages = s3.client().get_paginator("list_object_versions")
        for folder in personal_folders():
            for page in pages.paginate(Bucket=bucket, Prefix=f"{prefix}{folder}/"):
                for each in page.get("Versions", ()):
                    if not each["IsLatest"]:
                        name = each["Key"].removeprefix(prefix)
                        yield Entry(name, each["Size"], each["LastModified"].timestamp(), each["VersionId"])

    def delete_version(self, entry: Entry, named: Named | Unreadable) -> None:
        """Delete a former version; one that cannot be read, too, for nobody reads it and it may name anyone."""
        if not isinstance(named, Unreadable):
            self.requests.note(f"{entry.path}?versionId={entry.version}", named)
            self.requests.save()
        bucket, key = s3.bucket_and_key(self.uri(entry))
        s3.client().delete_object(Bucket=bucket, Key=key, VersionId=entry.version)
        self.result.changed += 1

    def abort_uploads(self) -> None:
        """Give up uploads that no task can still be at work on; their parts are stored and in no listing."""
        if not storage.is_s3(self.root):
            return
        latest = time.time() - self.grace
        for folder in personal_folders():
            s3.abort_matching(f"{self.root}/{folder}", lambda upload: upload["Initiated"].timestamp() <= latest)

    # Files

    def uri(self, entry: Entry) -> str:
        return f"{self.root}/{entry.path}"

    @contextlib.contextmanager
    def opened(self, entry: Entry) -> Iterator[Any]:
        """A file to be read from anywhere, or in order if it is a delivery."""
        uri = self.uri(entry)
        if entry.version:
            bucket, key = s3.bucket_and_key(uri)
            with tempfile.TemporaryFile() as file:
                body = s3.client().get_object(Bucket=bucket, Key=key, VersionId=entry.version)["Body"]
                shutil.copyfileobj(body, file)
                file.seek(0)
                yield file
            return
        with filesystem(uri).open_input_file(path(uri)) as native:
            yield io.BufferedReader(native, BUFFER) if entry.is_delivery else native

    def entries(self, folder: str) -> list[Entry]:
        """All files below a folder, hidden ones too."""
        found = garbage.entries(f"{self.root}/{folder}")
        named = [Entry(f"{folder}/{each.path}", each.bytes, each.changed) for each in found]
        return [entry for entry in named if entry.name]  # on S3 a name may end in /, as some tools mark folders


def is_special(place: Path) -> bool:
    """True for a link, whose target may be anywhere, or a pipe, which has no end."""
    return place.is_symlink() or (place.exists() and not place.is_file())


def personal_folders() -> list[str]:
    """The folders of the lake that may name people: the raw ones by what jobs make of them."""
    jobs = [load(file.parent) for file in sorted((ROOT / "jobs").glob("*/job.toml"))]
    raw = {table.raw for job in jobs if ingests_users(job) for table in job.inputs.values() if table.raw}
    return [*sorted(raw), "curated", "intermediate"]


def ingests_users(job: Job) -> bool:
    """True if a job derives data about users from deliveries."""
    contract_names = [output.contract for output in job.outputs.values() if output.contract]
    about_users = any("user_id" in contracts.load(name).columns for name in contract_names)
    return about_users and any(table.raw for table in job.inputs.values())


def unit_of(name: str, units: set[str]) -> str:
    """The folder with the manifest for a file: of a task, a map instance or a partition; empty if there is none."""
    folder = name
    while folder:
        folder = folder.rpartition("/")[0]
        if folder in units:
            return folder
    return ""


def published(current: Manifest | None) -> float:
    """The time at which a manifest was published, in seconds since 1970; 0 if there is none."""
    said = [current.document.get(name) for name in ("ended", "people_forgotten")] if current else []
    return max((datetime.datetime.fromisoformat(moment).timestamp() for moment in said if moment), default=0)


def tag_of(uri: str) -> Any:
    """A value that changes when a file does; FileNotFoundError if there is none."""
    if storage.is_s3(uri):
        bucket, key = s3.bucket_and_key(uri)
        try:
            return s3.client().head_object(Bucket=bucket, Key=key)["ETag"]
        except s3.client().exceptions.ClientError as error:
            if error.response["Error"]["Code"] == "404":
                raise FileNotFoundError(uri) from None
            raise
    status = os.stat(storage.local(uri))
    return status.st_ino, status.st_size, status.st_mtime_ns


def replace_stream(uri: str, tag: Any, write: Callable[[IO[bytes]], None]) -> None:
    """Replace a file by what is written in order, through a file of this machine; Conflict if it is another by now."""
    if storage.is_s3(uri):
        bucket, key = s3.bucket_and_key(uri)
        with tempfile.TemporaryFile() as file:
            write(file)
            file.seek(0)
            try:
                s3.client().put_object(Bucket=bucket, Key=key, Body=file, IfMatch=tag, **s3.encryption())
            except s3.client().exceptions.ClientError as error:
                if error.response["Error"]["Code"] in ("PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey"):
                    raise storage.Conflict(uri) from None
                raise
        return
    place = storage.local(uri)
    hidden = place.with_name(f".{uuid.uuid4().hex}")
    try:
        with hidden.open("wb") as file:
            shutil.copymode(place, hidden)
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if tag_of(uri) != tag:
            raise storage.Conflict(uri)
        hidden.rename(place)
    finally:
        hidden.unlink(missing_ok=True)

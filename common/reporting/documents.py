"""The documents that a run left in the lake, by task and instance: manifests, failures, the scheduler's accounts."""

import json
import re
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from common import protocol
from common.handover import storage

FILE = re.compile(
    r"(?P<task>[^/]+)/(?:map-(?P<index>\d+)/)?"
    r"(?:(?P<result>manifest)\.json|attempt-(?P<attempt>\d+)/(?:(?P<account>failure|scheduler)\.json|.*))"
)
MANY = 100  # instances of a task
THREADS = 32  # as many as connections to an object store
Document = TypeVar("Document", bound=msgspec.Struct)


class TaskName(msgspec.Struct):
    """The task and attempt that a document is about."""

    task_id: str
    attempt: int


class OutputFile(msgspec.Struct):
    """A file of an output, by its path below the folder of the manifest."""

    path: str


class Output(msgspec.Struct):
    """An output in a manifest."""

    rows: int = 0
    bytes: int = 0
    files: list[OutputFile] = []


class Ended(msgspec.Struct):
    """The parts that a manifest and a failure document have in common."""

    task: TaskName
    started: datetime
    ended: datetime
    job: str | None = None
    fingerprint: str | None = None
    parameters: dict[str, Any] = {}
    seconds: float = 0.0
    processor_seconds: float = 0.0
    peak_memory_bytes: int = 0
    metrics: dict[str, Any] = {}
    warnings: list[str] = []


class Manifest(Ended, kw_only=True):
    """The manifest of a task's valid attempt."""

    outputs: dict[str, Output] = {}


class FailureDocument(Ended, kw_only=True):
    """A job's own account of its failure."""

    exit_code: int
    sentence: str


class SchedulerDocument(msgspec.Struct):
    """The scheduler's account of an attempt; without an end, its process was killed."""

    task: TaskName
    state: str
    began: datetime
    ended: datetime | None = None
    job: str | None = None
    runtime: str | None = None
    engine: str | None = None  # of a Spark job: light or spark
    engine_reason: str | None = None
    exit_code: int | None = None
    reason: str | None = None
    log: str | None = None
    links: dict[str, str] = {}
    rerun: str | None = None


class Rate(msgspec.Struct):
    """The cost of an hour of a task in one unit."""

    unit: str
    per_hour: float
    price: float
    runtime: str | None = None  # only attempts in this runtime cost that; None: all


class TaskOfRun(msgspec.Struct):
    """A task as the scheduler knows it."""

    job: str | None = None
    engine: str | None = None
    runtime: str | None = None
    upstream: list[str] = []
    states: dict[str, str | None] = {}  # by map index, "" of a task that is not mapped
    resources: dict[str, str | int | float] = {}
    rates: list[Rate] = []
    opened: datetime | None = None  # the time since which its cluster costs, if not since the task began


class RunDocument(msgspec.Struct):
    """The scheduler's account of a run."""

    environment: str
    kind: str
    run_after: datetime
    until: str | None = None
    began: datetime | None = None
    url: str | None = None
    code: str = ""
    tasks: dict[str, TaskOfRun] = {}
    prices: dict[str, str | float] = {}


class AttemptDocuments(msgspec.Struct):
    """An attempt: the scheduler's account of it, and the job's own if it failed."""

    scheduler: SchedulerDocument | None = None
    failure: FailureDocument | None = None


class InstanceDocuments(msgspec.Struct):
    """A task, or a mapped instance of it: its manifest, where that is in the lake, and its attempts by number."""

    manifest: Manifest | None = None
    path: str | None = None
    attempts: dict[int, AttemptDocuments] = {}


class RunDocuments(msgspec.Struct):
    """A run: the scheduler's account of it, its tasks' instances by ID and map index, paths of unreadable files."""

    run: RunDocument | None = None
    tasks: dict[str, dict[int | None, InstanceDocuments]] = {}
    unreadable: list[str] = []


def load(lake: str, dag_id: str, run_id: str, report_task: str) -> RunDocuments:
    """Load the documents of all tasks of a run but the one that reports, by one listing of the run's folder.

    Of a task with many mapped instances, the scheduler's accounts of most that succeeded are left out.
    """
    key = protocol.task_key(lake, dag_id, run_id, report_task)
    folder, _, own = key.rpartition("/")
    found = RunDocuments()
    found.run = read(found, lake, protocol.run_uri(key), RunDocument)
    matches = {
        file.uri: match for file in storage.files(folder) if (match := FILE.fullmatch(file.uri, len(folder) + 1))
    }
    matches = {uri: match for uri, match in matches.items() if match["task"] != own}
    folders: dict[str, dict[int | None, InstanceDocuments]] = {}
    for match in matches.values():
        instance = instance_of(folders, match)
        if match["attempt"]:
            instance.attempts.setdefault(int(match["attempt"]), AttemptDocuments())
    accounts = {uri: match for uri, match in matches.items() if match["account"] == "scheduler"}
    of_jobs = {uri: match for uri, match in matches.items() if uri not in accounts}
    add(found, lake, folders, of_jobs)
    wanted = {task: instances_to_show(instances) for task, instances in folders.items()}
    add(
        found,
        lake,
        folders,
        {uri: match for uri, match in accounts.items() if index_of(match) in wanted[match["task"]]},
    )
    found.tasks = {task_id(name, instances): instances for name, instances in folders.items()}
    return found


def index_of(match: re.Match[str]) -> int | None:
    return int(match["index"]) if match["index"] else None


def instance_of(folders: dict[str, dict[int | None, InstanceDocuments]], match: re.Match[str]) -> InstanceDocuments:
    return folders.setdefault(match["task"], {}).setdefault(index_of(match), InstanceDocuments())


def add(
    found: RunDocuments,
    lake: str,
    folders: dict[str, dict[int | None, InstanceDocuments]],
    files: dict[str, re.Match[str]],
) -> None:
    """Read documents and add them to their instances."""
    kinds: dict[str, Any] = {"manifest": Manifest, "failure": FailureDocument, "scheduler": SchedulerDocument}
    wanted = {uri: kinds[kind] for uri, match in files.items() if (kind := match["result"] or match["account"])}
    contents = storage.in_parallel(lambda uri: read(found, lake, uri, wanted[uri]), wanted, THREADS)
    for uri, document in zip(wanted, contents, strict=True):
        match = files[uri]
        instance = instance_of(folders, match)
        if match["result"]:
            instance.manifest, instance.path = document, uri.removeprefix(f"{lake}/")
        else:
            setattr(instance.attempts[int(match["attempt"])], match["account"], document)


def instances_to_show(instances: dict[int | None, InstanceDocuments]) -> set[int | None]:
    """Return the instances to read all about: each of a few, else those without a result and the slowest."""
    seconds = {index: instance.manifest.seconds for index, instance in instances.items() if instance.manifest}
    slowest = sorted(seconds, key=lambda index: -seconds[index])
    return instances.keys() - set(slowest[MANY:])


def read(found: RunDocuments, lake: str, uri: str, kind: type[Document]) -> Document | None:
    """Return a document; None if there is none, or none of its kind, which is noted."""
    try:
        content = storage.read(uri)[0]
    except FileNotFoundError:
        return None
    try:
        return decode(content, kind)
    except (msgspec.DecodeError, ValueError):
        found.unreadable.append(uri.removeprefix(f"{lake}/"))
        return None


def decode(content: bytes, kind: type[Document]) -> Document:
    """Return a document; halves of surrogate pairs, which names in data may have, become question marks."""
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        return msgspec.json.decode(text(json.dumps(json.loads(content), ensure_ascii=False)), type=kind)


def text(value: str) -> str:
    """Return a text that UTF-8 can express: halves of surrogate pairs become question marks."""
    return value.encode("utf-8", "replace").decode("utf-8")


def task_id(folder: str, instances: dict[int | None, InstanceDocuments]) -> str:
    """Return the ID of the task with a folder, as its documents have it; the folder's name if none has."""
    for instance in instances.values():
        accounts = [each for attempt in instance.attempts.values() for each in (attempt.failure, attempt.scheduler)]
        for document in (instance.manifest, *accounts):
            if document:
                return document.task.task_id
    return folder

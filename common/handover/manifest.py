"""Manifests: read by readers, published last by writers, fenced against late attempts."""

import datetime
import hashlib
import json
import math
import re
from collections import Counter
from typing import Any, NamedTuple

from common.errors import InputError, StaleAttempt, TaskError
from common.handover import storage
from common.handover.storage import File

FORMAT = 1
DROPPED_KEPT = datetime.timedelta(days=90)  # for which a manifest lists versions that its partition dropped
# Stays below its folder for every reader: no scheme, no pattern of Spark's, no step that is empty or goes up.
SAFE_PATH = re.compile(r"(?!.*(^|/)\.{0,2}(/|$))[^\\:*?\[\]{}\x00-\x1f\x7f]+")


class Manifest(NamedTuple):
    """A manifest as it was read: URI, content, digest (the name that readers record), tag of the storage."""

    uri: str
    document: dict[str, Any]
    digest: str
    tag: str


def load_or_none(uri: str) -> Manifest | None:
    """Return the manifest at a URI, or None if nothing is published there; InputError for a file outside its folder."""
    try:
        content, tag = storage.read(uri)
    except FileNotFoundError:
        return None
    document = json.loads(content)
    check_paths(uri, document)
    return Manifest(uri, document, f"sha256:{hashlib.sha256(content).hexdigest()}", tag)


def check_paths(uri: str, document: dict[str, Any]) -> None:
    """Raise InputError if a manifest names a file that is not below the manifest's folder."""
    for file in files_of(document):
        if not (isinstance(file["path"], str) and SAFE_PATH.fullmatch(file["path"])):
            raise InputError(
                f"{uri} names the file {file['path']!r}, expected a path below its own folder; rerun the task that "
                "wrote it."
            )


def files_of(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the files that a manifest names, each with its path and its bytes."""
    return [file for output in document.get("outputs", {}).values() for file in output.get("files", [])]


def contracts_of_files(output: dict[str, Any]) -> dict[str, str]:
    """Return the contract of each file of an output by its path: the output's, unless the file records an older."""
    return {file["path"]: file.get("contract", output["contract"]) for file in output.get("files", [])}


def partition_files(partition: Manifest | None) -> list[File]:
    """Return the files that the manifest of a dataset's partition names; none for no partition."""
    if partition is None:
        return []
    folder = partition.uri.rpartition("/")[0]
    (output,) = partition.document["outputs"].values()
    return [File(f"{folder}/{file['path']}", file["bytes"]) for file in output["files"]]


def partition_rows(partition: Manifest | None) -> int:
    """Return the number of rows in the manifest of a dataset's partition; 0 for no partition."""
    return sum(output["rows"] for output in partition.document["outputs"].values()) if partition else 0


def rows_arrived_since(partition: Manifest, day: datetime.date) -> int:
    """Return the number of a partition's rows that arrived on a day or later; rows of unknown arrival are older."""
    return sum(rows for arrival, rows in rows_by_arrival(partition).items() if arrival >= str(day))


def rows_by_arrival(partition: Manifest | None) -> Counter[str]:
    """Return the number of a partition's rows by day of arrival, where it is known; none for no partition."""
    arrivals = Counter[str]()
    for output in partition.document["outputs"].values() if partition else ():
        arrivals.update(output.get("arrivals", {}))
    return arrivals


def to_json(document: dict[str, Any]) -> bytes:
    """Return a document as JSON in UTF-8, the same bytes for the same document; dates as ISO 8601.

    Values that JSON lacks become the nearest: NaN and infinities null, half a surrogate pair its escape.
    """
    text = json.dumps(plain(document), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "backslashreplace")


def plain(value: Any) -> Any:
    """Return the value as JSON has it: keys as strings, non-finite numbers as null, numpy's scalars as Python's."""
    if isinstance(value, dict):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    return plain(value.item()) if hasattr(value, "item") else str(value)


def fence(task: dict[str, Any], current: Manifest | None) -> None:
    """Raise StaleAttempt if this or a newer attempt has published at a task's key."""
    if current and compare_attempts(current.document["task"], task) >= 0:
        raise stale_attempt(task, current)


def stale_attempt(task: dict[str, Any], current: Manifest) -> StaleAttempt:
    newest = current.document["task"]["attempt"]
    return StaleAttempt(
        f"Attempt {task['attempt']} of task '{task['task_id']}' is fenced, because attempt {newest} has "
        f"published already ({current.uri}); to replace that result, run the task with --attempt {newest + 1}."
    )


def compare_attempts(one: dict[str, Any], other: dict[str, Any]) -> int:
    """Compare two attempts of a task: -1 if the first is older, 1 if it is newer, 0 if they are the same.

    A run that was deleted and recreated under its ID counts its attempts from 1, so the start of the run comes before
    the attempt's number, if both are known.
    """
    names = ["run_started", "attempt"] if one.get("run_started") and other.get("run_started") else ["attempt"]
    first, second = ([task[name] for name in names] for task in (one, other))
    return (first > second) - (first < second)


def basis(document: dict[str, Any]) -> datetime.datetime:
    """Return the time at which the oldest input of a manifest was taken; the task's start if it is not recorded."""
    recorded = document.get("basis") or document.get("started")
    return datetime.datetime.fromisoformat(recorded) if recorded else datetime.datetime.min.replace(tzinfo=datetime.UTC)


def publish(uri: str, document: dict[str, Any], seen: Manifest | None) -> None:
    """Publish a task's manifest in place of the one seen at the start, or of an older attempt's published since.

    Raises StaleAttempt if this or a newer attempt has published.
    """
    while True:
        fence(document["task"], seen)
        try:
            storage.replace(uri, to_json(document), seen.tag if seen else None)
            return
        except storage.Conflict:
            seen = load_or_none(uri)


def publish_partition(uri: str, document: dict[str, Any], seen: Manifest | None) -> None:
    """Publish a partition's manifest if the partition still has the state that this task saw and built upon.

    Raises StaleAttempt if this or a newer attempt of the same task has published since, and TaskError (worth a retry,
    which builds upon the new state) if another task has.
    """
    try:
        storage.replace(uri, to_json(document), seen.tag if seen else None)
    except storage.Conflict:
        current = load_or_none(uri)
        if current and same_task(current.document["task"], document["task"]):
            fence(document["task"], current)
        raise TaskError(
            f"The partition {uri} changed while this task worked on it, so nothing was replaced; rerun the task."
        ) from None


def dropped_versions(seen: Manifest | None, files: list[dict[str, Any]], now: datetime.datetime) -> dict[str, str]:
    """Return the versions that a partition no longer names, with the time of the change.

    It protects the files of tasks that still read them from deletion.
    """
    if seen is None:
        return {}
    named, former = ({file["path"].partition("/")[0] for file in each} for each in (files, files_of(seen.document)))
    dropped = seen.document.get("dropped", {}) | dict.fromkeys(former, now.isoformat())
    since = (now - DROPPED_KEPT).isoformat()
    return {version: at for version, at in dropped.items() if version not in named and at > since}


def publish_replacement(uri: str, document: dict[str, Any], seen: Manifest | None) -> None:
    """Publish the replacement of a whole dataset, if it still has the state that this task saw before its inputs.

    Raises the errors of `publish_partition`, and StaleAttempt if the new state was made from newer input.
    """
    try:
        publish_partition(uri, document, seen)
    except TaskError:
        refuse_stale(document["task"], basis(document), load_or_none(uri))
        raise


def refuse_stale(task: dict[str, Any], taken: datetime.datetime, current: Manifest | None) -> None:
    """Raise StaleAttempt if a task must not replace the current state of a dataset.

    This is so if a newer attempt of the same task published it, or if its input was taken later than this task's.
    """
    if current is None:
        return
    publisher = current.document["task"]
    if same_task(publisher, task) and compare_attempts(publisher, task) > 0:
        raise stale_attempt(task, current)
    if basis(current.document) > taken:
        raise StaleAttempt(
            f"Task '{task['task_id']}' of run '{task['run_id']}' is fenced, because {current.uri} was published by run "
            f"'{publisher['run_id']}' from input of {basis(current.document).isoformat()} and this task's is of "
            f"{taken.isoformat()}; to replace that result, start a new run."
        )


def same_task(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return True if two descriptions are of attempts of the same task."""
    return all(one[name] == other[name] for name in ("dag_id", "run_id", "task_id", "map_index"))

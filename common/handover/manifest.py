"""Manifests: found by readers, published last by writers, fenced against attempts that wake up late."""

import datetime
import hashlib
import json
import math
import re
from typing import Any, NamedTuple

from common.errors import InputError, StaleAttempt, TaskError
from common.handover import storage
from common.handover.storage import File

FORMAT = 1
DROPPED_KEPT = datetime.timedelta(days=90)  # for which a manifest tells what its partition named before
# Stays below its folder for every reader: no scheme, no pattern of Spark's, no step that climbs or is empty.
SAFE_PATH = re.compile(r"(?!.*(^|/)\.{0,2}(/|$))[^\\:*?\[\]{}\x00-\x1f\x7f]+")


class Manifest(NamedTuple):
    """A manifest as it was read: its URI, its content, the digest by which readers name it, the tag of the storage."""

    uri: str
    document: dict[str, Any]
    digest: str
    tag: str


def load_or_none(uri: str) -> Manifest | None:
    """The manifest at a URI, or None if nothing is published there; InputError if it names files of elsewhere."""
    try:
        content, tag = storage.read(uri)
    except FileNotFoundError:
        return None
    document = json.loads(content)
    check_paths(uri, document)
    return Manifest(uri, document, f"sha256:{hashlib.sha256(content).hexdigest()}", tag)


def check_paths(uri: str, document: dict[str, Any]) -> None:
    """Raise InputError if a manifest names a file that does not lie below the manifest's own folder."""
    for file in files_of(document):
        if not (isinstance(file["path"], str) and SAFE_PATH.fullmatch(file["path"])):
            raise InputError(
                f"{uri} names the file {file['path']!r}, expected a path below its own folder; run the task that "
                "wrote it again."
            )


def files_of(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The files that a manifest names, each with its path and its bytes."""
    return [file for output in document.get("outputs", {}).values() for file in output.get("files", [])]


def partition_files(partition: Manifest | None) -> list[File]:
    """The files that the manifest of a dataset's partition names; none for no partition."""
    if partition is None:
        return []
    folder = partition.uri.rpartition("/")[0]
    (output,) = partition.document["outputs"].values()
    return [File(f"{folder}/{file['path']}", file["bytes"]) for file in output["files"]]


def partition_rows(partition: Manifest | None) -> int:
    """The number of rows that the manifest of a dataset's partition counts; 0 for no partition."""
    return sum(output["rows"] for output in partition.document["outputs"].values()) if partition else 0


def content(document: dict[str, Any]) -> bytes:
    """The bytes of a document as JSON in UTF-8, the same for the same document; dates as ISO 8601.

    What JSON lacks is written as what is nearest: NaN and infinities as null, half a surrogate pair as its escape.
    """
    text = json.dumps(plain(document), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "backslashreplace")


def plain(value: Any) -> Any:
    """The value as JSON has it: keys as strings, numbers that are not finite as null, numpy's scalars as Python's."""
    if isinstance(value, dict):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    return plain(value.item()) if hasattr(value, "item") else str(value)


def fence(task: dict[str, Any], there: Manifest | None) -> None:
    """Raise StaleAttempt if what is published at a task's key is of this attempt or of a newer one."""
    if there and compared(there.document["task"], task) >= 0:
        raise superseded(task, there)


def superseded(task: dict[str, Any], there: Manifest) -> StaleAttempt:
    newest = there.document["task"]["attempt"]
    return StaleAttempt(
        f"Attempt {task['attempt']} of task '{task['task_id']}' is fenced, because attempt {newest} has "
        f"published already ({there.uri}); to replace that result, run the task with --attempt {newest + 1}."
    )


def compared(one: dict[str, Any], other: dict[str, Any]) -> int:
    """Compare two attempts of a task: -1 if the first is older, 1 if it is newer, 0 if they are the same.

    A run that was deleted and made anew under its ID counts its attempts from 1 again, so the start of the run comes
    before the attempt's number, where both are known.
    """
    names = ["run_started", "attempt"] if one.get("run_started") and other.get("run_started") else ["attempt"]
    first, second = ([task[name] for name in names] for task in (one, other))
    return (first > second) - (first < second)


def basis(document: dict[str, Any]) -> datetime.datetime:
    """The time at which the oldest input of a manifest was taken; the task's start where it is not recorded."""
    said = document.get("basis") or document.get("started")
    return datetime.datetime.fromisoformat(said) if said else datetime.datetime.min.replace(tzinfo=datetime.UTC)


def publish(uri: str, document: dict[str, Any], seen: Manifest | None) -> None:
    """Publish a task's manifest in place of the one seen at the start, or of an older attempt's that came meanwhile.

    Raises StaleAttempt if this or a newer attempt has published.
    """
    while True:
        fence(document["task"], seen)
        try:
            storage.replace(uri, content(document), seen.tag if seen else None)
            return
        except storage.Conflict:
            seen = load_or_none(uri)


def publish_partition(uri: str, document: dict[str, Any], seen: Manifest | None) -> None:
    """Publish a partition's manifest if the partition is still what this task saw and built upon.

    Raises StaleAttempt if this or a newer attempt of the same task was quicker, and TaskError (worth a retry, which
    builds upon what is there now) if another task was.
    """
    try:
        storage.replace(uri, content(document), seen.tag if seen else None)
    except storage.Conflict:
        there = load_or_none(uri)
        if there and same_task(there.document["task"], document["task"]):
            fence(document["task"], there)
        raise TaskError(
            f"The partition {uri} changed while this task worked on it, nothing of it was replaced; run the task again."
        ) from None


def dropped(seen: Manifest | None, files: list[dict[str, Any]], now: datetime.datetime) -> dict[str, str]:
    """The versions that a partition names no longer, and when it last did, so that no reader's files are deleted."""
    if seen is None:
        return {}
    named, former = ({file["path"].partition("/")[0] for file in of} for of in (files, files_of(seen.document)))
    told = seen.document.get("dropped", {}) | dict.fromkeys(former, now.isoformat())
    since = (now - DROPPED_KEPT).isoformat()
    return {version: at for version, at in told.items() if version not in named and at > since}


def publish_replacement(uri: str, document: dict[str, Any], seen: Manifest | None) -> None:
    """Publish what replaces a whole dataset, if that is still what this task saw before it read its inputs.

    Raises what `publish_partition` does, and StaleAttempt if what came meanwhile was made from newer input.
    """
    try:
        publish_partition(uri, document, seen)
    except TaskError:
        refuse_stale(document["task"], basis(document), load_or_none(uri))
        raise


def refuse_stale(task: dict[str, Any], taken: datetime.datetime, there: Manifest | None) -> None:
    """Raise StaleAttempt if a task must not replace what is published of a dataset.

    That is so if it was published by a newer attempt of the same task, or from input taken later than this task's.
    """
    if there is None:
        return
    by = there.document["task"]
    if same_task(by, task) and compared(by, task) > 0:
        raise superseded(task, there)
    if basis(there.document) > taken:
        raise StaleAttempt(
            f"Task '{task['task_id']}' of run '{task['run_id']}' is fenced, because {there.uri} was published by run "
            f"'{by['run_id']}' from input of {basis(there.document).isoformat()} and this task's is of "
            f"{taken.isoformat()}; to replace that result, start a new run."
        )


def same_task(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two descriptions are of attempts of the same task."""
    return all(one[name] == other[name] for name in ("dag_id", "run_id", "task_id", "map_index"))

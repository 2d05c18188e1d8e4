"""Manifests: found by readers, published last by writers, fenced against attempts that wake up late."""

import hashlib
import json
from typing import Any, NamedTuple

from common import storage
from common.failures import Failure, Fenced

FORMAT = 1


class Manifest(NamedTuple):
    """A manifest as it was read: its URI, its content, the digest by which readers name it, the tag of the storage."""

    uri: str
    document: dict[str, Any]
    digest: str
    tag: str


def find(uri: str) -> Manifest | None:
    """The manifest at a URI, or None if nothing is published there."""
    try:
        content, tag = storage.read(uri)
    except FileNotFoundError:
        return None
    return Manifest(uri, json.loads(content), f"sha256:{hashlib.sha256(content).hexdigest()}", tag)


def content(document: dict[str, Any]) -> bytes:
    """The bytes of a document, the same for the same document; dates as ISO 8601."""
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False, default=str).encode()


def fence(task: dict[str, Any], there: Manifest | None) -> None:
    """Raise Fenced if what is published at a task's key is of this attempt or of a newer one."""
    if there and there.document["task"]["attempt"] >= task["attempt"]:
        newest = there.document["task"]["attempt"]
        raise Fenced(
            f"Attempt {task['attempt']} of task '{task['task_id']}' publishes nothing, because attempt {newest} has "
            f"published already ({there.uri}); to replace that result, run the task with --attempt {newest + 1}."
        )


def publish(uri: str, document: dict[str, Any], seen: Manifest | None) -> None:
    """Publish a task's manifest in place of the one seen at the start, or of an older attempt's that came meanwhile.

    Raises Fenced if this or a newer attempt has published.
    """
    while True:
        fence(document["task"], seen)
        try:
            storage.replace(uri, content(document), seen.tag if seen else None)
            return
        except storage.Changed:
            seen = find(uri)


def publish_partition(uri: str, document: dict[str, Any], seen: Manifest | None) -> None:
    """Publish a partition's manifest if the partition is still what this task saw and built upon.

    Raises Fenced if a newer attempt of the same task was quicker, and Failure (worth a retry, which builds upon what
    is there now) if another task was.
    """
    try:
        storage.replace(uri, content(document), seen.tag if seen else None)
    except storage.Changed:
        there = find(uri)
        if there and same_task(there.document["task"], document["task"]):
            fence(document["task"], there)
        raise Failure(
            f"The partition {uri} changed while this task worked on it, nothing of it was replaced; run the task again."
        ) from None


def same_task(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two descriptions are of attempts of the same task."""
    return all(one[name] == other[name] for name in ("dag_id", "run_id", "task_id", "map_index"))

"""Requests to forget people, in the lake: findings so far, so that a killed run resumes; receipts of completed ones.

Requests and receipts identify people only by keyed hashes.
"""

import datetime
import json
import secrets
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from common.handover import manifest, storage
from common.ingestion.suppression import FOLDER
from tools.lake.forget_content import Named

FORMAT = 1
RECEIPTS = "receipts"


@dataclass
class Request:
    """People to forget. By path, `found` has the number of findings per person, `replaced` the time of replacement."""

    users: list[str]
    # To the microsecond, so that names sort by time.
    name: str = field(
        default_factory=lambda: f"{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%S.%fZ}-{secrets.token_hex(4)}"
    )
    begun: str = field(default_factory=lambda: now())
    found: dict[str, dict[str, int]] = field(default_factory=dict)
    replaced: dict[str, float] = field(default_factory=dict)
    last_change: float | None = None
    saved: bool = False

    def merge(self, other: "Request") -> None:
        """Merge the records of another process for the same request."""
        self.found = other.found | self.found
        for path, moment in other.replaced.items():
            self.replaced[path] = max(moment, self.replaced.get(path, 0))
        self.last_change = max(filter(None, (self.last_change, other.last_change)), default=None)

    def places(self, user: str) -> dict[str, int]:
        """Return the number of findings of a person by level of the lake, dataset, pipeline and table."""
        counts: Counter[str] = Counter()
        for path, named in self.found.items():
            counts["/".join(path.split("/")[:2])] += named.get(user, 0)
        return dict(sorted((+counts).items()))


class Requests:
    """The open requests of a lake that this process works on."""

    def __init__(self, root: str, requests: list[Request]) -> None:
        self.root = root
        self.requests = requests
        self.dirty: list[Request] = []

    def record(self, path: str, named: Named) -> None:
        """Record that people are about to be erased from a file or a table."""
        for request in self.requests:
            if counts := {digest: count for digest, count in sorted(named.items()) if digest in request.users}:
                request.found[path] = counts
                self.touch(request)

    def record_replacement(self, path: str) -> None:
        """Record that a file is about to be replaced; it stays for its present readers."""
        for request in self.requests:
            if path in request.found:
                request.replaced[path] = time.time()
                self.touch(request)

    def touch(self, request: Request) -> None:
        request.last_change = time.time()
        if request not in self.dirty:
            self.dirty.append(request)

    def replaced_at(self, path: str) -> float | None:
        """Return the time at which a file was replaced, None if it was not."""
        return max((request.replaced[path] for request in self.requests if path in request.replaced), default=None)

    def save(self) -> None:
        """Write the records since the last call to the lake."""
        for request in self.dirty:
            save(self.root, request)
        self.dirty = []


def save(root: str, request: Request) -> None:
    """Write a request to the lake, merged with concurrent writes."""
    while True:
        try:
            content, tag = storage.read(uri(root, request))
            request.merge(from_json(content))
        except FileNotFoundError:
            tag = None
        request.saved = True
        try:
            storage.replace(uri(root, request), to_json(request), tag)
            return
        except storage.Conflict:
            continue


def open_requests(root: str) -> list[Request]:
    """Return the open requests of a lake, the oldest first."""
    return [from_json(storage.read(file.uri)[0]) for file in storage.files(f"{root}/{FOLDER}/requests")]


def complete(root: str, request: Request, checked: dict[str, Any]) -> dict[str, Any]:
    """Complete a request: write and return its receipt."""
    receipt = {
        "format": FORMAT,
        "request": request.name,
        "begun": request.begun,
        "ended": now(),
        "lake": root,
        "users": [
            {"hash": user, "found": sum(places.values()), "places": places}
            for user in request.users
            for places in [request.places(user)]
        ],
        "checked": checked,
    }
    storage.write(f"{root}/{RECEIPTS}/{request.name}.json", manifest.to_json(receipt))
    storage.delete_files([uri(root, request)])
    return receipt


def uri(root: str, request: Request) -> str:
    return f"{root}/{FOLDER}/requests/{request.name}.json"


def to_json(request: Request) -> bytes:
    return manifest.to_json({"format": FORMAT, **vars(request)})


def from_json(content: bytes) -> Request:
    document = json.loads(content)
    return Request(**{name: value for name, value in document.items() if name != "format"})


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")

"""Proxies before the S3 server and DynamoDB that fail requests by the schedule, and note what was published when."""

import json
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from benchmarks import chaos_check
from benchmarks.chaos_check import Published, Switch
from tools.sandbox.faulty_proxy import Fault, Proxy, Request, Response

SLOW_SECONDS = 3
THROTTLED = b'{"__type": "com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException", "message": "Slow."}'
# Told of what is about to be published ("manifest", "partition", "pointer") by which task, "before" or "after" the
# server has it; True lets the connection be cut before.
Hook = Callable[[str, str, dict[str, Any]], bool]


@dataclass
class Notes:
    """Record of all publications in the order in which the servers accepted them, and the hook that hears of them."""

    hook: Hook = lambda what, when, task: False
    manifests: list[Published] = field(default_factory=list)
    switches: list[Switch] = field(default_factory=list)
    locks: dict[str, threading.Lock] = field(default_factory=lambda: defaultdict(threading.Lock))


@dataclass
class ChaosProxy(Proxy):
    """A proxy whose faults come from the schedule, by the number of the request."""

    fault: Callable[[int], str | None] = lambda number: None
    number: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    notes: Notes = field(default_factory=Notes)

    def start(self, fault: Callable[[int], str | None]) -> None:
        """Count requests from 0 again, and ask another schedule."""
        with self.lock:
            self.number, self.fault = 0, fault

    def next_fault(self) -> str | None:
        with self.lock:
            self.number += 1
            kind = self.fault(self.number - 1)
            self.counts["requests"] += 1
            if kind:
                self.counts[kind] += 1
            return kind


class S3Proxy(ChaosProxy):
    """Before the S3 server."""

    def due(self, request: Request) -> Fault | None:
        kind = self.next_fault()
        if kind == "slow":
            time.sleep(SLOW_SECONDS)
        found = published(request)
        if found and self.notes.hook(found[0], "before", found[1]["task"]):
            return Fault("refused", all_requests)
        return Fault(kind, all_requests) if kind and kind != "slow" else None

    def forward(self, request: Request, send: Callable[[], Response]) -> Response:
        found = published(request)
        if not found:
            return send()
        key = request.path.lstrip("/").partition("/")[2]
        with self.notes.locks[key]:
            answer = send()
            if answer.status == 200:
                self.notes.manifests.append(Published(key, time.time(), request.body))
        if answer.status == 200:
            self.notes.hook(found[0], "after", found[1]["task"])
        return answer


def published(request: Request) -> tuple[str, dict[str, Any]] | None:
    """Return the kind and the content of the manifest that a request publishes, None if it publishes none."""
    if request.method != "PUT" or not request.path.endswith("/manifest.json"):
        return None
    return ("partition" if "/curated/" in request.path else "manifest"), json.loads(request.body)


@dataclass
class DynamoDBProxy(ChaosProxy):
    """Before DynamoDB; the one that people use notes what they switch as rollbacks."""

    reader: chaos_check.Reader | None = None  # which checks each version that is switched to
    rollback_started: float | None = None  # when the command was started, on the proxy that people use
    held_back: dict[int, Any] = field(default_factory=dict)  # parts of batches that come back unprocessed

    def due(self, request: Request) -> Fault | None:
        kind = self.next_fault()
        item = switched(request)
        if item and self.rollback_started is None and self.notes.hook("pointer", "before", publisher(item)):
            return Fault("refused", all_requests)
        if kind == "partial" and self.hold_back(request):
            return None
        if kind in ("throttled", "partial"):
            return Fault("answered", all_requests, 1, 400, THROTTLED)
        return Fault(kind, all_requests) if kind else None

    def hold_back(self, request: Request) -> bool:
        """Take half of a batch out of a request, if it is one."""
        if operation(request) != "BatchWriteItem":
            return False
        asked = json.loads(request.body)
        ((table, batch),) = asked["RequestItems"].items()
        taken = len(batch) // 2
        if taken:
            self.held_back[id(request)] = {table: batch[taken:]}
            request.body = json.dumps({**asked, "RequestItems": {table: batch[:taken]}}).encode()
        return taken > 0

    def forward(self, request: Request, send: Callable[[], Response]) -> Response:
        if left := self.held_back.pop(id(request), None):
            answer = send()
            content = json.dumps({**json.loads(answer.body), "UnprocessedItems": left}).encode()
            return Response(200, [], content) if answer.status == 200 else answer
        item = switched(request)
        if item is None:
            return send()
        with self.notes.locks["pointer"]:
            answer = send()
            if answer.status == 200:
                switch = Switch(time.time(), item["version"]["S"], item["computed"]["S"], self.rollback_started)
                self.notes.switches.append(switch)
                assert self.reader is not None
                chaos_check.check_version(self.reader, item)
        if answer.status == 200 and self.rollback_started is None:
            self.notes.hook("pointer", "after", publisher(item))
        return answer


def all_requests(request: Request) -> bool:
    return True


def operation(request: Request) -> str:
    return request.headers.get("x-amz-target", "").rpartition(".")[2]


def switched(request: Request) -> dict[str, Any] | None:
    """The pointer that a request writes."""
    kind = operation(request)
    if kind not in ("PutItem", "TransactWriteItems"):
        return None
    body = json.loads(request.body)
    puts = [body] if kind == "PutItem" else [each["Put"] for each in body["TransactItems"] if "Put" in each]
    pointers: list[dict[str, Any]] = [put["Item"] for put in puts if put["Item"]["part"] == {"S": "current"}]
    return pointers[0] if pointers else None


def publisher(item: dict[str, Any]) -> dict[str, Any]:
    """The run that made a version, by the manifest that its pointer names."""
    dag, run = item["manifest"]["S"].partition("/intermediate/")[2].split("/")[:2]
    return {"dag_id": dag, "run": run}

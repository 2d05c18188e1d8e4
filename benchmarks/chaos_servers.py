"""Proxies before the S3 server and DynamoDB that fail requests by the schedule, and record publications."""

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
# Called with the kind of a publication ("manifest", "partition", "pointer"), "before" or "after" the server receives
# it, and its task; True before it cuts the connection.
Hook = Callable[[str, str, dict[str, Any]], bool]


@dataclass
class Publications:
    """Record of all publications in the order in which the servers accepted them, and the hook for each."""

    hook: Hook = lambda kind, when, task: False
    manifests: list[Published] = field(default_factory=list)
    switches: list[Switch] = field(default_factory=list)
    locks: dict[str, threading.Lock] = field(default_factory=lambda: defaultdict(threading.Lock))


@dataclass
class ChaosProxy(Proxy):
    """A proxy whose faults come from the schedule, by the number of the request."""

    fault: Callable[[int], str | None] = lambda number: None
    number: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    publications: Publications = field(default_factory=Publications)

    def start(self, fault: Callable[[int], str | None]) -> None:
        """Reset the number of requests, and use another schedule."""
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
    """A proxy of the S3 server."""

    def match_fault(self, request: Request) -> Fault | None:
        kind = self.next_fault()
        if kind == "slow":
            time.sleep(SLOW_SECONDS)
        publication = published(request)
        if publication and self.publications.hook(publication[0], "before", publication[1]["task"]):
            return Fault("refused", all_requests)
        return Fault(kind, all_requests) if kind and kind != "slow" else None

    def forward(self, request: Request, send: Callable[[], Response]) -> Response:
        publication = published(request)
        if not publication:
            return send()
        key = request.path.lstrip("/").partition("/")[2]
        with self.publications.locks[key]:
            response = send()
            if response.status == 200:
                self.publications.manifests.append(Published(key, time.time(), request.body))
        if response.status == 200:
            self.publications.hook(publication[0], "after", publication[1]["task"])
        return response


def published(request: Request) -> tuple[str, dict[str, Any]] | None:
    """Return the kind and the content of the manifest that a request publishes, None if it publishes none."""
    if request.method != "PUT" or not request.path.endswith("/manifest.json"):
        return None
    return ("partition" if "/curated/" in request.path else "manifest"), json.loads(request.body)


@dataclass
class DynamoDBProxy(ChaosProxy):
    """A proxy of DynamoDB; the proxy of the operators records switches as rollbacks."""

    reader: chaos_check.Reader = field(kw_only=True)  # checks each version after a switch
    rollback_started: float | None = None  # start of the command, on the proxy of the operators
    held_back: dict[int, Any] = field(default_factory=dict)  # halves of batches that are returned as unprocessed

    def match_fault(self, request: Request) -> Fault | None:
        kind = self.next_fault()
        item = self.switched_pointer(request)
        if item and self.rollback_started is None and self.publications.hook("pointer", "before", publisher(item)):
            return Fault("refused", all_requests)
        if kind == "partial" and self.hold_back(request):
            return None
        if kind in ("throttled", "partial"):
            return Fault("answered", all_requests, 1, 400, THROTTLED)
        return Fault(kind, all_requests) if kind else None

    def hold_back(self, request: Request) -> bool:
        """Remove half of a batch from a request; True if it is a batch."""
        if operation(request) != "BatchWriteItem":
            return False
        body = json.loads(request.body)
        ((table, batch),) = body["RequestItems"].items()
        sent = len(batch) // 2
        if sent:
            self.held_back[id(request)] = {table: batch[sent:]}
            request.body = json.dumps({**body, "RequestItems": {table: batch[:sent]}}).encode()
        return sent > 0

    def forward(self, request: Request, send: Callable[[], Response]) -> Response:
        if unprocessed := self.held_back.pop(id(request), None):
            response = send()
            content = json.dumps({**json.loads(response.body), "UnprocessedItems": unprocessed}).encode()
            return Response(200, [], content) if response.status == 200 else response
        item = self.switched_pointer(request)
        if item is None:
            return send()
        with self.publications.locks["pointer"]:
            response = send()
            if response.status == 200:
                switch = Switch(time.time(), item["version"]["S"], item["computed"]["S"], self.rollback_started)
                self.publications.switches.append(switch)
                chaos_check.check_version(self.reader, item)
        if response.status == 200 and self.rollback_started is None:
            self.publications.hook("pointer", "after", publisher(item))
        return response

    def switched_pointer(self, request: Request) -> dict[str, Any] | None:
        """Return the pointer that a request writes, if any, of the product that the reader checks."""
        kind = operation(request)
        if kind not in ("PutItem", "TransactWriteItems"):
            return None
        body = json.loads(request.body)
        puts = [body] if kind == "PutItem" else [each["Put"] for each in body["TransactItems"] if "Put" in each]
        table = self.reader.table
        switches = (put for put in puts if (put["TableName"], put["Item"]["part"]) == (table, {"S": "current"}))
        return next((put["Item"] for put in switches), None)


def all_requests(request: Request) -> bool:
    return True


def operation(request: Request) -> str:
    return request.headers.get("x-amz-target", "").rpartition(".")[2]


def publisher(item: dict[str, Any]) -> dict[str, Any]:
    """Return the run that created a version, from the manifest in its pointer."""
    dag, run = item["manifest"]["S"].partition("/intermediate/")[2].split("/")[:2]
    return {"dag_id": dag, "run": run}

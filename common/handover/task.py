"""A task and its attempt: arguments, inputs, outputs, identity, and the manifests that it publishes."""

import argparse
import contextlib
import datetime
import hashlib
import resource
import secrets
import socket
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from common import protocol
from common.errors import ArgumentError, InputError
from common.handover import manifest, s3, storage
from common.handover.command_line import checked_predecessors
from common.handover.heartbeat import Progress, peak_memory
from common.handover.inputs import Input
from common.handover.job_toml import Job, code_fingerprint, parameter_values
from common.handover.manifest import Manifest
from common.handover.storage import File


class Task:
    """One run of a job: what it was told, what it reads, where it writes, what it tells about itself."""

    def __init__(self, job: Job, folder: Path | zipfile.Path, arguments: argparse.Namespace) -> None:
        self.job = job
        self.lake: str = arguments.lake.rstrip("/")
        self.dag_id: str = arguments.dag_id
        self.run_id: str = arguments.run_id
        self.task_id: str = arguments.task_id
        self.attempt: int = arguments.attempt
        self.run_started: str | None = arguments.run_started
        self.map_index: int | None = arguments.map_index
        self.predecessors = checked_predecessors(job, dict(arguments.predecessors))
        self.parameters = parameter_values(job, dict(arguments.settings))
        self.map_count = self.checked_map_count()
        self.metrics: dict[str, Any] = {}
        self.key = protocol.task_key(self.lake, self.dag_id, self.run_id, self.task_id, self.map_index)
        self.attempt_folder = protocol.attempt_folder(self.key, self.attempt)
        self.process = secrets.token_hex(4)  # two processes may have one attempt's number: each has names of its own
        self.started = datetime.datetime.now(datetime.UTC)
        self.line = Progress(self.task_id if self.map_index is None else f"{self.task_id}[{self.map_index}]")
        self.code = code_fingerprint(folder)
        self.replaced: dict[str, Manifest | None] = {}  # by output: what its dataset held before anything was read
        self.inputs: dict[str, Input] = {}
        self.outputs: dict[str, dict[str, Any]] = {}
        self.effects: list[str] = []
        self.taking_effect = threading.Lock()
        self.published = False

    def checked_map_count(self) -> int | None:
        """How many map instances of this task there are, if the job is mapped at all."""
        if self.job.mapped_by is None:
            if self.map_index is not None:
                raise ArgumentError(f"{self.job.name} is not mapped, expected no --map-index.")
            return None
        count: int = self.parameters[self.job.mapped_by]
        if self.map_index is None or not 0 <= self.map_index < count:
            raise ArgumentError(
                f"--map-index is {self.map_index}, expected 0 to {count - 1}, because "
                f"{self.job.mapped_by} is {count} (give it with --set {self.job.mapped_by}=NUMBER)."
            )
        return count

    @property
    def identity(self) -> dict[str, Any]:
        """The task, the attempt and the process, as they stand in manifests."""
        names = ("dag_id", "run_id", "task_id", "map_index", "map_count", "attempt", "run_started", "process")
        return {name: getattr(self, name) for name in names}

    def abort_uploads(self) -> None:
        """Abort the uploads that earlier attempts began and never ended.

        An earlier attempt that still runs fails by that; it could not publish any more anyway once this one does.
        Another process of this attempt is left alone: it may be the one that publishes.
        """
        if not storage.is_s3(self.lake):
            return
        uploads = s3.abort_uploads(self.key, "attempt", self.attempt - 1)
        for dataset in sorted({table.dataset for table in self.job.outputs.values() if table.dataset}):
            uploads += s3.abort_uploads(f"{self.lake}/{dataset}", f"[^/]+/{self.versions}", self.attempt - 1)
        if uploads:
            self.log("aborted", uploads=uploads)

    def now(self) -> datetime.datetime:
        """The time, but never before the basis of what this task replaces, made by a clock that may be ahead."""
        former = [manifest.basis(each.document) for each in self.replaced.values() if each]
        return max([datetime.datetime.now(datetime.UTC), *former])

    @property
    def basis(self) -> datetime.datetime:
        """The time at which the oldest of this task's inputs was taken; what it replaces must not be newer."""
        return min((each.taken for each in self.inputs.values()), default=self.started)

    def take_replaced(self) -> None:
        """Note what the datasets that this task may replace hold, to be done before anything else is read."""
        for role, table in self.job.outputs.items():
            if table.dataset:
                self.replaced[role] = self.partition(role, "all")[1]

    def refuse_stale(self) -> None:
        """Raise StaleAttempt if a newer attempt, or one of newer input, has published what this task would replace."""
        for there in self.replaced.values():
            manifest.refuse_stale(self.identity, self.basis, there)

    def took_effect(self, what: str) -> None:
        """Record what others see of this task from now on, as in "published X", for sentences about its end."""
        self.effects.append(what)

    @contextlib.contextmanager
    def effect(self, what: str) -> Iterator[None]:
        """Enclose the write by which something takes effect; a signal to end waits for it, and tells of it."""
        with self.taking_effect:
            yield
            self.took_effect(what)

    def input(self, role: str) -> Input:
        """An input that `job.toml` declares."""
        return self.inputs[role]

    def folder(self, role: str) -> str:
        """URI of the folder that this process writes an output to, and no other."""
        return f"{self.attempt_folder}/{self.process}/{role}"

    def written(self, role: str, rows: int) -> None:
        """Say that an output is complete; its files and bytes are taken from one listing."""
        files = storage.files(self.folder(role))
        self.outputs[role] = {
            "contract": self.job.outputs[role].contract,
            "rows": rows,
            "bytes": sum(file.bytes for file in files),
            "files": [{"path": file.uri.removeprefix(f"{self.key}/"), "bytes": file.bytes} for file in files],
        }

    @property
    def versions(self) -> str:
        """The beginning of the names of folders that this task's attempts add to partitions of datasets."""
        names = "\0".join([self.dag_id, self.run_id, self.task_id, str(self.map_index)])
        return f"version={hashlib.sha256(names.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"

    @property
    def version(self) -> str:
        """The name, unique to this process, of the folders that it adds to the partitions of datasets."""
        return f"{self.versions}-{self.attempt}-{self.process}"

    def partition(self, role: str, name: str) -> tuple[str, Manifest | None]:
        """URI of a partition of an output dataset, and the manifest that names what counts there now.

        InputError if that is of another contract: a manifest has one for all its files.
        """
        table = self.job.outputs[role]
        folder = f"{self.lake}/{table.dataset}/{name}"
        there = manifest.load_or_none(protocol.manifest_uri(folder))
        for output in there.document["outputs"].values() if there else ():
            if output["contract"] != table.contract:
                raise InputError(
                    f"{folder} is of contract {output['contract']}, but {self.job.name} adds rows of {table.contract}; "
                    "fill another dataset with the new version, as docs/change_a_contract.md says."
                )
        return folder, there

    def replace_dataset(self, role: str, rows: int, files: list[File]) -> None:
        """Publish what a dataset holds from now on, in its one partition `all`, in place of what was seen there first.

        Raises StaleAttempt or TaskError if it changed since; then it stays as it is.
        """
        folder = f"{self.lake}/{self.job.outputs[role].dataset}/all"
        self.publish_partition(role, folder, self.replaced[role], rows, files, manifest.publish_replacement)

    def publish_partition(
        self,
        role: str,
        folder: str,
        seen: Manifest | None,
        rows: int,
        files: list[File],
        publish: Callable[[str, dict[str, Any], Manifest | None], None] = manifest.publish_partition,
    ) -> None:
        """Publish what a partition holds from now on: these files below its folder, in place of what was seen there.

        Raises StaleAttempt or TaskError if the partition changed meanwhile; then it stays as it is.
        """
        table = self.job.outputs[role]
        size = sum(file.bytes for file in files)
        paths = [{"path": file.uri.removeprefix(f"{folder}/"), "bytes": file.bytes} for file in files]
        document = self.document({role: {"contract": table.contract, "rows": rows, "bytes": size, "files": paths}})
        document["dropped"] = manifest.dropped(seen, paths, datetime.datetime.now(datetime.UTC))
        with self.effect(f"published {folder.removeprefix(f'{self.lake}/')}"):
            publish(protocol.manifest_uri(folder), document, seen)
        output = self.outputs.setdefault(
            role, {"contract": table.contract, "dataset": table.dataset, "rows": 0, "bytes": 0, "partitions": {}}
        )
        output["partitions"][folder.rpartition("/")[2]] = {"rows": rows, "bytes": size}
        output["rows"] += rows
        output["bytes"] += size

    def document(self, outputs: dict[str, Any]) -> dict[str, Any]:
        """The manifest of what this task has done so far."""
        return {
            "format": manifest.FORMAT,
            "task": self.identity,
            "job": self.job.name,
            "fingerprint": self.code,
            "host": socket.gethostname(),
            "basis": self.basis.isoformat(timespec="microseconds"),
            "outputs": outputs,
            "metrics": self.metrics,
            **self.given(),
            **self.times(),
        }

    def given(self) -> dict[str, Any]:
        """What this task worked with, by which it can be run again: parameters, predecessors, the manifests it read."""
        return {
            "parameters": self.parameters,
            "predecessors": self.predecessors,
            "parents": [
                {"role": role, "uri": parent.uri, "digest": parent.digest}
                for role, table in self.inputs.items()
                for parent in table.manifests
            ],
        }

    def times(self) -> dict[str, Any]:
        """When this attempt began and ended, how long it took (wall and processor), the memory it needed."""
        ended = datetime.datetime.now(datetime.UTC)
        usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return {
            "started": self.started.isoformat(timespec="milliseconds"),
            "ended": ended.isoformat(timespec="milliseconds"),
            "seconds": round((ended - self.started).total_seconds(), 3),
            "processor_seconds": round(sum(usage.ru_utime + usage.ru_stime for usage in usages), 3),
            "peak_memory_bytes": peak_memory(),
        }

    def log(self, event: str, **numbers: object) -> None:
        """Print one line on stdout with time, task, event and numbers."""
        self.line.say(event, **numbers)

    def progress(self, what: str, done: int, total: int) -> None:
        """Say how far the work is, for the alive line."""
        self.line.text = f"{what} {done}/{total}"

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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from common import protocol
from common.contracts import evolution
from common.errors import ArgumentError, InputError, one_line
from common.handover import manifest, storage
from common.handover.buckets import bucket_entries
from common.handover.command_line import checked_predecessors
from common.handover.heartbeat import Progress, peak_memory
from common.handover.inputs import Input, list_deliveries
from common.handover.job_toml import Job, code_fingerprint, parameter_values
from common.handover.manifest import Manifest
from common.handover.storage import File

MAX_TAKEN = 10_000  # raw files that a manifest names, about a megabyte
MAX_WARNINGS, MAX_WARNING = 50, 500  # sentences of a manifest, and characters of each


class Task:
    """One run of a job: its arguments, inputs, outputs and metrics."""

    def __init__(self, job: Job, folder: Path | zipfile.Path, arguments: argparse.Namespace) -> None:
        self.parameters = parameter_values(job, dict(arguments.settings))
        written = {role: table for role, table in job.outputs.items() if not table.when or self.parameters[table.when]}
        self.job = replace(job, outputs=written)
        self.lake: str = arguments.lake.rstrip("/")
        self.dag_id: str = arguments.dag_id
        self.run_id: str = arguments.run_id
        self.task_id: str = arguments.task_id
        self.attempt: int = arguments.attempt
        self.run_started: str | None = arguments.run_started
        self.map_index: int | None = arguments.map_index
        self.predecessors = checked_predecessors(job, dict(arguments.predecessors))
        self.map_count = self.checked_map_count()
        self.metrics: dict[str, Any] = {}
        self.key = protocol.task_key(self.lake, self.dag_id, self.run_id, self.task_id, self.map_index)
        self.attempt_folder = protocol.attempt_folder(self.key, self.attempt)
        self.process = secrets.token_hex(4)  # two processes may share an attempt's number: each has its own names
        self.started = datetime.datetime.now(datetime.UTC)
        self.line = Progress(self.task_id if self.map_index is None else f"{self.task_id}[{self.map_index}]")
        self.code = code_fingerprint(folder)
        self.replaced: dict[str, Manifest | None] = {}  # by output: state of its dataset before the inputs were read
        self.inputs: dict[str, Input] = {}
        self.outputs: dict[str, dict[str, Any]] = {}
        self.effects: list[str] = []
        self.effect_lock = threading.Lock()
        self.published = False
        self.application: str | None = None  # the ID that Spark gave this attempt, by which its event log is named
        self.taken: list[str] = []  # raw files that it takes by a ledger, as paths in the lake
        self.steps_after: list[Callable[[], None]] = []
        self.warnings: list[str] = []
        self.further_warnings = 0

    def checked_map_count(self) -> int | None:
        """Return the number of map instances of this task, None if the job is not mapped."""
        if self.job.mapped_by is None:
            if self.map_index is not None:
                raise ArgumentError(f"{self.job.name} is not mapped, expected no --map-index.")
            return None
        count: int = self.parameters[self.job.mapped_by]
        if self.map_index is None or not 0 <= self.map_index < count:
            raise ArgumentError(
                f"--map-index is {self.map_index}, expected 0 to {count - 1}, because "
                f"{self.job.mapped_by} is {count} (set it with --set {self.job.mapped_by}=NUMBER)."
            )
        return count

    @property
    def identity(self) -> dict[str, Any]:
        """The task, the attempt and the process, as manifests record them."""
        names = ("dag_id", "run_id", "task_id", "map_index", "map_count", "attempt", "run_started", "process")
        return {name: getattr(self, name) for name in names}

    def abort_uploads(self) -> None:
        """Abort the unfinished uploads of earlier attempts.

        An earlier attempt that still runs fails by this; it could not publish anyway once this one does.
        Other processes of this attempt are spared: one of them may be the one that publishes.
        """
        uploads = storage.abort_uploads(self.key, "attempt", self.attempt - 1)
        for dataset in sorted({table.dataset for table in self.job.outputs.values() if table.dataset}):
            uploads += storage.abort_uploads(f"{self.lake}/{dataset}", f"[^/]+/{self.version_prefix}", self.attempt - 1)
        if uploads:
            self.log("aborted", uploads=uploads)

    def now(self) -> datetime.datetime:
        """Return the time, never before the basis of the replaced data, whose clock may have been ahead."""
        former = [manifest.basis(each.document) for each in self.replaced.values() if each]
        return max([datetime.datetime.now(datetime.UTC), *former])

    @property
    def basis(self) -> datetime.datetime:
        """The time at which the oldest of this task's inputs was taken; replaced data must not be newer."""
        return min((each.taken for each in self.inputs.values()), default=self.started)

    def load_replaced(self) -> None:
        """Load the manifests of the datasets that this task may replace, before it reads anything else."""
        for role, table in self.job.outputs.items():
            if table.dataset:
                self.replaced[role] = self.partition(role, "all")[1]

    def refuse_stale(self) -> None:
        """Raise StaleAttempt if a newer attempt, or a task with newer input, has published a dataset to be replaced."""
        for current in self.replaced.values():
            manifest.refuse_stale(self.identity, self.basis, current)

    def record_effect(self, effect: str) -> None:
        """Record a visible effect of this task, as in "published X", for sentences about its end."""
        self.effects.append(effect)

    @contextlib.contextmanager
    def effect(self, effect: str) -> Iterator[None]:
        """Enclose a write with a visible effect; SIGTERM waits for it, and reports it."""
        with self.effect_lock:
            yield
            self.record_effect(effect)

    def input(self, role: str) -> Input:
        """Return an input that `job.toml` declares."""
        return self.inputs[role]

    def deliveries(self, role: str, folders: list[str]) -> list[Input]:
        """Return the deliveries in each of these folders of the raw level, of an input that `job.toml` declares."""
        return list_deliveries(self, role, self.job.inputs[role], folders)

    def folder(self, role: str) -> str:
        """Return the URI of the folder that only this process writes an output to."""
        return f"{self.attempt_folder}/{self.process}/{role}"

    def record_output(self, role: str, rows: int, buckets: int | None = None) -> None:
        """Record an output as complete; its files and bytes are those of one listing, their buckets of the names."""
        files = storage.files(self.folder(role))
        entries = [{"path": file.uri.removeprefix(f"{self.key}/"), "bytes": file.bytes} for file in files]
        self.outputs[role] = {
            "contract": self.job.outputs[role].contract,
            "rows": rows,
            "bytes": sum(file.bytes for file in files),
            "files": bucket_entries(entries) if buckets else entries,
            **({"buckets": buckets} if buckets else {}),
        }

    @property
    def version_prefix(self) -> str:
        """The prefix of the folders that this task's attempts add to partitions of datasets."""
        names = "\0".join([self.dag_id, self.run_id, self.task_id, str(self.map_index)])
        return f"version={hashlib.sha256(names.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"

    @property
    def version(self) -> str:
        """The name, unique to this process, of the folders that it adds to partitions of datasets."""
        return f"{self.version_prefix}-{self.attempt}-{self.process}"

    def partition(self, role: str, name: str) -> tuple[str, Manifest | None]:
        """Return the URI of a partition of an output dataset, and its current manifest.

        InputError if it has files of a contract that the output does not take. The partition `all` is replaced, so
        there any version of the output's contract fits.
        """
        table = self.job.outputs[role]
        folder = f"{self.lake}/{table.dataset}/{name}"
        current = manifest.load_or_none(protocol.manifest_uri(folder))
        contract = table.contract or ""
        for output in current.document["outputs"].values() if current else ():
            for found in sorted({output["contract"], *manifest.contracts_of_files(output).values()}):
                replaced = name == "all" and evolution.split(found)[0] == evolution.split(contract)[0]
                if found not in table.fitting and not replaced:
                    raise InputError(
                        f"{folder} has files of {found}, but {self.job.name} adds rows of {contract}; "
                        f"{evolution.remedy(found, contract, f'outputs.{role}')}."
                    )
        return folder, current

    def replace_dataset(self, role: str, rows: int, files: list[File]) -> None:
        """Publish the new content of a dataset, in its only partition `all`, in place of the state seen at the start.

        Raises StaleAttempt or TaskError if the state has changed since; then it is left unchanged.
        """
        folder = f"{self.lake}/{self.job.outputs[role].dataset}/all"
        self.publish_partition(role, folder, self.replaced[role], rows, files, publish=manifest.publish_replacement)

    def publish_partition(
        self,
        role: str,
        folder: str,
        seen: Manifest | None,
        rows: int,
        files: list[File],
        statistics: Mapping[str, Any] | None = None,
        publish: Callable[[str, dict[str, Any], Manifest | None], None] = manifest.publish_partition,
    ) -> None:
        """Publish the new content of a partition: files below its folder, in place of the state seen before.

        `statistics` has the rows by day of arrival (`arrivals`) and by value of columns (`counts`), as far as known.
        Raises StaleAttempt or TaskError if the state has changed since; then it is left unchanged.
        """
        table = self.job.outputs[role]
        size = sum(file.bytes for file in files)
        paths = self.listed(table.contract or "", folder, seen, files)
        entry = {"contract": table.contract, "rows": rows, "bytes": size, "files": paths}
        document = self.document({role: {**entry, **(statistics or {})}})
        document["dropped"] = manifest.dropped_versions(seen, paths, datetime.datetime.now(datetime.UTC))
        with self.effect(f"published {folder.removeprefix(f'{self.lake}/')}"):
            publish(protocol.manifest_uri(folder), document, seen)
        output = self.outputs.setdefault(
            role, {"contract": table.contract, "dataset": table.dataset, "rows": 0, "bytes": 0, "partitions": {}}
        )
        output["partitions"][folder.rpartition("/")[2]] = {"rows": rows, "bytes": size}
        output["rows"] += rows
        output["bytes"] += size

    def listed(self, contract: str, folder: str, seen: Manifest | None, files: list[File]) -> list[dict[str, Any]]:
        """Return the entries of a partition's files in its manifest; a former file of an older contract keeps that."""
        former: dict[str, str] = {}
        for output in seen.document["outputs"].values() if seen else ():
            former |= manifest.contracts_of_files(output)
        entries = []
        for file in files:
            entry = {"path": file.uri.removeprefix(f"{folder}/"), "bytes": file.bytes}
            older = former.get(str(entry["path"]), contract)
            entries.append(entry if older == contract else {**entry, "contract": older})
        return entries

    def document(self, outputs: dict[str, Any]) -> dict[str, Any]:
        """Return the manifest of this task for some outputs."""
        return {
            "format": manifest.FORMAT,
            "task": self.identity,
            "job": self.job.name,
            "fingerprint": self.code,
            "host": socket.gethostname(),
            "basis": self.basis.isoformat(timespec="microseconds"),
            "outputs": outputs,
            "metrics": self.metrics,
            **self.warned(),
            **self.provenance(),
            **self.timings(),
        }

    def provenance(self) -> dict[str, Any]:
        """Return the parameters, predecessors, inputs and manifests that this task used, for its replay."""
        return {
            "parameters": self.parameters,
            "predecessors": self.predecessors,
            "inputs": {role: table.summary for role, table in self.inputs.items() if table.contract},
            "parents": [
                {"role": role, "uri": parent.uri, "digest": parent.digest}
                for role, table in self.inputs.items()
                for parent in table.manifests
            ],
        }

    def deliveries_taken(self) -> dict[str, list[str]]:
        """Return the raw files that this task takes by a ledger, for its replay; nothing for very many."""
        return {"deliveries": self.taken} if 0 < len(self.taken) <= MAX_TAKEN else {}

    def warned(self) -> dict[str, list[str]]:
        """Return the warnings of this task, for its documents; nothing if there are none."""
        more = [f"{self.further_warnings:,} more warnings are in the task's log."] if self.further_warnings else []
        return {"warnings": [*self.warnings, *more]} if self.warnings else {}

    def timings(self) -> dict[str, Any]:
        """Return start, end, wall and processor seconds of this attempt, its peak memory, and its Spark application."""
        ended = datetime.datetime.now(datetime.UTC)
        usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return {
            "started": self.started.isoformat(timespec="milliseconds"),
            "ended": ended.isoformat(timespec="milliseconds"),
            "seconds": round((ended - self.started).total_seconds(), 3),
            "processor_seconds": round(sum(usage.ru_utime + usage.ru_stime for usage in usages), 3),
            "peak_memory_bytes": peak_memory(),
            **({"application": self.application} if self.application else {}),
        }

    def after_publishing(self, step: Callable[[], None]) -> None:
        """Add a step that runs once the result is published; it may fail or never run, and the result still counts."""
        self.steps_after.append(step)

    def warn(self, sentence: str) -> None:
        """Report something doubtful that does not fail the task: in the log, and in its manifest or failure document.

        The documents have the first MAX_WARNINGS sentences, and the number of the others.
        """
        self.log(f"warning: {sentence}")
        if len(self.warnings) < MAX_WARNINGS:
            self.warnings.append(one_line(sentence, MAX_WARNING))
        else:
            self.further_warnings += 1

    def log(self, event: str, **numbers: object) -> None:
        """Print one line on stdout with time, task, event and numbers."""
        self.line.log(event, **numbers)

    def progress(self, step: str, done: int, total: int) -> None:
        """Set the progress that the alive line shows."""
        self.line.text = f"{step} {done}/{total}"

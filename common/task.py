"""The task that this process works on: arguments in, inputs, outputs, publish last; exit codes."""

import argparse
import contextlib
import datetime
import errno
import hashlib
import json
import os
import resource
import signal
import socket
import sys
import threading
import traceback
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from common import lake, manifest, s3, storage
from common.command_line import checked_predecessors, parse
from common.failures import ArgumentError, Failure, InputError
from common.heartbeat import Progress, peak_memory
from common.inputs import Input, resolve
from common.job import Job, built, code_folder, load, parameter_values
from common.manifest import Manifest
from common.storage import File

LARGEST_RESULT = 48 * 1024  # bytes; what an orchestrator keeps of a task is a note, not data


class Task:
    """One run of a job: what it was told, what it reads, where it writes, what it tells about itself."""

    def __init__(self, job: Job, folder: Path | zipfile.Path, arguments: argparse.Namespace) -> None:
        self.job = job
        self.lake: str = arguments.lake.rstrip("/")
        self.dag_id: str = arguments.dag_id
        self.run_id: str = arguments.run_id
        self.task_id: str = arguments.task_id
        self.attempt: int = arguments.attempt
        self.map_index: int | None = arguments.map_index
        self.predecessors = checked_predecessors(job, dict(arguments.predecessors))
        self.parameters = parameter_values(job, dict(arguments.settings))
        self.map_count = self.checked_map_count()
        self.metrics: dict[str, Any] = {}
        self.key = lake.task_key(self.lake, self.dag_id, self.run_id, self.task_id, self.map_index)
        self.attempt_folder = lake.attempt_folder(self.key, self.attempt)
        self.started = datetime.datetime.now(datetime.UTC)
        self.line = Progress(self.task_id if self.map_index is None else f"{self.task_id}[{self.map_index}]")
        self.code = code_fingerprint(folder)
        self.inputs: dict[str, Input] = {}
        self.outputs: dict[str, dict[str, Any]] = {}

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
        """Which task and attempt this is, as it stands in manifests."""
        names = ("dag_id", "run_id", "task_id", "map_index", "map_count", "attempt")
        return {name: getattr(self, name) for name in names}

    def clean_up(self) -> None:
        """Remove what an attempt of this number left, and the uploads that it or an earlier one began and never ended.

        An earlier attempt that still runs fails by that; it could not publish any more anyway once this one does.
        """
        storage.delete(self.attempt_folder)
        if storage.is_s3(self.lake):
            uploads = s3.abort_uploads(self.key, "attempt", self.attempt)
            own = f"[^/]+/{self.version.rpartition('-')[0]}"
            for dataset in sorted({table.dataset for table in self.job.outputs.values() if table.dataset}):
                uploads += s3.abort_uploads(f"{self.lake}/{dataset}", own, self.attempt)
            if uploads:
                self.log("aborted", uploads=uploads)

    def input(self, role: str) -> Input:
        """An input that `job.toml` declares."""
        return self.inputs[role]

    def folder(self, role: str) -> str:
        """URI of the folder that this attempt writes an output to."""
        return f"{self.attempt_folder}/{role}"

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
    def version(self) -> str:
        """The name, unique to this attempt, of the folders that it adds to the partitions of datasets."""
        names = "\0".join([self.dag_id, self.run_id, self.task_id, str(self.map_index)])
        return f"version={hashlib.sha256(names.encode()).hexdigest()[:16]}-{self.attempt}"

    def partition(self, role: str, name: str) -> tuple[str, Manifest | None]:
        """URI of a partition of an output dataset, and the manifest that names what counts there now."""
        folder = f"{self.lake}/{self.job.outputs[role].dataset}/{name}"
        return folder, manifest.find(lake.manifest(folder))

    def publish_partition(self, role: str, folder: str, seen: Manifest | None, rows: int, files: list[File]) -> None:
        """Publish what a partition holds from now on: these files below its folder, in place of what was seen there.

        Raises Fenced or Failure if the partition changed meanwhile; then it stays as it is.
        """
        table = self.job.outputs[role]
        size = sum(file.bytes for file in files)
        paths = [{"path": file.uri.removeprefix(f"{folder}/"), "bytes": file.bytes} for file in files]
        document = self.document({role: {"contract": table.contract, "rows": rows, "bytes": size, "files": paths}})
        manifest.publish_partition(lake.manifest(folder), document, seen)
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


def run(main: Callable[[Task], None]) -> NoReturn:
    """Run a job's `main` as the task that the command line names, and exit with the code that tells how it went."""
    sys.exit(exit_code(main, code_folder(Path(main.__globals__["__file__"])), sys.argv[1:]))


def exit_code(main: Callable[[Task], None], folder: Path | zipfile.Path, arguments: list[str]) -> int:
    """Work on one task from its arguments to its manifest; what fails is told in one last line on stderr."""
    task = None
    try:
        task = Task(job := load(folder), folder, parse(job, arguments))
        work(main, task)
        return 0
    except BaseException as error:
        if isinstance(error, SystemExit) and error.code == 0:  # --help
            return 0
        if task and not isinstance(error, Failure) and (failure := s3.explained(error, task.lake)):
            failure.__cause__ = error
            error = failure
        tell_failure(error, task)
        return error.exit_code if isinstance(error, Failure) else 1


def work(main: Callable[[Task], None], task: Task) -> None:
    own_uri = lake.manifest(task.key)
    own = manifest.find(own_uri)
    manifest.fence(task.identity, own)
    task.clean_up()
    with ended_by_sigterm(task), task.line.alive():
        task.log(
            "started", job=task.job.name, attempt=task.attempt, parameters=json.dumps(task.parameters, default=str)
        )
        if task.job.inputs and not storage.is_s3(task.lake) and not storage.local(task.lake).is_dir():
            raise InputError(f"There is no lake at {task.lake}; mount it there, or correct --lake.")
        for role, table in task.job.inputs.items():
            task.inputs[role] = resolve(task, role, table)
            task.log("input", role=role, rows=task.inputs[role].rows, files=len(task.inputs[role].files))
        main(task)
        if missing := [
            role for role, table in task.job.outputs.items() if role not in task.outputs and table.handed_over
        ]:
            raise Failure(
                f"The job ended without writing its output '{missing[0]}', expected every output of job.toml."
            )
        document = task.document(task.outputs)
        manifest.publish(own_uri, document, own)
    for role, output in task.outputs.items():
        task.log("output", role=role, rows=output["rows"], bytes=output["bytes"])
    write_result(own_uri, document["metrics"])
    task.log("done", seconds=document["seconds"], peak_memory_mib=document["peak_memory_bytes"] >> 20, manifest=own_uri)


def write_result(own_uri: str, metrics: dict[str, Any]) -> None:
    """Leave the manifest's URI and the metrics, as far as they are small, where the orchestrator asked for them."""
    if file := os.environ.get("TANDEM_RESULT_FILE"):
        result = json.dumps({"manifest": own_uri, "metrics": metrics}, default=str)
        if len(result) > LARGEST_RESULT:
            result = json.dumps({"manifest": own_uri, "metrics": {}})
        Path(file).write_text(result)


def code_fingerprint(folder: Path | zipfile.Path) -> str:
    """The fingerprint that a build left; in a checkout, a hash of the job's folder and of `common`."""
    if product := built(folder):
        return product[0]
    digest = hashlib.sha256()
    for root in (Path(str(folder)), Path(__file__).parent):
        for file in sorted(root.rglob("*")):
            if file.suffix in (".py", ".toml"):
                digest.update(f"{file.relative_to(root.parent)}\0".encode() + file.read_bytes())
    return f"checkout-{digest.hexdigest()[:16]}"


def tell_failure(error: BaseException, task: Task | None) -> None:
    """Leave the failure document, print the stack of what nobody foresaw, and end stderr with one sentence."""
    if not isinstance(error, Failure):
        traceback.print_exception(error)
    sentence = str(error) if isinstance(error, Failure) else unforeseen(error)
    if task:
        code = error.exit_code if isinstance(error, Failure) else 1
        with contextlib.suppress(Exception):  # a lake that cannot be written to must not hide the failure itself
            leave_failure_document(task, code, sentence, error)
    print(sentence, file=sys.stderr, flush=True)


def leave_failure_document(task: Task, code: int, sentence: str, error: BaseException | None) -> None:
    chain = []
    while error:
        frames = traceback.extract_tb(error.__traceback__)
        where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno} {frames[-1].name}" if frames else ""
        chain.append({"type": type(error).__name__, "message": str(error)[:4000], "where": where})
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    document = {"format": manifest.FORMAT, "task": task.identity, "job": task.job.name, "fingerprint": task.code}
    document |= {"exit_code": code, "sentence": sentence, "exceptions": chain, **task.given(), **task.times()}
    storage.write(lake.failure(task.attempt_folder), manifest.content(document))


def unforeseen(error: BaseException) -> str:
    """One sentence about an exception that the job did not expect."""
    if isinstance(error, MemoryError):
        return "The job ran out of memory; give it more in [resources] of job.toml, or smaller input."
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        scratch = os.environ.get("TMPDIR", "/tmp")
        return (
            f"No space is left in the lake or in the scratch folder {scratch} ({error}); give it more, then run again."
        )
    first_line = next(iter(str(error).strip().splitlines()), "")[:300]
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}: {first_line or 'no message'}; the stack is above, a retry may help."


@contextlib.contextmanager
def ended_by_sigterm(task: Task) -> Iterator[None]:
    """End the process soon after SIGTERM, with a failure document and nothing published.

    Python runs signal handlers between two of its own instructions, which in a long matrix product is too late, and
    the first process of a container ignores a signal without a handler: so the C handler wakes a thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    former = signal.signal(signal.SIGTERM, lambda *_: None)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def end() -> None:
        while number := os.read(reading, 1):
            if number[0] == signal.SIGTERM:
                sentence = "The task was told to end (SIGTERM) and published nothing; run it again."
                with contextlib.suppress(Exception):
                    leave_failure_document(task, 128 + signal.SIGTERM, sentence, None)
                print(sentence, file=sys.stderr, flush=True)
                os._exit(128 + signal.SIGTERM)

    threading.Thread(target=end, daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, former)
        os.close(writing)

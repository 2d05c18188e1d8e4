"""The task that this process works on: arguments in, inputs, outputs, publish last; exit codes."""

import argparse
import contextlib
import datetime
import errno
import hashlib
import json
import os
import resource
import secrets
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
from common.failures import ArgumentError, Failure, Fenced, InputError, one_line
from common.heartbeat import Progress, peak_memory
from common.inputs import Input, resolve
from common.job import Job, built, code_folder, load, parameter_values
from common.manifest import Manifest
from common.storage import File

LAST_LINE_TO: list[Callable[[str], None]] = []  # where else the last line goes than to this process's stderr
PATIENCE = 2  # seconds that SIGTERM waits for a write that publishes; who sends it waits for three or more
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
        self.run_started: str | None = arguments.run_started
        self.map_index: int | None = arguments.map_index
        self.predecessors = checked_predecessors(job, dict(arguments.predecessors))
        self.parameters = parameter_values(job, dict(arguments.settings))
        self.map_count = self.checked_map_count()
        self.metrics: dict[str, Any] = {}
        self.key = lake.task_key(self.lake, self.dag_id, self.run_id, self.task_id, self.map_index)
        self.attempt_folder = lake.attempt_folder(self.key, self.attempt)
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
        """Raise Fenced if a newer attempt, or one of newer input, has published what this task would replace."""
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
        there = manifest.find(lake.manifest(folder))
        for output in there.document["outputs"].values() if there else ():
            if output["contract"] != table.contract:
                raise InputError(
                    f"{folder} is of contract {output['contract']}, but {self.job.name} adds rows of {table.contract}; "
                    "fill another dataset with the new version, as docs/change_a_contract.md says."
                )
        return folder, there

    def replace_dataset(self, role: str, rows: int, files: list[File]) -> None:
        """Publish what a dataset holds from now on, in its one partition `all`, in place of what was seen there first.

        Raises Fenced or Failure if it changed since; then it stays as it is.
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

        Raises Fenced or Failure if the partition changed meanwhile; then it stays as it is.
        """
        table = self.job.outputs[role]
        size = sum(file.bytes for file in files)
        paths = [{"path": file.uri.removeprefix(f"{folder}/"), "bytes": file.bytes} for file in files]
        document = self.document({role: {"contract": table.contract, "rows": rows, "bytes": size, "files": paths}})
        document["dropped"] = manifest.dropped(seen, paths, datetime.datetime.now(datetime.UTC))
        with self.effect(f"published {folder.removeprefix(f'{self.lake}/')}"):
            publish(lake.manifest(folder), document, seen)
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


def run(main: Callable[[Task], None]) -> NoReturn:
    """Run a job's `main` as the task that the command line names, and exit with the code that tells how it went."""
    code = exit_code(main, code_folder(Path(main.__globals__["__file__"])), sys.argv[1:])
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # all is said and done, and the exit code tells it
    sys.exit(code)


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
    with ended_by_sigterm(task), task.line.alive():
        task.abort_uploads()
        task.log(
            "started", job=task.job.name, attempt=task.attempt, parameters=json.dumps(task.parameters, default=str)
        )
        if task.job.inputs and not storage.is_s3(task.lake) and not storage.local(task.lake).is_dir():
            raise InputError(f"There is no lake at {task.lake}; mount it there, or correct --lake.")
        task.take_replaced()
        for role, table in task.job.inputs.items():
            task.inputs[role] = resolve(task, role, table)
            task.log("input", role=role, rows=task.inputs[role].rows, files=len(task.inputs[role].files))
        task.refuse_stale()
        main(task)
        if missing := [
            role for role, table in task.job.outputs.items() if role not in task.outputs and table.handed_over
        ]:
            raise Failure(
                f"The job ended without writing its output '{missing[0]}', expected every output of job.toml."
            )
        document = task.document(task.outputs)
        with task.effect("published its result"):
            manifest.publish(own_uri, document, own)
            task.published = True
        with contextlib.suppress(OSError):  # the result counts, whoever may not hear of it
            tell_success(task, own_uri, document)


def tell_success(task: Task, own_uri: str, document: dict[str, Any]) -> None:
    """Log what was published, and leave it where the orchestrator asked for it."""
    for role, output in task.outputs.items():
        task.log("output", role=role, rows=output["rows"], bytes=output["bytes"])
    if file := os.environ.get("TANDEM_RESULT_FILE"):
        Path(file).write_text(result(own_uri, document["metrics"]))
    task.log("done", seconds=document["seconds"], peak_memory_mib=document["peak_memory_bytes"] >> 20, manifest=own_uri)


def result(own_uri: str, metrics: dict[str, Any]) -> str:
    """The manifest's URI and the metrics as JSON; of metrics too large for that, the small ones and what is left out.

    The manifest has all of them.
    """
    texts = {name: json.dumps(value) for name, value in manifest.plain(metrics).items()}
    kept, size = set(), len(own_uri) + 1024
    for name in sorted(texts, key=lambda name: len(texts[name])):
        size += len(json.dumps(name)) + len(texts[name]) + 4
        if size > LARGEST_RESULT:
            break
        kept.add(name)
    document: dict[str, Any] = {"manifest": own_uri}
    document["metrics"] = {name: json.loads(text) for name, text in texts.items() if name in kept}
    if left_out := sorted(texts.keys() - kept):
        document["left_out"] = f"{len(left_out)} metrics, '{left_out[0][:100]}' first; the manifest has them."
    return json.dumps(document)


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
    sentence = one_line(str(error) if isinstance(error, Failure) else unforeseen(error))
    if task and not isinstance(error, Fenced):
        code = error.exit_code if isinstance(error, Failure) else 1
        with contextlib.suppress(Exception):  # a lake that cannot be written to must not hide the failure itself
            leave_failure_document(task, code, sentence, error)
    tell_last(sentence)


def tell_last(sentence: str) -> None:
    """End stderr, and whatever stands for it, with a sentence."""
    print(sentence, file=sys.stderr, flush=True)
    for tell in LAST_LINE_TO:
        with contextlib.suppress(Exception):  # the exit code matters more
            tell(sentence)


def leave_failure_document(task: Task, code: int, sentence: str, error: BaseException | None) -> None:
    """Leave what happened in the attempt's folder, unless another process of this attempt has published."""
    there = manifest.find(lake.manifest(task.key))
    if there and manifest.compared(there.document["task"], task.identity) == 0:
        return
    chain = []
    while error:
        frames = traceback.extract_tb(error.__traceback__)
        where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno} {frames[-1].name}" if frames else ""
        chain.append({"type": type(error).__name__, "message": str(error)[:4000], "where": where})
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    document = {"format": manifest.FORMAT, "task": task.identity, "job": task.job.name, "fingerprint": task.code}
    document |= {"exit_code": code, "sentence": sentence, "exceptions": chain, "effects": task.effects}
    document |= {**task.given(), **task.times()}
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


def terminated(task: Task, at_rest: bool) -> str:
    """One sentence about a task that SIGTERM ends: what it has published, if anything."""
    if not at_rest:
        return f"Terminated by SIGTERM while publishing; look at {lake.manifest(task.key)}, then rerun the task."
    if not task.effects:
        return "Terminated by SIGTERM before publishing; rerun the task."
    more = f" and {len(task.effects) - 1} more" if len(task.effects) > 1 else ""
    return f"Terminated by SIGTERM after it {task.effects[0]}{more}, without a manifest of its own; rerun the task."


@contextlib.contextmanager
def ended_by_sigterm(task: Task) -> Iterator[None]:
    """End the process soon after SIGTERM, with a failure document; one that has published comes to its end by itself.

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
                at_rest = task.taking_effect.acquire(timeout=PATIENCE)
                if task.published:
                    return
                sentence = one_line(terminated(task, at_rest))
                with contextlib.suppress(Exception):
                    leave_failure_document(task, 128 + signal.SIGTERM, sentence, None)
                tell_last(sentence)
                os._exit(128 + signal.SIGTERM)

    threading.Thread(target=end, daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, former)
        os.close(writing)

"""Run a job's `main` as a task: fence, resolve inputs, work, publish last, exit with a code."""

import contextlib
import json
import os
import signal
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from common import protocol
from common.errors import InputError, TaskError
from common.handover import manifest, s3, storage
from common.handover.command_line import parse
from common.handover.failure_report import ended_by_sigterm, tell_failure
from common.handover.inputs import resolve
from common.handover.job_toml import code_folder, load
from common.handover.task import Task
from common.protocol import fit_result


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
        if task and not isinstance(error, TaskError) and (failure := s3.explained(error, task.lake)):
            failure.__cause__ = error
            error = failure
        tell_failure(error, task)
        return error.exit_code if isinstance(error, TaskError) else 1


def work(main: Callable[[Task], None], task: Task) -> None:
    own_uri = protocol.manifest_uri(task.key)
    own = manifest.load_or_none(own_uri)
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
            raise TaskError(
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
        Path(file).write_text(json.dumps(fit_result(own_uri, manifest.plain(document["metrics"]))))
    task.log("done", seconds=document["seconds"], peak_memory_mib=document["peak_memory_bytes"] >> 20, manifest=own_uri)

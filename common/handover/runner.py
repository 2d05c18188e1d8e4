"""Run a job's `main` as a task: fence, resolve inputs, execute, publish last, exit with a code."""

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
from common.handover import manifest, storage
from common.handover.command_line import parse
from common.handover.failure_report import code_of, describe_unexpected, handle_sigterm, report_failure
from common.handover.inputs import resolve
from common.handover.job_toml import code_folder, load
from common.handover.task import Task
from common.protocol import fit_result


def run(main: Callable[[Task], None]) -> NoReturn:
    """Run a job's `main` as the task that the command line names, and exit with the code of its outcome."""
    code = exit_code(main, code_folder(Path(main.__globals__["__file__"])), sys.argv[1:])
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the outcome is final, and the exit code must report it
    sys.exit(code)


def exit_code(main: Callable[[Task], None], folder: Path | zipfile.Path, arguments: list[str]) -> int:
    """Run one task from its arguments to its manifest; a failure is reported in the last line on stderr."""
    task = None
    try:
        task = Task(job := load(folder), folder, parse(job, arguments))
        execute(main, task)
        return 0
    except BaseException as error:
        if isinstance(error, SystemExit) and error.code == 0:  # --help
            return 0
        if task and not isinstance(error, TaskError) and (explained := storage.explain(error, task.lake)):
            explained.__cause__ = error
            error = explained
        report_failure(error, task)
        return code_of(error)


def execute(main: Callable[[Task], None], task: Task) -> None:
    manifest_uri = protocol.manifest_uri(task.key)
    seen = manifest.load_or_none(manifest_uri)
    manifest.fence(task.identity, seen)
    with handle_sigterm(task), task.line.alive():
        task.abort_uploads()
        task.log(
            "started", job=task.job.name, attempt=task.attempt, parameters=json.dumps(task.parameters, default=str)
        )
        if task.job.inputs and not storage.is_remote(task.lake) and not storage.local(task.lake).is_dir():
            raise InputError(f"There is no lake at {task.lake}; mount it there, or correct --lake.")
        task.load_replaced()
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
        document = task.document(task.outputs) | task.deliveries_taken()
        with task.effect("published its result"):
            manifest.publish(manifest_uri, document, seen)
            task.published = True
        for step in task.steps_after:
            try:
                step()
            except Exception as error:
                task.log("failed after publishing", error=describe_unexpected(error))
        with contextlib.suppress(OSError):  # the result counts even if it cannot be reported
            report_success(task, manifest_uri, document)


def report_success(task: Task, manifest_uri: str, document: dict[str, Any]) -> None:
    """Log the published outputs, and write the result file that the orchestrator asked for."""
    for role, output in task.outputs.items():
        task.log("output", role=role, rows=output["rows"], bytes=output["bytes"])
    if file := os.environ.get("TANDEM_RESULT_FILE"):
        Path(file).write_text(json.dumps(fit_result(manifest_uri, manifest.plain(document["metrics"]))))
    peak = document["peak_memory_bytes"] >> 20
    task.log("done", seconds=document["seconds"], peak_memory_mib=peak, manifest=manifest_uri)

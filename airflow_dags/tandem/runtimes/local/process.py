"""Runtime `process`: a job as a process on this machine."""

import contextlib
import logging
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from tandem.catalogue import Job
from tandem.runtimes.base import GRACE_SECONDS, Attempt, Outcome, overdue
from tandem.runtimes.output import lines, pass_on, read_result
from tandem.texts import ANYWHERE

CHUNK = 1 << 16  # maximal bytes of one read of output
LIGHT = ("-m", "common.engines.light.submit")  # runs a Spark job on the light engine
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Running:
    """A process, its result file, and the thread that prints its output."""

    process: "subprocess.Popen[bytes]"
    result: Path
    printer: threading.Thread
    last_lines: deque[str]
    ends_at: float  # by the monotonic clock; the process is cancelled then
    deadline_seconds: float | None


@dataclass(frozen=True)
class Process:
    """Runs `python jobs/<job>/main.py`; of a Spark job, `python -m common.engines.light.submit jobs/<job>/main.py`."""

    name: ClassVar[str] = "process"
    refused: ClassVar[re.Pattern[str]] = ANYWHERE
    labels: ClassVar[tuple[str, ...]] = ()
    code: Path
    python: Path
    variables: Mapping[str, str] = field(default_factory=dict)

    def request(self, job: Job, settings: Mapping[str, Any]) -> dict[str, Any]:
        return {"options": list(LIGHT) if job.engine == "spark" else []}

    def payload(self, attempt: Attempt) -> list[str]:
        return [str(self.python), *attempt.request["options"], self.main(attempt), *attempt.arguments]

    def check_product(self, attempt: Attempt) -> None:
        """Accept any attempt: a process runs the checkout itself, there is no build product."""

    def main(self, attempt: Attempt) -> str:
        return str(self.code / "jobs" / attempt.job / "main.py")

    def environment(self) -> dict[str, str]:
        """The environment variables that a job needs besides those of the machine."""
        return {"PYTHONPATH": str(self.code), "PYTHONUNBUFFERED": "1", **self.variables}

    def submit(self, attempt: Attempt) -> Running:
        result = Path(tempfile.mkdtemp(prefix="tandem-")) / "result.json"
        machine = {name: value for name, value in os.environ.items() if not name.lstrip("_").startswith("AIRFLOW")}
        process = subprocess.Popen(
            self.payload(attempt),
            env={**machine, **self.environment(), "TANDEM_RESULT_FILE": str(result)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that its whole process group can be ended, and only that
        )
        last_lines: deque[str] = deque([""], maxlen=1)
        printer = threading.Thread(target=pass_on, args=(lines(chunks(process)), last_lines), daemon=True)
        printer.start()
        ends_at = time.monotonic() + (attempt.deadline_seconds or math.inf)
        return Running(process, result, printer, last_lines, ends_at, attempt.deadline_seconds)

    def links(self, handle: Running) -> dict[str, str]:
        return {}

    def watch(self, handle: Running) -> Outcome:
        explanation = ""
        while handle.process.poll() is None:  # not wait(): `cancel` interrupts this and waits itself
            if not explanation and time.monotonic() > handle.ends_at:
                explanation = overdue(handle.deadline_seconds)
                self.cancel(handle)
            time.sleep(0.05)
        end_group(handle.process, signal.SIGKILL)  # processes that it left behind may hold its output open
        handle.printer.join()
        result = read_result(handle.result)
        shutil.rmtree(handle.result.parent, ignore_errors=True)
        code = handle.process.returncode
        killed = code == -signal.SIGKILL and not explanation  # as Linux does when memory runs out
        return Outcome(code, result, handle.last_lines[0], explanation, out_of_memory=killed)

    def cancel(self, handle: Running) -> None:
        end_group(handle.process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            handle.process.wait(GRACE_SECONDS)
        end_group(handle.process, signal.SIGKILL)

    def rerun_command(self, attempt: Attempt) -> str:
        variables = [f"{name}={shlex.quote(value)}" for name, value in self.environment().items()]
        return " ".join([*variables, shlex.join(self.payload(attempt))])


def chunks(process: "subprocess.Popen[bytes]") -> Iterator[bytes]:
    """The output of a process as it comes, in chunks that end anywhere."""
    output: Any = process.stdout
    while chunk := output.read1(CHUNK):
        yield chunk


def end_group(process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)

"""Runtime `process`: a Python job as a process on this machine."""

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
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from tandem.catalogue import Job
from tandem.runtimes.base import Attempt, Outcome, overdue
from tandem.runtimes.output import lines, read_result, remembered
from tandem.texts import ANYWHERE

GRACE_SECONDS = 3  # between TERM and KILL; Airflow kills a task that does not end within 5
PIECE = 1 << 16  # bytes of output that are read at once, at most
SPARKS_OWN = re.compile(r"\d\d/\d\d/\d\d \d\d:\d\d:\d\d ")  # lines of the JVM, which come after a job's last one too
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Running:
    """A process, the file it leaves its result in, and the thread that passes its output on."""

    process: "subprocess.Popen[bytes]"
    result: Path
    printer: threading.Thread
    last_lines: deque[str]
    ends_at: float  # by the monotonic clock: it is cancelled then
    deadline_seconds: float | None


@dataclass(frozen=True)
class Process:
    """Runs `python jobs/<job>/main.py`."""

    refused: ClassVar[re.Pattern[str]] = ANYWHERE
    code: Path
    python: Path
    variables: Mapping[str, str] = field(default_factory=dict)

    def request(self, job: Job, settings: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    def command(self, work: Attempt) -> list[str]:
        """The command line of a work."""
        return [str(self.python), self.main(work), *work.arguments]

    def sent(self, work: Attempt) -> list[str]:
        return self.command(work)

    def main(self, work: Attempt) -> str:
        return str(self.code / "jobs" / work.job / "main.py")

    def environment(self) -> dict[str, str]:
        """The environment variables that a job needs beside those of the machine."""
        return {"PYTHONPATH": str(self.code), "PYTHONUNBUFFERED": "1", **self.variables}

    def submit(self, work: Attempt) -> Running:
        result = Path(tempfile.mkdtemp(prefix="tandem-")) / "result.json"
        machine = {name: value for name, value in os.environ.items() if not name.lstrip("_").startswith("AIRFLOW")}
        process = subprocess.Popen(
            self.command(work),
            env={**machine, **self.environment(), "TANDEM_RESULT_FILE": str(result)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that its whole process group can be ended, and only that
        )
        last_lines: deque[str] = deque([""], maxlen=1)
        printer = threading.Thread(target=pass_on, args=(lines(pieces(process)), last_lines), daemon=True)
        printer.start()
        ends_at = time.monotonic() + (work.deadline_seconds or math.inf)
        return Running(process, result, printer, last_lines, ends_at, work.deadline_seconds)

    def watch(self, handle: Running) -> Outcome:
        explanation = ""
        while handle.process.poll() is None:  # not wait(): `cancel` interrupts this and waits itself
            if not explanation and time.monotonic() > handle.ends_at:
                explanation = overdue(handle.deadline_seconds)
                self.cancel(handle)
            time.sleep(0.05)
        end_group(handle.process, signal.SIGKILL)  # what it may have left behind holds its output open
        handle.printer.join()
        result = read_result(handle.result)
        shutil.rmtree(handle.result.parent, ignore_errors=True)
        return Outcome(handle.process.returncode, result, handle.last_lines[0], explanation)

    def cancel(self, handle: Running) -> None:
        end_group(handle.process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            handle.process.wait(GRACE_SECONDS)
        end_group(handle.process, signal.SIGKILL)

    def again(self, work: Attempt) -> str:
        variables = [f"{name}={shlex.quote(value)}" for name, value in self.environment().items()]
        return " ".join([*variables, shlex.join(self.command(work))])


def pass_on(output: Iterable[str], last_lines: deque[str]) -> None:
    """Print each line of a job's output as it comes, and keep the last one that says something."""
    for line in output:
        log.info("%s", line.rstrip())
        if line.strip() and not SPARKS_OWN.match(line):
            last_lines.append(remembered(line))


def pieces(process: "subprocess.Popen[bytes]") -> Iterator[bytes]:
    """The output of a process, in pieces that end anywhere, as it comes."""
    output: Any = process.stdout
    while piece := output.read1(PIECE):
        yield piece


def end_group(process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)

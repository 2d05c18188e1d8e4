"""Processes of jobs on this machine: find by command line, stop, kill, orphan, duplicate."""

import contextlib
import itertools
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class JobProcess:
    """The first process of a job's process group, and its task."""

    pid: int
    parent: int
    dag: str
    run: str
    task: str
    shard: int | None
    attempt: int

    @property
    def identity(self) -> tuple[Any, ...]:
        return (self.dag, self.run, self.task, self.shard, self.attempt)

    def signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def alive(self) -> bool:
        return Path(f"/proc/{self.pid}/cwd").exists()

    def orphan(self) -> None:
        """Kill the worker that waits for the process; the process continues, because its output is still read."""
        keep_reading(self.pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.parent, signal.SIGKILL)


def running(lake: str) -> Iterator[JobProcess]:
    """Yield the processes of running tasks on a lake."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            parsed = options(arguments)
            if parsed.get("--lake") != lake or "--attempt" not in parsed:
                continue
            parent, group = map(int, (folder / "stat").read_text().rpartition(")")[2].split()[1:3])
        except (OSError, ValueError):
            continue
        if group == int(folder.name):
            yield JobProcess(group, parent, **task_of(parsed))


def options(arguments: list[str]) -> dict[str, str]:
    """Parse the options of a command line: --option=VALUE or --option VALUE."""
    separate = dict(itertools.pairwise(arguments))
    return separate | dict(word.split("=", 1) for word in arguments if word.startswith("--") and "=" in word)


def task_of(parsed: dict[str, str]) -> dict[str, Any]:
    """Return the task in a job's options."""
    return {
        "dag": parsed["--dag-id"],
        "run": parsed["--run-id"],
        "task": parsed["--task-id"],
        "shard": int(parsed["--map-index"]) if "--map-index" in parsed else None,
        "attempt": int(parsed["--attempt"]),
    }


def keep_reading(pid: int) -> None:
    """Read a process's output until it ends, so that it can continue without its first reader."""
    with contextlib.suppress(OSError):
        output = open(f"/proc/{pid}/fd/1", "rb", buffering=0)  # noqa: SIM115, PTH123
        threading.Thread(target=drain, args=(output,), daemon=True).start()


def drain(output: Any) -> None:
    with output, contextlib.suppress(OSError):
        while output.read(1 << 16):
            pass


def twin(process: JobProcess, output: Path) -> subprocess.Popen[bytes] | None:
    """Start a second process of the same attempt, as a recovered node does; None if the first has ended."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        folder = Path(f"/proc/{process.pid}")
        arguments = (folder / "cmdline").read_bytes().decode().split("\0")[:-1]
        variables = dict(
            entry.split("=", 1) for entry in (folder / "environ").read_bytes().decode().split("\0") if "=" in entry
        )
        variables.pop("TANDEM_RESULT_FILE", None)
        with output.open("wb") as file:
            return subprocess.Popen(
                arguments,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    return None

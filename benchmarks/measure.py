"""Run commands alternately in fresh processes: wall time, CPU time and memory of all their processes, as a table."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from common.handover.heartbeat import status_bytes

RESULTS = Path(__file__).parent / "results.md"
SAMPLE_SECONDS = 0.05  # seconds between two samples of the processes


@dataclass(frozen=True)
class Measurement:
    """One run: wall and CPU seconds, peak resident memory (bytes), and the figures that the command printed.

    CPU and memory are of the process and all its descendants. Shared memory counts in each process.
    `figures` is the JSON object of the last line on stdout: times of steps, sums to compare results.
    """

    wall: float
    cpu: float
    peak: int
    figures: dict[str, Any] = field(default_factory=dict)


class Watch(threading.Thread):
    """Sample a process and its descendants until the end: CPU seconds of each, peak memory of all together."""

    def __init__(self, process: int) -> None:
        super().__init__(daemon=True)
        self.root = psutil.Process(process)
        self.ended = threading.Event()
        self.cpu: dict[tuple[int, float], float] = {}
        self.peak = 0

    def run(self) -> None:
        while True:
            self.sample()
            if self.ended.wait(SAMPLE_SECONDS):
                return

    def sample(self) -> None:
        memory = largest = 0
        try:
            processes = [self.root, *self.root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        for process in processes:
            try:
                with process.oneshot():
                    times, key = process.cpu_times(), (process.pid, process.create_time())
                    memory += process.memory_info().rss
                    peak = status_bytes(str(process.pid), "VmHWM")  # the kernel's peak, also between two polls
                    largest = max(largest, peak)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
            self.cpu[key] = times.user + times.system
        self.peak = max(self.peak, memory, largest)


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Measurement:
    """Run a command to its end; RuntimeError with the end of its stderr if it fails.

    CPU is the system's account of the process and its awaited descendants, or the sum of the last samples, whichever is
    more: a Java process without a waiting parent counts, too.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=errors, env={**os.environ, **(environment or {})})
        watch = Watch(process.pid)
        watch.start()
        try:
            _, ended, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            raise
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(ended)
        watch.ended.set()
        watch.join()
        if process.returncode != 0:
            errors.seek(0)
            tail = errors.read().decode(errors="replace")[-4000:]
            raise RuntimeError(f"{' '.join(command)} ended with exit code {process.returncode}:\n{tail}")
        out.seek(0)
        lines = out.read().decode(errors="replace").splitlines()
    last = lines[-1] if lines else ""
    return Measurement(
        wall,
        max(usage.ru_utime + usage.ru_stime, sum(watch.cpu.values())),
        watch.peak,  # not ru_maxrss, which includes the memory of this process at the fork
        json.loads(last) if last.startswith("{") else {},
    )


def alternate(commands: Mapping[str, Sequence[str]], runs: int) -> dict[str, list[Measurement]]:
    """Run each command `runs` times, in turns (first, second, …, first, …), so that load affects all alike."""
    found: dict[str, list[Measurement]] = {name: [] for name in commands}
    for number in range(runs):
        for name, command in commands.items():
            print(f"  run {number + 1} of {runs}: {name} …", end="", file=sys.stderr, flush=True)
            found[name].append(run(command))
            one = found[name][-1]
            print(f" {one.wall:.1f} s, CPU {one.cpu:.1f} s, {one.peak / 2**20:,.0f} MiB", file=sys.stderr, flush=True)
    return found


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Format the median and, for two or more values, the range: `3.1 (2.9 to 3.4)`."""
    middle = f"{statistics.median(values):,.{digits}f}"
    return middle if len(values) < 2 else f"{middle} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


Column = Callable[[Measurement], float]


def table(found: Mapping[str, Sequence[Measurement]], columns: Mapping[str, Column] | None = None) -> str:
    """Return Markdown, one row per name: wall, CPU, peak memory, and further `columns` by heading; medians and ranges.

    `columns` are functions of one run, such as `lambda one: one.figures["fit"]`.
    """
    heads: dict[str, Column] = {**(columns or {}), "wall, s": lambda one: one.wall, "CPU, s": lambda one: one.cpu}
    lines = [f"| | {' | '.join(heads)} | peak, MiB |", "|---|" + "---|" * (len(heads) + 1)]
    for name, runs in found.items():
        cells = [spread([column(one) for one in runs]) for column in heads.values()]
        lines.append(f"| {name} | {' | '.join(cells)} | {spread([one.peak / 2**20 for one in runs], 0)} |")
    return "\n".join(lines)


def versions(*packages: str) -> str:
    """Return the versions of a run: system, cores, Python and the named packages of this environment."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    installed = [f"{name} {version(name)}" for name in packages]
    return ", ".join(
        [
            f"{platform.system()} {platform.machine()}",
            f"{cores} cores",
            f"Python {platform.python_version()}",
            *installed,
        ]
    )


def record(title: str, command: str, body: str, path: Path = RESULTS) -> None:
    """Print a result and add it to the end of benchmarks/results.md, with the day and the command."""
    text = f"## {title}\n{datetime.now(UTC):%Y-%m-%d}, `{command}`\n\n{body.strip()}\n"
    print("\n" + text)
    before = path.read_text() if path.exists() else "# Results of the benchmarks\n"
    path.write_text(f"{before.rstrip()}\n\n{text}")

"""Runs commands side by side in fresh processes: wall time, CPU time and memory of all their processes, as a table."""

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
EVERY = 0.05  # seconds between two looks at the processes


@dataclass(frozen=True)
class Measurement:
    """One run: wall and CPU seconds, most resident memory at one time (bytes), and what the command said of itself.

    CPU and memory are of the process and all its descendants. Memory that processes share counts in each of them.
    `said` is the JSON object of the last line on stdout: times of its parts, sums by which results are compared.
    """

    wall: float
    cpu: float
    peak: int
    said: dict[str, Any] = field(default_factory=dict)


class Watch(threading.Thread):
    """Looks at a process and its descendants until told to end: CPU seconds of each, most memory of all together."""

    def __init__(self, process: int) -> None:
        super().__init__(daemon=True)
        self.root = psutil.Process(process)
        self.ended = threading.Event()
        self.cpu: dict[tuple[int, float], float] = {}
        self.peak = 0

    def run(self) -> None:
        while True:
            self.look()
            if self.ended.wait(EVERY):
                return

    def look(self) -> None:
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

    CPU is what the system accounts to the process and to the descendants that were waited for, or the sum of what was
    last seen of each, whichever is more: a Java process that nobody waits for counts too.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as complaints:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=complaints, env={**os.environ, **(environment or {})})
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
            complaints.seek(0)
            tail = complaints.read().decode(errors="replace")[-4000:]
            raise RuntimeError(f"{' '.join(command)} ended with exit code {process.returncode}:\n{tail}")
        out.seek(0)
        lines = out.read().decode(errors="replace").splitlines()
    last = lines[-1] if lines else ""
    return Measurement(
        wall,
        max(usage.ru_utime + usage.ru_stime, sum(watch.cpu.values())),
        watch.peak,  # not ru_maxrss, which begins with what this process held when it started the other
        json.loads(last) if last.startswith("{") else {},
    )


def alternate(commands: Mapping[str, Sequence[str]], runs: int) -> dict[str, list[Measurement]]:
    """Each command `runs` times, in turns (first, second, …, first, …), so that a busy minute hits all of them."""
    found: dict[str, list[Measurement]] = {name: [] for name in commands}
    for number in range(runs):
        for name, command in commands.items():
            print(f"  run {number + 1} of {runs}: {name} …", end="", file=sys.stderr, flush=True)
            found[name].append(run(command))
            one = found[name][-1]
            print(f" {one.wall:.1f} s, CPU {one.cpu:.1f} s, {one.peak / 2**20:,.0f} MiB", file=sys.stderr, flush=True)
    return found


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Median and, of two values or more, the least and the most: `3.1 (2.9 to 3.4)`."""
    middle = f"{statistics.median(values):,.{digits}f}"
    return middle if len(values) < 2 else f"{middle} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


Column = Callable[[Measurement], float]


def table(found: Mapping[str, Sequence[Measurement]], columns: Mapping[str, Column] | None = None) -> str:
    """Markdown, a row for each name: wall, CPU, peak memory, and more `columns` by their headings; medians and spread.

    `columns` are functions of one run, such as `lambda one: one.said["fit"]`.
    """
    heads: dict[str, Column] = {**(columns or {}), "wall, s": lambda one: one.wall, "CPU, s": lambda one: one.cpu}
    lines = [f"| | {' | '.join(heads)} | peak, MiB |", "|---|" + "---|" * (len(heads) + 1)]
    for name, runs in found.items():
        cells = [spread([column(one) for one in runs]) for column in heads.values()]
        lines.append(f"| {name} | {' | '.join(cells)} | {spread([one.peak / 2**20 for one in runs], 0)} |")
    return "\n".join(lines)


def versions(*packages: str) -> str:
    """What it ran on: system, cores, Python and the named packages of this environment."""
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
    """Print a result and add it to the end of benchmarks/results.md, with the day and the command that shows it."""
    text = f"## {title}\n{datetime.now(UTC):%Y-%m-%d}, `{command}`\n\n{body.strip()}\n"
    print("\n" + text)
    before = path.read_text() if path.exists() else "# Results of the benchmarks\n"
    path.write_text(f"{before.rstrip()}\n\n{text}")

"""Lines on stdout: one per event, and an alive line twice a minute with progress and memory."""

import contextlib
import datetime
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from common.errors import one_line

INTERVAL = 30  # seconds; load balancers and log readers drop connections that are silent for a minute or more


class Progress:
    """Progress of a task, for its alive line."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.started = time.monotonic()
        self.text = "starting"

    def log(self, event: str, **numbers: object) -> None:
        """Print one line: time, task, event, numbers."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        fields = "".join(f" {name}={value}" for name, value in numbers.items())
        print(one_line(f"{now} {self.name} {event}{fields}"), flush=True)

    @contextlib.contextmanager
    def alive(self, interval: float = INTERVAL) -> Iterator[None]:
        """Print an alive line every `interval` seconds while the block runs."""

        def beat() -> None:
            seconds = round(time.monotonic() - self.started)
            memory = sum(status_bytes(process, "VmRSS") for process in process_family()) >> 20
            self.log("alive", seconds=seconds, memory_mib=memory, progress=f"'{self.text}'")

        with repeatedly(beat, interval):
            yield


@contextlib.contextmanager
def repeatedly(function: Callable[[], None], interval: float) -> Iterator[None]:
    """Call a function every `interval` seconds in its own thread while the block runs."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(interval):
            function()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def peak_memory() -> int:
    """Return the peak of resident bytes of this process and its Java virtual machine, if any; 0 without /proc."""
    return sum(status_bytes(process, "VmHWM") for process in process_family())


def process_family() -> list[str]:
    """Return this process, its children, and the Java virtual machine that started it (spark-submit does)."""
    family = ["self"]
    with contextlib.suppress(OSError):  # the first process of a container has no parent
        for file in Path("/proc/self/task").glob("*/children"):
            family += file.read_text().split()
        parent = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[1]
        if Path(f"/proc/{parent}/comm").read_text().strip() == "java":
            family.append(parent)
    return family


def status_bytes(process: str, field: str) -> int:
    """Return the bytes in a field of /proc/PID/status; 0 for a process that has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    return 0

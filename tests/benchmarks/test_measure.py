"""Measurements of commands with known time and memory."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import measure
from benchmarks.measure import Measurement


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


BUSY = "import time; end = time.process_time() + .6\nwhile time.process_time() < end: pass"


def test_memory_and_time_of_grandchildren_count() -> None:
    grandchild = f"held = bytearray(200 << 20); held[::4096] = b'1' * len(held[::4096])\n{BUSY}"
    found = measure.run(python(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {grandchild!r}])"))
    assert found.peak > 200 << 20
    assert 0.6 <= found.cpu < found.wall + 0.5


def test_memory_of_the_measuring_process_does_not_count() -> None:
    held = bytearray(300 << 20)
    held[::4096] = b"1" * len(held[::4096])
    assert measure.run(python("import time; time.sleep(.3)")).peak < 100 << 20


def test_peak_between_two_samples_counts() -> None:
    spike = "import mmap; mmap.mmap(-1, 200 << 20).write(bytes(200 << 20)); import time; time.sleep(3)"
    assert measure.run(python(spike)).peak > 200 << 20


def test_time_of_an_unawaited_child_counts() -> None:
    ended = "os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT); time.sleep(3)"  # does not reap it
    leave = f"import os, subprocess, sys, time; child = subprocess.Popen([sys.executable, '-c', {BUSY!r}]); {ended}"
    assert measure.run(python(leave)).cpu > 0.55


def test_waiting_is_not_cpu_time_and_last_line_has_figures() -> None:
    found = measure.run(python("import time; time.sleep(1); print('hello'); print('{\"rows\": 7}')"))
    assert found.figures == {"rows": 7}
    assert found.wall > 1 and found.cpu < 0.9


def test_failed_command_is_reported_with_its_error() -> None:
    with pytest.raises(RuntimeError, match="exit code 3:\nno such table"):
        measure.run(python("import sys; print('no such table', file=sys.stderr); sys.exit(3)"))


def test_interrupted_run_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    original = subprocess.Popen

    def remembered(*arguments, **options):
        started.append(original(*arguments, **options))
        return started[-1]

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(measure.subprocess, "Popen", remembered)
    monkeypatch.setattr(measure.os, "wait4", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measure.run(python("import time; time.sleep(60)"))
    monkeypatch.undo()
    assert started[0].wait() == -9


def test_commands_take_turns(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = {name: ["sh", "-c", f"echo {name} >>{log}"] for name in ("ours", "peer")}
    found = measure.alternate(command, 2)
    assert log.read_text().split() == ["ours", "peer", "ours", "peer"]
    assert {name: len(runs) for name, runs in found.items()} == {"ours": 2, "peer": 2}


def test_table_has_medians_and_ranges() -> None:
    runs = [Measurement(wall, wall * 2, 3 << 20, {"fit": wall / 10}) for wall in (1.0, 5.0, 2.0)]
    assert measure.table({"ours": runs, "once": runs[:1]}, {"fit, s": lambda one: one.figures["fit"]}).splitlines() == [
        "| | fit, s | wall, s | CPU, s | peak, MiB |",
        "|---|---|---|---|---|",
        "| ours | 0.2 (0.1 to 0.5) | 2.0 (1.0 to 5.0) | 4.0 (2.0 to 10.0) | 3 (3 to 3) |",
        "| once | 0.1 | 1.0 | 2.0 | 3 |",
    ]


def test_results_are_appended(tmp_path: Path) -> None:
    file = tmp_path / "results.md"
    measure.record("First", "make one", "body\n", file)
    measure.record("Second", "make two", "| a |", file)
    day = time.strftime("%Y-%m-%d", time.gmtime())
    assert file.read_text() == (
        f"# Results of the benchmarks\n\n## First\n{day}, `make one`\n\nbody\n\n## Second\n{day}, `make two`\n\n| a |\n"
    )

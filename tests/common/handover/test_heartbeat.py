"""Alive lines of a task: progress and memory."""

import re
import time

from common.handover.heartbeat import Progress, peak_memory


def test_alive_lines_show_progress_and_memory(capsys):
    progress = Progress("train")
    progress.text = "models 2/5"
    lines: list[str] = []
    with progress.alive(0.05):
        while len(lines) < 2:
            time.sleep(0.05)
            lines += capsys.readouterr().out.splitlines()
    capsys.readouterr()
    line = re.fullmatch(r"\S+Z?\+00:00 train alive seconds=\d+ memory_mib=(\d+) progress='models 2/5'", lines[0])
    assert int(line[1]) > 5
    time.sleep(0.1)
    assert not capsys.readouterr().out  # no line after the block


def test_peak_memory_stays_after_release():
    block = b"x" * (64 << 20)
    at_peak = peak_memory()
    assert at_peak > len(block)
    del block
    assert peak_memory() > at_peak * 0.99  # the kernel counts in batches

"""The lines by which a task shows that it is alive."""

import re
import time

from common.handover.heartbeat import Progress, peak_memory


def test_a_silent_task_says_how_far_it_is_and_what_memory_it_has(capsys):
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
    assert not capsys.readouterr().out  # it ends with the work


def test_the_peak_of_memory_is_kept_after_it_was_given_back():
    block = b"x" * (64 << 20)
    at_peak = peak_memory()
    assert at_peak > len(block)
    del block
    assert peak_memory() > at_peak * 0.99  # the kernel counts in batches

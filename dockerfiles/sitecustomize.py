"""What Python does first in a job's image: end on SIGTERM from the start on, and as many threads as the CPU limit."""

import os
import signal
from pathlib import Path


def cpu_limit() -> int:
    """Whole processors that this container may use, at least 1: its CPU limit rounded up, and those it is pinned to."""
    available = len(os.sched_getaffinity(0))
    for quota_file, period_file in (("cpu.max", "cpu.max"), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota = Path("/sys/fs/cgroup", quota_file).read_text().split()[0]
            period = Path("/sys/fs/cgroup", period_file).read_text().split()[-1]
        except OSError:  # the other version of control groups, or a root that shows none
            continue
        if quota not in ("max", "-1"):
            return max(1, min(available, -(-int(quota) // int(period))))
    return available


# The first process of a container ignores a signal that it has no handler for; common.handover.task sets its own later.
signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
# OpenBLAS, OpenMP and Arrow read this when they are loaded; left alone they take every processor of the machine.
os.environ.setdefault("OMP_NUM_THREADS", str(cpu_limit()))

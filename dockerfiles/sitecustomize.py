"""Startup of Python in a job's image: exit on SIGTERM from the start, and limit threads to the CPU limit."""

import os
import signal
from pathlib import Path


def cpu_limit() -> int:
    """Return the processors of this container, at least 1: its CPU limit rounded up, at most those it is pinned to."""
    available = len(os.sched_getaffinity(0))
    for quota_file, period_file in (("cpu.max", "cpu.max"), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota = Path("/sys/fs/cgroup", quota_file).read_text().split()[0]
            period = Path("/sys/fs/cgroup", period_file).read_text().split()[-1]
        except OSError:  # another version of control groups, or none visible
            continue
        if quota not in ("max", "-1"):
            return max(1, min(available, -(-int(quota) // int(period))))
    return available


# The first process of a container ignores signals without a handler; common.handover.task sets its own later.
signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
# OpenBLAS, OpenMP and Arrow read this on import; by default they use every processor of the machine.
os.environ.setdefault("OMP_NUM_THREADS", str(cpu_limit()))

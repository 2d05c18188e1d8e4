"""Compaction: a day stays in few files, and its rows are rewritten few times, for any deliveries over two years."""

import pytest

from common.engines.frames.append import MAX_SMALL, files_to_compact
from common.handover.storage import File

HOURS = 2 * 365 * 24
KIB, MIB = 1 << 10, 1 << 20


@pytest.mark.parametrize(
    ("hourly", "late"),
    [(12 * KIB, [6 * KIB]), (1500 * KIB, [6 * KIB, 200 * KIB, 9 * KIB]), (200 * MIB, [3 * MIB])],
)
def test_day_of_hourly_deliveries_stays_in_few_files(hourly: int, late: list[int]) -> None:
    """A day gets a file each hour, then for two years one each hour with late events."""
    files: list[File] = []
    rewritten = delivered = most = 0
    for hour in range(HOURS):
        added = hourly if hour < 24 else late[hour % len(late)]
        small = files_to_compact(files)
        if small:
            rewritten += sum(file.bytes for file in small)
            files = [file for file in files if file not in small]
            files.append(File(f"rewritten {hour}", sum(file.bytes for file in small)))
        files.append(File(f"added {hour}", added))
        delivered += added
        most = max(most, len(files) - delivered // MAX_SMALL)
    assert most <= 32
    assert rewritten <= 6 * delivered

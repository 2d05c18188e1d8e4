"""What is too old in the intermediate level: whole runs only, and deleted only if asked for."""

import os
import subprocess
import sys

import pytest

from common import storage
from tools import retention
from tools.fingerprint import ROOT


def told(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "tools.retention", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def put(lake: str, name: str, days: int) -> None:
    storage.write(f"{lake}/intermediate/{name}", b"12345")
    if not storage.is_s3(lake):
        file = storage.local(f"{lake}/intermediate/{name}")
        os.utime(file, (file.stat().st_mtime - days * 86_400,) * 2)


def test_runs_in_which_nothing_changed_are_shown_and_deleted_if_asked_for(lake):
    put(lake, "dag/old/task/manifest.json", 9)
    put(lake, "dag/old/task/attempt-1/model/part-0", 10)
    put(lake, "dag/resumed/first/manifest.json", 20)
    put(lake, "dag/resumed/second/attempt-2/rows/part-0", 1)
    storage.write(f"{lake}/curated/items/all/manifest.json", b"{}")
    shown = told("--lake", lake, "--days", "7")
    assert "1 of 2 runs" in shown.stdout
    assert "would be deleted by APPLY=1" in shown.stdout
    assert len(storage.files(lake)) == 5
    assert "1 of 2 runs" in told("--lake", lake, "--days", "7", "--apply").stdout
    left = {file.uri.removeprefix(f"{lake}/") for file in storage.files(lake)}
    assert left == {
        "curated/items/all/manifest.json",
        "intermediate/dag/resumed/first/manifest.json",
        "intermediate/dag/resumed/second/attempt-2/rows/part-0",
    }


def test_runs_are_counted_in_whole_on_any_lake(any_lake):
    put(any_lake, "dag/run/task/manifest.json", 0)
    put(any_lake, "dag/run/task/attempt-1/rows/part-0", 0)
    put(any_lake, "dag/other/task/manifest.json", 0)
    found = retention.runs(f"{any_lake}/intermediate")
    assert {name: (run.files, run.bytes) for name, run in found.items()} == {"dag/run": (2, 10), "dag/other": (1, 5)}
    assert all(run.changed > 1.7e9 for run in found.values())


def test_how_long_is_the_environments_unless_it_is_said(lake):
    put(lake, "dag/run/task/manifest.json", 10)
    assert "1 of 1 runs" in told("--lake", lake, "--environment", "dev").stdout
    assert "0 of 1 runs" in told("--lake", lake, "--environment", "prod").stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [(["--days", "0"], "DAYS is 0, expected one at least"), (["--environment", "pord"], "did you mean 'prod'")],
)
def test_what_can_not_be_meant_is_refused(lake, arguments, sentence):
    assert sentence in told("--lake", lake, *arguments).stderr

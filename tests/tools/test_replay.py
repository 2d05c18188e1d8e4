"""A task again on what it read: fetched, the same result, what has changed told, nothing that others see touched."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from common import storage
from common.lake import encode
from tools.fingerprint import ROOT

CSV = b"item_id,description,seen\n22719,LARGE PAPER BAG,2011-01-01T00:00:00Z\n"


def again(lake: str, run: str, task: str, *more: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "tools.replay", "--lake", lake, "--dag-id", "dag", "--run-id", run]
    inherited = {name: value for name, value in os.environ.items() if name != "DYNAMODB_ENDPOINT"}
    return subprocess.run(
        [*command, "--task-id", task, *more], cwd=ROOT, capture_output=True, text=True, env={**inherited, **environment}
    )


def ran(lake: str, job: str, run: str, *arguments: str) -> int:
    command = [sys.executable, str(ROOT / "jobs" / job / "main.py"), "--lake", lake, "--dag-id", "dag"]
    command += ["--run-id", run, "--task-id", job, "--attempt", "2", *arguments]
    return subprocess.run(command, capture_output=True).returncode


@pytest.fixture
def run(request: pytest.FixtureRequest) -> Iterator[str]:
    """A run ID that no other test has, because scratch lakes lie below the checkout; they are removed."""
    run = f"replay:{request.node.name}+{os.getpid()}"
    yield run
    shutil.rmtree(ROOT / ".tandem" / "replay" / "dag" / encode(run), ignore_errors=True)


def test_a_task_runs_again_on_what_it_read_and_its_result_is_shown_beside_that_of_then(any_lake, run):
    storage.write(f"{any_lake}/raw/items/arrival=2011-08-31/items.csv", CSV)
    assert ran(any_lake, "ingest_items", run) == 0
    before = storage.files(any_lake)
    told = again(any_lake, run, "ingest_items")
    assert told.returncode == 0, told.stderr
    assert "attempt 2 of ingest_items published its result" in told.stdout
    assert re.search(r"items\s*│ 1\s*│ 1\s*│", told.stdout)
    assert storage.files(any_lake) == before
    assert "fetching 0 of 1 files" in again(any_lake, run, "ingest_items").stdout


def test_a_failure_is_met_again_with_its_parameters_and_without_what_was_published_since(lake, run):
    storage.write(f"{lake}/raw/items/arrival=2011-08-31/items.csv", CSV)
    assert ran(lake, "ingest_items", run) == 0
    assert ran(lake, "build_similar_items", run, "--set", "count=7") == 3, "there are no events"
    told = again(lake, run, "build_similar_items")
    assert told.returncode == 3
    assert "ended with exit code 3: The dataset" in told.stdout
    assert "input events is not fetched" in told.stdout
    assert "count=7" in told.stdout
    assert "curated/events (input 'events') has no published partition" in told.stderr.splitlines()[-1]


def test_what_has_changed_since_is_told(lake, run):
    storage.write(f"{lake}/raw/items/arrival=2011-08-31/items.csv", CSV)
    assert ran(lake, "ingest_items", run) == 0
    assert ran(lake, "build_similar_items", run) == 3
    failure = next(storage.local(lake).rglob("failure.json"))
    text = failure.read_text()
    uri = f"{lake}/curated/items/all/manifest.json"
    parent = f'"parents": [{{"role": "items", "uri": "{uri}", "digest": "sha256:other"}}]'
    failure.write_text(re.sub(r'"parents": \[[^\]]*\]', parent, text))
    told = again(lake, run, "build_similar_items")
    assert "input items: of 1 manifests that it read 1 have changed, 0 are gone" in told.stdout


def test_a_job_that_writes_to_what_others_read_is_refused(lake, run):
    assert ran(lake, "publish_product", run, "--from", "product=none", "--set", "tables=x-") == 3
    told = again(lake, run, "publish_product")
    assert "publish_product writes to dynamodb" in told.stderr
    assert "running" in again(lake, run, "publish_product", DYNAMODB_ENDPOINT="http://127.0.0.1:1").stdout


def test_what_is_not_there_is_named(lake, run):
    storage.write(f"{lake}/raw/items/arrival=2011-08-31/items.csv", CSV)
    assert ran(lake, "ingest_items", run) == 0
    assert "has no folder 'ingest_item'; did you mean 'ingest_items'" in again(lake, run, "ingest_item").stderr
    storage.local(f"{lake}/intermediate/dag/killed/ingest_items/attempt-1").mkdir(parents=True)
    assert "it was killed" in again(lake, "killed", "ingest_items").stderr

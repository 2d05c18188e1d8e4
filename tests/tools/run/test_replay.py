"""Replay of a task on its inputs: same result, changes reported, no shared data touched."""

import argparse
import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import botocore.session
import pytest

from common.errors import ArgumentError, TaskError
from common.handover import manifest, storage
from common.handover.job_toml import load
from common.handover.runner import exit_code
from common.handover.stores import gs
from common.protocol import encode
from tools.packaging.fingerprint import ROOT
from tools.run import replay

SOURCE = ["--from", "interactions=build_interactions"]  # which has published nothing
CSV = b"item_id,description,seen\n22719,LARGE PAPER BAG,2011-01-01T00:00:00Z\n"


@pytest.fixture
def run_replay(run_tool, monkeypatch: pytest.MonkeyPatch) -> Callable[..., subprocess.CompletedProcess]:
    """Replay a task as the command does."""
    monkeypatch.delenv("DYNAMODB_ENDPOINT", raising=False)

    def run(lake: str, run: str, task: str, **environment: str) -> subprocess.CompletedProcess:
        names = ["--lake", lake, "--dag-id", "dag", "--run-id", run, "--task-id", task]
        return run_tool("tools.run.replay", *names, **environment)

    return run


def run_job(lake: str, job: str, run: str, *arguments: str) -> int:
    """Run a job's `main` in this process; return its exit code."""
    module = importlib.import_module(f"jobs.{job}.main")
    identity = ["--lake", lake, "--dag-id", "dag", "--run-id", run, "--task-id", job, "--attempt", "2"]
    return exit_code(module.main, ROOT / "jobs" / job, [*identity, *arguments])


@pytest.fixture
def run(request: pytest.FixtureRequest) -> Iterator[str]:
    """A unique run ID, because scratch lakes are below the checkout; they are removed."""
    run = f"replay:{request.node.name}+{os.getpid()}"
    yield run
    shutil.rmtree(ROOT / ".tandem" / "replay" / "dag" / encode(run), ignore_errors=True)


def test_replay_reruns_a_task_and_compares_results(any_lake, run, run_replay):
    storage.write(f"{any_lake}/raw/items/arrival=2011-08-31/items.csv", CSV)
    assert run_job(any_lake, "ingest_items", run) == 0
    before = storage.files(any_lake)
    result = run_replay(any_lake, run, "ingest_items")
    assert result.returncode == 0, result.stderr
    assert "attempt 2 of ingest_items published its result" in result.stdout
    assert re.search(r"items\s*│ 1\s*│ 1\s*│", result.stdout)
    assert storage.files(any_lake) == before
    assert "fetching 0 of 1 files" in run_replay(any_lake, run, "ingest_items").stdout


def test_spark_job_is_replayed_on_the_light_engine_unless_told_otherwise():
    job = load(ROOT / "jobs" / "build_interactions")
    assert replay.program(job, on_spark=False) == [sys.executable, "-m", "common.engines.light.submit"]
    program, *options = replay.program(job, on_spark=True)
    assert (Path(program).name, options[:2]) == ("spark-submit", ["--driver-memory", "1g"])
    assert replay.program(load(ROOT / "jobs" / "ingest_items"), on_spark=False) == [sys.executable]


def test_replayed_ingestion_takes_the_deliveries_of_the_attempt(lake, run, run_replay):
    storage.write(f"{lake}/raw/items/arrival=2011-08-30/items.csv", CSV)
    assert run_job(lake, "ingest_items", f"{run}-before") == 0
    storage.write(f"{lake}/raw/items/arrival=2011-08-31/items.csv", CSV)
    assert run_job(lake, "ingest_items", run) == 0
    storage.write(f"{lake}/raw/items/arrival=2011-08-31/later.csv", CSV)
    assert "fetching 1 of 1 files" in run_replay(lake, run, "ingest_items").stdout


def test_replay_reproduces_a_failure_without_later_inputs(lake, run, run_replay):
    storage.write(f"{lake}/raw/items/arrival=2011-08-31/items.csv", CSV)
    assert run_job(lake, "ingest_items", run) == 0
    assert run_job(lake, "build_similar_items", run, *SOURCE, "--set", "count=7") == 3, "there are no pairs"
    result = run_replay(lake, run, "build_similar_items")
    assert result.returncode == 3
    assert "ended with exit code 3: Task 'build_interactions'" in result.stdout
    assert "input interactions is not fetched" in result.stdout
    assert "count=7" in result.stdout
    assert "Task 'build_interactions' (input 'interactions') has published nothing" in result.stderr.splitlines()[-1]


def test_changed_inputs_are_reported(lake, run, run_replay):
    storage.write(f"{lake}/raw/items/arrival=2011-08-31/items.csv", CSV)
    assert run_job(lake, "ingest_items", run) == 0
    assert run_job(lake, "build_similar_items", run, *SOURCE) == 3
    failure = next(storage.local(lake).rglob("failure.json"))
    text = failure.read_text()
    uri = f"{lake}/curated/items/all/manifest.json"
    parent = f'"parents": [{{"role": "items", "uri": "{uri}", "digest": "sha256:other"}}]'
    failure.write_text(re.sub(r'"parents": \[[^\]]*\]', parent, text))
    result = run_replay(lake, run, "build_similar_items")
    assert "input items: of 1 manifests that it read, 1 have changed, 0 are gone" in result.stdout


def test_job_that_writes_to_a_shared_service_is_refused(lake, run, run_replay):
    assert run_job(lake, "publish_product", run, "--from", "parts=none") == 3
    result = run_replay(lake, run, "publish_product")
    assert "publish_product writes to a store of products, which others may read" in result.stderr
    assert "running" in run_replay(lake, run, "publish_product", DYNAMODB_ENDPOINT="http://127.0.0.1:1").stdout


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://127.8.9.10:8000/", "http://127.8.9.10:8000"),
        ("https://[::1]:8000", "https://[::1]:8000"),
        ("http://localhost:8000", "http://127.0.0.1:8000"),
        ("http://127.1:8000", "http://127.0.0.1:8000"),
        ("", None),
        (" ", None),
        ("127.0.0.1:8000", None),
        ("http://", None),
        ("file:///tmp", None),
        ("https://dynamodb.eu-central-1.amazonaws.com", None),
        ("http://10.0.0.7:8000", None),
        ("http://0.0.0.0:8000", None),
        ("http://169.254.169.254", None),
        ("http://[::ffff:10.0.0.7]:8000", None),
        ("http://127.0.0.1:8000@10.0.0.7", None),
        ("http://10.0.0.7#@127.0.0.1", None),
        ("http://127.0.0.1\\@10.0.0.7", None),
        ("http://127.0.0.1:8000?host=10.0.0.7", None),
        ("http://127.0.0.1/proxy/10.0.0.7", None),
        ("http://127.0.0.1.nip.invalid:8000", None),
        ("http://127.0.0.1:port", None),
    ],
)
def test_only_loopback_addresses_are_accepted(url, address):
    job = load(ROOT / "jobs" / "publish_product")
    if address is None:
        with pytest.raises(ArgumentError, match="set it to a server on this machine"):
            replay.isolate(job, {"DYNAMODB_ENDPOINT": url})
    else:
        variables = replay.isolate(job, {"DYNAMODB_ENDPOINT": url})
        assert variables["DYNAMODB_ENDPOINT"] == variables["AWS_ENDPOINT_URL_DYNAMODB"] == address


@pytest.mark.parametrize(
    ("name", "value", "address"),
    [
        ("BIGTABLE_EMULATOR_HOST", "localhost:8086", "127.0.0.1:8086"),
        ("BIGTABLE_EMULATOR_HOST", "10.0.0.7:8086", None),
        ("REDIS_URL", "redis://localhost:6379/1", "redis://127.0.0.1:6379/1"),
        ("REDIS_URL", "redis://:secret@127.0.0.1:6379", "redis://:secret@127.0.0.1:6379"),
        ("REDIS_URL", "redis://127.0.0.1@10.0.0.7:6379", None),
        ("REDIS_URL", "redis://127.0.0.1:6379?host=10.0.0.7", None),
        ("REDIS_URL", "unix:///run/redis", None),
    ],
)
def test_other_stores_must_be_local_and_no_other_is_reached(name, value, address):
    job = load(ROOT / "jobs" / "publish_product")
    if address is None:
        with pytest.raises(ArgumentError, match="set it to a server on this machine"):
            replay.isolate(job, {name: value})
        return
    variables = replay.isolate(job, {name: value})
    assert variables.pop(name) == address
    others = {variables.get(each) for each in ("BIGTABLE_EMULATOR_HOST", "REDIS_URL", "AWS_ENDPOINT_URL")} - {None}
    assert all(other.rpartition("//")[2] == "127.0.0.1:9" for other in others)


def test_all_addresses_of_a_name_must_be_local(monkeypatch):
    entries = [(None, None, None, "", (address, 80)) for address in ("127.0.0.1", "10.0.0.7")]
    monkeypatch.setattr(replay.socket, "getaddrinfo", lambda *_: entries)
    with pytest.raises(ValueError, match=r"10\.0\.0\.7 is not an address"):
        replay.local_address("http://mixed:8000")


def test_undeclared_services_get_an_address_without_a_server():
    inherited = {
        "AWS_ENDPOINT_URL_S3": "https://s3.example.com",
        "AWS_ENDPOINT_URL_SQS": "https://sqs.example.com",
        "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true",
        "STORAGE_EMULATOR_HOST": "http://10.0.0.7:4443",
        "HTTP_PROXY": "http://10.0.0.7",
        "PATH": "/bin",
    }
    variables = replay.isolate(load(ROOT / "jobs" / "ingest_items"), inherited)
    session = botocore.session.Session()
    with pytest.MonkeyPatch.context() as patch:
        for name in inherited:
            patch.delenv(name, raising=False)
        for name, value in variables.items():
            patch.setenv(name, value)
        for service in ("s3", "dynamodb", "sqs", "sts"):
            client = session.create_client(service, region_name="eu-central-1")
            assert client.meta.endpoint_url == replay.NO_SERVER
        assert gs.endpoint() == replay.NO_SERVER
    assert variables["PATH"] == "/bin"


@pytest.mark.parametrize("job", ["../../../tmp/evil", "/tmp/evil", "ingest_items/../ingest_items", ""])
def test_job_outside_the_checkout_is_not_run(lake, run, job, capsys):
    storage.write(f"{lake}/raw/items/arrival=2011-08-31/items.csv", CSV)
    assert run_job(lake, "ingest_items", run) == 0
    uri = f"{lake}/intermediate/dag/{encode(run)}/ingest_items/manifest.json"
    document = manifest.load_or_none(uri).document
    storage.write(uri, manifest.to_json({**document, "job": job}))
    names = {"dag_id": "dag", "run_id": run, "task_id": "ingest_items", "map_index": None}
    capsys.readouterr()
    with pytest.raises(TaskError, match=re.escape(f"There is no job '{job}'")):
        replay.replay(argparse.Namespace(lake=lake, **names))
    assert "running" not in capsys.readouterr().out


def test_path_out_of_the_lake_is_not_fetched(lake, run, tmp_path, run_replay):
    storage.write(f"{lake}/raw/items/arrival=2011-08-31/items.csv", CSV)
    assert run_job(lake, "ingest_items", run) == 0
    assert run_job(lake, "build_similar_items", run, *SOURCE) == 3
    uri = f"{lake}/curated/items/all/manifest.json"
    document = manifest.load_or_none(uri).document
    (file,) = document["outputs"]["items"]["files"]
    (tmp_path / "secret").write_bytes(b"0" * file["bytes"])
    file["path"] = "../../../../secret"
    storage.write(uri, manifest.to_json(document))
    result = run_replay(lake, run, "build_similar_items")
    assert "names the file '../../../../secret', expected a path below its own folder" in result.stdout
    assert not list((ROOT / ".tandem" / "replay").rglob("secret"))


def test_missing_task_is_reported(lake, run, run_replay):
    storage.write(f"{lake}/raw/items/arrival=2011-08-31/items.csv", CSV)
    assert run_job(lake, "ingest_items", run) == 0
    assert "has no folder 'ingest_item'; did you mean 'ingest_items'" in run_replay(lake, run, "ingest_item").stderr
    storage.local(f"{lake}/intermediate/dag/killed/ingest_items/attempt-1").mkdir(parents=True)
    assert "it was killed" in run_replay(lake, "killed", "ingest_items").stderr

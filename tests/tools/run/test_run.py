"""A job in its image, by hand: what it may use, whose exit code it is, and what is told when it can't be."""

import json
import os
import subprocess
import sys

import pytest

from common.handover import storage
from common.handover.job_toml import Job
from tools.packaging.fingerprint import ROOT, product
from tools.run import run

CSV = b"item_id,description,seen\n22719,LARGE PAPER BAG,2011-01-01T00:00:00Z\n"


def ran(*arguments, **environment):
    command = [sys.executable, "-m", "tools.run.run", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **environment})


def test_a_job_runs_in_its_image_on_local_data(docker_engine, lake):
    storage.write(f"{lake}/raw/items/arrival=2011-08-31/items.csv", CSV)
    told = ran("--job", "ingest_items", "--lake", lake, "--run-id", "r")
    assert told.returncode == 0, told.stderr
    manifest = json.loads(storage.read(f"{lake}/intermediate/by_hand/r/ingest_items/manifest.json")[0])
    assert manifest["fingerprint"] == product("ingest_items").fingerprint
    assert manifest["metrics"]["goods"] == 1


def test_the_exit_code_and_the_last_line_are_the_jobs(docker_engine, lake):
    told = ran("--job", "ingest_items", "--lake", lake)
    assert told.returncode == 3
    assert "raw/items" in told.stderr.splitlines()[-1]


def test_help_with_a_job_is_the_jobs(docker_engine):
    told = ran("--job", "ingest_items", "--help")
    assert told.returncode == 0
    assert "usage: ingest_items/main.py" in told.stdout
    assert "usage: run.py" in ran("--help").stdout


def test_what_cannot_run_is_told(lake):
    assert "did you mean 'ingest_items'" in ran("--job", "ingest_item").stderr
    assert ran("--job", "ingest_items", "--lake", "hdfs:///lake").returncode == 2
    assert "no docker client 'no-such-client'" in ran("--job", "ingest_items", DOCKER="no-such-client").stderr


def test_a_container_that_was_killed_is_told_with_its_limit(lake, tmp_path):
    client = tmp_path / "docker"  # that of an engine whose containers are killed
    client.write_text(
        '#!/bin/sh\n[ "$1" = run ] && exit 137\n[ "$3" = --format ] && [ "$4" = "{{.Size}}" ] && echo 5\n'
        """[ "$2" = inspect ] && [ "$3" != --format ] && echo '[{"Id": "sha256:1", "RepoDigests": []}]'\nexit 0\n"""
    )
    client.chmod(0o755)
    told = ran("--job", "ingest_items", "--lake", lake, DOCKER=str(client))
    assert told.returncode == 137
    assert "killed, most likely at its memory limit (1Gi)" in told.stdout


def test_a_container_of_a_lake_of_files_has_its_folder_its_limits_and_no_network(lake, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    given = run.options(Job("small", "", "python", resources={"cpu": "500m", "memory": "4Gi"}), lake)
    folder = storage.local(lake)
    assert {"--read-only", "--network=none", f"--volume={folder}:{folder}", "--env=OPENBLAS_CORETYPE"} <= set(given)
    assert {"--cpus=0.5", "--memory=4G", "--memory-swap=4G"} <= set(given)
    assert f"--user={os.getuid()}:{folder.stat().st_gid}" in given
    assert not [part for part in given if "AWS" in part]


@pytest.mark.parametrize(
    ("endpoint", "network"),
    [("http://127.0.0.1:7071", "host"), ("http://s3.example", "bridge"), ("", "bridge")],
)
def test_a_container_of_a_lake_on_s3_has_a_network_and_credentials_by_name(monkeypatch, endpoint, network):
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("TANDEM_S3_KMS_KEY", "alias/lake")
    given = run.options(Job("small", "", "python"), "s3://bucket/lake")
    assert {f"--network={network}", "--env=AWS_SECRET_ACCESS_KEY", "--env=TANDEM_S3_KMS_KEY"} <= set(given)
    assert not [part for part in given if "secret" in part or part.startswith("--volume")]


@pytest.mark.parametrize(
    ("endpoint", "network"), [("http://127.0.0.1:7080", "host"), ("http://dynamodb.example", "bridge")]
)
def test_a_job_that_talks_to_a_service_gets_to_it_beside_its_lake(lake, monkeypatch, endpoint, network):
    monkeypatch.setenv("DYNAMODB_ENDPOINT", endpoint)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    given = run.options(Job("small", "", "python", services=("dynamodb",)), lake)
    folder = storage.local(lake)
    expected = {f"--network={network}", f"--volume={folder}:{folder}", "--env=DYNAMODB_ENDPOINT"}
    assert expected | {"--env=AWS_SECRET_ACCESS_KEY"} <= set(given)

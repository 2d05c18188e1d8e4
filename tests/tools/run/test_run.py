"""A job that runs manually in its image: permissions, exit code, and reported errors."""

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


def run_tool(*arguments, **environment):
    command = [sys.executable, "-m", "tools.run.run", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **environment})


def test_job_runs_in_its_image_on_local_data(docker_engine, lake):
    storage.write(f"{lake}/raw/items/arrival=2011-08-31/items.csv", CSV)
    result = run_tool("--job", "ingest_items", "--lake", lake, "--run-id", "r")
    assert result.returncode == 0, result.stderr
    manifest = json.loads(storage.read(f"{lake}/intermediate/by_hand/r/ingest_items/manifest.json")[0])
    assert manifest["fingerprint"] == product("ingest_items").fingerprint
    assert manifest["metrics"]["items"] == 1


def test_exit_code_and_last_line_are_the_jobs(docker_engine, lake):
    result = run_tool("--job", "ingest_items", "--lake", lake)
    assert result.returncode == 3
    assert "raw/items" in result.stderr.splitlines()[-1]


def test_help_with_a_job_is_the_jobs_help(docker_engine):
    result = run_tool("--job", "ingest_items", "--help")
    assert result.returncode == 0
    assert "usage: ingest_items/main.py" in result.stdout
    assert "usage: run.py" in run_tool("--help").stdout


def test_invalid_command_is_reported(lake):
    assert "did you mean 'ingest_items'" in run_tool("--job", "ingest_item").stderr
    assert run_tool("--job", "ingest_items", "--lake", "hdfs:///lake").returncode == 2
    assert "no docker client 'no-such-client'" in run_tool("--job", "ingest_items", DOCKER="no-such-client").stderr


def test_killed_container_is_reported_with_its_limit(lake, tmp_path):
    client = tmp_path / "docker"  # a client of an engine that kills its containers
    client.write_text(
        '#!/bin/sh\n[ "$1" = run ] && exit 137\n[ "$3" = --format ] && [ "$4" = "{{.Size}}" ] && echo 5\n'
        """[ "$2" = inspect ] && [ "$3" != --format ] && echo '[{"Id": "sha256:1", "RepoDigests": []}]'\nexit 0\n"""
    )
    client.chmod(0o755)
    result = run_tool("--job", "ingest_items", "--lake", lake, DOCKER=str(client))
    assert result.returncode == 137
    assert "killed, most likely at its memory limit (2Gi)" in result.stdout


def test_container_on_local_lake_has_folder_limits_no_network(lake, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    flags = run.options(Job("small", "", "python", resources={"cpu": "500m", "memory": "4Gi"}), lake)
    folder = storage.local(lake)
    assert {"--read-only", "--network=none", f"--volume={folder}:{folder}", "--env=OPENBLAS_CORETYPE"} <= set(flags)
    assert {"--cpus=0.5", "--memory=4G", "--memory-swap=4G"} <= set(flags)
    assert f"--user={os.getuid()}:{folder.stat().st_gid}" in flags
    assert not [flag for flag in flags if "AWS" in flag]


@pytest.mark.parametrize(
    ("endpoint", "network"),
    [("http://127.0.0.1:7071", "host"), ("http://s3.example", "bridge"), ("", "bridge")],
)
def test_container_on_s3_has_network_and_credentials_by_name(monkeypatch, endpoint, network):
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("TANDEM_S3_KMS_KEY", "alias/lake")
    flags = run.options(Job("small", "", "python"), "s3://bucket/lake")
    assert {f"--network={network}", "--env=AWS_SECRET_ACCESS_KEY", "--env=TANDEM_S3_KMS_KEY"} <= set(flags)
    assert not [flag for flag in flags if "secret" in flag or flag.startswith("--volume")]


@pytest.mark.parametrize(
    ("endpoint", "network"), [("http://127.0.0.1:7080", "host"), ("http://dynamodb.example", "bridge")]
)
def test_job_with_a_service_reaches_it_and_its_lake(lake, monkeypatch, endpoint, network):
    monkeypatch.setenv("DYNAMODB_ENDPOINT", endpoint)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    flags = run.options(Job("small", "", "python", services=("dynamodb",)), lake)
    folder = storage.local(lake)
    expected = {f"--network={network}", f"--volume={folder}:{folder}", "--env=DYNAMODB_ENDPOINT"}
    assert expected | {"--env=AWS_SECRET_ACCESS_KEY"} <= set(flags)

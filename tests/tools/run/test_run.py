"""A job that runs manually in its image: permissions, exit code, and reported errors."""

import functools
import json
import os
import sys

import pytest

from common.handover import storage
from common.handover.job_toml import Job
from tools.packaging.fingerprint import product
from tools.run import run

CSV = b"item_id,description,seen\n22719,LARGE PAPER BAG,2011-01-01T00:00:00Z\n"


@pytest.fixture
def run_job(run_tool):
    return functools.partial(run_tool, "tools.run.run")


def test_job_runs_in_its_image_on_local_data(docker_engine, lake, run_job):
    storage.write(f"{lake}/raw/items/arrival=2011-08-31/items.csv", CSV)
    result = run_job("--job", "ingest_items", "--lake", lake, "--run-id", "r")
    assert result.returncode == 0, result.stderr
    manifest = json.loads(storage.read(f"{lake}/intermediate/by_hand/r/ingest_items/manifest.json")[0])
    assert manifest["fingerprint"] == product("ingest_items").fingerprint
    assert manifest["metrics"]["items"] == 1


def test_exit_code_and_last_line_are_the_jobs(docker_engine, lake, run_job):
    result = run_job("--job", "ingest_items", "--lake", lake)
    assert result.returncode == 3
    assert "raw/items" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "name"), [([], "build_interactions-light"), (["--kind=image"], "build_interactions")]
)
def test_spark_job_runs_in_its_light_image_or_with_spark(lake, monkeypatch, options, name):
    wanted = product(name, base_image="python:0", base="python:0@sha256:0")
    called = []
    monkeypatch.setattr(run, "current_product", lambda asked, base: wanted if asked == name else None)
    monkeypatch.setattr(run, "build_image", lambda built: None)
    monkeypatch.setattr(run, "call", lambda *arguments: called.append(arguments))
    monkeypatch.setattr(sys, "argv", ["run", "--job", "build_interactions", "--lake", lake, *options])
    with pytest.raises(SystemExit):
        run.main()
    (command,) = called
    assert f"tandem/{name}:{wanted.fingerprint}" in command
    assert "--volume=/tmp" in command, "DuckDB and Spark spill to disk, not to memory"


def test_help_with_a_job_is_the_jobs_help(docker_engine, run_job):
    result = run_job("--job", "ingest_items", "--help")
    assert result.returncode == 0
    assert "usage: ingest_items/main.py" in result.stdout
    assert "usage: run.py" in run_job("--help").stdout


def test_invalid_command_is_reported(lake, run_job):
    assert "did you mean 'ingest_items'" in run_job("--job", "ingest_item").stderr
    assert run_job("--job", "ingest_items", "--lake", "hdfs:///lake").returncode == 2
    assert "no docker client 'no-such-client'" in run_job("--job", "ingest_items", DOCKER="no-such-client").stderr


def test_killed_container_is_reported_with_its_limit(lake, tmp_path, run_job):
    client = tmp_path / "docker"  # a client of an engine that kills its containers
    client.write_text(
        '#!/bin/sh\n[ "$1" = run ] && exit 137\n[ "$3" = --format ] && [ "$4" = "{{.Size}}" ] && echo 5\n'
        """[ "$2" = inspect ] && [ "$3" != --format ] && echo '[{"Id": "sha256:1", "RepoDigests": []}]'\nexit 0\n"""
    )
    client.chmod(0o755)
    result = run_job("--job", "ingest_items", "--lake", lake, DOCKER=str(client))
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
    flags = run.options(Job("small", "", "python", services=("delivery",)), lake)
    folder = storage.local(lake)
    expected = {f"--network={network}", f"--volume={folder}:{folder}", "--env=DYNAMODB_ENDPOINT"}
    assert expected | {"--env=AWS_SECRET_ACCESS_KEY"} <= set(flags)

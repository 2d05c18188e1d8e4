"""A bundle by spark-submit here or as a step of EMR (moto's server), on a lake on S3; the exit code is the job's."""

import argparse
import gzip
import json
import os
import signal
import sys
import time
import uuid
from pathlib import Path

import boto3
import pytest
from moto.emr import models

from common import protocol
from common.errors import TaskError
from common.handover import storage
from tools.packaging import build
from tools.packaging.fingerprint import product
from tools.run import submit
from tools.sandbox import emr_node

BUCKET = "s3://tandem-lake"


@pytest.fixture
def s3_lake(s3_server, tmp_path, monkeypatch):
    """The root of a lake on S3; products go to a folder of their own."""
    for name, value in s3_server.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(build, "DIST", tmp_path / "dist")
    return f"{BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture(scope="module")
def emr():
    """EMR's interface, and the node behind it that runs steps."""
    with emr_node.serve(Path(sys.executable).with_name("spark-submit")) as served:
        yield served


@pytest.fixture
def cluster(s3_lake, emr, monkeypatch):
    """A cluster whose steps do what `on_step` says."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_EMR", emr[0])
    monkeypatch.setattr(submit, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(emr[1], "play", emr[1].play)
    instances = {"KeepJobFlowAliveWhenNoSteps": True, "MasterInstanceType": "m5.large", "InstanceCount": 1}
    return boto3.client("emr").run_job_flow(
        Name="test", Instances=instances, LogUri=f"{s3_lake}/logs/".replace("s3:", "s3n:"), ReleaseLabel="emr-7.0.0"
    )["JobFlowId"]


def steps(cluster):
    return models.emr_backends["123456789012"][os.environ["AWS_REGION"]].clusters[cluster].steps


@pytest.fixture
def on_step(emr):
    """Do something else than run a step soon after it began."""

    # A shell makes what it runs in the background ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def do(act):
        def play(cluster, step):
            time.sleep(0.3)
            act(step)

        emr[1].play = play

    return do


def submitted(*arguments):
    """The exit code of the tool."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "argv", ["submit", *arguments])
        submit.main()
    return ended.value.code


@pytest.fixture
def count(checkout):
    """Submit the small Spark job as a step; what runs is up to the test."""

    def run(lake, cluster, *rest, attempt=1):
        task = argparse.Namespace(
            lake=lake, cluster=cluster, dag_id="d", run_id="r:1", task_id=None, attempt=attempt, map_index=None
        )
        return submit.submit(product("count", checkout), task, list(rest))

    return run


def leave(lake, name, attempt=1, **document):
    """What a job leaves in the lake at its end."""
    key = protocol.task_key(lake, "d", "r:1", "count")
    folder = key if name == "manifest.json" else protocol.attempt_folder(key, attempt)
    storage.write(f"{folder}/{name}", json.dumps({"task": {"attempt": attempt}, **document}).encode())


def log(lake, cluster, path, text):
    storage.write(f"{lake}/logs/{cluster}/{path}", gzip.compress(text.encode()))


def test_the_step_is_the_uploaded_bundle_with_the_tasks_arguments(s3_lake, cluster, count, capsys, on_step):
    def act(step):
        leave(s3_lake, "manifest.json")
        step.state = "COMPLETED"

    on_step(act)
    assert count(s3_lake, cluster, "--set", "a=b c") == 0
    (step,) = steps(cluster)
    (place,) = (each for each in (build.DIST / "count").iterdir() if each.is_dir())
    remote = f"{s3_lake}/code/count/{place.name}"
    for file in place.iterdir():
        assert storage.read(f"{remote}/{file.name}")[0] == file.read_bytes()
    assert step.jar == "command-runner.jar"
    assert step.action_on_failure == "CONTINUE"
    assert step.args == [
        *("spark-submit", "--master", "yarn", "--deploy-mode", "cluster", "--name", "count"),
        *("--conf", "spark.driver.memory=1g", "--conf", "spark.executor.cores=2", "--conf", "spark.a=b c"),
        *("--conf", "spark.yarn.maxAppAttempts=1", "--py-files", f"{remote}/code.zip", f"{remote}/main.py"),
        *(f"--lake={s3_lake}", "--dag-id=d", "--run-id=r:1", "--task-id=count", "--attempt=1"),
        *("--set", "a=b c"),
    ]
    told = capsys.readouterr().out
    assert "RUNNING after" in told
    assert "COMPLETED after" in told
    assert f"{s3_lake}/intermediate/d/r~3a1/count/manifest.json" in told


@pytest.mark.parametrize("value", ["`id`", "a\\", "{{(id)}}", "ä", "a\nb"])
def test_argument_that_the_cluster_would_change_is_not_submitted(s3_lake, cluster, count, value):
    with pytest.raises(TaskError, match="does not reach a job unchanged"):
        count(s3_lake, cluster, "--set", f"a={value}")
    assert steps(cluster) == []


def test_a_bundle_that_lies_in_the_lake_is_not_uploaded_again(s3_lake, count, checkout, monkeypatch):
    wanted = product("count", checkout)
    build.build_bundle(wanted)
    remote = submit.upload(wanted, s3_lake)
    written = []
    monkeypatch.setattr(storage, "write", lambda uri, content: written.append(uri))
    assert submit.upload(wanted, f"{s3_lake}/") == remote
    assert written == []


def test_a_failed_step_ends_with_its_details_the_drivers_log_and_the_jobs_exit_code(
    s3_lake, cluster, count, capsys, on_step
):
    def act(step):
        leave(s3_lake, "failure.json", exit_code=4, sentence="The model is too bad.")
        log(s3_lake, cluster, f"steps/{step.id}/stderr.gz", "Submitted application application_17_0001\n")
        driver = "containers/application_17_0001/container_17_0001_01_000001"
        log(s3_lake, cluster, f"{driver}/stdout.gz", "first\n" + "line\n" * 99 + "what the driver said\n")
        log(s3_lake, cluster, f"{driver[:-1]}2/stdout.gz", "what an executor said\n")
        step.failure_details = {"Reason": "Unknown Error.", "LogFile": "s3://somewhere"}
        step.state = "FAILED"

    on_step(act)
    assert count(s3_lake, cluster) == 4
    told = capsys.readouterr().out
    for text in ("FAILED after", "Reason: Unknown Error.", "what the driver said", "The model is too bad."):
        assert text in told
    assert "first\n" not in told
    assert "executor" not in told
    assert told.rstrip().endswith("The model is too bad.")


def test_the_drivers_log_is_shown_while_it_grows(s3_lake, cluster, count, capsys, on_step, monkeypatch):
    monkeypatch.setattr(submit, "ALIVE_SECONDS", 0.05)
    driver = "containers/application_17_0001/container_17_0001_01_000001/stdout.gz"
    told = []

    def act(step):
        log(s3_lake, cluster, f"steps/{step.id}/stderr.gz", "Submitted application application_17_0001\n")
        for lines in ("one\n", "one\ntwo\n"):
            log(s3_lake, cluster, driver, lines)
            while not told.count(lines.split()[-1]):
                time.sleep(0.05)
                told.extend(capsys.readouterr().out.splitlines())
        told.append("here it ended")
        leave(s3_lake, "manifest.json")
        log(s3_lake, cluster, driver, "one\ntwo\nthree\n")
        step.state = "COMPLETED"

    on_step(act)
    assert count(s3_lake, cluster) == 0
    told += capsys.readouterr().out.splitlines()
    assert [line for line in told if line in ("one", "two", "here it ended", "three")] == [
        *("one", "two", "here it ended", "three")
    ]


def test_without_a_containers_log_the_steps_own_is_shown(s3_lake, cluster, count, capsys, on_step):
    def act(step):
        log(s3_lake, cluster, f"steps/{step.id}/stderr.gz", "no such bundle\n")
        step.state = "FAILED"

    on_step(act)
    assert count(s3_lake, cluster) == 1
    told = capsys.readouterr().out
    assert "no such bundle" in told
    assert "killed or never began" in told


def test_a_step_that_completed_without_a_manifest_of_its_attempt_has_failed(s3_lake, cluster, count, on_step):
    def act(step):
        leave(s3_lake, "manifest.json", attempt=1)
        step.state = "COMPLETED"

    on_step(act)
    assert count(s3_lake, cluster, attempt=2) == 1


def test_a_step_that_failed_has_failed_though_a_manifest_is_there(s3_lake, cluster, count, on_step):
    def act(step):
        leave(s3_lake, "manifest.json")
        step.state = "FAILED"

    on_step(act)
    assert count(s3_lake, cluster) == 1


def ctrl_c(_step):
    os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_asks_and_cancels(s3_lake, cluster, count, monkeypatch, capsys, on_step):
    asked = []
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or "y")
    on_step(ctrl_c)
    assert count(s3_lake, cluster) == 130
    (step,) = steps(cluster)
    assert step.state == "CANCELLED"
    assert asked == [f"\nCancel step {step.id}? [y/N] "]
    assert "CANCELLED after" in capsys.readouterr().out


def test_ctrl_c_and_no_goes_on_waiting(s3_lake, cluster, count, monkeypatch, on_step):
    def no(_question):
        leave(s3_lake, "manifest.json")
        steps(cluster)[0].state = "COMPLETED"
        return ""

    monkeypatch.setattr("builtins.input", no)
    on_step(ctrl_c)
    assert count(s3_lake, cluster) == 0


def test_ctrl_c_twice_leaves_the_step_alone(s3_lake, cluster, count, monkeypatch, capsys, on_step):
    def again(_question):
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input", again)
    on_step(ctrl_c)
    assert count(s3_lake, cluster) == 130
    assert steps(cluster)[0].state == "RUNNING"
    assert "goes on" in capsys.readouterr().out


def test_what_cannot_be_submitted_is_told(s3_lake, lake):
    assert "Python job" in submitted("--job", "train_recommender")
    assert "did you mean 'ingest_events'" in submitted("--job", "ingest_event")
    assert "--lake s3://" in submitted("--job", "ingest_events", "--lake", lake, "--cluster", "j-1")
    assert submitted("--job", "ingest_events", "--lake", "hdfs:///lake") == 2


EVENT = {"event_id": "e1", "user_id": "u", "item_id": "cup", "type": "purchase", "quantity": 1, "unit_price": 2.5}


def test_a_real_job_runs_as_a_step_from_the_lake(s3_lake, cluster, capfd):
    event = EVENT | {"time": "2011-06-01T10:00:00Z", "country": None}
    delivery = f"{s3_lake}/raw/events/arrival=2011-06-01/events.jsonl.gz"
    storage.write(delivery, gzip.compress(json.dumps(event).encode()))
    code = submitted("--job", "ingest_events", "--lake", s3_lake, "--cluster", cluster, "--run-id", "r")
    told = capfd.readouterr().out
    assert code == 0, told
    assert "ingest_events done" in told
    manifest = json.loads(storage.read(f"{s3_lake}/intermediate/by_hand/r/ingest_events/manifest.json")[0])
    assert manifest["fingerprint"] == product("ingest_events").fingerprint
    assert manifest["job"] == "ingest_events"
    assert manifest["outputs"]["events"]["rows"] == 1


def test_a_run_here_shows_the_jobs_own_words_and_ends_with_its_exit_code(s3_lake, capfd):
    assert submitted("--job", "build_interactions", "--lake", s3_lake, "--set", "test_days=7") == 3
    told = capfd.readouterr().out
    assert "curated/events (input 'events') has no published partition" in told
    assert '"test_days": 7' in told
    assert storage.folders(f"{s3_lake}/code/build_interactions") == [product("build_interactions").fingerprint]

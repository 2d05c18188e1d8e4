"""A bundle run by spark-submit here or as a step of EMR (moto), on a lake on S3; the exit code is the job's."""

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
    """The root of a lake on S3; products go to a temporary folder."""
    for name, value in s3_server.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(build, "DIST", tmp_path / "dist")
    return f"{BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture(scope="module")
def emr():
    """EMR's interface, and the node that runs its steps."""
    with emr_node.serve(Path(sys.executable).with_name("spark-submit")) as served:
        yield served


@pytest.fixture
def cluster(s3_lake, emr, monkeypatch):
    """A cluster whose steps run the function of `on_step`, if set."""
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
    """Replace the program of a step by a function, soon after the step began."""
    # A shell makes background processes ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def do(act):
        def play(cluster, step):
            time.sleep(0.3)
            act(step)

        emr[1].play = play

    return do


def run_submit(*arguments):
    """Run the tool; return its exit code."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "argv", ["submit", *arguments])
        submit.main()
    return ended.value.code


@pytest.fixture
def count(checkout):
    """Submit the small Spark job as a step; the test sets its program."""

    def run(lake, cluster, *rest, attempt=1):
        task = argparse.Namespace(
            lake=lake, cluster=cluster, dag_id="d", run_id="r:1", task_id=None, attempt=attempt, map_index=None
        )
        return submit.submit(product("count", checkout), task, list(rest))

    return run


def leave(lake, name, attempt=1, **document):
    """Write a document that a job leaves in the lake at its end."""
    key = protocol.task_key(lake, "d", "r:1", "count")
    folder = key if name == "manifest.json" else protocol.attempt_folder(key, attempt)
    storage.write(f"{folder}/{name}", json.dumps({"task": {"attempt": attempt}, **document}).encode())


def log(lake, cluster, path, text):
    storage.write(f"{lake}/logs/{cluster}/{path}", gzip.compress(text.encode()))


def test_step_runs_the_uploaded_bundle_with_task_arguments(s3_lake, cluster, count, capsys, on_step):
    def act(step):
        leave(s3_lake, "manifest.json")
        step.state = "COMPLETED"

    on_step(act)
    assert count(s3_lake, cluster, "--set", "a=b c") == 0
    (step,) = steps(cluster)
    (bundle,) = (each for each in (build.DIST / "count").iterdir() if each.is_dir())
    remote = f"{s3_lake}/code/count/{bundle.name}"
    for file in bundle.iterdir():
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
    output = capsys.readouterr().out
    assert "RUNNING after" in output
    assert "COMPLETED after" in output
    assert f"{s3_lake}/intermediate/d/r~3a1/count/manifest.json" in output


@pytest.mark.parametrize("value", ["`id`", "a\\", "{{(id)}}", "ä", "a\nb"])
def test_argument_that_the_cluster_would_change_is_not_submitted(s3_lake, cluster, count, value):
    with pytest.raises(TaskError, match="does not reach a job unchanged"):
        count(s3_lake, cluster, "--set", f"a={value}")
    assert steps(cluster) == []


def test_bundle_in_the_lake_is_not_uploaded_again(s3_lake, count, checkout, monkeypatch):
    wanted = product("count", checkout)
    build.build_bundle(wanted)
    remote = submit.upload(wanted, s3_lake)
    written = []
    monkeypatch.setattr(storage, "write", lambda uri, content: written.append(uri))
    assert submit.upload(wanted, f"{s3_lake}/") == remote
    assert written == []


def test_failed_step_prints_details_and_log_and_exits_as_the_job(s3_lake, cluster, count, capsys, on_step):
    def act(step):
        leave(s3_lake, "failure.json", exit_code=4, sentence="The model is too bad.")
        log(s3_lake, cluster, f"steps/{step.id}/stderr.gz", "Submitted application application_17_0001\n")
        driver = "containers/application_17_0001/container_17_0001_01_000001"
        log(s3_lake, cluster, f"{driver}/stdout.gz", "first\n" + "line\n" * 99 + "output of the driver\n")
        log(s3_lake, cluster, f"{driver[:-1]}2/stdout.gz", "output of an executor\n")
        step.failure_details = {"Reason": "Unknown Error.", "LogFile": "s3://somewhere"}
        step.state = "FAILED"

    on_step(act)
    assert count(s3_lake, cluster) == 4
    output = capsys.readouterr().out
    for text in ("FAILED after", "Reason: Unknown Error.", "output of the driver", "The model is too bad."):
        assert text in output
    assert "first\n" not in output
    assert "executor" not in output
    assert output.rstrip().endswith("The model is too bad.")


def test_driver_log_is_printed_while_it_grows(s3_lake, cluster, count, capsys, on_step, monkeypatch):
    monkeypatch.setattr(submit, "ALIVE_SECONDS", 0.05)
    driver = "containers/application_17_0001/container_17_0001_01_000001/stdout.gz"
    output = []

    def act(step):
        log(s3_lake, cluster, f"steps/{step.id}/stderr.gz", "Submitted application application_17_0001\n")
        for lines in ("one\n", "one\ntwo\n"):
            log(s3_lake, cluster, driver, lines)
            while not output.count(lines.split()[-1]):
                time.sleep(0.05)
                output.extend(capsys.readouterr().out.splitlines())
        output.append("step ended")
        leave(s3_lake, "manifest.json")
        log(s3_lake, cluster, driver, "one\ntwo\nthree\n")
        step.state = "COMPLETED"

    on_step(act)
    assert count(s3_lake, cluster) == 0
    output += capsys.readouterr().out.splitlines()
    assert [line for line in output if line in ("one", "two", "step ended", "three")] == [
        *("one", "two", "step ended", "three")
    ]


def test_step_log_is_printed_if_no_container_left_one(s3_lake, cluster, count, capsys, on_step):
    def act(step):
        log(s3_lake, cluster, f"steps/{step.id}/stderr.gz", "no such bundle\n")
        step.state = "FAILED"

    on_step(act)
    assert count(s3_lake, cluster) == 1
    output = capsys.readouterr().out
    assert "no such bundle" in output
    assert "killed or never started" in output


def test_completed_step_without_a_manifest_has_failed(s3_lake, cluster, count, on_step):
    def act(step):
        leave(s3_lake, "manifest.json", attempt=1)
        step.state = "COMPLETED"

    on_step(act)
    assert count(s3_lake, cluster, attempt=2) == 1


def test_failed_step_has_failed_despite_a_manifest(s3_lake, cluster, count, on_step):
    def act(step):
        leave(s3_lake, "manifest.json")
        step.state = "FAILED"

    on_step(act)
    assert count(s3_lake, cluster) == 1


def ctrl_c(_step):
    os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_confirms_and_cancels(s3_lake, cluster, count, monkeypatch, capsys, on_step):
    questions = []
    monkeypatch.setattr("builtins.input", lambda question: questions.append(question) or "y")
    on_step(ctrl_c)
    assert count(s3_lake, cluster) == 130
    (step,) = steps(cluster)
    assert step.state == "CANCELLED"
    assert questions == [f"\nCancel step {step.id}? [y/N] "]
    assert "CANCELLED after" in capsys.readouterr().out


def test_ctrl_c_and_no_continues_waiting(s3_lake, cluster, count, monkeypatch, on_step):
    def no(_question):
        leave(s3_lake, "manifest.json")
        steps(cluster)[0].state = "COMPLETED"
        return ""

    monkeypatch.setattr("builtins.input", no)
    on_step(ctrl_c)
    assert count(s3_lake, cluster) == 0


def test_second_ctrl_c_leaves_the_step_running(s3_lake, cluster, count, monkeypatch, capsys, on_step):
    def interrupt(_question):
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input", interrupt)
    on_step(ctrl_c)
    assert count(s3_lake, cluster) == 130
    assert steps(cluster)[0].state == "RUNNING"
    assert "continues unattended" in capsys.readouterr().out


def test_invalid_submission_is_reported(s3_lake, lake):
    assert "Python job" in run_submit("--job", "train_recommender")
    assert "did you mean 'ingest_events'" in run_submit("--job", "ingest_event")
    assert "--lake s3://" in run_submit("--job", "ingest_events", "--lake", lake, "--cluster", "j-1")
    assert run_submit("--job", "ingest_events", "--lake", "hdfs:///lake") == 2


EVENT = {"event_id": "e1", "user_id": "u", "item_id": "cup", "type": "purchase", "quantity": 1, "unit_price": 2.5}


def test_real_job_runs_as_a_step_from_the_lake(s3_lake, cluster, capfd):
    event = EVENT | {"time": "2011-06-01T10:00:00Z", "country": None}
    delivery = f"{s3_lake}/raw/events/arrival=2011-06-01/events.jsonl.gz"
    storage.write(delivery, gzip.compress(json.dumps(event).encode()))
    code = run_submit("--job", "ingest_events", "--lake", s3_lake, "--cluster", cluster, "--run-id", "r")
    output = capfd.readouterr().out
    assert code == 0, output
    assert "ingest_events done" in output
    manifest = json.loads(storage.read(f"{s3_lake}/intermediate/by_hand/r/ingest_events/manifest.json")[0])
    assert manifest["fingerprint"] == product("ingest_events").fingerprint
    assert manifest["job"] == "ingest_events"
    assert manifest["outputs"]["events"]["rows"] == 1


def test_local_run_prints_job_output_and_exits_as_the_job(s3_lake, capfd):
    assert run_submit("--job", "build_interactions", "--lake", s3_lake, "--set", "test_days=7") == 3
    output = capfd.readouterr().out
    assert "curated/events (input 'events') has no published partition" in output
    assert '"test_days": 7' in output
    assert storage.folders(f"{s3_lake}/code/build_interactions") == [product("build_interactions").fingerprint]

"""Spark jobs as job runs of EMR Serverless: moto's interface with a node behind it that runs them, a lake on S3."""

import dataclasses
import json

import boto3
import factories
import pytest
from submissions import cancelled_while_watched, submitter
from tandem import catalogue
from tandem.runtimes.cloud_request import check_request
from tandem.runtimes.emr.serverless import EmrServerless
from waiting import until
from workers import commands

from common.handover import storage

APPLICATION = {"name": "{{ dag.dag_id }}", "type": "SPARK", "architecture": "ARM64"}
WRITES = '[outputs.interactions]\ncontract = "interactions@2"\n[spark]\nexecutor_memory = "2g"'
RUNTIME = EmrServerless(execution_role="arn:aws:iam::123456789012:role/jobs", poll_seconds=0.1, log_seconds=0)


def load(workshop, **application):
    workshop.job("build", engine="spark")
    described = {"cluster.emr_serverless": {**APPLICATION, **application}}
    workshop.pipeline("p", 'dag.spark("build")', build={}, **described)
    return workshop.load("p")


def test_invalid_application_is_refused_while_parsing(workshop, monkeypatch):
    monkeypatch.setenv("TANDEM_SPARK", "emr_serverless")
    with pytest.raises(AssertionError) as error:
        load(workshop, maximumCapacity={"cpu": "1 vCPU", "memry": "1 GB"})
    assert "p/cluster.emr_serverless.json, maximumCapacity names the key 'memry'" in str(error.value)
    assert "did you mean 'memory'" in str(error.value)


def test_application_opens_and_closes_within_configured_times(workshop, monkeypatch):
    monkeypatch.setenv("TANDEM_SPARK", "emr_serverless")
    dag = load(workshop, maximumCapacity={"cpu": "1 vCPU", "memory": "1 GB"})
    opened, ready, closed = (dag.get_task(f"{verb}_cluster") for verb in ("open", "await", "close"))
    around = {opened.task_id, ready.task_id, closed.task_id}
    assert set(dag.task_dict) == {"look_for_input", "pin_release", "build", "watcher", *around}
    assert opened.release_label == "emr-7.9.0"
    assert closed.waiter_delay * closed.waiter_max_attempts == ready.timeout == 600
    assert ready.mode == "reschedule"
    assert closed.is_teardown
    assert closed.force_stop


def test_job_run_has_bundle_sizes_and_libraries():
    spark = {"executor_memory": "2g", "conf": {"spark.a": "b c"}}
    found = catalogue.Job("build", "spark", {}, {}, {}, {}, spark, requirements="requirements/own.txt")
    request = {**RUNTIME.request(found, {"executor_cores": 3}), "fingerprint": "f0"}
    given = {"predecessors": {"role": "u"}, "parameters": {"flag": True}, "request": request, "cluster": "app"}
    attempt = factories.attempt("build", "s3://b/l/", number=2, **given)
    run = RUNTIME.payload(attempt)
    check_request("emr-serverless", "StartJobRun", run, "here")
    driver = run["jobDriver"]["sparkSubmit"]
    assert driver["entryPoint"] == "s3://b/l/code/build/f0/main.py"
    assert driver["entryPointArguments"] == attempt.arguments
    assert driver["sparkSubmitParameters"] == (
        "--conf spark.executor.memory=2g --conf spark.executor.cores=3 --conf 'spark.a=b c' "
        "--conf spark.emr-serverless.driverEnv.PYTHONPATH=libraries --conf spark.executorEnv.PYTHONPATH=libraries "
        "--archives 's3://b/l/code/build/f0/libraries.zip#libraries' --py-files s3://b/l/code/build/f0/code.zip"
    )
    assert run["name"] == "d/r/t/attempt-2"
    assert run["executionTimeoutMinutes"] == 720
    for seconds, minutes in ((60, 2), (61, 3), (14400, 241), (10**6, 720)):
        due = RUNTIME.payload(dataclasses.replace(attempt, deadline_seconds=seconds))
        assert due["executionTimeoutMinutes"] == minutes
        check_request("emr-serverless", "StartJobRun", due, "here")


def applications(name):
    client = boto3.client("emr-serverless")
    listed = [each for each in client.list_applications()["applications"] if each["name"] == name]
    return [(each["state"], client.list_job_runs(applicationId=each["id"])["jobRuns"]) for each in listed]


def test_flaky_job_is_retried_and_no_application_is_left(workshop, aws, monkeypatch):
    workshop.job("flaky", "if task.attempt < 2: raise OSError('network')", more=WRITES, engine="spark")
    workshop.job("killed", "os.kill(os.getpid(), signal.SIGKILL)", more=WRITES, engine="spark")
    workshop.on_aws("emr_serverless", aws, monkeypatch)
    described = {"cluster.emr_serverless": APPLICATION}
    workshop.pipeline("serverless", 'dag.spark("flaky")\ndag.spark("killed")', flaky={}, killed={}, **described)
    ran = workshop.run("serverless")
    around = dict.fromkeys(
        ("look_for_input", "pin_release", "open_cluster", "await_cluster", "close_cluster"), "success"
    ) | {"watcher": "failed"}
    assert ran.states == {**around, "flaky": "success", "killed": "failed"}
    assert ran.state == "failed"
    ((state, runs),) = applications("serverless")
    assert state == "TERMINATED"
    ends = {run["name"].split("/", 2)[2]: run["state"] for run in runs}
    failed = {"flaky/attempt-1": "FAILED", "killed/attempt-1": "FAILED", "killed/attempt-2": "FAILED"}
    assert ends == {**failed, "flaky/attempt-2": "SUCCESS"}
    assert json.loads(storage.read(ran.xcoms["flaky"]["manifest"])[0])["task"]["attempt"] == 2
    assert any("is FAILED. Job failed, exit code -9." in line for line in ran.log)
    assert any("SPARK_DRIVER/stdout.gz ends with: " in line and "job=killed attempt=2" in line for line in ran.log)


@pytest.fixture(scope="module")
def direct(aws, make_workshop, tmp_path_factory):
    """Submits an attempt of a job to an application, without Airflow around it."""
    with pytest.MonkeyPatch.context() as patch:
        workshop = make_workshop(tmp_path_factory.mktemp("direct"))
        workshop.job("sleeps", "import time; time.sleep(0 if task.attempt > 1 else 60)", more=WRITES, engine="spark")
        workshop.on_aws("emr_serverless", aws, patch)
        client = boto3.client("emr-serverless")
        application = client.create_application(name="direct", type="SPARK", releaseLabel="emr-7.9.0")["applicationId"]
        submit = submitter(workshop, RUNTIME)
        yield lambda task_id, number: submit("sleeps", number, task_id=task_id, cluster=application)


def state(run):
    found = boto3.client("emr-serverless").get_job_run(applicationId=run.attempt.cluster, jobRunId=run.id)
    return found["jobRun"]["state"]


def test_attempt_has_one_run_which_its_retry_cancels(direct):
    older = direct("retried", 1)
    assert direct("retried", 1).id == older.id
    until(lambda: state(older) == "RUNNING")
    newer = direct("retried", 2)
    assert RUNTIME.watch(newer).exit_code == 0
    assert state(older) == "CANCELLED"


def test_cancel_ends_run_while_another_thread_watches(direct):
    run = direct("cancelled", 1)
    until(lambda: state(run) == "RUNNING")
    outcome = cancelled_while_watched(RUNTIME, run)
    assert outcome.exit_code == 1
    assert outcome.explanation.startswith(f"Job run {run.id} of application {run.attempt.cluster} is CANCELLED.")
    command = f"{run.attempt.lake} --dag-id=d --run-id=r --task-id=cancelled"
    until(lambda: not any(command in line for line in commands()))

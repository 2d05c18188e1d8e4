"""Spark jobs as batches of Dataproc Serverless: its API with a node behind it that runs them, a lake on gs://."""

import json

import factories
import pytest
from submissions import cancelled_while_watched, submitter
from tandem import catalogue
from tandem.runtimes.dataproc.batches import DataprocServerless, in_sizes_of_batches
from tandem.runtimes.dataproc.cluster import check_message
from waiting import until
from workers import commands

from common.handover import storage

WRITES = '[outputs.interactions]\ncontract = "interactions@2"\n[spark]\nexecutor_memory = "2g"\nexecutor_cores = 2'
PLACE = "projects/tandem-123456/locations/europe-west3"
RUNTIME = DataprocServerless(
    project="tandem-123456", region="europe-west3", batch={"runtime_config": {"version": "3.0"}}, poll_seconds=0.1
)


def test_invalid_batch_is_refused_while_parsing(workshop, monkeypatch):
    monkeypatch.setenv("TANDEM_SPARK", "dataproc_serverless")
    workshop.job("build", engine="spark")
    workshop.pipeline("p", 'dag.spark("build")', **{"build": {}, "cluster.dataproc": {}})
    assert set(workshop.load("p").task_dict) == {"look_for_input", "pin_release", "build"}
    file = workshop.dags / "environments" / "laptop.toml"
    file.write_text(f'{file.read_text()}[spark.dataproc_serverless.batch.runtime_config]\nvesion = "3.0"\n')
    with pytest.raises(AssertionError, match=r"\[spark.dataproc_serverless.batch\], runtime_config names the key 'ves"):
        workshop.load("p")


def test_batch_has_bundle_sizes_libraries_and_equals_rerun_command():
    spark = {"executor_memory": "2g", "executor_cores": 2, "driver_memory": "1g", "conf": {"spark.a": "b,c"}}
    found = catalogue.Job("build", "spark", {}, {}, {}, {}, spark, requirements="requirements/own.txt")
    request = {**RUNTIME.request(found, {}), "fingerprint": "f0"}
    given = {"predecessors": {"role": "u"}, "parameters": {"flag": True}, "request": request, "deadline_seconds": 60}
    attempt = factories.attempt("build", "gs://b/l/", task_id="Build.x", number=2, **given)
    payload = RUNTIME.payload(attempt)
    check_message("CreateBatchRequest", payload, "here")
    assert json.loads(json.dumps(payload)) == payload
    batch = payload["batch"]
    assert batch["pyspark_batch"] == {
        "main_python_file_uri": "gs://b/l/code/build/f0/main.py",
        "python_file_uris": ["gs://b/l/code/build/f0/code.zip"],
        "archive_uris": ["gs://b/l/code/build/f0/libraries.zip#libraries"],
        "args": attempt.arguments,
    }
    assert batch["environment_config"] == {"execution_config": {"ttl": "600s"}}
    assert batch["runtime_config"] == {
        "version": "3.0",
        "properties": {
            "spark.driver.cores": "4",
            "spark.driver.memory": "4096m",
            "spark.executor.cores": "4",
            "spark.executor.memory": "4096m",
            "spark.a": "b,c",
            "spark.dataproc.driverEnv.PYTHONPATH": "libraries",
            "spark.executorEnv.PYTHONPATH": "libraries",
        },
    }
    assert payload["batch_id"].startswith("t-build-x-") and len(payload["batch_id"]) <= 63
    command = RUNTIME.rerun_command(attempt)
    assert command.startswith("gcloud dataproc batches submit pyspark gs://b/l/code/build/f0/main.py --project=")
    assert "--version=3.0" in command and command.endswith("--from=role=u --set=flag=true")


@pytest.mark.parametrize(
    ("cores", "memory", "fitted"),
    [(None, None, ("4", None)), ("6", "12g", ("8", "16384m")), ("32", "64g", ("16", "32768m"))],
)
def test_executors_come_in_the_sizes_of_batches(cores, memory, fitted):
    given = {"spark.executor.cores": cores, "spark.executor.memory": memory}
    found = in_sizes_of_batches({name: value for name, value in given.items() if value})
    assert (found["spark.executor.cores"], found.get("spark.executor.memory")) == fitted


def batches(prefix):
    """The states of the batches whose IDs begin so, by attempt, in their order."""
    listed = RUNTIME.client().list_batches(request={"parent": PLACE})
    named = [(batch.name.rpartition("/")[2], batch.state.name) for batch in listed]
    return [(name.rpartition("-")[2], state) for name, state in named if name.startswith(f"t-{prefix}-")]


def test_flaky_job_is_retried(workshop, google, monkeypatch):
    workshop.job("b_flaky", "if task.attempt < 2: raise OSError('network')", more=WRITES, engine="spark")
    workshop.job("b_killed", "os.kill(os.getpid(), signal.SIGKILL)", more=WRITES, engine="spark")
    workshop.on_google("dataproc_serverless", google, monkeypatch)
    body = 'dag.spark("b_flaky")\ndag.spark("b_killed")'
    workshop.pipeline("batches", body, **{"b_flaky": {}, "b_killed": {}, "cluster.dataproc": {}})
    ran = workshop.run("batches")
    first = dict.fromkeys(("look_for_input", "pin_release"), "success")
    assert ran.states == {**first, "b_flaky": "success", "b_killed": "failed"}
    assert ran.state == "failed"
    assert batches("b-flaky") == [("1", "FAILED"), ("2", "SUCCEEDED")]
    assert batches("b-killed") == [("1", "FAILED"), ("2", "FAILED")]
    assert json.loads(storage.read(ran.xcoms["b_flaky"]["manifest"])[0])["task"]["attempt"] == 2
    assert any("is FAILED. Job failed with message [exit code -9]." in line for line in ran.log)


@pytest.fixture(scope="module")
def direct(google, make_workshop, tmp_path_factory):
    """Submits an attempt of a job, without Airflow around it."""
    with pytest.MonkeyPatch.context() as patch:
        workshop = make_workshop(tmp_path_factory.mktemp("direct"))
        workshop.job("sleeps", "import time; time.sleep(0 if task.attempt > 1 else 60)", more=WRITES, engine="spark")
        workshop.on_google("dataproc_serverless", google, patch)
        submit = submitter(workshop, RUNTIME)
        yield lambda task_id, number: submit("sleeps", number, task_id=task_id)


def state(batch):
    return RUNTIME.poll(RUNTIME.client(), batch)[0]


def test_attempt_has_one_batch_which_its_retry_cancels(direct):
    older = direct("retried", 1)
    assert direct("retried", 1).id == older.id
    until(lambda: state(older) == "RUNNING")
    newer = direct("retried", 2)
    assert RUNTIME.watch(newer).exit_code == 0
    assert state(older) == "CANCELLED"


def test_cancel_ends_batch_while_another_thread_watches(direct):
    batch = direct("cancelled", 1)
    until(lambda: state(batch) == "RUNNING")
    outcome = cancelled_while_watched(RUNTIME, batch)
    assert (outcome.exit_code, outcome.explanation.splitlines()[0]) == (
        1,
        f"Batch {batch.id} is CANCELLED. Cancelled by user.",
    )
    command = f"{batch.attempt.lake} --dag-id=d --run-id=r --task-id=cancelled"
    until(lambda: not any(command in line for line in commands()))

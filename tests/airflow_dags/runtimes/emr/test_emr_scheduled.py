"""EMR under Airflow's own scheduler: tasks that wait without workers, that are failed or cleared, concurrent runs."""

import contextlib
import json
import os
import signal

import boto3
import pytest
from runs import fail_manually, states
from tandem.protocol import encode
from waiting import until
from workers import restarted_triggerer, worker

from common.handover import storage
from tools.airflow_api import quote_id
from tools.sandbox.local_airflow import start

WRITES = '[outputs.interactions]\ncontract = "interactions@2"'
SLEEPS = "import time; time.sleep(600 if task.attempt == 1 else 0)"
CLUSTER = {
    "Name": "{{ dag.dag_id }} {{ run_id }}",
    "Instances": {"KeepJobFlowAliveWhenNoSteps": True, "MasterInstanceType": "m6g.xlarge", "InstanceCount": 1},
    "AutoTerminationPolicy": {"IdleTimeout": 600},
}
HELD = """
    import time
    while not list(storage.files(f"{task.lake}/go/{task.dag_id}")): time.sleep(0.2)
"""
PIPELINES = [  # each of one job: the name of both, the job's body, the cluster's tags
    ("quick", "pass", []),
    ("sleeps", SLEEPS, []),
    ("late", "pass", [{"Key": "fault", "Value": "answers_late"}]),
    ("hungry", "if task.attempt == 1: raise MemoryError", []),
]
SIX: dict[str, dict[str, str]] = {f"held_{number}": {} for number in range(6)}
SETTINGS = {"hungry": {"runtime": "auto"}}


@pytest.fixture(scope="module")
def started(aws, make_workshop, tmp_path_factory, home):
    """A running Airflow with two workers, and pipelines of one job each; `six` and `pair` have more tasks.

    The first attempt of `sleeps` never ends; `held` ends once a file lets its DAG go. Who asks for the cluster of
    `late` hears of it seconds later.
    """
    workshop = make_workshop(tmp_path_factory.mktemp("scheduled"))
    with pytest.MonkeyPatch.context() as patch:
        for name, body, _ in PIPELINES:
            workshop.job(name, body, more=WRITES, engine="spark")
        workshop.job("held", HELD.strip(), more=WRITES, engine="spark")
        workshop.on_aws("emr", aws, patch)
        workshop.pipeline(
            "six", "\n".join(f'dag.spark("held", task_id="{task}")' for task in SIX), cluster=CLUSTER, **SIX
        )
        concurrent = {**CLUSTER, "StepConcurrencyLevel": 2}
        workshop.pipeline("pair", 'dag.spark("sleeps")\ndag.spark("held")', cluster=concurrent, sleeps={}, held={})
        for name, _, tags in PIPELINES:
            workshop.pipeline(
                name, f'dag.spark("{name}")', cluster={**CLUSTER, "Tags": tags}, **{name: SETTINGS.get(name, {})}
            )
        with start(workshop.uri, home=home, dags=workshop.dags, options={"CORE__PARALLELISM": "2"}) as airflow:
            yield workshop, airflow


@pytest.fixture(scope="module")
def new_triggerer(started):
    """Stops the triggerer as a deployment does, and starts another one, which stays to the end of this module."""
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(restarted_triggerer())


def clusters_of(dag, run):
    """The clusters of a run in the order in which they were opened: their states, and their steps' by attempt."""
    client = boto3.client("emr")
    listed = [each["Id"] for each in client.list_clusters()["Clusters"] if each["Name"] == f"{dag} {run}"]
    described = [client.describe_cluster(ClusterId=each)["Cluster"] for each in listed]
    return [
        (
            each["Status"]["State"],
            {step["Name"][-1]: step["Status"]["State"] for step in client.list_steps(ClusterId=each["Id"])["Steps"]},
        )
        for each in sorted(described, key=lambda each: each["Status"]["Timeline"]["CreationDateTime"])
    ]


def cluster_of(dag, run):
    """The only cluster of a run, None while there is none."""
    found = clusters_of(dag, run)
    assert len(found) < 2
    return found[0] if found else None


def steps_of(dag, run):
    """The states of the steps of a run's cluster by task."""
    client = boto3.client("emr")
    clusters = [each["Id"] for each in client.list_clusters()["Clusters"] if each["Name"] == f"{dag} {run}"]
    steps = [step for cluster in clusters for step in client.list_steps(ClusterId=cluster)["Steps"]]
    return {step["Name"].split("/")[-2]: step["Status"]["State"] for step in steps}


def is_watched(home, dag, run, task):
    """Return True once a triggerer waits for a task."""
    return list(home.glob(f"logs/dag_id={dag}/run_id={run}/task_id={task}/*.trigger.*"))


def manifest(workshop, dag, run):
    key = f"{workshop.uri}/intermediate/{dag}/{encode(run)}/{dag}/manifest.json"
    return json.loads(storage.read(key)[0])


def forget_cluster(airflow, dag, run):
    """Delete the return value of open_cluster."""
    path = f"/api/v2/dags/{dag}/dagRuns/{quote_id(run)}/taskInstances/open_cluster/xcomEntries/return_value"
    airflow.call(path, method="DELETE")


def test_concurrent_runs_have_separate_clusters(started):
    workshop, airflow = started
    runs = [airflow.trigger("quick"), airflow.trigger("quick")]
    assert [airflow.wait("quick", run) for run in runs] == ["success", "success"]
    for run in runs:
        assert cluster_of("quick", run) == ("TERMINATED", {"1": "COMPLETED"})
        assert manifest(workshop, "quick", run)["task"]["run_id"] == run


def test_task_that_ran_out_of_memory_opens_a_cluster_that_its_run_closes(started):
    workshop, airflow = started
    run = airflow.trigger("hungry")
    assert airflow.wait("hungry", run) == "success"
    assert cluster_of("hungry", run) == ("TERMINATED", {"2": "COMPLETED"})
    assert manifest(workshop, "hungry", run)["task"]["attempt"] == 2


def test_manually_failed_run_leaves_no_step_and_no_cluster(started, home):
    _, airflow = started
    run = airflow.trigger("sleeps")
    until(lambda: cluster_of("sleeps", run) == ("RUNNING", {"1": "RUNNING"}))
    until(lambda: is_watched(home, "sleeps", run, "sleeps"))
    fail_manually(airflow, "sleeps", run)
    until(lambda: cluster_of("sleeps", run) == ("TERMINATED", {"1": "CANCELLED"}))
    assert airflow.wait("sleeps", run) == "failed"
    until(lambda: states(airflow, "sleeps", run)["close_cluster"] == "success")


def test_waiting_tasks_hold_no_worker_and_outlive_their_triggerer(started, new_triggerer):
    workshop, airflow = started
    run = airflow.trigger("six")

    def waiting():
        return [task for task, state in states(airflow, "six", run).items() if state == "deferred"]

    until(lambda: len(waiting()) == 6)
    assert airflow.wait("quick", airflow.trigger("quick")) == "success"
    new_triggerer()
    assert len(waiting()) == 6
    storage.write(f"{workshop.uri}/go/six/now", b"")
    assert airflow.wait("six", run) == "success"
    assert cluster_of("six", run) == ("TERMINATED", {"1": "COMPLETED"})


def test_task_failed_manually_cancels_its_step_only(started, home):
    workshop, airflow = started
    run = airflow.trigger("pair")
    until(lambda: steps_of("pair", run) == {"sleeps": "RUNNING", "held": "RUNNING"})
    until(lambda: is_watched(home, "pair", run, "sleeps"))
    path = f"/api/v2/dags/pair/dagRuns/{quote_id(run)}/taskInstances/sleeps"
    airflow.call(path, {"new_state": "failed"}, "PATCH")
    until(lambda: steps_of("pair", run) == {"sleeps": "CANCELLED", "held": "RUNNING"})
    storage.write(f"{workshop.uri}/go/pair/now", b"")
    assert airflow.wait("pair", run) == "failed"
    assert steps_of("pair", run) == {"sleeps": "CANCELLED", "held": "COMPLETED"}


def test_run_failed_manually_before_first_task_opens_nothing(started):
    _, airflow = started
    airflow.call("/api/v2/dags/quick", {"is_paused": True}, "PATCH")
    run = airflow.trigger("quick")
    fail_manually(airflow, "quick", run)
    airflow.call("/api/v2/dags/quick", {"is_paused": False}, "PATCH")
    assert airflow.wait("quick", run) == "failed"
    assert clusters_of("quick", run) == []


def test_run_failed_manually_during_cluster_request_leaves_none(started):
    _, airflow = started
    run = airflow.trigger("late")
    until(lambda: cluster_of("late", run))
    fail_manually(airflow, "late", run)
    assert airflow.wait("late", run) == "failed"
    until(lambda: cluster_of("late", run) == ("TERMINATED", {}))
    assert states(airflow, "late", run)["close_cluster"] == "upstream_failed"


def test_killed_opening_task_opens_another_cluster(started):
    _, airflow = started
    run = airflow.trigger("late")
    until(lambda: cluster_of("late", run))
    os.kill(worker(airflow, "late", run, "open_cluster"), signal.SIGKILL)
    assert airflow.wait("late", run) == "success"
    assert clusters_of("late", run) == [("WAITING", {}), ("TERMINATED", {"1": "COMPLETED"})]


def test_run_without_stored_cluster_id_fails(started, home):
    _, airflow = started
    run = airflow.trigger("sleeps")
    until(lambda: cluster_of("sleeps", run) == ("RUNNING", {"1": "RUNNING"}))
    until(lambda: is_watched(home, "sleeps", run, "sleeps"))
    forget_cluster(airflow, "sleeps", run)
    fail_manually(airflow, "sleeps", run)
    assert airflow.wait("sleeps", run) == "failed"
    assert states(airflow, "sleeps", run)["close_cluster"] == "failed"
    until(lambda: cluster_of("sleeps", run) == ("WAITING", {"1": "CANCELLED"}))

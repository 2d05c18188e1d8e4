"""EMR under Airflow's own scheduler: a worker that is killed, a run that is failed manually, concurrent runs."""

import json
import os
import signal
import time
import urllib.request

import boto3
import pytest
from tandem.protocol import encode
from workers import worker

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
PIPELINES = [  # each of one job: the name of both, the job's body, the cluster's tags
    ("quick", "pass", []),
    ("sleeps", SLEEPS, []),
    ("late", "pass", [{"Key": "fault", "Value": "answers_late"}]),
]


@pytest.fixture(scope="module")
def started(aws, make_workshop, tmp_path_factory, home):
    """A running Airflow with pipelines of one job each.

    The first attempt of the job `sleeps` never ends; who asks for the cluster of `late` hears of it seconds later.
    """
    workshop = make_workshop(tmp_path_factory.mktemp("scheduled"))
    with pytest.MonkeyPatch.context() as patch:
        for name, body, _ in PIPELINES:
            workshop.job(name, body, more=WRITES, engine="spark")
        workshop.on_aws("emr", aws, patch)
        for name, _, tags in PIPELINES:
            workshop.pipeline(name, f'dag.spark("{name}")', cluster={**CLUSTER, "Tags": tags}, **{name: {}})
        with start(workshop.uri, home=home, dags=workshop.dags) as airflow:
            yield workshop, airflow


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


def until(condition, seconds=300):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.25)
    return found


def states(airflow, dag, run):
    return {each.task_id: each.state for each in airflow.instances(dag, run)}


def manifest(workshop, dag, run):
    key = f"{workshop.uri}/intermediate/{dag}/{encode(run)}/{dag}/manifest.json"
    return json.loads(storage.read(key)[0])


def fail_manually(airflow, dag, run):
    airflow.call(f"/api/v2/dags/{dag}/dagRuns/{quote_id(run)}", {"state": "failed"}, "PATCH")


def forget_cluster(airflow, dag, run):
    """Delete the return value of open_cluster."""
    path = f"/api/v2/dags/{dag}/dagRuns/{quote_id(run)}/taskInstances/open_cluster/xcomEntries/return_value"
    headers = {"Authorization": f"Bearer {airflow.token}"}
    urllib.request.urlopen(urllib.request.Request(f"{airflow.url}{path}", headers=headers, method="DELETE"))


def test_concurrent_runs_have_separate_clusters(started):
    workshop, airflow = started
    runs = [airflow.trigger("quick"), airflow.trigger("quick")]
    assert [airflow.wait("quick", run, 240) for run in runs] == ["success", "success"]
    for run in runs:
        assert cluster_of("quick", run) == ("TERMINATED", {"1": "COMPLETED"})
        assert manifest(workshop, "quick", run)["task"]["run_id"] == run


def test_manually_failed_run_leaves_no_step_and_no_cluster(started):
    _, airflow = started
    run = airflow.trigger("sleeps")
    until(lambda: cluster_of("sleeps", run) == ("RUNNING", {"1": "RUNNING"}))
    fail_manually(airflow, "sleeps", run)
    until(lambda: cluster_of("sleeps", run) == ("TERMINATED", {"1": "CANCELLED"}))
    assert airflow.wait("sleeps", run, 300) == "failed"
    until(lambda: states(airflow, "sleeps", run)["close_cluster"] == "success")


def test_task_of_killed_worker_is_retried_after_step_is_cancelled(started):
    workshop, airflow = started
    run = airflow.trigger("sleeps")
    until(lambda: cluster_of("sleeps", run) == ("RUNNING", {"1": "RUNNING"}))
    os.kill(worker(airflow, "sleeps", run, "sleeps"), signal.SIGKILL)
    assert airflow.wait("sleeps", run, 240) == "success"
    assert cluster_of("sleeps", run) == ("TERMINATED", {"1": "CANCELLED", "2": "COMPLETED"})
    assert manifest(workshop, "sleeps", run)["task"]["attempt"] == 2


def test_run_failed_manually_before_first_task_opens_nothing(started):
    _, airflow = started
    airflow.call("/api/v2/dags/quick", {"is_paused": True}, "PATCH")
    run = airflow.trigger("quick")
    fail_manually(airflow, "quick", run)
    airflow.call("/api/v2/dags/quick", {"is_paused": False}, "PATCH")
    assert airflow.wait("quick", run, 300) == "failed"
    assert clusters_of("quick", run) == []


def test_run_failed_manually_during_cluster_request_leaves_none(started):
    _, airflow = started
    run = airflow.trigger("late")
    until(lambda: cluster_of("late", run))
    fail_manually(airflow, "late", run)
    assert airflow.wait("late", run, 300) == "failed"
    until(lambda: cluster_of("late", run) == ("TERMINATED", {}))
    assert states(airflow, "late", run)["close_cluster"] == "upstream_failed"


def test_killed_opening_task_opens_another_cluster(started):
    _, airflow = started
    run = airflow.trigger("late")
    until(lambda: cluster_of("late", run))
    os.kill(worker(airflow, "late", run, "open_cluster"), signal.SIGKILL)
    assert airflow.wait("late", run, 300) == "success"
    assert clusters_of("late", run) == [("WAITING", {}), ("TERMINATED", {"1": "COMPLETED"})]


def test_run_without_stored_cluster_id_fails(started):
    _, airflow = started
    run = airflow.trigger("sleeps")
    until(lambda: cluster_of("sleeps", run) == ("RUNNING", {"1": "RUNNING"}))
    forget_cluster(airflow, "sleeps", run)
    fail_manually(airflow, "sleeps", run)
    assert airflow.wait("sleeps", run, 300) == "failed"
    assert states(airflow, "sleeps", run)["close_cluster"] == "failed"
    assert cluster_of("sleeps", run) == ("WAITING", {"1": "CANCELLED"})

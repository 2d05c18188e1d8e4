"""EMR under Airflow's own scheduler: a worker that is killed, a run that is failed by hand, two runs at once."""

import json
import os
import signal
import subprocess
import time
import urllib.request

import boto3
import pytest
from tandem.lake import encode

from common import storage
from tools.local_airflow import quoted, start

WRITES = '[outputs.interactions]\ncontract = "interactions@1"'
SLEEPS = "import time; time.sleep(600 if task.attempt == 1 else 0)"
CLUSTER = {
    "Name": "{{ dag.dag_id }} {{ run_id }}",
    "Instances": {"KeepJobFlowAliveWhenNoSteps": True, "MasterInstanceType": "m6g.xlarge", "InstanceCount": 1},
    "AutoTerminationPolicy": {"IdleTimeout": 600},
}


@pytest.fixture(scope="module")
def started(aws, make_workshop, tmp_path_factory, home):
    """A running Airflow with the pipelines `quick` and `sleeps`; the first attempt of the latter's job never ends."""
    workshop = make_workshop(tmp_path_factory.mktemp("scheduled"))
    workshop.job("quick", more=WRITES, engine="spark")
    workshop.job("sleeps", SLEEPS, more=WRITES, engine="spark")
    with pytest.MonkeyPatch.context() as patch:
        workshop.on_aws("emr", aws, patch)
        for name in ("quick", "sleeps"):
            workshop.pipeline(name, f'dag.spark("{name}")', cluster=CLUSTER, **{name: {}})
        with start(workshop.uri, home=home, dags=workshop.dags) as airflow:
            yield workshop, airflow


def cluster_of(dag, run):
    """The cluster of a run and its steps' states by attempt, None while there is none."""
    client = boto3.client("emr")
    for each in client.list_clusters()["Clusters"]:
        if each["Name"] == f"{dag} {run}":
            steps = client.list_steps(ClusterId=each["Id"])["Steps"]
            described = client.describe_cluster(ClusterId=each["Id"])["Cluster"]
            return described["Status"]["State"], {step["Name"][-1]: step["Status"]["State"] for step in steps}
    return None


def until(condition, seconds=120):
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


def worker(airflow, dag, run):
    """The process of the task that works on the job of a run."""
    instances = airflow.ask(f"/api/v2/dags/{dag}/dagRuns/{quoted(run)}/taskInstances")["task_instances"]
    (title,) = [f"airflow worker -- {each['id']}" for each in instances if each["task_id"] == dag]
    listed = subprocess.run(["ps", "-A", "-o", "pid=,args="], capture_output=True, text=True, check=True).stdout
    (line,) = [line for line in listed.splitlines() if line.rstrip().endswith(title)]
    return int(line.split()[0])


def test_two_runs_at_once_have_a_cluster_each(started):
    workshop, airflow = started
    runs = [airflow.trigger("quick"), airflow.trigger("quick")]
    assert [airflow.wait("quick", run, 240) for run in runs] == ["success", "success"]
    for run in runs:
        assert cluster_of("quick", run) == ("TERMINATED", {"1": "COMPLETED"})
        assert manifest(workshop, "quick", run)["task"]["run_id"] == run


def test_a_run_that_is_failed_by_hand_leaves_no_step_and_no_cluster(started):
    _, airflow = started
    run = airflow.trigger("sleeps")
    until(lambda: cluster_of("sleeps", run) == ("RUNNING", {"1": "RUNNING"}))
    path = f"{airflow.url}/api/v2/dags/sleeps/dagRuns/{quoted(run)}"
    request = urllib.request.Request(path, b'{"state": "failed"}', method="PATCH")
    request.add_header("Authorization", f"Bearer {airflow.token}")
    request.add_header("Content-Type", "application/json")
    urllib.request.urlopen(request)
    until(lambda: cluster_of("sleeps", run) == ("TERMINATED", {"1": "CANCELLED"}))
    assert airflow.wait("sleeps", run, 120) == "failed"
    until(lambda: states(airflow, "sleeps", run)["close_cluster"] == "success")


def test_a_task_whose_worker_was_killed_is_tried_again_after_its_step_was_cancelled(started):
    workshop, airflow = started
    run = airflow.trigger("sleeps")
    until(lambda: cluster_of("sleeps", run) == ("RUNNING", {"1": "RUNNING"}))
    os.kill(worker(airflow, "sleeps", run), signal.SIGKILL)
    assert airflow.wait("sleeps", run, 240) == "success"
    assert cluster_of("sleeps", run) == ("TERMINATED", {"1": "CANCELLED", "2": "COMPLETED"})
    assert manifest(workshop, "sleeps", run)["task"]["attempt"] == 2

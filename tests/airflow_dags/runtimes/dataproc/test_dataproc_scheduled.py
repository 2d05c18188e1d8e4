"""Dataproc under Airflow's own scheduler: tasks that are failed or cleared manually, concurrent runs."""

import json
import os
import signal
from types import SimpleNamespace

import pytest
from runs import fail_manually, states
from tandem.protocol import encode
from tandem.runtimes.dataproc.clients import client
from tandem.runtimes.dataproc.cluster import cluster_name
from waiting import until
from workers import worker

from common.handover import storage
from tools.sandbox.local_airflow import start

WRITES = '[outputs.interactions]\ncontract = "interactions@2"'
SLEEPS = "import time; time.sleep(600 if task.attempt == 1 else 0)"
CONFIG = {"lifecycle_config": {"idle_delete_ttl": "600s"}}
PLACE = {"project_id": "tandem-123456", "region": "europe-west3"}
PIPELINES = [  # each of one job: the name of both, the job's body, the cluster's fault
    ("quick", "pass", ""),
    ("sleeps", SLEEPS, ""),
    ("late", "pass", "answers_late"),
    ("hungry", "if task.attempt == 1: raise MemoryError", ""),
]
SETTINGS = {"hungry": {"runtime": "auto"}}


@pytest.fixture(scope="module")
def started(google, make_workshop, tmp_path_factory, home):
    """A running Airflow with pipelines of one job each.

    The first attempt of the job `sleeps` never ends; who asks for the cluster of `late` hears of it seconds later.
    """
    workshop = make_workshop(tmp_path_factory.mktemp("scheduled"))
    with pytest.MonkeyPatch.context() as patch:
        for name, body, _ in PIPELINES:
            workshop.job(name, body, more=WRITES, engine="spark")
        workshop.on_google("dataproc", google, patch)
        for name, _, fault in PIPELINES:
            described = {"config": CONFIG, "labels": {"fault": fault} if fault else {}}
            settings = {name: SETTINGS.get(name, {}), "cluster.dataproc": described}
            workshop.pipeline(name, f'dag.spark("{name}")', **settings)
        with start(workshop.uri, home=home, dags=workshop.dags) as airflow:
            yield workshop, airflow


def name_of(dag, run):
    return cluster_name("cluster", {"ti": SimpleNamespace(dag_id=dag, run_id=run)})


def cluster(dag, run):
    """The state of a run's cluster, None if there is none."""
    listed = client("ClusterController", PLACE["region"], "").list_clusters(request=PLACE)
    found = [each.status.state.name for each in listed if each.cluster_name == name_of(dag, run)]
    return found[0] if found else None


def jobs(dag, run):
    """The states of the jobs of a run's cluster, by attempt."""
    listed = client("JobController", PLACE["region"], "").list_jobs(request=PLACE)
    found = [job for job in listed if job.placement.cluster_name == name_of(dag, run)]
    return {job.reference.job_id[-1]: job.status.state.name for job in found}


def attempt(workshop, dag, run):
    """The attempt that published."""
    key = f"{workshop.uri}/intermediate/{dag}/{encode(run)}/{dag}/manifest.json"
    return json.loads(storage.read(key)[0])["task"]["attempt"]


def test_concurrent_runs_have_separate_clusters(started):
    workshop, airflow = started
    runs = [airflow.trigger("quick"), airflow.trigger("quick")]
    assert [airflow.wait("quick", run) for run in runs] == ["success", "success"]
    assert [(cluster("quick", run), jobs("quick", run)) for run in runs] == [(None, {"1": "DONE"})] * 2
    assert [attempt(workshop, "quick", run) for run in runs] == [1, 1]


def test_task_that_ran_out_of_memory_opens_a_cluster_that_its_run_closes(started):
    workshop, airflow = started
    run = airflow.trigger("hungry")
    assert airflow.wait("hungry", run) == "success"
    assert (cluster("hungry", run), jobs("hungry", run)) == (None, {"2": "DONE"})
    assert attempt(workshop, "hungry", run) == 2


def test_manually_failed_run_leaves_no_job_and_no_cluster(started, home):
    _, airflow = started
    run = airflow.trigger("sleeps")
    until(lambda: jobs("sleeps", run) == {"1": "RUNNING"})
    until(lambda: list(home.glob(f"logs/dag_id=sleeps/run_id={run}/task_id=sleeps/*.trigger.*")))
    fail_manually(airflow, "sleeps", run)
    until(lambda: cluster("sleeps", run) is None)
    until(lambda: jobs("sleeps", run)["1"] in ("CANCELLED", "ERROR"))  # the latter if the cluster was gone before
    assert airflow.wait("sleeps", run) == "failed"
    until(lambda: states(airflow, "sleeps", run)["close_cluster"] == "success")


def test_cleared_task_cancels_its_job_and_runs_again(started):
    workshop, airflow = started
    run = airflow.trigger("sleeps")
    until(lambda: states(airflow, "sleeps", run).get("sleeps") == "deferred")
    # As long as a later trigger exists, SQLite gives no new one the ID of the deleted one; other databases never do.
    other = airflow.trigger("sleeps")
    until(lambda: states(airflow, "sleeps", other).get("sleeps") == "deferred")
    cleared = {"dag_run_id": run, "task_ids": ["sleeps"], "dry_run": False, "only_failed": False}
    airflow.call("/api/v2/dags/sleeps/clearTaskInstances", cleared)
    assert airflow.wait("sleeps", run) == "success"
    assert (cluster("sleeps", run), jobs("sleeps", run)) == (None, {"1": "CANCELLED", "2": "DONE"})
    assert attempt(workshop, "sleeps", run) == 2
    fail_manually(airflow, "sleeps", other)
    assert airflow.wait("sleeps", other) == "failed"


def test_run_failed_manually_during_cluster_request_leaves_none(started):
    _, airflow = started
    run = airflow.trigger("late")
    until(lambda: cluster("late", run))
    fail_manually(airflow, "late", run)
    assert airflow.wait("late", run) == "failed"
    until(lambda: cluster("late", run) is None)
    assert states(airflow, "late", run)["close_cluster"] == "upstream_failed"


def test_killed_opening_task_finds_its_cluster(started):
    _, airflow = started
    run = airflow.trigger("late")
    until(lambda: cluster("late", run))
    os.kill(worker(airflow, "late", run, "open_cluster"), signal.SIGKILL)
    assert airflow.wait("late", run) == "success"
    assert (cluster("late", run), jobs("late", run)) == (None, {"1": "DONE"})

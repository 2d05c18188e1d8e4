"""Spark jobs on Dataproc clusters: its API with a node behind it that runs the jobs, a lake on gs://."""

import json

import pytest
from airflow.sdk.exceptions import AirflowFailException
from submissions import DIRECT, cancelled_while_watched, submitter
from tandem.protocol import encode
from tandem.runtimes.dataproc.clients import client
from tandem.runtimes.dataproc.cluster import Clusters
from tandem.runtimes.dataproc.jobs import Dataproc
from waiting import until
from workers import commands

from common.handover import storage

WRITES = '[outputs.interactions]\ncontract = "interactions@2"'
PLACE = {"project_id": "tandem-123456", "region": "europe-west3"}
RUNTIME = Dataproc(project="tandem-123456", region="europe-west3", poll_seconds=0.1)
PARALLEL = {"dataproc:dataproc.scheduler.max-concurrent-jobs": "5"}


def described(fault="", idle="60s", **config):
    """A cluster as in cluster.dataproc.json."""
    lifecycle = {"lifecycle_config": {"idle_delete_ttl": idle}}
    return {"labels": {"fault": fault} if fault else {}, "config": {**lifecycle, **config}}


def clusters():
    listed = client("ClusterController", PLACE["region"], "").list_clusters(request=PLACE)
    return {cluster.cluster_name: cluster.status.state.name for cluster in listed}


def jobs(prefix):
    """The states of the jobs whose IDs begin so, by attempt, in their order."""
    listed = client("JobController", PLACE["region"], "").list_jobs(request=PLACE)
    found = [job for job in listed if job.reference.job_id.startswith(f"{prefix}-")]
    return [(job.reference.job_id.rpartition("-")[2], job.status.state.name) for job in found]


ENDS = {  # the body of each job, its states by attempt, and a line of its failed task's log
    "code_0": ("task.metrics['rows'] = 7", ["DONE"], ""),
    "code_1": ("raise ValueError('no luck')", ["ERROR", "ERROR"], "ValueError at main.py"),
    "code_3": ("raise errors.InputError('The input is missing.')", ["ERROR"], "The input is missing."),
    "killed": ("os.kill(os.getpid(), signal.SIGKILL)", ["ERROR", "ERROR"], "Job failed with message [exit code -9]."),
    "silent": ("os._exit(0)", ["DONE", "DONE"], "without a manifest of this attempt"),
    "flaky": ("if task.attempt < 2: raise OSError('network')", ["ERROR", "DONE"], ""),
}


def test_jobs_that_end_in_all_ways_are_retried_and_leave_no_cluster(workshop, google, monkeypatch):
    for name, (body, _, _) in ENDS.items():
        workshop.job(f"e_{name}", body, more=WRITES, engine="spark")
    workshop.on_google("dataproc", google, monkeypatch)
    body = "\n".join(f'dag.spark("e_{name}")' for name in ENDS)
    cluster = {"cluster.dataproc": described(software_config={"properties": PARALLEL})}
    workshop.pipeline("dataproc_ends", body, **{f"e_{name}": {} for name in ENDS}, **cluster)
    ran = workshop.run("dataproc_ends")
    around = {"open_cluster": "success", "await_cluster": "success", "close_cluster": "success", "watcher": "failed"}
    assert (ran.state, clusters()) == ("failed", {})
    ends = {f"e_{name}": "success" if name in ("code_0", "flaky") else "failed" for name in ENDS}
    assert ran.states.items() >= {**around, **ends}.items()
    for name, (_, states, line) in ENDS.items():
        assert jobs(f"e_{name}") == [(str(number), end) for number, end in enumerate(states, 1)]
        assert any(line in each for each in ran.log)
    assert json.loads(storage.read(ran.xcoms["e_flaky"]["manifest"])[0])["task"]["attempt"] == 2


ACTIONS = {"initialization_actions": [{"executable_file": "{{ var.value.lake }}/bootstrap.sh"}]}
FAULTS = {  # the cluster, the states of tasks and run, those of the jobs, the message of the failed task
    "never_starts": (
        described("never_starts"),
        {"f_never_starts": "failed", "close_cluster": "success", "run": "failed"},
        ["CANCELLED", "CANCELLED"],
        "did not start within 3 s",
    ),
    "never_ready": (
        described("never_ready"),
        {"await_cluster": "failed", "f_never_ready": "upstream_failed", "close_cluster": "success", "run": "failed"},
        [],
        "Sensor has timed out",
    ),
    "bootstrap": (
        described(**ACTIONS),
        {"await_cluster": "failed", "f_bootstrap": "upstream_failed", "close_cluster": "success", "run": "failed"},
        [],
        "is ERROR: Initialization action failed: ",
    ),
    "dies": (
        described("dies"),
        {"f_dies": "failed", "close_cluster": "success", "run": "failed"},
        ["ERROR"],
        "is ERROR: The primary node was terminated. Clear this task and the one that opens its cluster.",
    ),
    "delete_once": (
        described("delete_once"),
        {"f_delete_once": "success", "close_cluster": "success", "run": "success"},
        ["DONE"],
        "The cluster is being resized, try again later.",
    ),
}
SOON = "ready_seconds = 3\npending_seconds = 3"


@pytest.mark.parametrize("name", FAULTS)
def test_cluster_faults_fail_run_and_leave_no_cluster(workshop, google, monkeypatch, name):
    cluster, states, ends, message = FAULTS[name]
    job = f"f_{name}"
    workshop.job(job, "import time; time.sleep(60)" if name == "dies" else "pass", more=WRITES, engine="spark")
    workshop.on_google("dataproc", google, monkeypatch)
    if name.startswith("never_"):
        file = workshop.dags / "environments" / "laptop.toml"
        file.write_text(file.read_text().replace("ready_seconds = 300\npending_seconds = 300", SOON))
    storage.write(f"{workshop.uri}/bootstrap.sh", b"exit 3")
    workshop.pipeline(f"dataproc_{name}", f'dag.spark("{job}")', **{job: {}, "cluster.dataproc": cluster})
    ran = workshop.run(f"dataproc_{name}")
    assert {**ran.states, "run": ran.state}.items() >= states.items()
    assert clusters() == {}
    assert [end for _, end in jobs(job)] == ends
    assert any(message in line for line in ran.log)
    manifest = f"{workshop.uri}/intermediate/dataproc_{name}/{encode(ran.run_id)}/{job}/manifest.json"
    published = manifest in [file.uri for file in storage.files(f"{workshop.uri}/intermediate")]
    assert published == (states["run"] == "success")


@pytest.fixture(scope="module")
def direct(google, make_workshop, tmp_path_factory):
    """Submits an attempt of a job to a cluster, without Airflow around it."""
    with pytest.MonkeyPatch.context() as patch:
        workshop = make_workshop(tmp_path_factory.mktemp("direct"))
        for name, body in DIRECT.items():
            workshop.job(name, body, more=WRITES, engine="spark")
        workshop.on_google("dataproc", google, patch)
        submit = submitter(workshop, RUNTIME)
        yield lambda name, number, cluster: submit(name, number, run_id=cluster, cluster=cluster)


def opened(name, **more):
    """A cluster that accepts jobs."""
    known = Clusters("tandem-123456", "europe-west3", "")
    known.create(name, described(**more))
    until(lambda: known.state(name)[0] == "RUNNING")
    return name


def state(job):
    return RUNTIME.poll(RUNTIME.client(), job)[0]


def test_resumed_worker_finds_its_job_and_retry_cancels_that_of_dead_worker(direct):
    cluster = opened("tandem-retried")
    older = direct("sleeps", 1, cluster)
    until(lambda: state(older) == "RUNNING")
    assert direct("sleeps", 1, cluster).id == older.id
    newer = direct("sleeps", 2, cluster)
    assert RUNTIME.watch(newer).exit_code == 0
    assert state(older) == "CANCELLED"


def test_uncancelled_old_attempt_does_not_publish_over_retry(direct):
    cluster = opened("tandem-two", fault="uncancellable")
    older = direct("waits", 1, cluster)
    until(lambda: state(older) == "RUNNING")
    newer = direct("waits", 2, cluster)
    assert RUNTIME.watch(newer).exit_code == 0
    assert RUNTIME.watch(older).exit_code == 1
    published = json.loads(storage.read(f"{newer.attempt.key}/manifest.json")[0])
    assert published["task"]["attempt"] == 2


def test_cancel_ends_job_while_another_thread_watches(direct):
    job = direct("sleeps", 1, opened("tandem-cancelled"))
    until(lambda: state(job) == "RUNNING")
    outcome = cancelled_while_watched(RUNTIME, job)
    assert outcome.exit_code == 1
    assert outcome.explanation.startswith(f"Job {job.id} of cluster {job.attempt.cluster} is CANCELLED.")
    until(lambda: not any("--run-id=tandem-cancelled" in line for line in commands()))


def test_unclosed_cluster_ends_by_idle_time_out(direct):
    cluster = opened("tandem-idle", idle="5s")
    until(lambda: cluster not in clusters())
    with pytest.raises(AirflowFailException, match=r"Cluster tandem-idle does not exist any more. Clear this task and"):
        direct("quick", 1, cluster)

"""Spark jobs on Dataproc: refusals while parsing, payloads, and outcomes from a server's responses."""

import dataclasses
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import factories
import grpc
import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from submissions import cancelled_while_watched
from tandem import catalogue
from tandem.runtimes.dataproc import clients
from tandem.runtimes.dataproc.cluster import Clusters, RequestCluster, check_message, cluster_name
from tandem.runtimes.dataproc.jobs import Dataproc
from waiting import until

from tools.sandbox import dataproc_node

CONFIG = {"worker_config": {"num_instances": 2}, "lifecycle_config": {"idle_delete_ttl": "600s"}}
FOUND = catalogue.Job("build", "spark", {}, {}, {}, {}, {"executor_memory": "2g"}, requirements="requirements/own.txt")


@pytest.fixture
def load(workshop, monkeypatch):
    def load(**config):
        monkeypatch.setenv("TANDEM_SPARK", "dataproc")
        workshop.job("build", engine="spark")
        described = {"cluster.dataproc": {"labels": {"of": "{{ dag.dag_id }}"}, "config": {**CONFIG, **config}}}
        workshop.pipeline("p", 'dag.spark("build")', build={}, **described)
        return workshop.load("p")

    return load


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"worker_config": {"num_instanses": 2}}, "config, worker_config names the key 'num_instanses', which does"),
        ({"initialization_actions": [{"executable": "gs://b/a"}]}, "initialization_actions[0] names the key 'execut"),
        ({"worker_config": {"num_instances": "two"}}, "cluster.dataproc.json is not a valid Cluster of Dataproc"),
        ({"lifecycle_config": {}}, "needs a time after which an idle cluster is deleted"),
    ],
)
def test_invalid_cluster_is_refused_while_parsing(load, config, message):
    with pytest.raises(AssertionError) as error:
        load(**config)
    assert message in str(error.value)


def test_missing_provider_is_named_with_install_command(load, monkeypatch):
    monkeypatch.setitem(sys.modules, "airflow.providers.google.cloud.operators.dataproc", None)
    monkeypatch.delitem(sys.modules, "tandem.runtimes.dataproc.cluster")
    with pytest.raises(AssertionError, match=r"needs Google's provider.*pip install .*airflow-dataproc-provider.txt"):
        load()


def test_cluster_is_named_after_its_run(load):
    dag = load()
    around = {"look_for_input", "pin_release", "open_cluster", "await_cluster", "close_cluster", "watcher"}
    assert set(dag.task_dict) == {*around, "build"}
    opened, closed = dag.get_task("open_cluster"), dag.get_task("close_cluster")
    assert closed.is_teardown
    assert opened.cluster_config["software_config"] == {"image_version": "3.0-debian13"}
    contexts = [{"ti": SimpleNamespace(dag_id="Pipe_Line", run_id=run)} for run in ("one", "one", "other")]
    name, same, other = (cluster_name("cluster", context) for context in contexts)
    assert name.startswith("tandem-pipe-line-") and len(name) <= 51
    assert name == same != other


@pytest.mark.parametrize("endpoint", ["", "dataproc-europe-west3.p.googleapis.com:443"])
def test_only_an_endpoint_on_this_machine_is_spoken_to_in_plain_text(monkeypatch, endpoint):
    monkeypatch.setenv("AIRFLOW_CONN_GOOGLE_CLOUD_DEFAULT", "google-cloud-platform://?is_anonymous=true")
    asked = []
    for name in ("insecure_channel", "secure_channel"):
        plain = getattr(grpc, name)
        monkeypatch.setattr(
            grpc,
            name,
            lambda host, *given, name=name, plain=plain, **more: (
                asked.append((name, host)) or plain(host, *given, **more)
            ),
        )
    clients.client("JobController", "europe-west3", endpoint)
    clients.client("JobController", "europe-west3", "127.0.0.1:8471")
    regional = "europe-west3-dataproc.googleapis.com:443"
    assert asked == [("secure_channel", endpoint or regional), ("insecure_channel", "127.0.0.1:8471")]


@pytest.fixture
def server(monkeypatch):
    """Dataproc's API on this machine with a cluster that starts no job by itself."""
    with dataproc_node.serve(Path("spark-submit")) as (endpoint, node):
        monkeypatch.setenv("DATAPROC_ENDPOINT", endpoint)
        clusters = Clusters(RUNTIME.project, RUNTIME.region, "")
        clusters.create("c", {"labels": {"fault": "never_starts"}})
        while clusters.state("c")[0] != "RUNNING":
            time.sleep(0.05)
        yield node


def change(node, job, state, details=""):
    with node.lock:
        node.jobs[job.id].change(state, details)


def state(node, job):
    return node.jobs[job.id].message.status.state.name


def test_cluster_of_an_earlier_attempt_is_used_unless_it_has_failed(server, load):
    opened, context = load().get_task("open_cluster"), {"ti": SimpleNamespace(dag_id="p", run_id="one")}
    opened.project_id, clusters = RUNTIME.project, Clusters(RUNTIME.project, RUNTIME.region, "")
    name = RequestCluster.execute(opened, context)
    assert RequestCluster.execute(opened, context) == name
    with server.lock:
        server.clusters[name].change("ERROR", "No quota.")
    with pytest.raises(AirflowException, match=f"Cluster {name} is ERROR: No quota. Once it is deleted, a retry opens"):
        RequestCluster.execute(opened, context)
    until(lambda: clusters.state(name)[0] == "GONE", 60)
    assert RequestCluster.execute(opened, context) == name
    assert clusters.state(name)[0] in ("CREATING", "RUNNING")
    opened.on_kill()
    with pytest.raises(AirflowFailException, match="is deleted, because this task was killed"):
        RequestCluster.execute(opened, context)
    assert clusters.state(name)[0] == "DELETING"


RUNTIME = Dataproc(project="tandem-123456", region="europe-west3", poll_seconds=0.05, pending_seconds=300)


def make_attempt(number):
    conf = {"spark.a": "b,c"}
    request = {**RUNTIME.request(FOUND, {"executor_cores": 3, "conf": conf}), "fingerprint": "f0"}
    given = {"predecessors": {"role": "u"}, "parameters": {"flag": True}, "request": request, "cluster": "c"}
    return factories.attempt("build", "gs://b/l/", task_id="t.x", number=number, **given)


def test_payload_has_bundle_sizes_libraries_and_equals_rerun_command():
    payload = RUNTIME.payload(make_attempt(2))
    check_message("SubmitJobRequest", payload, "here")
    assert json.loads(json.dumps(payload)) == payload
    spark = payload["job"]["pyspark_job"]
    assert spark["main_python_file_uri"] == "gs://b/l/code/build/f0/main.py"
    assert spark["python_file_uris"] == ["gs://b/l/code/build/f0/code.zip"]
    assert spark["archive_uris"] == ["gs://b/l/code/build/f0/libraries.zip#libraries"]
    assert spark["args"] == make_attempt(2).arguments
    assert spark["properties"] == {
        "spark.submit.deployMode": "cluster",
        "spark.executor.memory": "2g",
        "spark.executor.cores": "3",
        "spark.a": "b,c",
        "spark.yarn.appMasterEnv.PYTHONPATH": "libraries",
        "spark.executorEnv.PYTHONPATH": "libraries",
        "spark.yarn.maxAppAttempts": "1",
    }
    assert payload["job"]["placement"] == {"cluster_name": "c"}
    rerun_command = RUNTIME.rerun_command(make_attempt(2))
    assert rerun_command.startswith(
        "gcloud dataproc jobs submit pyspark gs://b/l/code/build/f0/main.py --project=tandem-123456"
    )
    assert "spark.a=b,c;" in rerun_command and rerun_command.endswith("--from=role=u --set=flag=true")


def test_deadline_counts_from_start_and_cancels_job(server):
    handle = RUNTIME.submit(dataclasses.replace(make_attempt(1), deadline_seconds=0.5))
    with ThreadPoolExecutor(1) as pool:
        watched = pool.submit(RUNTIME.watch, handle)
        time.sleep(0.2)
        assert state(server, handle) == "PENDING"
        change(server, handle, "RUNNING")
        outcome = watched.result()
    assert outcome.guessed
    assert outcome.explanation.splitlines()[0].startswith("It ran into its deadline of 0.5 s; give it more by")
    assert "is CANCELLED. Cancelled by user." in outcome.explanation


def test_uncancellable_job_is_abandoned_after_deadline(server, monkeypatch):
    monkeypatch.setattr("tandem.runtimes.polling.UNCANCELLED_SECONDS", 0.3)
    monkeypatch.setattr(Dataproc, "cancel", lambda *_: None)
    handle = RUNTIME.submit(dataclasses.replace(make_attempt(1), deadline_seconds=0.1))
    change(server, handle, "RUNNING")
    outcome = RUNTIME.watch(handle)
    assert outcome.guessed
    assert f"Job {handle.id} was cancelled and is still RUNNING." in outcome.explanation


def test_attempt_has_one_job_which_its_retry_cancels(server):
    older = RUNTIME.submit(make_attempt(1))
    assert RUNTIME.submit(make_attempt(1)).id == older.id
    assert list(server.jobs) == [older.id]
    newer = RUNTIME.submit(make_attempt(3))
    assert state(server, older) == "CANCELLED"
    assert newer.id != older.id
    where = "gs://b/driveroutput"
    change(server, newer, "ERROR", "Job failed with message [no memory].")
    server.jobs[newer.id].message.driver_output_resource_uri = where
    outcome = RUNTIME.watch(newer)
    assert outcome.exit_code == 1
    assert outcome.explanation == (
        f"Job {newer.id} of cluster c is ERROR. Job failed with message [no memory].\n"
        f"The driver's output is at {where}*"
    )
    change(server, newer, "DONE")
    assert RUNTIME.watch(newer).exit_code == 0


def test_cancel_ends_watched_job_and_pending_job_times_out(server):
    job = RUNTIME.submit(make_attempt(1))
    change(server, job, "RUNNING")
    outcome = cancelled_while_watched(RUNTIME, job)
    assert (outcome.exit_code, "is CANCELLED. Cancelled by user." in outcome.explanation) == (1, True)
    waiting = RUNTIME.submit(make_attempt(2))
    impatient = dataclasses.replace(RUNTIME, pending_seconds=0)
    assert "did not start within 0 s" in impatient.watch(waiting).explanation
    assert state(server, waiting) == "CANCELLED"

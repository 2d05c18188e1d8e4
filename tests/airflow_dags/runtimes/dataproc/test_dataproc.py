"""Spark jobs on Dataproc: refusals while parsing, payloads, and outcomes from a server's responses."""

import dataclasses
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import factories
import grpc
import pytest
from google.cloud import dataproc_v1
from google.cloud.dataproc_v1.services.job_controller.transports import JobControllerGrpcTransport
from tandem import catalogue
from tandem.runtimes.dataproc.cluster import check_message
from tandem.runtimes.dataproc.jobs import Dataproc

CONFIG = {"worker_config": {"num_instances": 2}, "lifecycle_config": {"idle_delete_ttl": "600s"}}
FOUND = catalogue.Job("build", "spark", {}, {}, {}, {}, {"executor_memory": "2g"}, requirements="requirements/own.txt")
SERVICE = "google.cloud.dataproc.v1.JobController"


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


def test_run_closes_the_cluster_that_it_opened(load, monkeypatch):
    from airflow.providers.google.cloud.operators import dataproc

    asked = []

    class Hook:
        project_id = "tandem-123456"

        def __init__(self, **options):
            pass

        def create_cluster(self, **request):
            asked.append(request)

        def get_cluster(self, **request):
            return dataproc_v1.Cluster(status={"state": "RUNNING"})

        def wait_for_operation(self, **options):
            pass

        def delete_cluster(self, **request):
            asked.append(request)

    monkeypatch.setattr(dataproc, "DataprocHook", Hook)
    monkeypatch.setattr(dataproc.DataprocClusterLink, "persist", lambda **options: None)
    dag = load()
    assert set(dag.task_dict) == {"look_for_input", "pin_release", "open_cluster", "build", "close_cluster", "watcher"}
    opened, closed = dag.get_task("open_cluster"), dag.get_task("close_cluster")
    assert closed.is_teardown
    for run in ("one", "other"):
        context = {"ti": SimpleNamespace(dag_id="Pipe_Line", run_id=run), "dag": dag}
        opened.render_template_fields(context)
        assert opened.execute(context) == asked[-1]["cluster_name"]
        closed.execute(context)
        assert asked[-1]["cluster_name"] == asked[-2]["cluster_name"]
    name = asked[0]["cluster_name"]
    assert name.startswith("tandem-pipe-line-") and len(name) <= 51
    assert name != asked[2]["cluster_name"]
    assert asked[0]["cluster_config"]["software_config"] == {"image_version": "2.3-debian12"}
    assert asked[0]["labels"] == {"of": "p"}
    message = {"cluster_name": name, "labels": asked[0]["labels"], "config": asked[0]["cluster_config"]}
    check_message("Cluster", message, "here")


@pytest.fixture
def server(monkeypatch):
    """Dataproc's JobController as a server that remembers jobs, and a runtime that polls it."""
    jobs, cancelled = {}, []

    def submit(request, context):
        name = request.job.reference.job_id
        if name in jobs:
            context.abort(grpc.StatusCode.ALREADY_EXISTS, name)
        request.job.status = {"state": "PENDING"}
        jobs[name] = request.job
        return request.job

    def get(request, context):
        if request.job_id not in jobs:
            context.abort(grpc.StatusCode.NOT_FOUND, request.job_id)
        return jobs[request.job_id]

    def cancel(request, context):
        cancelled.append(request.job_id)
        jobs[request.job_id].status = {"state": "CANCELLED", "details": "Cancelled by a user."}
        return jobs[request.job_id]

    def method(kind, verb):
        message = getattr(dataproc_v1, kind)
        return grpc.unary_unary_rpc_method_handler(verb, message.deserialize, dataproc_v1.Job.serialize)

    methods = {
        "SubmitJob": method("SubmitJobRequest", submit),
        "GetJob": method("GetJobRequest", get),
        "CancelJob": method("CancelJobRequest", cancel),
    }
    grpc_server = grpc.server(ThreadPoolExecutor(4))
    grpc_server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    port = grpc_server.add_insecure_port("127.0.0.1:0")
    grpc_server.start()
    channel = grpc.insecure_channel(f"127.0.0.1:{port}")
    client = dataproc_v1.JobControllerClient(transport=JobControllerGrpcTransport(channel=channel))
    monkeypatch.setattr(Dataproc, "client", lambda self: client)
    yield SimpleNamespace(jobs=jobs, cancelled=cancelled)
    channel.close()
    grpc_server.stop(None)


RUNTIME = Dataproc(project="tandem-123456", region="europe-west3", poll_seconds=0.05, pending_seconds=300)


def make_attempt(number):
    conf = {"spark.a": "b,c"}
    request = {**RUNTIME.request(FOUND, {"executor_cores": 3, "conf": conf}), "fingerprint": "f0"}
    given = {"predecessors": {"role": "u"}, "parameters": {"flag": True}, "request": request, "cluster": "c"}
    return factories.attempt("build", "s3://b/l/", task_id="t.x", number=number, **given)


def test_payload_has_bundle_sizes_libraries_and_equals_rerun_command():
    payload = RUNTIME.payload(make_attempt(2))
    check_message("SubmitJobRequest", payload, "here")
    assert json.loads(json.dumps(payload)) == payload
    spark = payload["job"]["pyspark_job"]
    assert spark["main_python_file_uri"] == "s3://b/l/code/build/f0/main.py"
    assert spark["python_file_uris"] == ["s3://b/l/code/build/f0/code.zip"]
    assert spark["archive_uris"] == ["s3://b/l/code/build/f0/libraries.zip#libraries"]
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
        "gcloud dataproc jobs submit pyspark s3://b/l/code/build/f0/main.py --project=tandem-123456"
    )
    assert "spark.a=b,c;" in rerun_command and rerun_command.endswith("--from=role=u --set=flag=true")


def test_deadline_counts_from_start_and_cancels_job(server):
    handle = RUNTIME.submit(dataclasses.replace(make_attempt(1), deadline_seconds=0.5))
    with ThreadPoolExecutor(1) as pool:
        watched = pool.submit(RUNTIME.watch, handle)
        time.sleep(0.2)
        assert not server.cancelled
        server.jobs[handle.id].status = {"state": "RUNNING"}
        outcome = watched.result()
    assert server.cancelled == [handle.id]
    assert outcome.guessed
    assert outcome.explanation.splitlines()[0].startswith("It ran into its deadline of 0.5 s; give it more by")
    assert "is CANCELLED. Cancelled by a user." in outcome.explanation


def test_uncancellable_job_is_abandoned_after_deadline(server, monkeypatch):
    monkeypatch.setattr("tandem.runtimes.polling.UNCANCELLED_SECONDS", 0.3)
    monkeypatch.setattr(Dataproc, "cancel", lambda *_: None)
    handle = RUNTIME.submit(dataclasses.replace(make_attempt(1), deadline_seconds=0.1))
    server.jobs[handle.id].status = {"state": "RUNNING"}
    outcome = RUNTIME.watch(handle)
    assert outcome.guessed
    assert f"Job {handle.id} was cancelled and is still RUNNING." in outcome.explanation


def test_attempt_has_one_job_which_its_retry_cancels(server):
    older = RUNTIME.submit(make_attempt(1))
    assert RUNTIME.submit(make_attempt(1)).id == older.id
    assert list(server.jobs) == [older.id]
    newer = RUNTIME.submit(make_attempt(3))
    assert server.cancelled == [older.id]
    assert newer.id != older.id
    where = "gs://b/driveroutput"
    server.jobs[newer.id].status = {"state": "ERROR", "details": "Job failed with message [no memory]."}
    server.jobs[newer.id].driver_output_resource_uri = where
    outcome = RUNTIME.watch(newer)
    assert outcome.exit_code == 1
    assert outcome.explanation == (
        f"Job {newer.id} of cluster c is ERROR. Job failed with message [no memory].\n"
        f"The driver's output is at {where}*"
    )
    server.jobs[newer.id].status = {"state": "DONE"}
    assert RUNTIME.watch(newer).exit_code == 0


def test_cancel_ends_watched_job_and_pending_job_times_out(server):
    job = RUNTIME.submit(make_attempt(1))
    server.jobs[job.id].status = {"state": "RUNNING"}
    with ThreadPoolExecutor(1) as pool:
        watched = pool.submit(RUNTIME.watch, job)
        RUNTIME.cancel(job)
        outcome = watched.result()
    assert (outcome.exit_code, "is CANCELLED. Cancelled by a user." in outcome.explanation) == (1, True)
    waiting = RUNTIME.submit(make_attempt(2))
    impatient = dataclasses.replace(RUNTIME, pending_seconds=0)
    assert "did not start within 0 s" in impatient.watch(waiting).explanation
    assert server.cancelled[-1] == waiting.id

"""The daily recommendations under Airflow's own scheduler: all jobs as pods, a worker that is killed."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cluster import prepared
from tandem.protocol import encode, light_product
from waiting import until
from workers import worker

from common.handover import storage
from tools.deploy import namespace
from tools.sandbox import servers
from tools.sandbox.local_airflow import free_port, start

ROOT = Path(__file__).parents[4]
PYTHON = ROOT / ".venv" / "bin" / "python"
DAG = "daily_recommendations"
KILLED = "train_recommender"
MAPPED = "predict_recommendations"
SHARDS = 4
JOBS = (
    KILLED,
    MAPPED,
    "select_recommendations",
    "build_similar_items",
    "write_product",
    "publish_product",
    "report_run",
)
SPARK_JOB = "build_interactions"  # on the light engine
LAKE = "s3://tandem-lake/scheduled"
SHOP = ("--level", "curated", "--users", "3000", "--items", "2000", "--events", "90000", "--days", "90")


@pytest.fixture(scope="module")
def release(kubernetes, engine):
    """The fingerprints of the images that the pipeline runs, built unless they exist."""
    build = [PYTHON, "-m", "tools.packaging.build"]
    subprocess.run([*build, *(part for job in JOBS for part in ("--job", job))], cwd=ROOT, check=True)
    subprocess.run([*build, "--job", SPARK_JOB, "--kind", "light"], cwd=ROOT, check=True)
    return json.loads((ROOT / "dist" / "release.json").read_text())


@pytest.fixture(scope="module")
def cluster(release, serve_s3, tmp_path_factory):
    """A namespace with a made-up shop in its lake, and a DynamoDB that pods reach."""
    images = [f"tandem/{product}:{release[product]}" for product in (*JOBS, light_product(SPARK_JOB))]
    with prepared(tmp_path_factory.mktemp("cluster"), serve_s3, images) as found, pytest.MonkeyPatch.context() as patch:
        host, port = namespace.host(), free_port(namespace.host())
        command = [PYTHON, "-m", "moto.server", "-H", host, "-p", str(port)]
        with servers.listening(command, port, host, stderr=subprocess.DEVNULL):
            patch.setenv("DYNAMODB_ENDPOINT", f"http://{host}:{port}")
            patch.setenv("PYTHONPATH", str(ROOT))
            variables = {name: value for name, value in os.environ.items() if name.startswith(("AWS_", "DYNAMODB_"))}
            namespace.write_secret(found.namespace, variables)
            identity = ("--dag-id", "d", "--run-id", "r", "--task-id", "ingest_items", "--attempt", "1")
            for command in (
                ["-m", "tools.tables", "--environment", "laptop"],
                ["-m", "tools.data.generate_data", "--lake", LAKE, *SHOP],
                ["jobs/ingest_items/main.py", "--lake", LAKE, *identity],
            ):
                subprocess.run([PYTHON, *command], cwd=ROOT, check=True)
            yield found


@pytest.fixture(scope="module")
def dags(cluster, tmp_path_factory):
    """The pipeline in a checkout whose pods go into the test's namespace."""
    checkout = tmp_path_factory.mktemp("checkout")
    for name in (".venv", "jobs", "common", "sources"):
        (checkout / name).symlink_to(ROOT / name)
    dags = checkout / "airflow_dags"
    others = [each.parent.name for each in ROOT.glob("airflow_dags/*/dag.py") if each.parent.name != DAG]
    shutil.copytree(ROOT / "airflow_dags", dags, ignore=shutil.ignore_patterns("__pycache__", *others))
    shared = dags / "environments" / "shared.toml"
    shared.write_text(f"{shared.read_text().partition('[pipelines.')[0]}[pipelines.{DAG}]\n")
    pod = json.loads(cluster.template.read_text())
    pod["spec"]["schedulingGates"] = [{"name": "tests/may-start"}]
    (dags / "environments" / "pod.json").write_text(json.dumps(pod))
    return dags


@contextlib.contextmanager
def gates_opened(cluster):
    """Let the run's pods start in this block, but those of the mapped task only once all of them are there.

    Thus no shard can end before the last began, however busy the machine is.
    """
    end = threading.Event()

    def open_gates():
        while not end.wait(0.2):
            pods = cluster.pods()
            together = len([pod for pod in pods if pod.metadata.labels["task_id"] == MAPPED]) == SHARDS
            for pod in pods:
                if pod.spec.scheduling_gates and (together or pod.metadata.labels["task_id"] != MAPPED):
                    opened = [{"op": "remove", "path": "/spec/schedulingGates"}]
                    cluster.core.patch_namespaced_pod(pod.metadata.name, cluster.namespace, opened)

    with ThreadPoolExecutor() as pool:
        opening = pool.submit(open_gates)
        try:
            yield
        finally:
            end.set()
        opening.result()


@pytest.fixture(scope="module")
def ran(cluster, dags, release, home):
    """An Airflow and its run of the pipeline, whose worker was killed while a pod trained."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TANDEM_CONTAINERS", "kubernetes_pod")
        patch.setenv("AIRFLOW_VAR_RELEASE", json.dumps(release))
        with start(LAKE, home=home, dags=dags) as airflow, gates_opened(cluster):
            run = airflow.trigger(DAG)
            until(lambda: cluster.pods(f"task_id={KILLED}"))
            cluster.await_output(f"task_id={KILLED}", "started")
            os.kill(worker(airflow, DAG, run, KILLED), signal.SIGKILL)
            state = airflow.wait(DAG, run)
            yield airflow, run, state


def manifest(run, task):
    return json.loads(storage.read(f"{LAKE}/intermediate/{DAG}/{encode(run)}/{task}/manifest.json")[0])


def test_hybrid_pipeline_runs_and_leaves_no_pod(ran, cluster):
    _, run, state = ran
    assert state == "success"
    shards = [manifest(run, f"select_recommendations/map-{shard}") for shard in range(SHARDS)]
    assert sum(shard["outputs"]["recommendations"]["rows"] for shard in shards) > 10_000
    assert manifest(run, "publish_product")["metrics"]["items"] > 1000
    until(lambda: not cluster.resources())


def test_retry_adopts_pod_of_killed_worker(ran, cluster):
    airflow, run, _ = ran
    (instance,) = [each for each in airflow.instances(DAG, run) if each.task_id == KILLED]
    assert (instance.state, instance.try_number) == ("success", 2)
    assert manifest(run, KILLED)["task"]["attempt"] == 1
    assert airflow.xcom(DAG, run, instance)["metrics"] == manifest(run, KILLED)["metrics"]
    account = json.loads(storage.read(f"{LAKE}/intermediate/{DAG}/{encode(run)}/{KILLED}/attempt-2/scheduler.json")[0])
    assert (account["state"], account["adopted"]) == ("succeeded", 1)
    log = "\n".join(airflow.log(DAG, run, instance))
    assert "Attempt 2 adopts" in log
    assert f"started job={KILLED} attempt=1" in log
    events = cluster.core.list_namespaced_event(cluster.namespace, field_selector="reason=Scheduled").items
    names = [each.involved_object.name for each in events]
    assert len([name for name in names if "train-recommender" in name]) == 1
    # The interactions; of the recommendations: training, three mapped tasks, publication; similar items; the report.
    assert len(names) == 1 + 1 + 3 * 4 + 1 + 3 + 1


def test_mapped_tasks_are_concurrent_pods(ran):
    airflow, run, _ = ran
    parts = [each for each in airflow.instances(DAG, run) if each.task_id == MAPPED]
    assert [each.map_index for each in sorted(parts, key=lambda each: each.map_index)] == list(range(SHARDS))
    assert max(each.started for each in parts) < min(each.ended for each in parts)

"""The same jobs on the same inputs in all runtimes: equal manifests and equal bytes."""

import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path

import boto3
import factories
import pytest
from cluster import prepared
from tandem import catalogue
from tandem.pin_release import fingerprint
from tandem.protocol import light_product
from tandem.runtimes.emr.serverless import EmrServerless
from tandem.runtimes.emr.steps import Emr
from tandem.runtimes.kubernetes.job import KubernetesJob
from tandem.runtimes.kubernetes.pod import KubernetesPod
from tandem.runtimes.local.docker import Docker
from tandem.runtimes.local.process import Process
from tandem.runtimes.local.spark_submit import SparkSubmit

from common.handover import storage
from common.handover.stores import s3

ROOT = Path(__file__).parents[3]
PROGRAMS = ROOT / ".venv" / "bin"
LIGHT = "build_interactions"  # a Spark job, on the light engine in containers
JOBS = ("ingest_items", "train_recommender", "predict_recommendations", "select_recommendations")
PROCESS = re.compile(rb"((?:attempt-|version=[0-9a-f]{16}-)[0-9]+[-/])[0-9a-f]{8}(?=/)")  # its name in paths
OF_ITS_RUN = {
    "started",
    "ended",
    "seconds",
    "processor_seconds",
    "peak_memory_bytes",
    "application",
    "host",
    "basis",
}  # may differ
PREDECESSORS = {
    "train_recommender": {"interactions": "build_interactions"},
    "predict_recommendations": {"interactions": "build_interactions", "model": "train_recommender"},
    "select_recommendations": {"predictions": "predict_recommendations", "model": "train_recommender"},
}
PARAMETERS = {
    "ingest_events": {"until": "2010-05-01"},
    "predict_recommendations": {"shards": 2},
    "select_recommendations": {"shards": 2},
}


@pytest.fixture(scope="module")
def release(engine):
    """The fingerprints of the images of these jobs, built from this checkout unless they exist."""
    build = [PROGRAMS / "python", "-m", "tools.packaging.build"]
    subprocess.run([*build, *(part for job in JOBS for part in ("--job", job))], cwd=ROOT, check=True)
    subprocess.run([*build, "--job", LIGHT, "--kind", "light"], cwd=ROOT, check=True)
    return json.loads((ROOT / "dist" / "release.json").read_text())


def make_attempt(runtime, release, lake, job, map_index=None):
    """The first attempt of a task that is named after its job."""
    engine = "spark" if job in ("ingest_events", LIGHT) else "python"
    found = catalogue.find(ROOT / "airflow_dags" / "job_catalogue.json", job, engine, "")
    template = json.dumps(fingerprint(found.image))[1:-1]
    request = json.loads(json.dumps(runtime.request(found, {})).replace(template, release.get(found.image, "")))
    roles, parameters = PREDECESSORS.get(job, {}), PARAMETERS.get(job, {})
    return factories.attempt(
        job, lake, task_id=job, map_index=map_index, predecessors=roles, parameters=parameters, request=request
    )


def run(runtime, release, lake, job):
    """Run all map instances of a job; return the contents of their result files."""
    parts = range(PARAMETERS.get(job, {}).get("shards", 0)) or [None]
    outcomes = [runtime.watch(runtime.submit(make_attempt(runtime, release, lake, job, part))) for part in parts]
    assert [outcome.exit_code for outcome in outcomes] == [0] * len(parts)
    return [json.loads(outcome.result) for outcome in outcomes]


@pytest.fixture(scope="module")
def compared(release, tmp_path_factory):
    """For each job: its results in both runtimes, and the lakes after it. Each job reads its predecessor's output."""
    folder = tmp_path_factory.mktemp("conformance")
    lake = folder / "lake"
    uri = f"file://{lake}"
    python = PROGRAMS / "python"
    process = Process(code=ROOT, python=python)
    spark = SparkSubmit(code=ROOT, python=python, spark_submit=PROGRAMS / "spark-submit", master="local[2]")
    subprocess.run([python, "-m", "tools.data.load_sample", "--lake", uri], cwd=ROOT, check=True)
    run(spark, release, uri, "ingest_events")
    shutil.rmtree(lake / "raw" / "events")
    shutil.copytree(lake, folder / "ingested")
    found = {"ingest_events": [folder / "ingested"]}
    for job in (LIGHT, *JOBS):
        shutil.copytree(lake, folder / "before")
        results = [run(process, release, uri, job)]
        lake.rename(folder / f"{job}-process")
        (folder / "before").rename(lake)
        results += [run(Docker(), release, uri, job)]
        shutil.copytree(lake, folder / f"{job}-docker")
        found[job] = (*results, folder / f"{job}-process", folder / f"{job}-docker")
    return found


def files(lake):
    return {str(file.relative_to(lake)): file.read_bytes() for file in lake.rglob("*") if file.is_file()}


def read(folder, root):
    """The files below a folder, by their paths below a root."""
    return {file.uri.removeprefix(root): storage.read(file.uri)[0] for file in storage.files(folder)}


def without_process(found):
    """The files of a lake, with one name for all processes in paths and manifests."""

    def content(path, bytes_):
        return PROCESS.sub(rb"\1process", bytes_) if path.endswith("manifest.json") else bytes_

    return {PROCESS.sub(rb"\1process", path.encode()).decode(): content(path, each) for path, each in found.items()}


def of_task(document):
    """The fingerprint of a manifest, and its other content without values that differ between runs."""
    rest = {key: value for key, value in document.items() if key not in OF_ITS_RUN}
    rest["task"] = {key: value for key, value in rest["task"].items() if key != "process"}
    return rest.pop("fingerprint"), rest


@pytest.mark.parametrize("job", (LIGHT, *JOBS))
def test_container_and_process_write_the_same(compared, release, job):
    by_process, by_docker, lake_of_process, lake_of_docker = compared[job]
    assert by_docker == by_process
    one, other = (without_process(files(lake)) for lake in (lake_of_process, lake_of_docker))
    assert one.keys() == other.keys()
    different = [path for path in one if one[path] != other[path]]
    assert {Path(path).name for path in different} == {"manifest.json"}
    assert len(different) == {"ingest_items": 3, "train_recommender": 1, LIGHT: 1}.get(job, 2)
    for path in different:
        (checkout, manifest_of_process), (built, manifest_of_docker) = (
            of_task(json.loads(each[path])) for each in (one, other)
        )
        assert manifest_of_docker == manifest_of_process
        assert sum(output["rows"] for output in manifest_of_docker["outputs"].values()) > 100
        assert checkout.startswith("checkout-")
        assert built == release[light_product(LIGHT) if job == LIGHT else job]


def test_container_writes_the_same_on_s3_and_in_files(compared, release, s3_server, monkeypatch):
    for name, value in s3_server.items():
        monkeypatch.setenv(name, value)
    in_files = without_process(files(compared["ingest_items"][-1]))
    uri = "s3://tandem-lake/conformance"
    for path, content in in_files.items():
        if path.startswith("raw/items/"):
            storage.write(f"{uri}/{path}", content)
    (result,) = run(Docker(), release, uri, "ingest_items")
    assert result["manifest"] == f"{uri}/intermediate/d/r/ingest_items/manifest.json"
    left = without_process(read(f"{uri}/curated", f"{uri}/"))
    (ledger,) = (path for path in left if "/ingested/" in path)  # its tags are those of the storage
    assert json.loads(left.pop(ledger))["files"].keys() == json.loads(in_files[ledger])["files"].keys()
    assert len(left) == 4
    for path, one in left.items():
        other = in_files[path]
        if path.endswith("/manifest.json"):
            one, other = of_task(json.loads(one)), of_task(json.loads(other))
        assert one == other


AWS_RUNTIMES = {
    "emr": Emr(poll_seconds=0.1),
    "emr_serverless": EmrServerless(execution_role="arn:aws:iam::123456789012:role/jobs", poll_seconds=0.1),
}


def opened(name):
    """A cluster or an application that accepts jobs."""
    if name == "emr_serverless":
        client = boto3.client("emr-serverless")
        return client.create_application(name="c", type="SPARK", releaseLabel="emr-7.9.0")["applicationId"]
    client = boto3.client("emr")
    instances = {"KeepJobFlowAliveWhenNoSteps": True, "MasterInstanceType": "m6g.xlarge", "InstanceCount": 1}
    return client.run_job_flow(Name="c", Instances=instances, ReleaseLabel="emr-7.9.0")["JobFlowId"]


@pytest.mark.parametrize(("name", "runtime"), AWS_RUNTIMES.items())
def test_cluster_container_and_spark_submit_write_the_same(workshop, aws, monkeypatch, name, runtime):
    """The same Spark job on the same lake: the same result, and equal manifests except for times."""
    body = "task.metrics['answer'] = len(task.parameters['text'])"
    text = '[parameters.text]\ntype = "string"\ndefault = "a b"\nhelp = "a text"'
    workshop.job("count", body, more=f'[outputs.interactions]\ncontract = "interactions@2"\n{text}', engine="spark")
    workshop.on_aws(name, aws, monkeypatch)
    submit = SparkSubmit(
        code=workshop.code,
        python=PROGRAMS / "python",
        spark_submit=workshop.dags.parent / "spark-submit",
        master="local[1]",
    )
    found = catalogue.find(workshop.dags / "job_catalogue.json", "count", "spark", "")
    left = []
    for each in (submit, Process(code=workshop.code, python=PROGRAMS / "python"), runtime):
        request = {**each.request(found, {}), "fingerprint": json.loads(workshop.release)["count"]}
        cluster = opened(name) if each is runtime else None
        parameters = {"text": "it's 'quoted' $HOME"}
        attempt = factories.attempt(
            "count", workshop.uri, task_id="count", parameters=parameters, request=request, cluster=cluster
        )
        assert each.watch(each.submit(attempt)).exit_code == 0
        content = PROCESS.sub(rb"\1process", storage.read(f"{attempt.key}/manifest.json")[0])
        left.append(of_task(json.loads(content)))
        storage.delete(attempt.key)
    (checkout, one), (_, in_container), (built, on_cluster) = left
    assert one == in_container == on_cluster
    assert one["metrics"] == {"answer": 19}
    assert checkout.startswith("checkout-")
    assert built == json.loads(workshop.release)["count"]


@pytest.fixture(scope="module")
def cluster(kubernetes, release, serve_s3, tmp_path_factory):
    images = [f"tandem/{product}:{release[product]}" for product in (*JOBS, light_product(LIGHT))]
    with prepared(tmp_path_factory.mktemp("cluster"), serve_s3, images) as found:
        s3.client.cache_clear()
        yield found


@pytest.mark.parametrize("kind", [KubernetesPod, KubernetesJob])
@pytest.mark.parametrize(("before", "job"), [("ingest_events", LIGHT), *itertools.pairwise(JOBS)])
def test_pod_on_s3_and_container_in_files_write_the_same(compared, release, cluster, before, job, kind):
    """The daily recommendations, from their Spark job on the light engine to their last job."""
    settings = {"registry": "", "template": cluster.template, "startup_seconds": 300, "keep_failed": False}
    settings["cpu_reserved"] = 0.2  # a node of two processors cannot reserve both; the limit is the container's
    runtime = kind(**settings, **({"ttl_seconds": 600} if kind is KubernetesJob else {}))
    uri = f"s3://tandem-lake/{kind.__name__}/{job}"
    for path, content in files(compared[before][-1]).items():
        if path.startswith(("intermediate/", "curated/items/", *(["curated/events/"] if job == LIGHT else []))):
            storage.write(f"{uri}/{path}", content)
    results = run(runtime, release, uri, job)
    _, by_docker, _, lake = compared[job]
    in_files = without_process(files(lake))
    root = by_docker[0]["manifest"].partition("/intermediate/")[0]
    assert json.loads(json.dumps(results).replace(uri, root)) == by_docker
    left = without_process(read(f"{uri}/intermediate/d/r/{job}", f"{uri}/"))
    assert left
    for path, one in left.items():
        other = in_files[path]
        if path.endswith("/manifest.json"):
            one, other = of_task(json.loads(one.replace(uri.encode(), root.encode()))), of_task(json.loads(other))
        same = one == other  # not compared by the assertion, which would print megabytes
        assert same, path

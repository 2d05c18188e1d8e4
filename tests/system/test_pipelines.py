"""Every pipeline through a real Airflow, Spark on EMR, the lake on the S3 server, with a task killed midway."""

import dataclasses
import datetime
import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pyarrow.compute as pc
import pytest

from common.delivery.stores import open_store
from common.engines import arrow
from common.handover import manifest, storage
from common.handover.stores import s3
from tests.samples import five_months
from tools.data import load_sample
from tools.packaging.fingerprint import ROOT, product
from tools.sandbox import demo, demo_emr, local_dynamodb
from tools.sandbox.local_airflow import start

pytestmark = pytest.mark.timeout(1200)  # the first test waits for all pipelines
KILLED = "train_recommender"
SPARK_JOBS = {"ingest_events", "build_interactions"}


@pytest.fixture(scope="module")
def lake(s3_server, tmp_path_factory):
    """Five months of the sample, as delivered, on the S3 server."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server.items():
            patch.setenv(name, value)
        s3.client.cache_clear()
        arrow.object_store.cache_clear()
        root = "s3://tandem-lake/pipelines"
        load_sample.load(five_months(tmp_path_factory.mktemp("sample")), root)
        yield root


def kill_once(task_id, lake, within=900):
    """Kill the first process of a task on a lake, as the kernel does when memory runs out; return its attempt."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        for process in Path("/proc").glob("[0-9]*"):
            try:
                arguments = (process / "cmdline").read_text().split("\0")
            except OSError:
                continue
            if arguments[1:2] == [f"{ROOT}/jobs/{task_id}/main.py"] and lake in " ".join(arguments):
                time.sleep(1.5)  # it is working by now
                os.kill(int(process.name), signal.SIGKILL)
                return next(int(text.removeprefix("--attempt=")) for text in arguments if text.startswith("--attempt="))
        time.sleep(0.05)
    raise TimeoutError(f"{task_id} was not started within {within} s")


@pytest.fixture(scope="module")
def ran(lake, make_home):
    """The manifests of all tasks of a run with a killed task, by job, and that task's first log."""
    clock = demo.Clock()
    home = make_home()
    with pytest.MonkeyPatch.context() as patch, demo_emr.emr(clock), local_dynamodb.running():
        patch.setenv("AIRFLOW_VAR_RELEASE", json.dumps(demo_emr.release_bundles(lake)))
        yield from run_all(lake, home, clock)


def run_all(lake, home, clock):
    with start(lake, home=home) as airflow:
        with ThreadPoolExecutor(1) as pool:
            killed = pool.submit(kill_once, KILLED, lake)
            runs = demo.run_pipelines(airflow, clock)
            assert killed.result() == 1
        found = demo.manifests(airflow, runs)
        run = runs[demo.RECOMMENDING]
        instance = next(each for each in airflow.instances(demo.RECOMMENDING, run) if each.task_id == KILLED)
        log = airflow.log(demo.RECOMMENDING, run, dataclasses.replace(instance, try_number=1))
        yield {each.task_id: published for _, each, published in found}, found, log  # while the tables exist


def test_killed_task_is_retried_and_its_retry_published(ran):
    by_task, _, log = ran
    assert by_task[KILLED].document["task"]["attempt"] == 2
    assert "attempt-2/" in by_task[KILLED].document["outputs"]["model"]["files"][0]["path"]
    end = "\n".join(log[-4:])
    assert "signal 9" in end or "SIGKILL" in end
    assert f"jobs/{KILLED}/main.py" in log[-1]


def test_spark_jobs_ran_as_steps_of_clusters_closed_in_time(ran):
    emr = boto3.client("emr")
    listed = [each for each in emr.list_clusters()["Clusters"] if each["Name"] in ("ingest_events", demo.RECOMMENDING)]
    clusters = [emr.describe_cluster(ClusterId=each["Id"])["Cluster"] for each in listed]
    assert {cluster["Status"]["State"] for cluster in clusters} == {"TERMINATED"}
    steps = {
        step["Name"].split("/")[2]: (step["Status"]["State"], cluster["Status"]["Timeline"]["EndDateTime"])
        for cluster in clusters
        for step in emr.list_steps(ClusterId=cluster["Id"])["Steps"]
    }
    assert {name: state for name, (state, _) in steps.items()} == dict.fromkeys(SPARK_JOBS, "COMPLETED")
    by_task = ran[0]
    assert {by_task[job].document["fingerprint"] for job in SPARK_JOBS} == {
        product(job).fingerprint for job in SPARK_JOBS
    }
    trained = datetime.datetime.fromisoformat(by_task[KILLED].document["ended"])
    assert steps["build_interactions"][1] < trained


def test_every_task_has_a_manifest_with_existing_parents(ran):
    _, found, _ = ran
    reports = 3
    assert len(found) == 2 + 2 + 4 + 4 + 4 + 1 + 1 + 2 + reports
    parents = {parent["uri"]: parent["digest"] for _, _, each in found for parent in each.document["parents"]}
    assert len(parents) > 4
    for uri, digest in list(parents.items())[:20] + list(parents.items())[-20:]:
        assert manifest.load_or_none(uri).digest == digest


def test_recommendations_are_complete_and_ranked(ran):
    by_task, found, _ = ran
    table = demo.all_shards(found, "select_recommendations", "recommendations").to_table()
    default = table.filter(pc.is_null(table["user_id"]))
    assert default.num_rows == 10
    assert pc.count_distinct(table["user_id"]).as_py() > 500
    assert pc.max(table.group_by(["user_id", "style"]).aggregate([([], "count_all")])["count_all"]).as_py() <= 10
    named = demo.item_names(by_task["ingest_items"].uri.partition("/intermediate/")[0])
    assert set(table["item_id"].to_pylist()) <= set(named)


def test_frontends_read_the_selected_rows(ran):
    by_task, found, _ = ran
    table = demo.all_shards(found, "select_recommendations", "recommendations").to_table()
    user = table["user_id"][-1].as_py()
    expected = table.filter(pc.equal(table["user_id"], user)).sort_by("rank")["item_id"].to_pylist()
    metrics = by_task["publish_product"].document["metrics"]
    assert metrics["table"] == "tandem-laptop-recommendations"
    assert metrics["items"] == len(table["user_id"].drop_null().unique())
    shown = open_store(metrics["store"], metrics["table"]).shown(user)
    assert [row["item_id"] for row in shown] == expected


def test_all_events_are_in_the_partition_of_their_day(lake, ran):
    by_task, _, _ = ran
    output = by_task["ingest_events"].document["outputs"]["events"]
    rows = 0
    for name in list(output["partitions"])[::20]:
        partition = manifest.load_or_none(f"{lake}/curated/events/{name}/manifest.json")
        events = demo.output(partition, "events").to_table(["time", "event_id"])
        assert set(pc.strftime(events["time"], "date=%Y-%m-%d").unique().to_pylist()) == {name}
        assert events.num_rows == output["partitions"][name]["rows"] == len(events["event_id"].unique())
        rows += events.num_rows
    assert rows > 5000


def test_no_partial_files_are_left(lake, ran):
    files = storage.files(f"{lake}/intermediate") + storage.files(f"{lake}/curated")
    assert len(files) > 100
    assert not [file for file in files if "_temporary" in file.uri or "__magic" in file.uri]

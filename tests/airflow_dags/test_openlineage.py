"""OpenLineage's view of tasks and gauges, made from manifests."""

import copy
import json
import time
from datetime import datetime
from pathlib import Path

import factories
import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.definitions.mappedoperator import MappedOperator
from airflow.sdk.observability import stats
from openlineage.client.event_v2 import Job, Run, RunEvent
from openlineage.client.serde import Serde
from openlineage_model import check_event
from tandem import metrics
from tandem.operator import JobOperator

ROOT = Path(__file__).parents[2]
RUN = {"dag_id": "trending_items", "run_id": "scheduled__2026-11-27", "map_index": None, "attempt": 1}
EVENTS = "file:///lake/curated/events/date=2026-11-2{}/manifest.json"
BUILT = {
    "task": {**RUN, "task_id": "build_trending_items"},
    "fingerprint": "3f8024effc191488",
    "basis": "2026-11-27T03:34:45.281201+00:00",
    "inputs": {
        "events": {"contract": "events@3", "rows": 74888, "bytes": 1840213, "files": 92},
        "items": {"contract": "items@2", "rows": 4621, "bytes": 155080, "files": 1},
    },
    "parents": [
        {"role": "events", "uri": EVENTS.format(5), "digest": "sha256:f0de"},
        {"role": "events", "uri": EVENTS.format(6), "digest": "sha256:37fa"},
        {"role": "items", "uri": "file:///lake/curated/items/all/manifest.json", "digest": "sha256:a3a5"},
    ],
    "outputs": {"trending": {"contract": "trending_items@2", "rows": 47, "bytes": 5281, "files": [{"path": "a"}]}},
    "metrics": {"events": 74888, "rows": 47},
    "warnings": ["The rows for country=France are 80 % fewer than usual."],
}
TABLE = {"table": "tandem-laptop-trending_items", "version": "2026-11-27T03:35:00.382Z-91570c96"}
WRITTEN = {
    **BUILT,
    "task": {**RUN, "task_id": "write_product", "map_index": 0},
    "inputs": {"product": {"contract": "trending_items@2", "rows": 47, "bytes": 5281, "files": 1}},
    "parents": [{"role": "product", "digest": "sha256:91c5"}],
    "outputs": {"part": {"contract": "published_part@2", "rows": 1, "bytes": 900, "files": [{"path": "b"}]}},
    "metrics": {**TABLE, "items": 2},
}
PUBLISHED = {
    **BUILT,
    "task": {**RUN, "task_id": "publish_product"},
    "inputs": {"parts": {"contract": "published_part@2", "rows": 1, "bytes": 900, "files": 1}},
    "parents": [{"role": "parts", "digest": "sha256:b250"}],
    "outputs": {},
    "metrics": {**TABLE, "rows": 47},
}


@pytest.fixture(scope="module")
def dags():
    bag = DagBag(str(ROOT / "airflow_dags"))
    assert bag.import_errors == {}
    return bag.dags


@pytest.fixture(scope="module")
def dag(dags):
    return dags["trending_items"]


@pytest.fixture
def operator(dag, tmp_path):
    """Makes the operator of a task that has written a document below its key, and ended."""

    def make(task_id, document, file="manifest.json"):
        task = unmapped(dag.get_task(task_id))
        task.lake = f"file://{tmp_path}"
        task.attempt = factories.attempt(lake=task.lake, dag_id=dag.dag_id, run_id=RUN["run_id"], task_id=task_id)
        written = Path(task.attempt.key.removeprefix("file://")) / file
        written.parent.mkdir(parents=True, exist_ok=True)
        written.write_text(json.dumps(document))
        return task

    return make


def sent(lineage, folder="/lake"):
    """Run facets, job facets, inputs and outputs of a lineage as they are sent, checked; `folder` becomes /lake."""
    run, job = Run("01985e5f-0000-7000-8000-000000000000", lineage.run_facets), Job("tests", "t", lineage.job_facets)
    event = RunEvent(eventTime="2026-11-27T03:35:00Z", run=run, job=job, inputs=lineage.inputs, outputs=lineage.outputs)
    document = json.loads(Serde.to_json(event).replace(str(folder), "/lake"))
    check_event(document)
    return {name: document[name] for name in ("run", "job", "inputs", "outputs")}


def brief(value):
    """A document without the keys that name the schema and the producer of each facet, and without empty parts."""
    if isinstance(value, list):
        return [brief(each) for each in value]
    if isinstance(value, dict):
        kept = {name: brief(each) for name, each in value.items() if name not in ("_producer", "_schemaURL")}
        return {name: each for name, each in kept.items() if each not in ({}, [])}
    return value


def in_lines(value, indent=0, width=116):
    """A document as JSON with a line for each part that fits into one."""
    line = json.dumps(value)
    if indent + len(line) <= width or not isinstance(value, dict | list):
        return line
    inner, pad = indent + 2, " " * (indent + 2)
    if isinstance(value, list):
        rows = [pad + in_lines(each, inner) for each in value]
        return "[\n" + ",\n".join(rows) + f"\n{' ' * indent}]"
    rows = [f"{pad}{json.dumps(name)}: {in_lines(each, inner)}" for name, each in value.items()]
    return "{\n" + ",\n".join(rows) + f"\n{' ' * indent}}}"


def test_event_of_a_task_is_the_one_in_the_documentation(operator, tmp_path):
    lineage = operator("build_trending_items", BUILT).get_openlineage_facets_on_complete(None)
    event = brief(sent(lineage, tmp_path))
    for each in event["inputs"]:
        assert each["facets"].pop("documentation")["description"]
        assert {"name": "item_id", "type": "string"} in each["facets"].pop("schema")["fields"]
    shown = {"run": event["run"], "inputs": event["inputs"], "outputs": event["outputs"]}
    assert f"```json\n{in_lines(shown)}\n```" in (ROOT / "docs" / "openlineage.md").read_text()


def test_every_job_reads_datasets_that_another_task_or_a_delivery_fills(dags):
    read, wrote = set(), set()
    for task in (unmapped(task) for dag in dags.values() for task in dag.tasks):
        if isinstance(task, JobOperator):
            task.lake = "s3://bucket"
            lineage = task.get_openlineage_facets_on_start()
            read |= {each.name for each in lineage.inputs}
            wrote |= {each.name for each in lineage.outputs}
    deliveries = {"raw/events", "raw/items", "raw/users"}
    assert read - wrote == {*deliveries, "products/churn_model"}, "only that output depends on a parameter"


def unmapped(task):
    """A copy of a task, of one of its instances if it is mapped."""
    return task.unmap({"shard": 0}) if isinstance(task, MappedOperator) else copy.copy(task)


def test_events_of_a_run_link_its_tasks_as_documented(operator, tmp_path):
    lines = []
    for document in (BUILT, WRITTEN, PUBLISHED):
        task_id = document["task"]["task_id"]
        lineage = sent(operator(task_id, document).get_openlineage_facets_on_complete(None), tmp_path)
        read, wrote = (
            [each["name"].removeprefix("/lake/") for each in lineage[kind]] for kind in ("inputs", "outputs")
        )
        lines.append(f"{task_id}: {', '.join(read)} → {', '.join(wrote)}\n")
    assert f"```text\n{''.join(lines)}```" in (ROOT / "docs" / "openlineage.md").read_text()


def test_product_is_a_table_with_version_and_columns(operator, tmp_path):
    part, table = sent(operator("write_product", WRITTEN).get_openlineage_facets_on_complete(None), tmp_path)["outputs"]
    assert part["name"] == "/lake/intermediate/trending_items/write_product/part"
    assert (table["namespace"], table["name"]) == ("dynamodb", TABLE["table"])
    assert table["facets"]["version"]["datasetVersion"] == TABLE["version"]
    assert "outputStatistics" not in table.get("outputFacets", {})
    assert brief(table)["facets"]["schema"]["fields"][0] == {"name": "segment", "type": "string"}
    published = sent(operator("publish_product", PUBLISHED).get_openlineage_facets_on_complete(None), tmp_path)
    (again,) = published["outputs"]
    assert (again["namespace"], again["name"]) == (table["namespace"], table["name"])
    assert again["outputFacets"]["outputStatistics"]["rowCount"] == 47


def test_refusal_is_a_failed_test_of_the_run(operator, tmp_path):
    failure = {**PUBLISHED, "exit_code": 4, "sentence": "The product has no rows.", "exceptions": []}
    lineage = operator("publish_product", failure, "attempt-1/failure.json").get_openlineage_facets_on_failure(None)
    refused = brief(sent(lineage, tmp_path))
    assert refused["run"]["facets"]["test"]["tests"] == [
        {"name": "warning", "status": "fail", "severity": "warn", "description": BUILT["warnings"][0]},
        {"name": "gate", "status": "fail", "severity": "error", "description": "The product has no rows."},
    ]
    assert refused["inputs"][0]["facets"]["version"] == {"datasetVersion": "sha256:b250"}
    assert "outputs" not in refused


def test_bucket_is_the_namespace_and_release_the_source_code(operator, monkeypatch):
    task = operator("build_trending_items", BUILT)
    monkeypatch.setattr(task, "lake", "s3://bucket/prefix/")
    monkeypatch.setattr(task, "request", {"fingerprint": "3f8024effc191488"})
    lineage = sent(task.get_openlineage_facets_on_start())
    assert [(each["namespace"], each["name"]) for each in lineage["inputs"]] == [
        ("s3://bucket", "prefix/curated/events"),
        ("s3://bucket", "prefix/curated/items"),
    ]
    (trending,) = lineage["outputs"]
    assert trending["name"] == "prefix/intermediate/trending_items/build_trending_items/trending"
    code = lineage["job"]["facets"]["sourceCodeLocation"]
    assert code["url"] == "s3://bucket/prefix/code/build_trending_items/3f8024effc191488"
    assert code["version"] == "3f8024effc191488"


def test_gauges_tell_the_age_of_what_was_published_and_fail_no_task(monkeypatch):
    gauges = {}
    monkeypatch.setattr(
        stats, "gauge", lambda name, value, tags=None: gauges.update({(name, *(tags or {}).values()): value})
    )
    metrics.report_gauges(WRITTEN)
    assert gauges.keys() == {
        ("tandem.rows", "trending_items", "write_product", "0", "part"),
        ("tandem.rows.trending_items.write_product.0.part",),
    }
    metrics.report_gauges(PUBLISHED)
    basis = gauges["tandem.live_version_basis", TABLE["table"]]
    assert basis == datetime.fromisoformat(BUILT["basis"]).timestamp()
    assert gauges["tandem.live_version_age_seconds", TABLE["table"]] == pytest.approx(time.time() - basis, abs=3600)
    metrics.report_gauges({"task": "of a foreign job"})

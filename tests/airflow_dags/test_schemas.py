"""The JSON Schemas of environments, clusters and settings accept and refuse the same as the code."""

import json
import sys
import tomllib
from pathlib import Path

import jsonschema
import pytest
from tandem import environment, pipeline, schemas, settings
from tandem.dag_errors import PipelineError
from tandem.runtimes.cloud_request import check_request
from tandem.runtimes.dataproc.cluster import check_message

from tools.scaffold import schemas as schemas_of_jobs

DAGS = Path(__file__).parents[2] / "airflow_dags"
SCHEMAS = schemas.schemas()


def fits(name, document) -> bool:
    jsonschema.Draft202012Validator.check_schema(SCHEMAS[name])
    return jsonschema.Draft202012Validator(SCHEMAS[name]).is_valid(document)


def accepted(check, *arguments) -> bool:
    try:
        check(*arguments)
    except PipelineError:
        return False
    return True


ENVIRONMENTS = {
    "nothing": ("", True),
    "a number": ("retry_delay_seconds = 1.5", True),
    "a table": ('[failures]\nemail = "a@example.com"', True),
    "of any runtime": ('[spark.mine]\nanything = "x"', True),
    "of a runtime": ("[container.kubernetes_pod]\nkeep_failed = true", True),
    "over a cluster": ('[spark.emr.cluster]\nReleaseLabel = "x"', True),
    "unknown key": ("retry = 1", False),
    "unknown key of a table": ("[delivery]\nunits = 1", False),
    "text for a number": ('retries = "1"', False),
    "a number for a text": ("lake = 1", False),
    "true for a number": ("retries = true", False),
    "a value for a table": ("delivery = 1", False),
    "a value for a runtime": ("[container]\ndocker = 1", False),
    "a pipeline": ('[pipelines.new]\nschedule = "0 3 * * *"\noverdue_hours = 30', True),
    "unknown key of a pipeline": ('[pipelines.new]\nschedul = "0 3 * * *"', False),
    "text for hours": ('[pipelines.new]\noverdue_hours = "30"', False),
    "unknown runtime": ('[spark]\nruntime = "flink"', False),
    "by size": ('[spark]\nruntime = "auto"\n[spark.auto]\nmax_bytes = "1GiB"', True),
    "by size on an unknown runtime": ('[spark]\nruntime = "auto"\n[spark.auto]\ncluster = "container"', False),
    "unknown key of a container runtime": ("[container.kubernetes_pod]\nkeep = true", False),
    "unknown key of a Spark runtime": ('[spark.emr]\nzone = "x"', False),
    "what all runtimes share": ('[container.kubernetes_pod]\nregistry = "x"', False),
}


@pytest.mark.parametrize("case", ENVIRONMENTS)
def test_schema_and_check_agree_on_an_environment(tmp_path, monkeypatch, case):
    text, good = ENVIRONMENTS[case]
    shared = (DAGS / "environments/shared.toml").read_text().replace("[delivery]", '[delivery]\ntables = "t-"')
    shared = shared.replace("[spark.auto] ", '[spark]\nruntime = "emr"\n[spark.auto]\ncluster = "emr"  ')
    (tmp_path / "shared.toml").write_text(f'lake = "s3://lake"\n{shared}')
    (tmp_path / "pod.json").write_text((DAGS / "environments/pod.json").read_text())
    (tmp_path / "mine.toml").write_text(text)
    monkeypatch.setenv("TANDEM_ENVIRONMENT", "mine")
    assert accepted(environment.load, tmp_path) is good
    assert fits("environment", tomllib.loads(text)) is good


@pytest.mark.parametrize("file", sorted(DAGS.glob("environments/*.toml")), ids=lambda file: file.stem)
def test_every_environment_fits_the_schema(file):
    assert fits("environment", tomllib.loads(file.read_text()))


@pytest.mark.parametrize("kind", schemas.RUNTIMES)
def test_schema_of_environments_has_every_runtime(kind):
    tables = SCHEMAS["environment"]["properties"][kind]["properties"]
    auto = {"auto"} if kind == "spark" else set()
    assert set(tables) == {"runtime", *auto, *schemas.RUNTIMES[kind]}
    assert settings.KNOWN[kind].keys() == {"runtime", *auto, ...}


def check_emr(document) -> None:
    check_request("emr", "RunJobFlow", {"Name": "x", "Instances": {}, **document}, "a test")


def check_serverless(document) -> None:
    check_request(
        "emr-serverless", "CreateApplication", {"releaseLabel": "x", "type": "x", "clientToken": "-", **document}, ""
    )


def check_dataproc(document) -> None:
    check_message("Cluster", document, "a test")


CLUSTERS = {
    "emr_cluster": (check_emr, "cluster.json"),
    "emr_serverless_application": (check_serverless, "cluster.emr_serverless.json"),
    "dataproc_cluster": (check_dataproc, "cluster.dataproc.json"),
}
REQUESTS = {
    "EMR, a template": ("emr_cluster", {"LogUri": "{{ var.value.lake }}/logs/"}, True),
    "EMR, recursive": ("emr_cluster", {"Configurations": [{"Configurations": [{"Classification": "x"}]}]}, True),
    "EMR, unknown key": ("emr_cluster", {"LogUrl": "s3://x"}, False),
    "EMR, unknown key below": ("emr_cluster", {"Instances": {"Groups": []}}, False),
    "EMR, unknown key in a list": (
        "emr_cluster",
        {"Instances": {"InstanceGroups": [{"InstanceRole": "CORE", "InstanceType": "m", "InstanceCount": 1, "X": 1}]}},
        False,
    ),
    "EMR, text for a number": ("emr_cluster", {"StepConcurrencyLevel": "2"}, False),
    "EMR, a text for a list": ("emr_cluster", {"Applications": "Spark"}, False),
    "EMR, a service's new value": ("emr_cluster", {"ScaleDownBehavior": "NEW"}, True),
    "Serverless, a size": (
        "emr_serverless_application",
        {"maximumCapacity": {"cpu": "4 vCPU", "memory": "8 GB"}},
        True,
    ),
    "Serverless, unknown key": ("emr_serverless_application", {"capacity": {}}, False),
    "Serverless, too short": ("emr_serverless_application", {"name": ""}, False),
    "Dataproc, a number": ("dataproc_cluster", {"config": {"worker_config": {"num_instances": 2}}}, True),
    "Dataproc, a map": ("dataproc_cluster", {"labels": {"team": "x"}}, True),
    "Dataproc, a duration": ("dataproc_cluster", {"config": {"lifecycle_config": {"idle_delete_ttl": "600s"}}}, True),
    "Dataproc, unknown key": ("dataproc_cluster", {"config": {"workers": 2}}, False),
    "Dataproc, unknown key below": ("dataproc_cluster", {"config": {"worker_config": {"count": 2}}}, False),
    "Dataproc, text for a number": ("dataproc_cluster", {"config": {"worker_config": {"num_instances": "x"}}}, False),
}


@pytest.mark.parametrize("case", REQUESTS)
def test_schema_and_check_agree_on_a_cluster(case):
    name, document, good = REQUESTS[case]
    assert accepted(CLUSTERS[name][0], document) is good
    assert fits(name, document) is good


@pytest.mark.parametrize("name", CLUSTERS)
def test_every_cluster_of_a_pipeline_fits_its_schema(name):
    files = list(DAGS.glob(f"*/{CLUSTERS[name][1]}"))
    assert len(files) > 2
    assert all(fits(name, json.loads(file.read_text())) for file in files)


def test_settings_of_spark_jobs_have_the_keys_of_the_check():
    assert set(schemas_of_jobs.settings_of_spark()) == set(pipeline.SPARK_SETTINGS)


def test_settings_of_every_task_fit_the_schema_of_their_job():
    checked = 0
    for file in sorted((schemas_of_jobs.ROOT / "schemas/settings").glob("*.json")):
        schema = json.loads(file.read_text())
        for task in DAGS.glob(f"*/{file.name.removesuffix('.schema.json')}.json"):
            jsonschema.validate(json.loads(task.read_text()), schema)
            checked += 1
    assert checked > 8


@pytest.mark.parametrize("name", SCHEMAS)
def test_schemas_of_the_checkout_are_current(name, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["schemas", "--check"])
    schemas.main()
    written = json.loads((schemas.ROOT / f"schemas/{name}.schema.json").read_text())
    assert written == {"$schema": schemas.DRAFT, **SCHEMAS[name]}

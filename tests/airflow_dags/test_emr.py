"""Spark jobs as steps of EMR clusters: moto's interface with a node behind it that runs the steps, a lake on S3."""

import copy
import json
import os
import subprocess
import uuid
from pathlib import Path

import boto3
import pytest
from tandem import catalogue
from tandem.runtimes import Work
from tandem.runtimes.emr import Emr, last_exception

from common import s3, storage

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv" / "bin" / "python"
SPARK_SUBMIT = f'''#!{PYTHON}
"""Runs a job that needs no Spark as spark-submit would: with the code that it names, from S3."""
import os, pathlib, subprocess, sys
sys.path.insert(0, {str(ROOT)!r})
from common import storage
print("spark-submit", *sys.argv[1:], file=sys.stderr)
position = sys.argv.index("--py-files")
for name, uri in zip(("code.zip", "main.py"), sys.argv[position + 1 : position + 3]):
    pathlib.Path(name).write_bytes(storage.read(uri)[0])
os.environ["PYTHONPATH"] = os.path.abspath("code.zip")
os.execv(sys.executable, [sys.executable, "main.py", *sys.argv[position + 3 :]])
'''
CLUSTER = {
    "Name": "{{ dag.dag_id }} {{ run_id }}",
    "Applications": [{"Name": "Spark"}],
    "Instances": {
        "InstanceGroups": [
            {"Name": "primary", "InstanceRole": "MASTER", "InstanceType": "m6g.xlarge", "InstanceCount": 1}
        ],
        "KeepJobFlowAliveWhenNoSteps": True,
    },
    "AutoTerminationPolicy": {"IdleTimeout": 60},
}
INTERACTIONS = 'contract = "interactions@1"'
WRITES = f"[outputs.interactions]\n{INTERACTIONS}"
JOBS = json.loads((ROOT / "airflow_dags" / "job_catalogue.json").read_text())


ARGUMENTS = ["--lake", "s3://b/l/", "--dag-id", "d", "--run-id", "r", "--task-id", "t", "--attempt", "2"]
ARGUMENTS += ["--from", "role=u", "--set", "flag=true"]
BUILT = """
import json, sys
from common.job import load
from tools.build import CLUSTER, ROOT, spark_submit
jobs, arguments = map(json.loads, sys.argv[1:])
bundles = {job: f"s3://b/l/code/{job}/f0" for job in jobs}
print(json.dumps({job: spark_submit(load(ROOT / "jobs" / job), bundles[job], CLUSTER, arguments) for job in jobs}))
"""


def test_a_step_is_the_spark_submit_that_the_build_writes_beside_the_bundle():
    jobs = [name for name, described in JOBS.items() if described["engine"] == "spark"]
    command = [PYTHON, "-c", BUILT, json.dumps(jobs), json.dumps(ARGUMENTS)]
    built = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
    runtime = Emr()
    for name in jobs:
        found = catalogue.find(ROOT / "airflow_dags" / "job_catalogue.json", name, "spark", "here")
        request = {**runtime.request(found, {}), "fingerprint": "f0"}
        work = Work(name, "s3://b/l/", "d", "r", "t", 2, None, {"role": "u"}, {"flag": True}, request, "j-1")
        assert runtime.command(work) == built[name]
    assert len(jobs) > 1


def test_a_tasks_own_settings_go_over_those_of_the_job():
    found = catalogue.Job("build", "spark", {}, {}, {}, {}, {"executor_memory": "2g", "conf": {"a": "1", "b": "2"}})
    settings = {"deploy_mode": "client", "executor_memory": "9g", "executor_cores": 3, "conf": {"b": "{{ ds }}"}}
    assert Emr().request(found, settings)["options"] == [
        *("--master", "yarn", "--deploy-mode", "client", "--name", "build"),
        *("--executor-memory", "9g", "--executor-cores", "3", "--conf", "a=1", "--conf", "b={{ ds }}"),
    ]


def test_the_last_exception_is_found_in_the_output_of_python_and_of_java():
    python = (
        "Traceback (most recent call last):\n  File x\nKeyError: 'a'\n\nmore\npy4j.protocol.Py4JJavaError: no\nend\n"
    )
    java = "26/11/23 INFO x\njava.io.IOException: a\n\tat b\nCaused by: java.net.SocketException: reset\n\tat c\n"
    assert last_exception(python) == "py4j.protocol.Py4JJavaError: no"
    assert last_exception(java) == "Caused by: java.net.SocketException: reset"
    assert last_exception("one\nKilled\n\n") == "Killed"


def changed(path, value):
    """The request for a cluster with something else in a place; None takes out what is there."""
    request = copy.deepcopy(CLUSTER)
    *steps, last = path
    place = request
    for step in steps:
        place = place[step]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return request


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        (
            ("Instances", "InstanceGroups", 0, "InstnceType"),
            "m6g.xlarge",
            "p/cluster.json, Instances, InstanceGroups[0] names the key 'InstnceType', which does not exist: "
            "did you mean 'InstanceType'?",
        ),
        (
            ("Instances", "InstanceGroups", 0, "InstanceCount"),
            "two",
            "p/cluster.json is no request that RunJobFlow takes: Invalid type for parameter "
            "Instances.InstanceGroups[0].InstanceCount, value: two",
        ),
        (("Name",), None, 'Missing required parameter in input: "Name".'),
        (("AutoTerminationPolicy",), None, "p/cluster.json needs KeepJobFlowAliveWhenNoSteps, because"),
        (("Instances", "KeepJobFlowAliveWhenNoSteps"), False, '"AutoTerminationPolicy": {"IdleTimeout": 600}.'),
    ],
)
def test_a_cluster_that_emr_would_not_take_is_refused_while_parsing(workshop, monkeypatch, path, value, sentence):
    monkeypatch.setenv("TANDEM_SPARK", "emr")
    workshop.job("build", engine="spark")
    workshop.pipeline("p", 'dag.spark("build")', cluster=changed(path, value), build={})
    with pytest.raises(AssertionError) as error:
        workshop.load("p")
    assert sentence in str(error.value).splitlines()[-1]


def test_an_environment_changes_what_clusters_are_made_of(workshop, monkeypatch):
    monkeypatch.setenv("TANDEM_SPARK", "emr")
    file = workshop.dags / "environments" / "laptop.toml"
    table = "[spark.emr.cluster.Instances"
    more = f'{table}]\nEc2SubnetIds = ["a"]\n{table}.InstanceGroups.primary]\nInstanceType = "m7g.large"\n'
    file.write_text(file.read_text() + more)
    workshop.job("build", engine="spark")
    workshop.pipeline("p", 'dag.spark("build")', cluster=CLUSTER, build={})
    request = workshop.load("p").get_task("open_cluster").job_flow_overrides
    primary = {"Name": "primary", "InstanceRole": "MASTER", "InstanceType": "m7g.large", "InstanceCount": 1}
    assert request["Instances"] == {
        "InstanceGroups": [primary],
        "KeepJobFlowAliveWhenNoSteps": True,
        "Ec2SubnetIds": ["a"],
    }
    assert request["Name"] == CLUSTER["Name"]
    assert request["ReleaseLabel"] == "emr-7.9.0"
    file.write_text(file.read_text().replace("InstanceGroups.primary", "InstanceGroups.prinary"))
    with pytest.raises(AssertionError, match="names the entry 'prinary', which does not exist: did you mean 'primary'"):
        workshop.load("p")


@pytest.fixture(scope="session")
def emr_server(s3_server, tmp_path_factory):
    """The URL of EMR's interface, with a node behind it in a process of its own."""
    submit = tmp_path_factory.mktemp("emr") / "spark-submit"
    submit.write_text(SPARK_SUBMIT)
    submit.chmod(0o755)
    node = subprocess.Popen(
        [PYTHON, ROOT / "tests" / "system" / "emr_node.py", "--spark-submit", submit],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **s3_server},
    )
    yield node.stdout.readline().strip()
    node.terminate()
    node.wait()


@pytest.fixture
def emr(workshop, s3_server, emr_server, monkeypatch):
    """A DAGs folder whose Spark jobs run on EMR, with a lake on S3 of its own."""
    workshop.uri = f"s3://tandem-lake/{uuid.uuid4().hex}"
    for name, value in s3_server.items():
        monkeypatch.setenv(name, value)
    s3.client.cache_clear()
    monkeypatch.setenv("AWS_ENDPOINT_URL_EMR", emr_server)
    monkeypatch.setenv("TANDEM_SPARK", "emr")
    monkeypatch.setenv("AIRFLOW_VAR_LAKE", workshop.uri)
    return workshop


def clusters(name):
    """The clusters whose names begin so, as EMR describes them, in the order in which they were created."""
    client = boto3.client("emr")
    found = [each["Id"] for each in client.list_clusters()["Clusters"] if each["Name"].startswith(name)]
    described = [client.describe_cluster(ClusterId=each)["Cluster"] for each in found]
    return sorted(described, key=lambda cluster: cluster["Status"]["Timeline"]["CreationDateTime"])


def steps(cluster):
    return boto3.client("emr").list_steps(ClusterId=cluster["Id"])["Steps"][::-1]


def test_a_job_runs_as_a_step_of_a_cluster_that_is_closed_right_after_it(emr, monkeypatch):
    emr.job("build", "task.metrics['rows'] = 7", more=WRITES, engine="spark")
    monkeypatch.setenv("AIRFLOW_VAR_RELEASE", emr.release(emr.uri))
    emr.pipeline("fine", 'dag.spark("build")', cluster=CLUSTER, build={})
    ran = emr.run("fine")
    assert ran.state == "success"
    assert ran.states == dict.fromkeys(("open_cluster", "await_cluster", "build", "close_cluster", "done"), "success")
    assert ran.xcoms["build"]["metrics"] == {"rows": 7}
    (cluster,) = clusters("fine")
    assert cluster["Id"] == ran.xcoms["open_cluster"]
    assert cluster["Name"] == f"fine {ran.run_id}"
    assert cluster["ReleaseLabel"] == "emr-7.9.0"
    assert cluster["Status"]["State"] == "TERMINATED"
    (step,) = steps(cluster)
    assert step["Status"]["State"] == "COMPLETED"
    run_id = json.loads(storage.read(ran.xcoms["build"]["manifest"])[0])["task"]["run_id"]
    assert run_id == ran.run_id
    assert step["Name"] == ran.xcoms["build"]["manifest"].partition("/intermediate/")[2].replace(
        "manifest.json", "attempt-1"
    )

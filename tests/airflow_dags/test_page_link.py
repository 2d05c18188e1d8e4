"""Links from a task to the pages about its attempt: by runtime, on Airflow's page, and in scheduler.json."""

import json
from pathlib import Path
from types import SimpleNamespace

import factories
import pytest
from tandem import lake
from tandem.catalogue import Job
from tandem.runtimes.dataproc.batches import DataprocServerless
from tandem.runtimes.dataproc.jobs import Dataproc
from tandem.runtimes.emr import serverless, steps
from tandem.runtimes.emr.serverless import EmrServerless
from tandem.runtimes.emr.steps import Emr
from tandem.runtimes.kubernetes.pod import KubernetesPod
from tandem.runtimes.local.process import Process
from tandem.runtimes.local.spark_submit import SparkSubmit
from tandem.runtimes.polling import Submission
from tandem.runtimes.spark_options import history_links, make_event_log

AWS = SimpleNamespace(
    meta=SimpleNamespace(region_name="eu-central-1", partition="aws"),
    describe_cluster=lambda ClusterId: {"Cluster": {"LogUri": "s3n://b/l/logs/emr/"}},
)
S3 = "https://console.aws.amazon.com/s3/buckets/b?region=eu-central-1&prefix=l/logs"


@pytest.fixture
def aws(monkeypatch):
    for module in (steps, serverless):
        monkeypatch.setattr(module, "client", lambda service, region: AWS)


def submitted(name, cluster):
    return Submission(name, factories.attempt(cluster=cluster), None)


def test_step_leads_to_its_cluster_and_log(aws):
    assert Emr().links(submitted("s-1", "j-1")) == {
        "EMR cluster": "https://console.aws.amazon.com/emr/home?region=eu-central-1#/clusterDetails/j-1",
        "EMR step": "s-1",
        "Log of the step": f"{S3}/emr/j-1/steps/s-1/",
    }


def test_job_runs_lead_to_the_log_of_the_driver_or_their_page(aws):
    assert EmrServerless(execution_role="r").links(submitted("r-1", "a-1")) == {
        "Job run": "r-1",
        "Driver log": f"{S3}/emr-serverless/applications/a-1/jobs/r-1/SPARK_DRIVER/",
    }
    assert Dataproc(project="p", region="europe-west3").links(submitted("t-1", "c")) == {
        "Dataproc job": "https://console.cloud.google.com/dataproc/jobs/t-1?region=europe-west3&project=p"
    }
    assert DataprocServerless(project="p", region="europe-west3").links(submitted("t-1", None)) == {
        "Dataproc batch": "https://console.cloud.google.com/dataproc/batches/europe-west3/t-1/summary?project=p"
    }


def test_pod_leads_to_the_page_of_the_environment_or_is_named(tmp_path):
    running = SimpleNamespace(namespace="tandem", name="toy-1")
    options = {"template": tmp_path, "registry": "", "startup_seconds": 1, "keep_failed": False, "cpu_reserved": 1}
    page = "https://grafana.example.com/d/pods?ns={namespace}&pod={name}"
    for pod_page, link in (("", "tandem/toy-1"), (page, "https://grafana.example.com/d/pods?ns=tandem&pod=toy-1")):
        assert KubernetesPod(**options, pod_page=pod_page).links(running) == {"Pod": link}


def test_application_leads_to_the_history_server():
    attempt = factories.attempt(request={"history": "http://history:18080/"})
    assert history_links(attempt, "application_1_2") == {
        "Spark history": "http://history:18080/history/application_1_2/"
    }
    assert history_links(factories.attempt(), "application_1_2") == {"Spark history": "application_1_2"}
    assert history_links(attempt, None) == {}


@pytest.mark.parametrize(
    ("runtime", "options"),
    [
        (SparkSubmit, {"code": Path("c"), "python": Path("p"), "spark_submit": Path("s"), "master": "local"}),
        (Emr, {}),
        (EmrServerless, {"execution_role": "r"}),
        (Dataproc, {"project": "p", "region": "r"}),
    ],
)
def test_event_logs_go_to_the_folder_of_the_environment(runtime, options, monkeypatch):
    written = []
    monkeypatch.setattr(lake, "write", lambda uri, content: written.append((uri, content)))
    job = Job("toy", "spark", {}, {}, {}, {}, {})
    request = runtime(**options, event_log="s3://b/logs/spark").request(job, {})
    assert "spark.eventLog.dir" in json.dumps(request)
    assert json.dumps(request).count("s3://b/logs/spark") == 2  # for Spark, and to make the folder
    assert "spark.eventLog" not in json.dumps(runtime(**options).request(job, {}))
    make_event_log(factories.attempt(request=request))
    assert written == [("s3://b/logs/spark/", b"")]


def test_airflow_shows_addresses_and_scheduler_json_keeps_names_too(workshop, monkeypatch):
    from airflow.models.xcom import XComModel
    from airflow.serialization.serialized_objects import DagSerialization
    from airflow.utils.session import create_session
    from sqlalchemy import select

    monkeypatch.setattr(Process, "labels", ("Page", "Name", "Nothing"))
    monkeypatch.setattr(Process, "links", lambda self, handle: {"Page": "https://example.com/1", "Name": "pod-1"})
    shards = '[parameters.shards]\ntype = "integer"\ndefault = 1\nhelp = "a number"'
    workshop.job("toy", engine='python"\nmapped_by = "shards', more=shards)
    workshop.pipeline("p", 'dag.container("toy", shards=1)', toy={})
    keys = {"Page": "link: Page", "Name": "link: Name", "Nothing": "link: Nothing"}
    (toy,) = (
        each["__var"]
        for each in DagSerialization.to_dict(workshop.load("p"))["dag"]["tasks"]
        if each["__var"]["task_id"] == "toy"
    )
    assert toy["_operator_extra_links"] == keys

    ran = workshop.run("p")
    assert ran.states["toy[0]"] == "success", ran.log
    (document,) = (workshop.lake / "intermediate/p").glob("*/toy/map-0/attempt-1/scheduler.json")
    assert json.loads(document.read_text())["links"] == {"Page": "https://example.com/1", "Name": "pod-1"}
    with create_session() as session:
        query = select(XComModel).where(XComModel.run_id == ran.run_id, XComModel.key.startswith("link: "))
        shown = {each.key: XComModel.deserialize_value(each) for each in session.scalars(query)}
    assert shown == {"link: Page": "https://example.com/1", "link: Name": "", "link: Nothing": ""}

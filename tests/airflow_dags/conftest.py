"""A DAGs folder and jobs made for a test, and runs of their pipelines by Airflow itself, without a scheduler."""

import contextlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv" / "bin" / "python"

os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="tandem-tests-airflow-")  # read when Airflow is imported
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
sys.path[:0] = [str(ROOT / "airflow_dags"), str(ROOT / "airflow_dags" / "plugins")]

from common.handover.stores import s3  # noqa: E402
from tools.packaging.catalogue import catalogue  # noqa: E402

JOB = """
[job]
description = "A job made for a test."
engine = "{engine}"
{more}
"""
MAIN = """
import os, signal, sys
from common import errors
from common.handover import storage
from common.handover import run

def main(task):
    {body}
    for role in task.job.outputs:
        storage.write(f"{{task.folder(role)}}/part-0", b"rows")
        task.record_output(role, 1)

if __name__ == "__main__":
    run(main)
"""
SUBMIT = """#!/bin/sh
echo "spark-submit $@"
while [ "${1##*/}" != main.py ]; do shift; done
"$PYSPARK_PYTHON" "$@"
code=$?
echo "26/11/23 03:00:59 INFO ShutdownHookManager: Shutdown hook called"
exit $code
"""

SPARK_SUBMIT = f'''#!{PYTHON}
"""Runs a job that needs no Spark as spark-submit would: with the code that it names, from the lake."""
import os, pathlib, subprocess, sys
sys.path.insert(0, {str(ROOT)!r})
from common.handover import storage
print("spark-submit", *sys.argv[1:], file=sys.stderr)
position = sys.argv.index("--py-files")
for name, uri in zip(("code.zip", "main.py"), sys.argv[position + 1 : position + 3]):
    pathlib.Path(name).write_bytes(storage.read(uri)[0])
os.environ["PYTHONPATH"] = os.path.abspath("code.zip")
os.execv(sys.executable, [sys.executable, "main.py", *sys.argv[position + 3 :]])
'''


class LogLines(logging.Handler):
    """Keeps the lines that the library logs."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@dataclass
class Ran:
    """The end of a run of a pipeline: states, tries and return values by task (`task` or `task[0]`)."""

    run_id: str
    state: str
    states: dict[str, str]
    tries: dict[str, int]
    xcoms: dict[str, Any]
    log: list[str]  # of the library


class Workshop:
    """A DAGs folder with its jobs: jobs and pipelines are added, imported and run."""

    def __init__(self, folder: Path) -> None:
        self.code = folder / "code"
        self.dags = folder / "dags"
        self.lake = folder / "lake"
        (self.code / "jobs").mkdir(parents=True)
        for shared in ("common", "dockerfiles", "requirements"):
            (self.code / shared).symlink_to(ROOT / shared)
        (self.dags / "environments").mkdir(parents=True)
        for shared in ("tandem", "plugins", ".airflowignore", "contract_catalogue.json"):
            (self.dags / shared).symlink_to(ROOT / "airflow_dags" / shared)
        shared_settings = (ROOT / "airflow_dags/environments/shared.toml").read_text().partition("\n[pipelines.")[0]
        (self.dags / "environments/shared.toml").write_text(f"{shared_settings}\n")
        submit = folder / "spark-submit"
        submit.write_text(SUBMIT)
        submit.chmod(0o755)
        (self.dags / "environments" / "laptop.toml").write_text(
            f"""
lake = "{{{{ var.value.get('lake', 'file://{self.lake}') }}}}"
code = "{self.code}"
registry = "registry.example/team"
retries = 1
retry_delay_seconds = 0
max_active_runs = 16
max_active_tis_per_dagrun = 3
[delivery]
store = "dynamodb:"
tables = "tests-"
[container]
runtime = "process"
[container.process]
python = "{PYTHON}"
[container.docker]
[container.kubernetes_pod]
template = "pod.json"
startup_seconds = 300
keep_failed = false
cpu_reserved = 0.5
[container.kubernetes_job]
template = "pod.json"
startup_seconds = 300
keep_failed = false
cpu_reserved = 0.5
ttl_seconds = 600
[spark]
runtime = "spark_submit"
[spark.spark_submit]
python = "{PYTHON}"
spark_submit = "{submit}"
master = "local[1]"
[spark.spark_submit.conf]
"spark.ui.enabled" = "false"
[spark.emr]
poll_seconds = 0.2
ready_seconds = 300
pending_seconds = 300
log_seconds = 1
[spark.emr.cluster]
LogUri = "{{{{ var.value.get('lake') }}}}/logs/"
ReleaseLabel = "emr-7.9.0"
[spark.emr_serverless]
execution_role = "arn:aws:iam::123456789012:role/jobs"
poll_seconds = 0.2
log_seconds = 0
[spark.emr_serverless.application]
releaseLabel = "emr-7.9.0"
[spark.dataproc]
poll_seconds = 0.2
ready_seconds = 300
pending_seconds = 300
[spark.dataproc_serverless]
poll_seconds = 0.2
"""
        )

    def job(self, name: str, body: str = "pass", more: str = "", engine: str = "python") -> None:
        """Add a job; `body` runs in its main before the outputs are written."""
        folder = self.code / "jobs" / name
        folder.mkdir()
        (folder / "job.toml").write_text(JOB.format(engine=engine, more=more))
        (folder / "main.py").write_text(MAIN.format(body=body))
        (self.dags / "job_catalogue.json").write_text(catalogue(self.code / "jobs"))

    def pipeline(self, name: str, body: str, table: str = "", **settings: Any) -> None:
        """Add a pipeline: the body of its `with`, its table in the environment, and its JSON files by name."""
        folder = self.dags / name
        folder.mkdir()
        with (self.dags / "environments/shared.toml").open("a") as file:
            file.write(f"[pipelines.{name}]\n{table}\n")
        (folder / "README.md").write_text(f"# {name}\nMade for a\ntest.\n\nNothing more.\n")
        for task in settings:
            (folder / f"{task}.json").write_text(json.dumps(settings[task]))
        lines = "\n".join(f"    {line}" for line in body.strip().splitlines())
        (folder / "dag.py").write_text(
            '"""An Airflow DAG made for a test."""\n\n'
            "from airflow.providers.standard.operators.empty import EmptyOperator\n"
            f"from tandem import Pipeline\n\nwith Pipeline(__file__) as dag:\n{lines}\n"
        )

    def pods(self, template: dict[str, Any]) -> None:
        """Give the environment a pod template."""
        (self.dags / "environments" / "pod.json").write_text(json.dumps(template))

    def on_aws(self, runtime: str, aws: dict[str, str], patch: pytest.MonkeyPatch) -> None:
        """Run Spark jobs by a runtime of AWS from now on, with a separate lake on S3; its jobs are released."""
        self.on_cloud(runtime, "s3://tandem-lake", aws, patch)

    def on_google(self, runtime: str, google: dict[str, str], patch: pytest.MonkeyPatch) -> None:
        """The same by a runtime of Google Cloud, with a lake on gs://."""
        self.on_cloud(runtime, "gs://tandem-lake", google, patch)

    def on_cloud(self, runtime: str, bucket: str, variables: dict[str, str], patch: pytest.MonkeyPatch) -> None:
        self.uri = f"{bucket}/{uuid.uuid4().hex}"
        for name, value in {**variables, "TANDEM_SPARK": runtime, "AIRFLOW_VAR_LAKE": self.uri}.items():
            patch.setenv(name, value)
        s3.client.cache_clear()
        command = [PYTHON, "-m", "tests.programs.release_jobs", str(self.code), self.uri]
        self.release = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
        patch.setenv("AIRFLOW_VAR_RELEASE", self.release)

    def load(self, name: str) -> Any:
        """The pipeline's DAG; AssertionError with Airflow's text if its file does not import."""
        from airflow.dag_processing.dagbag import DagBag

        bag = DagBag(str(self.dags / name))
        if bag.import_errors:
            raise AssertionError("".join(bag.import_errors.values()))
        (dag,) = bag.dags.values()
        return dag

    def run(self, name: str, conf: dict[str, Any] | None = None) -> Ran:
        """Run a pipeline to its end by dag.test()."""
        from airflow.models.xcom import XComModel
        from airflow.utils.session import create_session
        from sqlalchemy import select

        dag = self.load(name)
        log_lines = LogLines()
        logging.getLogger("tandem").addHandler(log_lines)
        run = dag.test(logical_date=None, run_conf=conf)
        logging.getLogger("tandem").removeHandler(log_lines)
        instances = run.get_task_instances()
        with create_session() as session:
            returned = session.scalars(select(XComModel).where(XComModel.run_id == run.run_id)).all()
            xcoms = {label(each): XComModel.deserialize_value(each) for each in returned if each.key == "return_value"}
        return Ran(
            run_id=run.run_id,
            state=str(run.state),
            states={label(each): str(each.state) for each in instances},
            tries={label(each): each.try_number for each in instances},
            xcoms=xcoms,
            log=log_lines.lines,
        )


def label(instance: Any) -> str:
    return instance.task_id if instance.map_index < 0 else f"{instance.task_id}[{instance.map_index}]"


@pytest.fixture(scope="session")
def database(make_home: Callable[[], Path]) -> None:
    """Airflow's database, new."""
    shutil.copy(make_home() / "airflow.db", os.environ["AIRFLOW_HOME"])


@pytest.fixture(scope="session")
def make_workshop(database: None) -> Callable[[Path], Workshop]:
    """Makes a DAGs folder in a folder; Airflow's own, fixed when it is imported, links to the last one."""

    def make(folder: Path) -> Workshop:
        workshop = Workshop(folder)
        link = Path(os.environ["AIRFLOW_HOME"]) / "dags"
        link.unlink(missing_ok=True)
        link.symlink_to(workshop.dags)
        return workshop

    return make


@pytest.fixture
def workshop(tmp_path: Path, make_workshop: Callable[[Path], Workshop]) -> Workshop:
    return make_workshop(tmp_path)


@pytest.fixture(scope="session")
def home(make_home: Callable[[], Path]) -> Path:
    """The home of an Airflow with a scheduler."""
    return make_home()


@pytest.fixture(scope="session")
def engine(docker_engine: None) -> Any:
    """A client of the Docker engine."""
    return docker.from_env()


@contextlib.contextmanager
def running(node: str, python: Path, folder: Path, variables: dict[str, str]) -> Iterator[str]:
    """Run the node of a service for Spark jobs, with a spark-submit for jobs without Spark; yield its address."""
    submit = folder / "spark-submit"
    submit.write_text(SPARK_SUBMIT)
    submit.chmod(0o755)
    command = [python, "-m", node, "--spark-submit", submit]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, **variables, "PYTHONPATH": str(ROOT)}
    )
    assert process.stdout is not None
    yield process.stdout.readline().strip()
    process.terminate()
    process.wait()


@pytest.fixture(scope="session")
def aws(s3_server: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment variables of the S3 server and EMR, with a node that runs steps behind EMR."""
    folder = tmp_path_factory.mktemp("emr")
    with running("tools.sandbox.emr_node", PYTHON, folder, s3_server) as url:
        yield {**s3_server, "AWS_ENDPOINT_URL_EMR": url, "AWS_ENDPOINT_URL_EMR_SERVERLESS": url}


@pytest.fixture(scope="session")
def google(fake_gcs: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment variables of Google's object store and Dataproc, with a node that runs its jobs."""
    folder = tmp_path_factory.mktemp("dataproc")
    with running("tools.sandbox.dataproc_node", Path(sys.executable), folder, fake_gcs) as endpoint:
        yield {**fake_gcs, "DATAPROC_ENDPOINT": endpoint}

"""Deployments with real parts: a registry, an S3 server, two Airflows with schedulers, runs in containers of images.

The tests of this file are one story of two environments side by side, in the order in which they stand.
"""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from common.handover import storage
from common.protocol import image
from tools.airflow_api import poll
from tools.deploy import dag_versions
from tools.packaging.push import pull
from tools.sandbox import local_airflow
from tools.sandbox.local_airflow import free_port

ROOT = Path(__file__).parents[2]
DESCRIPTION = """
[job]
description = "Says which version of it ran."
engine = "python"
requirements = "requirements/tables.txt"
[parameters.wait]
type = "boolean"
default = false
help = "whether to wait until raw/go/<run ID> is in the lake"
[resources]
memory = "256Mi"
"""
MAIN = """
import time
from common import protocol
from common.handover import storage
from common.handover import run

def main(task):
    while task.parameters["wait"] and not storage.files(f"{task.lake}/raw/go"):
        time.sleep(0.2)
    task.metrics["says"] = "one"

if __name__ == "__main__":
    run(main)
"""
COUNT = """
[job]
description = "Counts with Spark."
engine = "spark"
"""
DAG = """
'''An Airflow DAG made for a test.'''
from tandem import Pipeline

with Pipeline(__file__) as dag:
    dag.container("greet", task_id="first") >> dag.container("greet", task_id="second")
"""
ENVIRONMENT = """
lake = "s3://tandem-lake/{name}-{place}"
registry = "{registry}/{name}"
airflow = "http://127.0.0.1:{port}"
retries = 0
max_active_runs = 4
{more}
[delivery]
tables = "tandem-{name}-"
[container]
runtime = "docker"
[spark]
runtime = "container"
"""


class Checkout:
    """A checkout with two jobs and a pipeline, and the commands typed in it."""

    def __init__(self, folder: Path, registry: str) -> None:
        self.root, self.registry = folder / "checkout", registry
        for part in ("tools", "common", "dockerfiles", "requirements", "airflow_dags/tandem"):
            shutil.copytree(ROOT / part, self.root / part, ignore=shutil.ignore_patterns("__pycache__"))
        for part in (".venv-airflow", ".tandem"):
            (self.root / part).symlink_to(ROOT / part)
        self.write("jobs/greet/job.toml", DESCRIPTION)
        self.write("jobs/greet/main.py", MAIN)
        self.write("jobs/count/job.toml", COUNT)
        self.write("jobs/count/main.py", f"from common.engines import frames{MAIN}")
        self.write("airflow_dags/greetings/dag.py", DAG)
        self.write("airflow_dags/greetings/README.md", "# greetings\nCounts, then greets.\n")
        self.write("airflow_dags/greetings/first.json", '{"parameters": {"wait": true}}')
        self.write("airflow_dags/greetings/second.json", "{}")
        for part in (".airflowignore", "environments/pod.json"):
            self.write(f"airflow_dags/{part}", (ROOT / "airflow_dags" / part).read_text())
        shared = (ROOT / "airflow_dags/environments/shared.toml").read_text().partition("\n[pipelines.")[0]
        self.write("airflow_dags/environments/shared.toml", f"{shared}\n[pipelines.greetings]\n")
        self.ports = {"preprod": free_port(), "prod": free_port()}
        for name, port in self.ports.items():
            given = {"name": name, "place": folder.parent.name + folder.name, "registry": registry, "port": port}
            more = 'promotes = "preprod"' if name == "prod" else ""
            text = ENVIRONMENT.format(**given, more=more)
            self.write(f"airflow_dags/environments/{name}.toml", text)

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def lake(self, name: str) -> str:
        file = self.root / f"airflow_dags/environments/{name}.toml"
        return tomllib.loads(file.read_text())["lake"]

    def change_job(self, word: str) -> None:
        """Change the job, so that its next product reports another word."""
        self.write("jobs/greet/main.py", MAIN.replace('"one"', f'"{word}"'))

    def make(self, tool: str, name: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", f"tools.deploy.{tool}", "--environment", name]
        return subprocess.run(command, cwd=self.root, env={**os.environ, **variables}, capture_output=True, text=True)

    def done(self, tool: str, name: str) -> str:
        ran = self.make(tool, name)
        assert ran.returncode == 0, ran.stderr + ran.stdout
        return ran.stdout


@pytest.fixture(scope="module")
def variables(s3_server):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server.items():
            patch.setenv(name, value)
        yield patch


@pytest.fixture(scope="module")
def checkout(tmp_path_factory, registry, variables):
    return Checkout(tmp_path_factory.mktemp("deployments"), registry)


@pytest.fixture(scope="module")
def airflows(checkout, make_home, variables):
    """The running Airflows of both environments, without any DAG yet."""
    homes = {name: make_home() for name in checkout.ports}
    with local_airflow.contextlib.ExitStack() as stack:
        started = {}
        for name, port in checkout.ports.items():
            (homes[name] / "folder").mkdir()
            (homes[name] / "folder" / "plugins").symlink_to(ROOT / "airflow_dags" / "plugins")
            variables.setenv("TANDEM_ENVIRONMENT", name)
            options = local_airflow.deployed(f"{checkout.lake(name)}/dags")
            entered = local_airflow.start(home=homes[name], dags=homes[name] / "folder", port=port, options=options)
            started[name] = stack.enter_context(entered)
        variables.delenv("TANDEM_ENVIRONMENT")
        yield started


def release(airflow):
    """Return the jobs of a release, and its number."""
    variable = airflow.call("/api/v2/variables/release")
    return json.loads(variable["value"]), variable["description"]


def words_of(airflow, run):
    """Return the words that the tasks of a run reported, by task."""
    instances = {each.task_id: each for each in airflow.instances("greetings", run)}
    return {name: airflow.xcom("greetings", run, instances[name])["metrics"]["says"] for name in ("first", "second")}


def release_tasks(checkout, name):
    """Let waiting tasks continue, and later ones start without waiting."""
    storage.write(f"{checkout.lake(name)}/raw/go/go", b"")


def wait_for_state(airflow, run, task, state="running"):
    for _ in poll(500, f"{task} is not {state}"):
        if any(each.task_id == task and each.state == state for each in airflow.instances("greetings", run)):
            return


def remove_images():
    """Remove greet's images from the engine, so that tasks have to pull them from the registry."""
    docker = os.environ.get("DOCKER", "docker")
    listed = subprocess.run(
        [docker, "image", "ls", "--format", "{{.Repository}}:{{.Tag}}"], capture_output=True, text=True
    )
    images = [name for name in listed.stdout.split() if "tandem/greet:" in name]
    subprocess.run([docker, "image", "rm", "--force", *images], capture_output=True)


def test_dags_without_released_jobs_are_refused(checkout, airflows):
    refused = checkout.make("deploy_dags", "preprod")
    assert refused.returncode == 1
    assert "do not fit the jobs of preprod (nothing), which keeps its present DAGs" in refused.stderr
    assert "greetings/dag.py: greetings names the job 'greet', which does not exist" in refused.stderr
    assert "Only in this checkout, not released in preprod: count, count-light, greet." in refused.stderr
    assert dag_versions.current(checkout.lake("preprod")) == (None, None)


def test_killed_deployment_releases_nothing_and_resumes(checkout, airflows, tmp_path):
    client = tmp_path / "docker"
    docker = shutil.which(os.environ.get("DOCKER", "docker"))
    client.write_text(f'#!/bin/sh\n{docker} "$@"\ncode=$?\n[ "$1" != push ] || kill -9 $PPID\nexit $code\n')
    client.chmod(0o755)
    killed = checkout.make("deploy_jobs", "preprod", DOCKER=str(client))
    assert killed.returncode == -9
    assert {each["key"] for each in airflows["preprod"].call("/api/v2/variables")["variables"]} == set()

    output = checkout.done("deploy_jobs", "preprod")
    assert "New runs of preprod use release 1; before, they used nothing." in output
    jobs, number = release(airflows["preprod"])
    assert (set(jobs), number) == ({"count", "count-light", "greet"}, "release 1")
    repeated = checkout.done("deploy_jobs", "preprod")
    assert repeated.count("up to date") == 3
    assert "preprod already runs release 1 with these jobs." in repeated


def test_run_keeps_its_release_until_it_is_restarted(checkout, airflows):
    airflow = airflows["preprod"]
    checkout.done("deploy_dags", "preprod")
    remove_images()
    for _ in poll(500, "the DAG was not loaded"):
        if airflow.call("/api/v2/dags")["dags"]:
            break
    run = airflow.trigger("greetings")
    wait_for_state(airflow, run, "first")
    checkout.change_job("two")
    assert "use release 2; before, they used release 1" in checkout.done("deploy_jobs", "preprod")
    release_tasks(checkout, "preprod")
    assert airflow.wait("greetings", run) == "success"
    assert words_of(airflow, run) == {"first": "one", "second": "one"}

    body = {"dry_run": False, "task_ids": ["pin_release"], "include_downstream": True, "dag_run_id": run}
    airflow.call("/api/v2/dags/greetings/clearTaskInstances", {**body, "only_failed": False})
    assert airflow.wait("greetings", run) == "success"
    assert words_of(airflow, run) == {"first": "two", "second": "two"}


def test_promotion_releases_the_same_products_without_a_build(checkout, airflows):
    checkout.change_job("never built")
    output = checkout.done("deploy_jobs", "prod")
    assert "promoting release 2 of preprod" in output
    products, _ = release(airflows["prod"])
    assert products == release(airflows["preprod"])[0]
    assert pull(image("count-light", products["count-light"], f"{checkout.registry}/prod"))
    checkout.done("deploy_dags", "prod")
    release_tasks(checkout, "prod")
    remove_images()
    airflow = airflows["prod"]
    for _ in poll(500, "the DAG was not loaded"):
        if airflow.call("/api/v2/dags")["dags"]:
            break
    run = airflow.trigger("greetings")
    assert airflow.wait("greetings", run) == "success"
    assert words_of(airflow, run) == {"first": "two", "second": "two"}
    assert "/prod-" in airflow.xcom("greetings", run, airflow.instances("greetings", run)[-1])["manifest"]


def test_rollback_restores_the_previous_release_down_to_the_first(checkout, airflows):
    two, _ = release(airflows["preprod"])
    assert "new runs use release 1 instead of release 2" in checkout.done("rollback_jobs", "preprod")
    one, number = release(airflows["preprod"])
    assert (number, one["count"], one["count-light"]) == ("release 1", two["count"], two["count-light"])
    assert one["greet"] != two["greet"]
    assert release(airflows["prod"])[0] == two
    refused = checkout.make("rollback_jobs", "preprod")
    assert (refused.returncode, refused.stderr) == (1, "Release 1 is the first one; there is none to roll back to.\n")
    checkout.change_job("three")
    assert "use release 3; before, they used release 1" in checkout.done("deploy_jobs", "preprod")

"""Errors of a pod template are reported while a pipeline is parsed; a valid template reaches the pod."""

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import factories
import pytest
from tandem import render
from tandem.runtimes.kubernetes import manifest

ENVIRONMENTS = Path(__file__).parents[4] / "airflow_dags" / "environments"
TEMPLATE = json.loads((ENVIRONMENTS / "pod.json").read_text())
RESOURCES = '[resources]\ncpu = "500m"\nmemory = "64Mi"\ndeadline_seconds = 60'


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        (["spec", "tolerationz"], [], "pod.json.spec names the key 'tolerationz', .* did you mean 'tolerations'"),
        (["spec", "activeDeadlineSeconds"], "60", "pod.json.spec.activeDeadlineSeconds is '60', expected a number."),
        (["spec", "activeDeadlineSeconds"], True, "pod.json.spec.activeDeadlineSeconds is True, expected a number."),
        (["spec", "enableServiceLinks"], 0, "pod.json.spec.enableServiceLinks is 0, expected true or false."),
        (["spec", "containers"], {}, "pod.json.spec.containers is {}, expected a list."),
        (
            ["spec", "containers", 0, "securityContext", "capabilities", "drop"],
            [1],
            "pod.json.spec.containers[0].securityContext.capabilities.drop[0] is 1, expected text.",
        ),
        (
            ["spec", "volumes", 0, "name"],
            None,
            "pod.json.spec.volumes[0] is not a V1Volume: Invalid value for `name`, must not be",
        ),
        (["metadata", "labels"], {"a": 1}, "pod.json.metadata.labels.a is 1, expected text."),
        (["metadata", "namespace"], None, "expected one container 'base' and a namespace."),
        (["spec", "containers", 0, "name"], "main", "has the containers ['main'] .* expected one container 'base'"),
    ],
)
def test_invalid_template_is_refused_with_path_and_expectation(workshop, monkeypatch, path, value, complaint):
    monkeypatch.setenv("TANDEM_CONTAINERS", "kubernetes_pod")
    workshop.job("toy", more=RESOURCES)
    workshop.pipeline("p", 'dag.container("toy")', toy={})
    workshop.pods(factories.changed(TEMPLATE, path, value))
    pattern = ".*".join(map(re.escape, complaint.split(" .* ")))
    with pytest.raises(AssertionError, match=pattern):
        workshop.load("p")


def test_pod_without_deadline_is_refused(workshop, monkeypatch):
    monkeypatch.setenv("TANDEM_CONTAINERS", "kubernetes_job")
    workshop.job("toy")
    workshop.pipeline("p", 'dag.container("toy")', toy={})
    workshop.pods(factories.changed(TEMPLATE, ["spec", "activeDeadlineSeconds"], None))
    with pytest.raises(AssertionError, match="has no activeDeadlineSeconds; set it"):
        workshop.load("p")


def test_resources_of_job_toml_are_in_the_pod(workshop, monkeypatch):
    monkeypatch.setenv("TANDEM_CONTAINERS", "kubernetes_pod")
    workshop.job("toy", more=RESOURCES)
    workshop.pipeline("p", 'dag.container("toy")', toy={})
    workshop.pods(TEMPLATE)
    request = workshop.load("p").get_task("toy").request["pod"]
    assert request["spec"]["containers"][0]["resources"] == {
        "requests": {"cpu": "250m", "memory": "64Mi"},  # half of the limit, by the environment's cpu_reserved
        "limits": {"cpu": "500m", "memory": "64Mi"},
    }
    assert request["spec"]["activeDeadlineSeconds"] == 60
    image = request["spec"]["containers"][0]["image"]
    assert image.startswith("registry.example/team/tandem/toy:{{ (ti.xcom_pull(task_ids='pin_release')")


def test_names_are_valid_and_differ_between_tasks(workshop):
    def make_attempt(**other):
        names = {"dag_id": "Ä_dag" * 20, "run_id": "manual__2026-01-01T00:00:00+00:00", "task_id": "t" * 100}
        return factories.attempt(**{**names, "map_index": 99999, **other})

    different = [
        make_attempt(),
        make_attempt(run_id="r"),
        make_attempt(map_index=1),
        make_attempt(map_index=None),
        make_attempt(number=2),
        make_attempt(task_id="_u_"),
    ]
    names = [manifest.name(each) for each in different]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", name) and len(name) <= 57 for name in names)
    assert manifest.labels(make_attempt())["map_index"] == "99999"


def test_render_prints_complete_payload_without_secrets(workshop, monkeypatch):
    """Name, labels, arguments, sidecar, and rendered templates, but no value of a secret."""
    monkeypatch.setenv("AIRFLOW__CORE__DAGS_FOLDER", str(workshop.dags))
    monkeypatch.setenv("AIRFLOW_VAR_RELEASE", '{"toy": "0123"}')
    monkeypatch.setenv("AIRFLOW_VAR_LAKE", "s3://bucket/lake")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    workshop.job("toy", more=RESOURCES)
    workshop.pipeline("p", 'dag.container("toy")', toy={})
    workshop.pods(TEMPLATE)
    names = {"dag": "p", "task": "toy", "run": "r", "attempt": 2}

    def rendered(runtime):
        monkeypatch.setenv("TANDEM_CONTAINERS", runtime)
        payload = render.payload(argparse.Namespace(**names, map_index=0))
        assert "secret" not in json.dumps(payload).replace("secretRef", "")
        return payload

    pod = rendered("kubernetes_pod")
    base, sidecar = pod["spec"]["containers"]
    assert base["image"] == sidecar["image"] == "registry.example/team/tandem/toy:0123"
    assert base["args"][:2] == ["--lake=s3://bucket/lake", "--dag-id=p"]
    assert pod["metadata"]["labels"]["try_number"] == "2"
    job = rendered("kubernetes_job")
    assert job["spec"]["backoffLimit"] == 0
    assert job["spec"]["template"]["spec"] == pod["spec"]
    process = rendered("process")
    assert process[-1] == "--attempt=2"
    command = [sys.executable, "-m", "tandem.render", *(f"--{name}={value}" for name, value in names.items())]
    environment = {**os.environ, "PYTHONPATH": str(workshop.dags)}
    printed = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert printed.returncode == 0, printed.stderr
    assert json.loads(printed.stdout) == process


def test_environment_limits_concurrent_mapped_tasks(workshop):
    parts = '[parameters.parts]\ntype = "integer"\ndefault = 1\nhelp = "a number"'
    workshop.job("part", engine='python"\nmapped_by = "parts', more=parts)
    workshop.pipeline("p", 'dag.container("part", parts=7)', part={})
    assert workshop.load("p").get_task("part").max_active_tis_per_dagrun == 3

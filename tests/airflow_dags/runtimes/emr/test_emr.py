"""Spark jobs as steps of EMR clusters: moto's interface with a node behind it that runs the steps, a lake on S3."""

import dataclasses
import json
import subprocess
from pathlib import Path

import boto3
import factories
import pytest
from airflow.sdk.exceptions import AirflowFailException
from submissions import DIRECT, cancelled_while_watched, submitter
from tandem import catalogue
from tandem.dag_errors import PipelineError
from tandem.protocol import encode
from tandem.runtimes.emr.logs import last_exception
from tandem.runtimes.emr.steps import Emr
from waiting import until
from workers import commands

from common.handover import storage

ROOT = Path(__file__).parents[4]
PYTHON = ROOT / ".venv" / "bin" / "python"
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
INTERACTIONS = 'contract = "interactions@2"'
WRITES = f"[outputs.interactions]\n{INTERACTIONS}"
RUNTIME = Emr(poll_seconds=0.1, log_seconds=0)
JOBS = json.loads((ROOT / "airflow_dags" / "job_catalogue.json").read_text())


ARGUMENTS = ["--lake=s3://b/l/", "--dag-id=d", "--run-id=r", "--task-id=t", "--attempt=2"]
ARGUMENTS += ["--from=role=u", "--set=flag=true"]
BUILT = """
import dataclasses, json, sys
from common.handover.job_toml import load
from tools.packaging.build import CLUSTER, ROOT, spark_submit
jobs, arguments, more = map(json.loads, sys.argv[1:])
described = {job: dataclasses.replace(load(ROOT / "jobs" / job), **more) for job in jobs}
bundles = {job: f"s3://b/l/code/{job}/f0" for job in jobs}
print(json.dumps({job: spark_submit(described[job], bundles[job], CLUSTER, arguments) for job in jobs}))
"""


@pytest.mark.parametrize("more", [{}, {"requirements": "requirements/own.txt"}], ids=["plain", "with libraries"])
def test_step_equals_submit_txt_of_bundle(more):
    jobs = [name for name, described in JOBS.items() if described["engine"] == "spark"]
    command = [PYTHON, "-c", BUILT, json.dumps(jobs), json.dumps(ARGUMENTS), json.dumps(more)]
    built = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
    runtime = Emr()
    for name in jobs:
        found = catalogue.find(ROOT / "airflow_dags" / "job_catalogue.json", name, "spark", "here")
        found = dataclasses.replace(found, **more)
        request = {**runtime.request(found, {}), "fingerprint": "f0"}
        given = {"predecessors": {"role": "u"}, "parameters": {"flag": True}, "request": request, "cluster": "j-1"}
        attempt = factories.attempt(name, "s3://b/l/", number=2, **given)
        assert runtime.command(attempt) == built[name]
    assert len(jobs) > 1


def test_settings_of_task_override_those_of_job():
    found = catalogue.Job("build", "spark", {}, {}, {}, {}, {"executor_memory": "2g", "conf": {"a": "1", "b": "2"}})
    settings = {"deploy_mode": "client", "executor_memory": "9g", "executor_cores": 3, "conf": {"b": "{{ ds }}"}}
    assert Emr().request(found, settings)["options"] == [
        *("--master", "yarn", "--deploy-mode", "client", "--name", "build"),
        *("--conf", "spark.executor.memory=9g", "--conf", "spark.executor.cores=3"),
        *("--conf", "a=1", "--conf", "b={{ ds }}", "--conf", "spark.yarn.maxAppAttempts=1"),
    ]


def test_job_with_libraries_needs_driver_on_cluster():
    found = catalogue.Job("build", "spark", {}, {}, {}, {}, {}, requirements="requirements/own.txt")
    with pytest.raises(PipelineError, match=r"build brings libraries.*expected deploy mode 'cluster'"):
        Emr().request(found, {"deploy_mode": "client"})


def test_last_exception_is_found_in_python_and_java_output():
    python = (
        "Traceback (most recent call last):\n  File x\nKeyError: 'a'\n\nmore\npy4j.protocol.Py4JJavaError: no\nend\n"
    )
    java = "26/11/23 INFO x\njava.io.IOException: a\n\tat b\nCaused by: java.net.SocketException: reset\n\tat c\n"
    assert last_exception(python) == "py4j.protocol.Py4JJavaError: no"
    assert last_exception(java) == "Caused by: java.net.SocketException: reset"
    assert last_exception("one\nKilled\n\n") == "Killed"


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        (
            ("Instances", "InstanceGroups", 0, "InstnceType"),
            "m6g.xlarge",
            "p/cluster.json, Instances, InstanceGroups[0] names the key 'InstnceType', which does not exist; "
            "did you mean 'InstanceType'",
        ),
        (
            ("Instances", "InstanceGroups", 0, "InstanceCount"),
            "two",
            "p/cluster.json is not a valid request RunJobFlow: Invalid type for parameter "
            "Instances.InstanceGroups[0].InstanceCount, value: two",
        ),
        (("Name",), None, 'Missing required parameter in input: "Name".'),
        (("AutoTerminationPolicy",), None, "p/cluster.json needs KeepJobFlowAliveWhenNoSteps, because"),
        (("Instances", "KeepJobFlowAliveWhenNoSteps"), False, '"AutoTerminationPolicy": {"IdleTimeout": 600}.'),
    ],
)
def test_invalid_cluster_is_refused_while_parsing(workshop, monkeypatch, path, value, sentence):
    monkeypatch.setenv("TANDEM_SPARK", "emr")
    workshop.job("build", engine="spark")
    workshop.pipeline("p", 'dag.spark("build")', cluster=factories.changed(CLUSTER, path, value), build={})
    with pytest.raises(AssertionError) as error:
        workshop.load("p")
    assert sentence in str(error.value).splitlines()[-1]


def test_environment_overrides_cluster_request(workshop, monkeypatch):
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
    with pytest.raises(AssertionError, match="names the entry 'prinary', which does not exist; did you mean 'primary'"):
        workshop.load("p")


def clusters(name):
    """The clusters with this prefix in their names, as EMR describes them, in the order of their creation."""
    client = boto3.client("emr")
    found = [each["Id"] for each in client.list_clusters()["Clusters"] if each["Name"].startswith(name)]
    described = [client.describe_cluster(ClusterId=each)["Cluster"] for each in found]
    return sorted(described, key=lambda cluster: cluster["Status"]["Timeline"]["CreationDateTime"])


def steps(cluster):
    return boto3.client("emr").list_steps(ClusterId=cluster["Id"])["Steps"][::-1]


def state(ran):
    return {**ran.states, "run": ran.state}


ENDS = {  # the body of each job, its steps' states by attempt, and the lines after the first of its failed task's log
    "code_0": ("task.metrics['rows'] = 7", ["COMPLETED"], []),
    "code_1": (
        "raise ValueError('no luck') from KeyError('deep')",
        ["FAILED", "FAILED"],
        ["ValueError at main.py", "Caused by KeyError: 'deep'"],
    ),
    "code_2": ("raise errors.ArgumentError('An argument is wrong.')", ["FAILED"], ["An argument is wrong."]),
    "code_3": ("raise errors.InputError('The input is missing.')", ["FAILED"], ["The input is missing."]),
    "code_4": ("raise errors.GateRefused('The gate refused it.')", ["FAILED"], ["The gate refused it."]),
    "code_5": (
        "raise errors.StaleAttempt('A newer one has published.')",
        ["FAILED"],
        ["Step ", "ends with: A newer one has published."],
    ),
    "killed": ("os.kill(os.getpid(), signal.SIGKILL)", ["FAILED", "FAILED"], []),
    "silent": ("os._exit(0)", ["COMPLETED", "COMPLETED"], []),
    "flaky": ("if task.attempt < 2: raise OSError('network')", ["FAILED", "COMPLETED"], []),
}


@pytest.fixture(scope="module")
def ends(aws, make_workshop, tmp_path_factory):
    """One run of a pipeline whose jobs end in all possible ways, as steps of one cluster."""
    with pytest.MonkeyPatch.context() as patch:
        workshop = make_workshop(tmp_path_factory.mktemp("ends"))
        for name, (body, _, _) in ENDS.items():
            workshop.job(name, body, more=WRITES, engine="spark")
        workshop.on_aws("emr", aws, patch)
        settings = {name: {} for name in ENDS}
        body = "\n".join(f'dag.spark("{name}")' for name in ENDS)
        workshop.pipeline("emr_ends", body, cluster={**CLUSTER, "StepConcurrencyLevel": 5}, **settings)
        ran = workshop.run("emr_ends")
        (cluster,) = clusters("emr_ends")
        yield ran, cluster, steps(cluster)


def test_failed_job_closes_cluster_and_fails_run(ends):
    ran, cluster, _ = ends
    around = {"open_cluster": "success", "await_cluster": "success", "close_cluster": "success"}
    assert state(ran).items() >= {**around, "watcher": "failed", "run": "failed"}.items()
    assert cluster["Id"] == ran.xcoms["open_cluster"]
    assert cluster["Name"] == f"emr_ends {ran.run_id}"
    assert cluster["ReleaseLabel"] == "emr-7.9.0"
    assert cluster["Status"]["State"] == "TERMINATED"
    lines = ran.log[next(n for n, line in enumerate(ran.log) if line.startswith("The run failed because these")) :]
    for sentence in ("The input is missing.", "The gate refused it.", "ends with: A newer one has published."):
        assert any(line.endswith(sentence) for line in lines)
    run = ran.xcoms["code_0"]["manifest"].rpartition("/code_0/")[0]
    accounts = {
        task: json.loads(storage.read(f"{run}/{task}/attempt-1/scheduler.json")[0]) for task in (*around, "code_3")
    }
    assert {task: accounts[task]["state"] for task in around} == dict.fromkeys(around, "succeeded")
    assert accounts["open_cluster"]["ended"] < accounts["code_3"]["began"] < accounts["close_cluster"]["began"]
    assert (accounts["code_3"]["runtime"], accounts["code_3"]["exit_code"]) == ("emr", 3)


@pytest.mark.parametrize("name", ENDS)
def test_each_retry_adds_a_step(ends, name):
    ran, _, added = ends
    folder = f"emr_ends/{encode(ran.run_id)}/{name}"
    own = {step["Name"]: step["Status"]["State"] for step in added if step["Name"].startswith(f"{folder}/")}
    assert own == {f"{folder}/attempt-{number}": end for number, end in enumerate(ENDS[name][1], 1)}
    published = name in ("code_0", "flaky")
    assert ran.states[name] == ("success" if published else "failed")
    if published:
        manifest = json.loads(storage.read(ran.xcoms[name]["manifest"])[0])
        assert manifest["task"]["attempt"] == len(own)
        assert ran.xcoms[name]["metrics"] == manifest["metrics"]


@pytest.mark.parametrize("name", [name for name in ENDS if name not in ("code_0", "flaky")])
def test_log_of_failed_task_ends_with_all_reasons(ends, name):
    ran, cluster, added = ends
    attempt = ran.tries[name]
    (step,) = [each for each in added if each["Name"].endswith(f"/{name}/attempt-{attempt}")]
    begin, _ = [
        n for n, line in enumerate(ran.log) if line.startswith(f"Attempt {attempt} of {name} ")
    ]  # the watcher's is last
    lines = ran.log[begin:]
    lines = lines[: next(n for n, line in enumerate(lines) if "To run it manually" in line) + 1]
    for number, line in enumerate(ENDS[name][2], 1):
        assert line in lines[number]
    assert lines[-3].startswith("AWS shows it at https://console.aws.amazon.com/emr/home?region=us-east-1#")
    assert lines[-3].endswith(cluster["Id"])
    assert lines[-2] == "It will not be retried."
    assert f"-m tools.run.submit --job {name} --lake=s3://" in lines[-1]
    assert f"--task-id={name} --attempt={attempt + 1}" in lines[-1]
    if name == "silent":
        assert "without a manifest of this attempt" in lines[0]
        return
    logs = f"{cluster['LogUri'].rstrip('/')}/{cluster['Id']}"
    log_uri = f"{logs}/steps/{step['Id']}/stderr.gz"
    assert f"Step {step['Id']} of cluster {cluster['Id']} is FAILED. Reason: Unknown Error. LogFile: {log_uri}" in lines
    last = "\n".join(line for line in lines if f"{logs}/containers/application_" in line)
    assert f"ended with exit code {name[-1]}" in lines[0] or (name == "killed" and "was killed by SIGKILL" in lines[0])
    expected = {"killed": "stdout.gz ends with: ", "code_5": ENDS["code_5"][2][1]}
    assert (expected.get(name) or ENDS[name][2][0]) in last


def with_fault(fault, **more):
    return {**CLUSTER, "Tags": [{"Key": "fault", "Value": fault}], **more}


BOOTSTRAP = [{"Name": "python", "ScriptBootstrapAction": {"Path": "{{ var.value.lake }}/bootstrap.sh"}}]
FAULTS = {  # cluster.json; states of tasks and run; end of the cluster and its steps; message of the failed task
    "never_starts": (
        with_fault("never_starts"),
        {"build": "failed", "close_cluster": "success", "run": "failed"},
        ("TERMINATED", "USER_REQUEST", ["CANCELLED", "CANCELLED"]),
        "did not start within 3 s",
    ),
    "never_ready": (
        with_fault("never_ready"),
        {"await_cluster": "failed", "build": "upstream_failed", "close_cluster": "success", "run": "failed"},
        ("TERMINATED", "USER_REQUEST", []),
        "Sensor has timed out",
    ),
    "bootstrap": (
        {**CLUSTER, "BootstrapActions": BOOTSTRAP},
        {"await_cluster": "failed", "build": "upstream_failed", "close_cluster": "success", "run": "failed"},
        ("TERMINATED_WITH_ERRORS", "BOOTSTRAP_FAILURE", []),
        "is TERMINATED_WITH_ERRORS: BOOTSTRAP_FAILURE, On the master instance (i-0), bootstrap action 1 returned",
    ),
    "dies": (
        with_fault("dies"),
        {"build": "failed", "close_cluster": "success", "run": "failed"},
        ("TERMINATED_WITH_ERRORS", "INSTANCE_FAILURE", ["CANCELLED"]),
        "is TERMINATED_WITH_ERRORS: INSTANCE_FAILURE, The master node was terminated. Clear this task",
    ),
    "terminate_once": (
        with_fault("terminate_once"),
        {"build": "success", "close_cluster": "success", "run": "success"},
        ("TERMINATED", "USER_REQUEST", ["COMPLETED"]),
        "The cluster is being resized, try again later.",
    ),
    "no_logs": (
        with_fault("no_logs"),
        {"build": "failed", "close_cluster": "success", "run": "failed"},
        ("TERMINATED", "USER_REQUEST", ["FAILED", "FAILED"]),
        "yet; EMR uploads it within some minutes.",
    ),
}
SOON = "ready_seconds = 3\npending_seconds = 3"
BODIES = {"dies": "import time; time.sleep(60)", "no_logs": "os.kill(os.getpid(), signal.SIGKILL)"}


@pytest.mark.parametrize("name", FAULTS)
def test_cluster_faults_fail_run_and_leave_no_cluster(workshop, aws, monkeypatch, name):
    cluster, states, (end, reason, ends_of_steps), message = FAULTS[name]
    workshop.job("build", BODIES.get(name, "pass"), more=WRITES, engine="spark")
    workshop.on_aws("emr", aws, monkeypatch)
    if name.startswith("never_"):
        file = workshop.dags / "environments" / "laptop.toml"
        file.write_text(file.read_text().replace("ready_seconds = 300\npending_seconds = 300", SOON))
    storage.write(f"{workshop.uri}/bootstrap.sh", b"exit 3")
    workshop.pipeline(f"emr_{name}", 'dag.spark("build")', cluster=cluster, build={})
    ran = workshop.run(f"emr_{name}")
    assert state(ran).items() >= states.items()
    (found,) = clusters(f"emr_{name}")
    assert (found["Status"]["State"], found["Status"]["StateChangeReason"]["Code"]) == (end, reason)
    assert [step["Status"]["State"] for step in steps(found)] == ends_of_steps
    assert any(message in line for line in ran.log)
    manifest = f"{workshop.uri}/intermediate/emr_{name}/{encode(ran.run_id)}/build/manifest.json"
    assert (manifest in [file.uri for file in storage.files(f"{workshop.uri}/intermediate")]) == (
        states["run"] == "success"
    )


@pytest.fixture(scope="module")
def direct(aws, make_workshop, tmp_path_factory):
    """Submits an attempt of a job to a cluster, without Airflow around it."""
    with pytest.MonkeyPatch.context() as patch:
        workshop = make_workshop(tmp_path_factory.mktemp("direct"))
        for name, body in DIRECT.items():
            workshop.job(name, body, more=WRITES, engine="spark")
        workshop.on_aws("emr", aws, patch)
        submit = submitter(workshop, RUNTIME)
        yield lambda name, number, cluster: submit(name, number, run_id=cluster, cluster=cluster)


def opened(**more):
    """A cluster that accepts steps."""
    client = boto3.client("emr")
    cluster = client.run_job_flow(**{**CLUSTER, "Name": "direct", **more})["JobFlowId"]
    until(lambda: client.describe_cluster(ClusterId=cluster)["Cluster"]["Status"]["State"] == "WAITING")
    return cluster


def step_state(step):
    return boto3.client("emr").describe_step(ClusterId=step.attempt.cluster, StepId=step.id)["Step"]["Status"]["State"]


def test_resumed_worker_finds_its_step(direct):
    cluster = opened()
    step = direct("quick", 1, cluster)
    assert direct("quick", 1, cluster).id == step.id
    assert RUNTIME.watch(step).exit_code == 0
    assert direct("quick", 1, cluster).id == step.id
    assert len(steps({"Id": cluster})) == 1


def test_retry_cancels_step_of_dead_worker(direct):
    cluster = opened()
    older = direct("sleeps", 1, cluster)
    until(lambda: step_state(older) == "RUNNING")
    newer = direct("sleeps", 2, cluster)
    assert RUNTIME.watch(newer).exit_code == 0
    assert step_state(older) == "CANCELLED"


def test_uncancelled_old_attempt_does_not_publish_over_retry(direct):
    cluster = opened(StepConcurrencyLevel=2, Tags=[{"Key": "fault", "Value": "uncancellable"}])
    older = direct("waits", 1, cluster)
    until(lambda: step_state(older) == "RUNNING")
    newer = direct("waits", 2, cluster)
    assert RUNTIME.watch(newer).exit_code == 0
    assert RUNTIME.watch(older).exit_code == 1
    published = json.loads(storage.read(f"{newer.attempt.key}/manifest.json")[0])
    assert published["task"]["attempt"] == 2
    files = [file["path"] for output in published["outputs"].values() for file in output["files"]]
    assert files and all(path.startswith("attempt-2/") for path in files)


def test_cancel_ends_step_while_another_thread_watches(direct):
    step = direct("sleeps", 1, opened())
    until(lambda: step_state(step) == "RUNNING")
    outcome = cancelled_while_watched(RUNTIME, step)
    assert outcome.exit_code == 1
    assert outcome.explanation.startswith(f"Step {step.id} of cluster {step.attempt.cluster} is CANCELLED.")
    until(lambda: not any(f"--run-id={step.attempt.cluster}" in line for line in commands()))


def test_unclosed_cluster_ends_by_idle_time_out(direct):
    cluster = opened(AutoTerminationPolicy={"IdleTimeout": 5})
    client = boto3.client("emr")
    until(lambda: client.describe_cluster(ClusterId=cluster)["Cluster"]["Status"]["State"] == "TERMINATED")
    with pytest.raises(AirflowFailException, match=r"is TERMINATED: ALL_STEPS_COMPLETED.*Clear this task and"):
        direct("quick", 1, cluster)


def test_unusable_lake_or_release_is_refused_before_adding_step():
    attempt = factories.attempt("build", "file:///l", request={"fingerprint": "f0"}, cluster="j-1")
    with pytest.raises(AirflowFailException, match="The lake file:///l can't be reached from a cluster, expected s3:"):
        RUNTIME.submit(attempt)
    attempt = dataclasses.replace(attempt, lake="s3://b/l", request={"fingerprint": ""})
    with pytest.raises(AirflowFailException, match="'release' names no fingerprint of build; build the job, upload"):
        RUNTIME.submit(attempt)

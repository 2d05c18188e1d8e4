"""From a job's end to a task's: exit codes, retries, XCom, last lines, the rerun command."""

import datetime
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import factories
import pytest
from airflow.sdk import Asset
from airflow.sdk.exceptions import AirflowRescheduleException, AirflowSkipException
from airflow.sdk.execution_time.context import OutletEventAccessors
from tandem.lake import read
from tandem.operator import attempt_number_of
from tandem.protocol import task_key
from tandem.recording import recording
from tandem.runtimes.base import GRACE_SECONDS
from tandem.runtimes.local.process import Process

READS = '[inputs.interactions]\ncontract = "interactions@2"'
WRITES = '[outputs.interactions]\ncontract = "interactions@2"'
TEXT = '[parameters.text]\ntype = "string"\ndefault = ""\nhelp = "a text"'
FLAG = '[parameters.flag]\ntype = "boolean"\ndefault = false\nhelp = "yes or no"'

ENDS = {  # the body of each job, and the number of its task's attempts
    "code_0": ("pass", 1),
    "code_1": ("if task.attempt < 3: raise ValueError('no luck') from KeyError('deep')", 2),
    "code_2": ("raise errors.ArgumentError('An argument is wrong.')", 1),
    "code_3": ("raise errors.InputError('The input is missing.')", 1),
    "code_4": ("raise errors.GateRefused('The gate refused it.')", 1),
    "code_5": ("raise errors.StaleAttempt('A newer attempt has published.')", 1),
    "killed": ("os.kill(os.getpid(), signal.SIGKILL)", 2),
    "silent": ("os._exit(0)", 2),
    "late": ("import atexit; atexit.register(os._exit, 1)", 1),
    "ended_late": ("import atexit; atexit.register(os.kill, os.getpid(), signal.SIGKILL)", 1),
    "spark_2": ("raise errors.ArgumentError('An argument is wrong.')", 1),
    "spark_9": ("os.kill(os.getpid(), signal.SIGKILL)", 2),
    "flaky": ("if task.attempt < 2: raise OSError('network')", 2),
}


@pytest.fixture(scope="module")
def ends(tmp_path_factory, make_workshop):
    """One run of a pipeline whose tasks end in all possible ways."""
    workshop = make_workshop(tmp_path_factory.mktemp("ends"))
    workshop.job("report_run")
    for name, (body, _) in ENDS.items():
        workshop.job(name, body, engine="spark" if "spark" in name else "python")
    settings = {name: {} for name in ENDS}
    tasks = [f'dag.{"spark" if "spark" in name else "container"}("{name}")' for name in ENDS]
    workshop.pipeline("ends", "\n".join(tasks), cluster={}, **settings)
    return workshop, workshop.run("ends")


@pytest.mark.parametrize("name", ENDS)
def test_only_failures_that_a_retry_may_fix_are_retried(ends, name):
    _, ran = ends
    assert ran.states[name] == ("success" if name in ("code_0", "flaky", "late", "ended_late") else "failed")
    assert ran.tries[name] == ENDS[name][1]
    assert ran.state == "failed"


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        (
            "code_1",
            [
                "ended with exit code 1.",
                ": no luck; the stack is above, a retry may help.",
                "Caused by KeyError: 'deep'",
            ],
        ),
        (
            "code_2",
            [
                "ended with exit code 2 (wrong arguments).",
                "An argument is wrong.",
            ],
        ),
        ("code_3", ["ended with exit code 3 (an input is missing or breaks its contract).", "The input is missing."]),
        ("code_4", ["ended with exit code 4 (a quality gate refused the result).", "The gate refused it."]),
        (
            "code_5",
            [
                "ended with exit code 5 (fenced, this attempt or a newer one has published).",
                "Last log line: A newer attempt has published.",
            ],
        ),
        ("killed", ["was killed by SIGKILL.", " started job=killed attempt=2"]),
        (
            "silent",
            ["ended with exit code 0, but without a manifest of this attempt at file://", " started job=silent"],
        ),
        (
            "spark_2",
            [
                "ended with exit code 2 (wrong arguments).",
                "An argument is wrong.",
            ],
        ),
        ("spark_9", ["was killed by SIGKILL.", "Last log line: "]),
    ],
)
def test_last_lines_of_failed_task_are_error_and_rerun_command(ends, name, lines):
    _, ran = ends
    attempt = ran.tries[name]
    begin = next(n for n, line in enumerate(ran.log) if line.startswith(f"Attempt {attempt} of {name} "))
    last_lines = ran.log[begin : begin + len(lines) + 2]
    for line, expected in zip(last_lines, lines):
        assert expected in line
    assert last_lines[-2] == "It will not be retried."
    assert f"--task-id={name} --attempt={attempt + 1}" in last_lines[-1]


@pytest.mark.parametrize(
    ("name", "end"), [("late", "ended with exit code 1."), ("ended_late", "was killed by SIGKILL.")]
)
def test_job_killed_after_publishing_has_succeeded(ends, name, end):
    _, ran = ends
    assert ran.xcoms[name]["manifest"].endswith(f"/{name}/manifest.json")
    (line,) = [line for line in ran.log if line.startswith(f"Attempt 1 of {name} ")]
    assert line.startswith(f"Attempt 1 of {name} {end} It had published before, so the task succeeded: file://")


def test_log_of_retried_task_announces_retry(ends):
    _, ran = ends
    begin = ran.log.index("Attempt 1 of flaky ended with exit code 1.", 1)
    assert "Airflow will retry it." in ran.log[begin : begin + 4]


def account(workshop, ran, task, attempt=1):
    """The scheduler's document about an attempt."""
    folder = task_key(f"file://{workshop.lake}", "ends", ran.run_id, task).removeprefix("file://")
    return json.loads(Path(folder, f"attempt-{attempt}", "scheduler.json").read_text())


def test_scheduler_document_has_end_of_every_attempt(ends):
    workshop, ran = ends
    first = account(workshop, ran, "code_3")
    assert first["task"] == {
        "dag_id": "ends",
        "run_id": ran.run_id,
        "task_id": "code_3",
        "map_index": None,
        "attempt": 1,
    }
    assert (first["format"], first["job"], first["runtime"], first["adopted"]) == (1, "code_3", "process", None)
    assert (first["state"], first["exit_code"]) == ("failed", 3)
    sentences = ["Attempt 1 of code_3 ended with exit code 3 (an input is missing or breaks its contract)."]
    assert first["reason"].splitlines() == [*sentences, "The input is missing."]
    assert "--task-id=code_3 --attempt=2" in first["rerun"]
    assert first["log"].endswith("/tasks/code_3?try_number=1")
    began, ended = (datetime.datetime.fromisoformat(first[name]) for name in ("began", "ended"))
    assert began < ended
    assert account(workshop, ran, "flaky")["state"] == "failed"
    again = account(workshop, ran, "flaky", 2)
    assert (again["state"], again["exit_code"], again["reason"], again["links"]) == ("succeeded", 0, None, {})
    assert again["began"] > account(workshop, ran, "flaky")["ended"]
    assert account(workshop, ran, "killed", 2)["exit_code"] == -signal.SIGKILL
    assert account(workshop, ran, "spark_2")["runtime"] == "spark_submit"
    for task, state in (("look_for_input", "succeeded"), ("watcher", "failed"), ("report_run", "succeeded")):
        assert account(workshop, ran, task)["state"] == state
    assert account(workshop, ran, "look_for_input")["job"] is None


def test_failed_run_is_reported_by_its_last_task(ends):
    workshop, ran = ends
    assert (ran.state, ran.states["watcher"], ran.states["report_run"]) == ("failed", "failed", "success")
    (file,) = (workshop.lake / "intermediate" / "ends").glob("*/report_run/run.json")
    document = json.loads(file.read_text())
    expected = {"format": 1, "environment": "laptop", "dag": "ends", "run": ran.run_id, "kind": "manual"}
    assert {name: document[name] for name in expected} == expected
    assert document["prices"] == {"currency": "USD", "million_write_units": 0.76}
    assert document["began"] and document["run_after"]
    assert document["url"].endswith(f"/dags/ends/runs/{quote(ran.run_id)}")
    tasks = document["tasks"]
    assert tasks.keys() == {*ENDS, "look_for_input", "watcher"}
    assert tasks["code_3"]["states"] == {"": "failed"}
    assert tasks["code_3"]["upstream"] == ["look_for_input"]
    assert (tasks["spark_2"]["engine"], tasks["spark_2"]["runtime"]) == ("spark", "spark_submit")


def test_run_without_new_input_is_not_reported(ends):
    workshop, _ = ends
    files = list(workshop.lake.rglob("*"))
    instance = SimpleNamespace(xcom_pull=lambda task_ids, key: f"{task_ids} {key}", xcom_push=lambda key, value: None)
    with pytest.raises(AirflowSkipException, match="nothing new to read"):
        workshop.load("ends").get_task("report_run").execute({"ti": instance})
    assert list(workshop.lake.rglob("*")) == files


def test_attempt_that_was_killed_stays_running_and_one_that_resumes_keeps_its_beginning(tmp_path):
    class Instance:
        dag_id, run_id, task_id, map_index, try_number, log_url = "d", "r", "t", 3, 2, "http://airflow/log"
        start_date = datetime.datetime(2011, 6, 1, tzinfo=datetime.UTC)

    dag = SimpleNamespace(user_defined_macros={"lake": f"file://{tmp_path}/"})
    context = {"ti": Instance(), "dag": dag, "task": SimpleNamespace(render_template=lambda text, context: text)}
    file = tmp_path / "intermediate/d/r/t/map-3/attempt-2/scheduler.json"
    tmp_path.chmod(0o770)
    with pytest.raises(AirflowRescheduleException), recording(context):
        written = json.loads(file.read_text())
        raise AirflowRescheduleException(Instance.start_date)
    assert (written["state"], written["ended"], written["task"]["map_index"]) == ("running", None, 3)
    assert json.loads(file.read_text()) == written
    assert [path.name for path in file.parent.iterdir()] == ["scheduler.json"]
    assert file.parent.stat().st_mode & 0o777 == 0o770, "the job, perhaps another user, writes there too"
    Instance.start_date += datetime.timedelta(hours=1)
    with recording({**context, "task_reschedule_count": 1}):
        pass
    ended = json.loads(file.read_text())
    assert (ended["began"], ended["state"]) == (written["began"], "succeeded")
    with recording({**context, "dag": None}):
        pass  # a lake that is not there fails no task


def test_rerun_command_in_log_reruns_task(ends):
    workshop, ran = ends
    (line,) = [line for line in ran.log if "To run it manually" in line and "--task-id=code_1 --attempt=3" in line]
    subprocess.run(line.removeprefix("To run it manually: "), shell=True, check=True, cwd="/")
    (manifest,) = (workshop.lake / "intermediate" / "ends").glob("*/code_1/manifest.json")
    assert json.loads(manifest.read_text())["task"]["attempt"] == 3


def test_job_gets_identity_roles_parameters_and_returns_metrics(workshop):
    keep = "task.metrics['arguments'] = sys.argv[1:]"
    workshop.job("build", keep, engine="spark", more=f'{WRITES}\n{TEXT}\n[spark]\ndriver_memory = "1g"')
    parts = '[parameters.parts]\ntype = "integer"\ndefault = 1\nhelp = "a number"'
    workshop.job("part", keep, engine='python"\nmapped_by = "parts', more=f"{READS}\n{WRITES}\n{parts}\n{FLAG}")
    workshop.job("join", keep, more=READS)
    workshop.job("report_run", "raise errors.GateRefused('There is no report.')")
    body = """
    built = dag.spark("build")
    parts = dag.container("part", parts=2, interactions=built)
    dag.container("join", interactions=parts)
    """.replace("\n    ", "\n")
    settings = {
        "build": {
            "parameters": {"text": "nothing"},
            "at_trigger": ["text"],
            "conf": {"spark.a": "{{ dag.dag_id }} b"},
        },
        "part": {"parameters": {"flag": True}},
    }
    workshop.pipeline("passed", body, cluster={}, join={}, **settings)
    ran = workshop.run("passed", conf={"text": "a b $HOME; x"})
    assert (ran.state, ran.states["report_run"]) == ("success", "failed")
    (document,) = (workshop.lake / "intermediate" / "passed").glob("*/report_run/run.json")
    assert json.loads(document.read_text())["tasks"]["part"]["states"] == {"0": "success", "1": "success"}
    (mapped,) = (workshop.lake / "intermediate" / "passed").glob("*/part/map-1/attempt-1/scheduler.json")
    assert json.loads(mapped.read_text())["task"]["map_index"] == 1
    arguments = {name: " ".join(xcom["metrics"]["arguments"]) for name, xcom in ran.xcoms.items()}
    (started,) = {each for text in arguments.values() for each in re.findall(r" --run-started=(\S+)", text)}
    assert datetime.datetime.fromisoformat(started).utcoffset() == datetime.timedelta()
    head = f"--lake=file://{workshop.lake} --dag-id=passed --run-id={ran.run_id}"
    first, part = f"--attempt=1 --run-started={started}", "--from=interactions=build --set=flag=true --set=parts=2"
    assert arguments == {
        "build": f"{head} --task-id=build {first} --set=text=a b $HOME; x",
        "part[0]": f"{head} --task-id=part {first} --map-index=0 {part}",
        "part[1]": f"{head} --task-id=part {first} --map-index=1 {part}",
        "join": f"{head} --task-id=join {first} --from=interactions=part",
    }
    assert ran.xcoms["build"]["metrics"]["arguments"][-1] == "--set=text=a b $HOME; x"
    for xcom in ran.xcoms.values():
        assert Path(xcom["manifest"].removeprefix("file://")).is_file()
    conf = "--conf spark.driver.memory=1g --conf spark.a=passed b --conf spark.ui.enabled=false"
    assert f"spark-submit --master local[1] {conf} {workshop.code}/jobs/build/main.py" in " ".join(ran.log)


def test_airflow_variable_selects_lake_on_s3(workshop, s3_server, monkeypatch):
    for name, value in s3_server.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AIRFLOW_VAR_LAKE", "s3://tandem-lake/pipelines/")
    workshop.job("write", "task.metrics['rows'] = 7", more=WRITES)
    workshop.job("refuse", "raise errors.GateRefused('The gate refused it.')", more=READS)
    workshop.job("report_run", "raise errors.GateRefused('There is no report.')")
    workshop.pipeline("remote", 'dag.container("refuse", interactions=dag.container("write"))', write={}, refuse={})
    ran = workshop.run("remote")
    assert ran.states == {
        "look_for_input": "success",
        "write": "success",
        "refuse": "failed",
        "watcher": "failed",
        "report_run": "skipped",  # not failed: Airflow's notice is about the task that failed last
    }
    key = task_key("s3://tandem-lake/pipelines", "remote", ran.run_id, "refuse")
    document = json.loads(read(f"{key}/attempt-1/scheduler.json"))
    assert (document["state"], document["exit_code"]) == ("failed", 4)
    assert set(ran.tries.values()) == {1}
    assert ran.xcoms["write"]["metrics"] == {"rows": 7}
    assert ran.xcoms["write"]["manifest"].startswith("s3://tandem-lake/pipelines/intermediate/remote/")
    assert "The gate refused it." in ran.log


@pytest.mark.parametrize(
    ("task", "number"),
    [
        (None, 0),
        ({"attempt": 2}, 2),
        ({"attempt": 2, "run_started": None}, 2),
        ({"attempt": 2, "run_started": "2011-01-02T00:00:00.000000+00:00"}, 2),
        ({"attempt": 2, "run_started": "2011-01-01T00:00:00.000000+00:00"}, 0),
        ({"attempt": 3, "run_started": "2011-01-03T00:00:00.000000+00:00"}, 3),
    ],
)
def test_documents_of_deleted_run_with_same_id_do_not_count(task, number):
    started = "2011-01-02T00:00:00.000000+00:00"
    attempt = factories.attempt(lake="file:///l", number=2, run_started=started)
    assert attempt_number_of({"task": task} if task else None, attempt) == number


def test_grace_ends_before_airflow_kills_the_task():
    assert GRACE_SECONDS + 1 < 5  # Kubernetes takes one second more


def test_cancel_kills_stubborn_job_and_its_children(tmp_path):
    (tmp_path / "jobs" / "stubborn").mkdir(parents=True)
    (tmp_path / "jobs" / "stubborn" / "main.py").write_text(
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"child = subprocess.Popen(['sleep', '600'])\n"
        f"open({str(tmp_path / 'child')!r}, 'w').write(str(child.pid))\n"
        "time.sleep(600)\n"
    )
    runtime = Process(code=tmp_path, python=Path(sys.executable))
    attempt = factories.attempt("stubborn", "file:///l")
    running = runtime.submit(attempt)
    while not (tmp_path / "child").exists() or not (tmp_path / "child").read_text():
        time.sleep(0.05)
    threading.Thread(target=runtime.cancel, args=[running]).start()
    assert runtime.watch(running).exit_code == -signal.SIGKILL
    assert not running.result.parent.exists()
    with pytest.raises(ProcessLookupError):
        wait_for_end(int((tmp_path / "child").read_text()))


def wait_for_end(pid):
    while True:
        os.kill(pid, 0)
        time.sleep(0.05)


def test_asset_event_describes_new_rows_or_version_and_none_is_sent_without(workshop):
    rows = 'contract = "interactions@2"\ndataset = "curated'
    workshop.job("fill", more=f'[outputs.events]\n{rows}/events"\n[outputs.items]\n{rows}/items"')
    workshop.pipeline("p", 'dag.container("fill")', fill={})
    task = workshop.load("p").get_task("fill")
    assert [asset.name for asset in task.outlets] == ["curated/events", "curated/items"]
    days = {f"date=2011-06-0{day}": {"rows": day, "bytes": 1} for day in (2, 1)}
    outputs = {"events": {"dataset": "curated/events", "rows": 3, "partitions": days}, "quarantine": {"rows": 4}}
    events = OutletEventAccessors()
    task.describe_assets({"outlet_events": events}, {"outputs": outputs}, "file:///lake/manifest.json")
    (asset,) = task.outlets
    assert asset.name == "curated/events"
    assert events[asset].extra == {
        "days": ["2011-06-01", "2011-06-02"],
        "rows": 3,
        "manifest": "file:///lake/manifest.json",
    }
    task.describe_assets({"outlet_events": events}, {"outputs": {}}, "file:///lake/manifest.json")
    assert task.outlets == []

    product = Asset("products/tips")
    published = {"version": "2026-03-01T02", "items": 3, "rows": 9}
    for metrics, outlets in ((published, [product]), ({"items": 3}, [])):
        task.outlets = [product]
        task.describe_assets({"outlet_events": events}, {"metrics": metrics}, "file:///lake/manifest.json")
        assert task.outlets == outlets
    assert events[product].extra == {
        "version": "2026-03-01T02",
        "keys": 3,
        "rows": 9,
        "manifest": "file:///lake/manifest.json",
    }

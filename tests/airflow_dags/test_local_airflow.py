"""Airflow with its scheduler on this machine: start, queries, end; the last lines of a task's log."""

import contextlib
import datetime
import email
import email.policy
import html
import json
import os
import shutil
import socketserver
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from urllib.parse import quote

import pytest
from openlineage_model import check_event
from tandem import protocol
from waiting import until
from web_hook import web_hook
from workers import commands

from tools.airflow_api import AirflowError, Instance, quote_id
from tools.sandbox import local_airflow

ROOT = Path(__file__).parents[2]
INTERACTIONS = 'contract = "interactions@2"'
RETURNS = """
from airflow.sdk import BaseSensorOperator
class Returns(BaseSensorOperator):
    def poke(self, context):
        return context.get("task_reschedule_count", 0) >= 10
Returns(task_id="returns", mode="reschedule", poke_interval=0)
"""


@pytest.fixture(scope="module")
def started(tmp_path_factory, make_workshop, home):
    """A running Airflow with pipelines: `works`, `refuses`, and `fails`, whose task hangs in its second attempt.

    The task of `returns` is rescheduled again and again.
    It sends notices to a web hook and by mail, lineage to an OpenLineage server, and gauges to a StatsD server.
    """
    folder = tmp_path_factory.mktemp("airflow")
    workshop = make_workshop(folder)
    shards = '[parameters.shards]\ntype = "integer"\ndefault = 1\nhelp = "a number"'
    figures = "{'rows': 7, 'lines': 10, 'unusable': 1, 'reasons': {'no time': 1}}"
    (workshop.lake / "raw" / "events").mkdir(parents=True)
    reads = '[inputs.deliveries]\nraw = "raw/events"'
    workshop.job(
        "first", more=f"{reads}\n[outputs.interactions]\n{INTERACTIONS}", body=f"task.metrics.update({figures})"
    )
    workshop.job(
        "second", engine='python"\nmapped_by = "shards', more=f"[inputs.interactions]\n{INTERACTIONS}\n{shards}"
    )
    workshop.job(
        "fails",
        f"open({str(folder / 'pid')!r}, 'w').write(str(os.getpid()))\n"
        "    if task.attempt == 1: raise ValueError('no luck') from KeyError('deep')\n"
        "    import time; time.sleep(600)",
    )
    body = 'dag.container("second", shards=2, interactions=dag.container("first"))'
    workshop.pipeline("works", body, first={}, second={})
    workshop.pipeline("fails", 'dag.container("fails") >> EmptyOperator(task_id="later")', fails={})
    workshop.pipeline("returns", RETURNS)
    workshop.job("refuses", "from common.errors import GateRefused\n    raise GateRefused('The gate refused it.')")
    both = 'dag.container("refuses", task_id="one")\ndag.container("refuses", task_id="two")'
    workshop.pipeline("refuses", both, one={}, two={})
    workshop.job("report_run", "task.metrics['summary'] = 'All is well.'")
    file = workshop.dags / "environments" / "laptop.toml"
    sent = 'webhook = "failed_runs"\nemail = "on-call@example.com"\nsuccess = true\n'
    file.write_text(f"{file.read_text()}[failures]\n{sent}")
    with (
        web_hook() as (url, notices),
        mailed() as (mail, mails),
        web_hook() as (lineage, events),
        gauges() as (port, packets),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("AIRFLOW_CONN_FAILED_RUNS", url)
        patch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", mail)
        patch.setenv("OPENLINEAGE_CLIENT_LOGGING", "WARNING")
        options = {
            "OPENLINEAGE__TRANSPORT": json.dumps({"type": "http", "url": lineage}),
            "OPENLINEAGE__NAMESPACE": "tests",
            "LOGGING__NAMESPACE_LEVELS": "airflow.providers.openlineage=WARNING",
            "METRICS__STATSD_ON": "True",
            "METRICS__STATSD_PORT": str(port),
            "METRICS__STATSD_INFLUXDB_ENABLED": "True",
        }
        with local_airflow.start(home=home, dags=workshop.dags, options=options) as airflow:
            workshop.notices, workshop.mails, workshop.events, workshop.gauges = notices, mails, events, packets
            yield workshop, airflow, folder
    until(lambda: not any(str(folder) in line for line in commands()))
    with pytest.raises(OSError):
        urllib.request.urlopen(airflow.url, timeout=5)


@contextlib.contextmanager
def mailed():
    """A mail server: the Airflow connection that leads to it, and the list of envelopes and mails that it gets."""
    mails = []

    class Session(socketserver.StreamRequestHandler):
        def handle(self):
            envelope = []
            self.wfile.write(b"220 loopback\r\n")
            for line in self.rfile:
                verb = line[:4].upper()
                answer = {b"DATA": b"354 go on\r\n", b"QUIT": b"221 bye\r\n"}.get(verb, b"250 fine\r\n")
                self.wfile.write(answer)
                if verb in (b"MAIL", b"RCPT"):
                    envelope.append(line.decode().split()[1])
                elif verb == b"DATA":
                    content = b"".join(iter(self.rfile.readline, b".\r\n"))
                    mails.append((envelope, email.message_from_bytes(content, policy=email.policy.default)))
                    self.wfile.write(b"250 kept\r\n")
                elif verb == b"QUIT":
                    return

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Session) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        extra = "disable_ssl=true&disable_tls=true&from_email=tandem%40example.com"
        yield f"smtp://127.0.0.1:{server.server_address[1]}/?{extra}", mails
        server.shutdown()


@contextlib.contextmanager
def gauges():
    """A StatsD server: its port, and the gauges that it gets, name and tags to value."""
    found = {}

    class Packet(socketserver.BaseRequestHandler):
        def handle(self):
            name, _, value = self.request[0].decode().rpartition(":")
            if value.endswith("|g"):
                found[name] = float(value.removesuffix("|g"))

    with socketserver.ThreadingUDPServer(("127.0.0.1", 0), Packet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1], found
        server.shutdown()


def test_unimportable_pipeline_is_named_and_nothing_keeps_running(tmp_path, home):
    (tmp_path / "dags" / "broken").mkdir(parents=True)
    (tmp_path / "dags" / "broken" / "dag.py").write_text("from airflow.sdk import DAG\nraise KeyError('dag')\n")
    with (
        pytest.raises(AirflowError, match=r"broken/dag.py does not import:(.|\n)*KeyError"),
        local_airflow.start(home=home, dags=tmp_path / "dags"),
    ):
        pass
    until(lambda: not any(str(home) in line for line in commands()))


def test_run_passes_scheduler_and_is_told_to_others(started):
    workshop, airflow, _ = started
    run = airflow.trigger("works")
    seen = []
    assert airflow.wait("works", run, show=seen.append) == "success"
    instances = airflow.instances("works", run)
    assert [(each.task_id, each.map_index) for each in instances[:2]] == [("look_for_input", -1), ("first", -1)]
    assert {(each.task_id, each.map_index) for each in instances[2:4]} == {("second", 0), ("second", 1)}
    assert [each.task_id for each in instances[4:]] == ["watcher", "report_run"]
    assert {each.state for each in instances} == {"success"}
    assert seen[-1] == instances
    returned = airflow.xcom("works", run, instances[1])
    assert returned["metrics"]["rows"] == 7
    assert Path(returned["manifest"].removeprefix("file://")).is_relative_to(workshop.lake)
    notice = until(lambda: next((each for each in workshop.notices if each["run"] == run), None))
    assert notice["text"].startswith("laptop: works succeeded\n")
    assert notice["summary"] == "All is well."
    assert notice["card"].startswith(f"file://{workshop.lake}/products/reports/cards/works/")

    ends = {("COMPLETE", "works"): 1, ("COMPLETE", "works.first"): 1, ("COMPLETE", "works.second"): 2}
    until(lambda: ends.items() <= Counter(map(kind, workshop.events)).items())
    for event in workshop.events:
        check_event(event)
    (first,) = [event for event in workshop.events if kind(event) == ("COMPLETE", "works.first")]
    assert first["job"]["namespace"] == "tests"
    (delivered,), (written,) = first["inputs"], first["outputs"]
    assert (delivered["namespace"], delivered["name"]) == ("file", f"{workshop.lake}/raw/events")
    (assertion,) = delivered["inputFacets"]["dataQualityAssertions"]["assertions"]
    assert (assertion["name"], assertion["success"], assertion["actual"]) == ("no time", False, "1")
    assert delivered["inputFacets"]["dataQualityMetrics"]["rowCount"] == 10
    statistics = written["outputFacets"]["outputStatistics"]
    assert (statistics["rowCount"], statistics["size"], statistics["fileCount"]) == (1, 4, 1)
    (second, _) = [event for event in workshop.events if kind(event) == ("COMPLETE", "works.second")]
    (read,) = second["inputs"]
    assert read["name"] == written["name"]
    assert read["facets"]["version"] == written["facets"]["version"]
    assert read["inputFacets"]["inputStatistics"]["rowCount"] == 1

    tags = "dag_id=works,task_id=first"
    assert workshop.gauges[f"airflow.tandem.rows,{tags},output=interactions"] == 1
    assert workshop.gauges["airflow.tandem.rows.works.first.interactions"] == 1
    assert workshop.gauges[f"airflow.tandem.quarantined_share,{tags}"] == 0.1


def kind(event):
    return event["eventType"], event["job"]["name"]


def test_failed_task_logs_its_error_and_run_marked_failed_ends_job_and_is_reported(started):
    _, airflow, folder = started
    run = airflow.trigger("fails")
    second = until(lambda: next((each for each in airflow.instances("fails", run) if each.try_number == 2), None))
    log = airflow.log("fails", run, Instance("fails", -1, 1, None, None, None, None))
    log = [line for line in log if "OpenLineage" not in line]  # its provider logs after the task has ended
    assert "ValueError at main.py" in log[-4]
    assert log[-5] == "Attempt 1 of fails ended with exit code 1."
    assert log[-3:-1] == ["Caused by KeyError: 'deep'", "Airflow will retry it."]
    assert log[-1].startswith("To run it manually: ")
    assert "--task-id=fails --attempt=2" in log[-1]

    until(lambda: any("job=fails attempt=2" in line for line in airflow.log("fails", run, second)))
    pid = until(lambda: next((pid for pid in [int((folder / "pid").read_text() or 0)] if pid and alive(pid)), None))
    airflow.call(f"/api/v2/dags/fails/dagRuns/{quote_id(run)}", {"state": "failed"}, "PATCH")
    until(lambda: not alive(pid))
    assert airflow.wait("fails", run) == "failed"
    states = {each.task_id: each.state for each in airflow.instances("fails", run)}
    assert states == {
        "look_for_input": "success",
        "fails": "failed",
        "later": "skipped",  # by Airflow, which counts that as success
        "watcher": "failed",
        "report_run": "success",
    }


def test_failed_run_sends_one_notice_with_task_reason_and_log(started):
    workshop, airflow, _ = started
    run = airflow.trigger("refuses")
    assert airflow.wait("refuses", run) == "failed"
    until(lambda: [each for each in workshop.notices if each["dag"] == "refuses"])
    time.sleep(3)  # for a second notice, which must not come
    (notice,) = [each for each in workshop.notices if each["dag"] == "refuses"]
    assert notice["run"] == run
    assert notice["task"] == "watcher, attempt 1"
    first, *reasons = notice["reason"].splitlines()
    assert first == "The run failed because these tasks failed: one, two."
    end = "ended with exit code 4 (a quality gate refused the result)."
    refusal = "The gate refused it."
    assert sorted(reasons) == [f"Attempt 1 of one {end}", f"Attempt 1 of two {end}", refusal, refusal]
    assert notice["log"].startswith(f"{airflow.url}/dags/refuses/runs/")
    assert notice["log"].endswith("/tasks/watcher?try_number=1")
    assert notice["text"].startswith("laptop: refuses failed\n")
    assert "summary" not in notice
    (document,) = workshop.lake.glob("intermediate/refuses/*/report_run/run.json")
    run_after = datetime.datetime.fromisoformat(json.loads(document.read_text())["run_after"])
    name = protocol.report_name(run_after, run)
    assert notice["card"] == protocol.card_uri(f"file://{workshop.lake}", "refuses", name)
    assert notice["page"] == f"{airflow.url}/tandem/card/refuses/{quote(run, safe='')}"

    until(lambda: any(mail["Subject"] == "laptop: refuses failed" for _, mail in workshop.mails))
    ((envelope, mail),) = [each for each in workshop.mails if each[1]["Subject"] == "laptop: refuses failed"]
    assert envelope == ["FROM:<tandem@example.com>", "TO:<on-call@example.com>"]
    until(lambda: ("FAIL", "refuses.one") in map(kind, workshop.events))
    (event,) = [event for event in workshop.events if kind(event) == ("FAIL", "refuses.one")]
    assert event["run"]["facets"]["test"]["tests"][0]["description"] == "The gate refused it."
    assert event["run"]["facets"]["errorMessage"]["message"] == f"Attempt 1 of one {end}\n{refusal}"
    assert html.unescape(mail.get_body().get_content()).strip() == f"<pre>{notice['text']}</pre>"


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def with_login(started, home, tmp_path):
    """The address of another API server of the same Airflow, in which users log in, and a user's name and password."""
    workshop, _, _ = started
    port = local_airflow.free_port()
    environment = local_airflow.settings(home, workshop.dags, port)
    environment["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS"] = "False"
    environment["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS"] = "reader:viewer"
    (home / "simple_auth_manager_passwords.json.generated").write_text('{"reader": "secret"}')
    server = local_airflow.launch("api-server", environment, tmp_path)
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: answers(f"{url}/api/v2/version"))
        yield url, "reader", "secret"
    finally:
        local_airflow.stop({"api-server": server})


def answers(url):
    with contextlib.suppress(OSError):
        return urllib.request.urlopen(url, timeout=10)


def test_tab_shows_card_to_logged_in_users_only(started, with_login, browser, tmp_path):
    workshop, airflow, _ = started
    url, *login = with_login
    run, without = airflow.trigger("works"), airflow.trigger("works")
    assert {airflow.wait("works", each) for each in (run, without)} == {"success"}
    due = datetime.datetime.fromisoformat(airflow.call(f"/api/v2/dags/works/dagRuns/{quote_id(run)}")["run_after"])
    card = Path(protocol.card_uri(str(workshop.lake), "works", protocol.report_name(due, run)))
    card.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "tests/programs/curious_card.html", card)
    arguments = [url, *login, "works", run, "first", without, tmp_path / "tab.png"]
    command = [browser, "-m", "tests.programs.look_at_card_tab", *arguments]
    found = json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout)
    assert found["errors"] == []
    assert found["run"]["text"] == found["task"]["text"] == "the card\n\nthe row of a task"
    assert found["run"]["title"] == "script ran, none read"  # neither the cookie of the login nor a storage
    assert (found["run"]["scrolled"], found["task"]["anchor"]) == (0, "#task-first")
    assert found["task"]["scrolled"] > 1000
    assert "report_run, writes it" in found["without"]["text"]
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{url}/tandem/card/works/{quote_id(run)}")


def test_task_that_is_rescheduled_at_once_needs_no_second_attempt(started):
    _, airflow, _ = started
    run = airflow.trigger("returns")
    assert airflow.wait("returns", run) == "success"
    tries = {each.task_id: each.try_number for each in airflow.instances("returns", run)}
    assert tries["returns"] == 1


def test_second_airflow_in_same_home_is_refused(started, home):
    _, _, folder = started
    with (
        pytest.raises(AirflowError, match="Another Airflow runs in"),
        local_airflow.start(home=home, dags=folder),
    ):
        pass

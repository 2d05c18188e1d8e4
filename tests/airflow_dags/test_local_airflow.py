"""Airflow with its scheduler on this machine: start, queries, end; the last lines of a task's log."""

import contextlib
import email
import email.policy
import html
import os
import socketserver
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from web_hook import web_hook

from tools.airflow_api import AirflowError, Instance, quote_id
from tools.sandbox import local_airflow

INTERACTIONS = 'contract = "interactions@2"'


@pytest.fixture(scope="module")
def started(tmp_path_factory, make_workshop, home):
    """A running Airflow with two pipelines: `works`, and `fails`, whose task hangs in its second attempt."""
    folder = tmp_path_factory.mktemp("airflow")
    workshop = make_workshop(folder)
    shards = '[parameters.shards]\ntype = "integer"\ndefault = 1\nhelp = "a number"'
    workshop.job("first", more=f"[outputs.interactions]\n{INTERACTIONS}", body="task.metrics['rows'] = 7")
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
    workshop.pipeline("fails", 'dag.container("fails")', fails={})
    workshop.job("refuses", "from common.errors import GateRefused\n    raise GateRefused('The gate refused it.')")
    both = 'dag.container("refuses", task_id="one")\ndag.container("refuses", task_id="two")'
    workshop.pipeline("refuses", both, one={}, two={})
    file = workshop.dags / "environments" / "laptop.toml"
    file.write_text(file.read_text() + '[failures]\nwebhook = "failed_runs"\nemail = "on-call@example.com"\n')
    with web_hook() as (url, notices), mailed() as (mail, mails), pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_FAILED_RUNS", url)
        patch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", mail)
        with local_airflow.start(home=home, dags=workshop.dags) as airflow:
            workshop.notices, workshop.mails = notices, mails
            yield workshop, airflow, folder
    assert not [line for line in processes() if str(folder) in line]
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


def processes():
    return subprocess.run(["ps", "-A", "-o", "args="], capture_output=True, text=True, check=True).stdout.splitlines()


def test_unimportable_pipeline_is_named_and_nothing_keeps_running(tmp_path, home):
    (tmp_path / "dags" / "broken").mkdir(parents=True)
    (tmp_path / "dags" / "broken" / "dag.py").write_text("from airflow.sdk import DAG\nraise KeyError('dag')\n")
    with (
        pytest.raises(AirflowError, match=r"broken/dag.py does not import:(.|\n)*KeyError"),
        local_airflow.start(home=home, dags=tmp_path / "dags"),
    ):
        pass
    assert not [line for line in processes() if str(home) in line]


def test_run_passes_scheduler_and_returns_its_results(started):
    workshop, airflow, _ = started
    run = airflow.trigger("works")
    seen = []
    assert airflow.wait("works", run, 120, show=seen.append) == "success"
    instances = airflow.instances("works", run)
    assert [(each.task_id, each.map_index) for each in instances[:2]] == [("look_for_input", -1), ("first", -1)]
    assert {(each.task_id, each.map_index) for each in instances[2:]} == {("second", 0), ("second", 1)}
    assert {each.state for each in instances} == {"success"}
    assert seen[-1] == instances
    returned = airflow.xcom("works", run, instances[1])
    assert returned["metrics"] == {"rows": 7}
    assert Path(returned["manifest"].removeprefix("file://")).is_relative_to(workshop.lake)


def test_failed_task_logs_its_error_and_manual_failure_ends_job(started):
    _, airflow, folder = started
    run = airflow.trigger("fails")
    second = wait_for(lambda: next((each for each in airflow.instances("fails", run) if each.try_number == 2), None))
    log = airflow.log("fails", run, Instance("fails", -1, 1, None, None, None, None))
    assert "ValueError at main.py" in log[-4]
    assert log[-5] == "Attempt 1 of fails ended with exit code 1."
    assert log[-3:-1] == ["Caused by KeyError: 'deep'", "Airflow will retry it."]
    assert log[-1].startswith("To run it manually: ")
    assert "--task-id=fails --attempt=2" in log[-1]

    wait_for(lambda: any("job=fails attempt=2" in line for line in airflow.log("fails", run, second)))
    pid = wait_for(lambda: next((pid for pid in [int((folder / "pid").read_text() or 0)] if pid and alive(pid)), None))
    path = f"{airflow.url}/api/v2/dags/fails/dagRuns/{quote_id(run)}/taskInstances/fails"
    request = urllib.request.Request(path, b'{"new_state": "failed"}', method="PATCH")
    request.add_header("Authorization", f"Bearer {airflow.token}")
    request.add_header("Content-Type", "application/json")
    urllib.request.urlopen(request)
    wait_for(lambda: not alive(pid))
    assert airflow.wait("fails", run, 300) == "failed"


def test_failed_run_sends_one_notice_with_task_reason_and_log(started):
    workshop, airflow, _ = started
    run = airflow.trigger("refuses")
    assert airflow.wait("refuses", run, 300) == "failed"
    wait_for(lambda: [each for each in workshop.notices if each["dag"] == "refuses"])
    time.sleep(3)  # for a second notice, which must not come
    (notice,) = [each for each in workshop.notices if each["dag"] == "refuses"]
    assert notice["run"] == run
    task = notice["task"].removesuffix(", attempt 1")
    assert task in ("one", "two")
    assert notice["reason"].splitlines() == [
        f"Attempt 1 of {task} ended with exit code 4 (a quality gate refused the result).",
        "The gate refused it.",
    ]
    assert notice["log"].startswith(f"{airflow.url}/dags/refuses/runs/")
    assert notice["log"].endswith(f"/tasks/{task}?try_number=1")
    assert notice["text"].startswith("laptop: refuses failed\n")

    ((envelope, mail),) = [each for each in workshop.mails if each[1]["Subject"] == "laptop: refuses failed"]
    assert envelope == ["FROM:<tandem@example.com>", "TO:<on-call@example.com>"]
    assert html.unescape(mail.get_body().get_content()).strip() == f"<pre>{notice['text']}</pre>"


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for(condition):
    for _ in range(1200):
        if found := condition():
            return found
        time.sleep(0.25)
    raise TimeoutError("not within five minutes")


def test_second_airflow_in_same_home_is_refused(started, home):
    _, _, folder = started
    with (
        pytest.raises(AirflowError, match="Another Airflow runs in"),
        local_airflow.start(home=home, dags=folder),
    ):
        pass

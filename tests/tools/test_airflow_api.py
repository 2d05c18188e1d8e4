"""Requests to Airflow: repeated while its server fails, ended with one sentence, and a run started once."""

import http.server
import json
import threading
import time
import urllib.error
from collections.abc import Iterator
from typing import ClassVar

import pytest

from tools import airflow_api
from tools.airflow_api import Airflow, AirflowError

LOCKED = (500, b'{"detail": "database is locked"}')
DONE = (200, b'{"state": "success"}')
STARTED = (409, b'{"detail": "the run exists"}')


class Server(http.server.BaseHTTPRequestHandler):
    """A server that answers with `answers` in turn, the last one again and again, and keeps its requests."""

    answers: ClassVar[list[tuple[int, bytes]]] = []
    requests: ClassVar[list[tuple[str, str, bytes]]] = []

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.requests.append((self.command, self.path, body))
        status, content = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        self.send_response(status)
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PATCH = do_DELETE = answer

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Airflow]:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(Server, "requests", [])
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Airflow(f"http://127.0.0.1:{server.server_port}", "token")
        server.shutdown()


@pytest.mark.parametrize(("method", "body"), [("GET", None), ("DELETE", None), ("PATCH", {"state": "failed"})])
def test_request_is_repeated_until_server_answers(
    airflow: Airflow, monkeypatch: pytest.MonkeyPatch, method: str, body: object
) -> None:
    monkeypatch.setattr(Server, "answers", [LOCKED, LOCKED, DONE])
    assert airflow.call("/run", body, method) == {"state": "success"}
    assert Server.requests == [(method, "/run", b"" if body is None else json.dumps(body).encode())] * 3
    monkeypatch.setattr(Server, "answers", [(204, b"")])
    assert airflow.call("/run", body, method) is None


def test_server_that_stays_broken_is_reported_in_one_sentence(
    airflow: Airflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Server, "answers", [LOCKED])
    monkeypatch.setattr(airflow_api, "REPEAT_SECONDS", 0.2)
    with pytest.raises(AirflowError, match=r"does not answer DELETE /run within .* \(500: database is locked\); check"):
        airflow.call("/run", method="DELETE")
    assert len(Server.requests) > 1


def test_refusals_and_posts_that_airflow_could_do_twice_are_not_repeated(
    airflow: Airflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    for answer, method in (((404, b""), "GET"), (LOCKED, "POST")):
        monkeypatch.setattr(Server, "requests", [])
        monkeypatch.setattr(Server, "answers", [answer])
        with pytest.raises(urllib.error.HTTPError):
            airflow.call("/run", {} if method == "POST" else None)
        assert [command for command, _, _ in Server.requests] == [method]


def test_run_is_started_once_even_if_answer_to_the_first_request_was_lost(
    airflow: Airflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Server, "answers", [LOCKED, STARTED])
    run = airflow.trigger("daily", {"until": "2011-06-02"})
    first, second = (json.loads(body) for _, _, body in Server.requests)
    assert first == second == {"dag_run_id": run, "logical_date": None, "conf": {"until": "2011-06-02"}}
    assert airflow.trigger("daily") != run

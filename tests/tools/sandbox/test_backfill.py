"""Backfills: the requests to Airflow, the outcome of each day, refusals."""

import datetime
from typing import Any

import pytest

from common.errors import ArgumentError
from tools.airflow_api import Airflow, AirflowError
from tools.sandbox.backfill import create, follow

DAYS = (datetime.date(2011, 6, 1), datetime.date(2011, 6, 2))


class Server(Airflow):
    """An Airflow with one daily pipeline, whose second day fails."""

    paused = False
    interrupted = False

    def __init__(self) -> None:
        super().__init__("http://airflow", "")
        object.__setattr__(self, "requests", [])

    def call(self, path: str, body: Any = None, method: str | None = None, repeat: bool = False) -> Any:
        if body is not None:
            self.requests.append((path, body))  # type: ignore[attr-defined]
        if path.endswith("/dry_run"):
            return {"backfills": [{"logical_date": f"{day}T02:00:00Z"} for day in DAYS]}
        if path == "/api/v2/backfills":
            return {"id": 7}
        if path.endswith("/cancel"):
            return {}
        if "taskInstances" in path:
            return self.task(path)
        if "/dagRuns?" in path:
            if type(self).interrupted:
                raise KeyboardInterrupt
            states = zip(DAYS, ("success", "failed"), strict=True)
            runs = [self.run(f"{day}T02:00:00Z", state) for day, state in states]
            return {"dag_runs": runs, "total_entries": 2}
        return {"dags": [{"dag_id": "daily", "is_paused": type(self).paused}]}

    def run(self, moment: str, state: str) -> dict[str, Any]:
        times = {"start_date": "2026-11-27T01:00:00Z", "end_date": "2026-11-27T01:00:09Z"}
        return {"dag_run_id": moment, "run_type": "backfill", "logical_date": moment, "state": state, **times}

    def task(self, path: str) -> Any:
        if "xcomEntries/failure" in path:
            return {"value": "Attempt 1 of count ended with exit code 3.\nThere is no data.\nCaused by more."}
        names = ("task_id", "map_index", "try_number", "state", "start_date", "end_date", "duration")
        return {"task_instances": [dict(zip(names, ("count", -1, 1, "failed", None, None, 1.0), strict=True))]}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    for name in ("paused", "interrupted"):
        monkeypatch.setattr(Server, name, getattr(Server, name))  # restored after the test
    return Server()


def test_outcome_of_each_day_is_reported(server: Server) -> None:
    lines: list[str] = []
    assert follow(server, create(server, "daily", DAYS, 2), lines.append) == ["2011-06-02"]
    assert lines == [
        "1 of 2  2011-06-01  success in 9 s",
        "2 of 2  2011-06-02  failed in 9 s: count: Attempt 1 of count ended with exit code 3. There is no data.",
    ]
    path, body = server.requests[-1]  # type: ignore[attr-defined]
    assert path == "/api/v2/backfills"
    assert body == {
        "dag_id": "daily",
        "from_date": "2011-06-01T00:00:00+00:00",
        "to_date": "2011-06-02T23:59:59+00:00",
        "reprocess_behavior": "completed",
        "max_active_runs": 2,
    }


def test_paused_pipeline_is_refused_in_one_sentence(server: Server) -> None:
    Server.paused = True
    with pytest.raises(ArgumentError, match="daily is paused, so Airflow would not start its runs; unpause it first"):
        create(server, "daily", DAYS, 1)


def test_ctrl_c_cancels_the_backfill(server: Server) -> None:
    created = create(server, "daily", DAYS, 1)
    Server.interrupted = True
    with pytest.raises(AirflowError, match="Backfill 7 is cancelled"):
        follow(server, created, print)
    assert server.requests[-1][0] == "/api/v2/backfills/7/cancel"  # type: ignore[attr-defined]

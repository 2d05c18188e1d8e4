"""Airflow over its REST interface: start runs, wait for them, read their tasks, results and logs."""

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from common.errors import TaskError


class AirflowError(TaskError):
    """Airflow did not start, did not answer, or missed a deadline."""


@dataclass(frozen=True)
class Instance:
    """A task of a run, or one of its map instances (map index -1: not mapped)."""

    task_id: str
    map_index: int
    try_number: int
    state: str | None
    started: str | None
    ended: str | None
    seconds: float | None


@dataclass(frozen=True)
class Airflow:
    """A running Airflow, by its REST interface."""

    url: str
    token: str

    def call(self, path: str, body: Any = None, method: str | None = None) -> Any:
        """Return the response of GET path, of POST path with a body, or of another method."""
        request = urllib.request.Request(
            f"{self.url}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.load(response)

    def trigger(self, dag: str, conf: dict[str, Any] | None = None) -> str:
        """Start a run of a pipeline and return its ID."""
        run: str = self.call(f"/api/v2/dags/{dag}/dagRuns", {"logical_date": None, "conf": conf or {}})["dag_run_id"]
        return run

    def runs(self, dag: str) -> list[dict[str, Any]]:
        """Return the newest 100 runs of a pipeline, newest first."""
        runs: list[dict[str, Any]] = self.call(f"/api/v2/dags/{dag}/dagRuns?order_by=-run_after")["dag_runs"]
        return runs

    def wait(
        self, dag: str, run: str, seconds: float = 3600, show: Callable[[list[Instance]], None] = lambda instances: None
    ) -> str:
        """Wait for a run's end and return its state; `show` gets the states of its tasks twice a second."""
        for _ in poll(seconds, f"The run {run} of {dag} did not end within {seconds:.0f} s"):
            state = self.call(f"/api/v2/dags/{dag}/dagRuns/{quote_id(run)}")["state"]
            show(self.instances(dag, run))
            if state in ("success", "failed"):
                return str(state)
        raise AssertionError

    def instances(self, dag: str, run: str) -> list[Instance]:
        """Return all tasks of a run, in the order in which they started."""
        path = f"/api/v2/dags/{dag}/dagRuns/{quote_id(run)}/taskInstances?limit=1000"
        instances = [
            Instance(
                task_id=each["task_id"],
                map_index=each["map_index"],
                try_number=each["try_number"],
                state=each["state"],
                started=each["start_date"],
                ended=each["end_date"],
                seconds=each["duration"],
            )
            for each in self.call(path)["task_instances"]
        ]
        return sorted(instances, key=lambda instance: (instance.started or "~", instance.task_id, instance.map_index))

    def xcom(self, dag: str, run: str, instance: Instance, key: str = "return_value") -> Any:
        """Return the result of a task, or another XCom; None if it has none."""
        path = f"/api/v2/dags/{dag}/dagRuns/{quote_id(run)}/taskInstances/{instance.task_id}/xcomEntries/{key}"
        try:
            return self.call(f"{path}?map_index={instance.map_index}&deserialize=true")["value"]
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise

    def log(self, dag: str, run: str, instance: Instance) -> list[str]:
        """Return the log lines of a task's newest try, without the marks that fold them on Airflow's page."""
        path = f"/api/v2/dags/{dag}/dagRuns/{quote_id(run)}/taskInstances/{instance.task_id}/logs/{instance.try_number}"
        content = self.call(f"{path}?map_index={instance.map_index}&full_content=true")["content"]
        lines = [line if isinstance(line, str) else line["event"] for line in content]
        return [line for line in lines if not line.startswith(("::group::", "::endgroup::"))]


def poll(seconds: float, failure: str) -> Iterator[None]:
    """Yield every half second; raise AirflowError when the time is up."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        yield
        time.sleep(0.5)
    raise AirflowError(f"{failure}.")


def quote_id(run: str) -> str:
    return urllib.parse.quote(run, safe="")

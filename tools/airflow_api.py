"""Airflow over its REST interface: start runs, wait for them, read their tasks, results and logs."""

import contextlib
import datetime
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from common.errors import TaskError

REPEAT_SECONDS = 60  # of a request that Airflow does not answer: its database or the machine is busy


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

    def call(self, path: str, body: Any = None, method: str | None = None, repeat: bool = False) -> Any:
        """Return the response of GET path, of POST path with a body, or of another method; None if it is empty.

        A request that ends with 5xx or a timeout is repeated for a minute, then it raises AirflowError. POST is only
        repeated with `repeat`: Airflow must refuse the second of two.
        """
        request = urllib.request.Request(
            f"{self.url}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"},
            method=method,
        )
        deadline = time.monotonic() + REPEAT_SECONDS
        while True:
            try:
                with urllib.request.urlopen(request, timeout=30) as response:
                    content = response.read()
                    return json.loads(content) if content else None
            except (urllib.error.HTTPError, TimeoutError) as error:
                refused = isinstance(error, urllib.error.HTTPError) and error.code < 500
                if refused or (request.get_method() == "POST" and not repeat):
                    raise
                if time.monotonic() >= deadline:
                    raise AirflowError(
                        f"Airflow at {self.url} does not answer {request.get_method()} {path} within "
                        f"{REPEAT_SECONDS:.0f} s ({reason(error)}); check its API server."
                    ) from None
            time.sleep(0.5)

    def trigger(self, dag: str, conf: dict[str, Any] | None = None) -> str:
        """Start a run of a pipeline and return its ID."""
        run = f"manual__{datetime.datetime.now(datetime.UTC).isoformat()}"  # as Airflow names it; known for repetitions
        body = {"dag_run_id": run, "logical_date": None, "conf": conf or {}}
        try:
            self.call(f"/api/v2/dags/{dag}/dagRuns", body, repeat=True)
        except urllib.error.HTTPError as error:
            if error.code != 409:  # started by a request whose answer was lost
                raise
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


def reason(error: OSError) -> str:
    """Return the error, with Airflow's own sentence if it has one."""
    if not isinstance(error, urllib.error.HTTPError):
        return str(error)
    content = error.read().decode(errors="replace")
    with contextlib.suppress(ValueError, KeyError, TypeError):
        content = str(json.loads(content)["detail"])
    return f"{error.code}: {content}"


def poll(seconds: float, failure: str) -> Iterator[None]:
    """Yield every half second; raise AirflowError when the time is up."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        yield
        time.sleep(0.5)
    raise AirflowError(f"{failure}.")


def quote_id(run: str) -> str:
    return urllib.parse.quote(run, safe="")

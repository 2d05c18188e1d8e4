"""Documents of a run in a lake, as jobs and the scheduler write them, for tests of reports."""

from datetime import UTC, datetime, timedelta
from typing import Any

from common import protocol
from common.handover import manifest, storage
from common.reporting import collect
from common.reporting.record import Record, TaskSummary

BEGAN = datetime(2026, 11, 26, 4, 0, tzinfo=UTC)
DAG, RUN = "daily_recommendations", "scheduled__2026-11-26T04:00:00+00:00"


def at(seconds: float) -> str:
    """Return a moment of the run, by the seconds since its beginning."""
    return (BEGAN + timedelta(seconds=seconds)).isoformat()


class RunFolder:
    """The folder of a run in a lake."""

    def __init__(self, lake: str) -> None:
        self.lake = lake

    def write(self, uri: str, document: Any) -> None:
        storage.write(uri, document if isinstance(document, bytes) else manifest.to_json(document))

    def key(self, task: str, index: int | None = None) -> str:
        return protocol.task_key(self.lake, DAG, RUN, task, index)

    def attempt(self, task: str, index: int | None, attempt: int) -> str:
        return protocol.attempt_folder(self.key(task, index), attempt)

    def job_document(self, task: str, index: int | None, attempt: int, began: float, ended: float) -> dict[str, Any]:
        """Return the parts that manifests and failure documents have in common."""
        name = {"dag_id": DAG, "run_id": RUN, "task_id": task, "map_index": index, "attempt": attempt}
        times = {"started": at(began), "ended": at(ended), "seconds": ended - began, "processor_seconds": 1.5}
        return {"format": 1, "task": name, "job": task, "fingerprint": "4c0ffee", "peak_memory_bytes": 2**29, **times}

    def manifest(
        self, task: str, began: float, ended: float, index: int | None = None, attempt: int = 1, **fields: Any
    ) -> None:
        document = self.job_document(task, index, attempt, began, ended)
        outputs = {"rows": {"contract": "rows@1", "rows": 10, "bytes": 1000, "files": [{"path": "a", "bytes": 1000}]}}
        document |= {"outputs": outputs, "metrics": {}, "parameters": {}, **fields}
        self.write(protocol.manifest_uri(self.key(task, index)), document)

    def failure(
        self, task: str, began: float, ended: float, index: int | None = None, attempt: int = 1, **fields: Any
    ) -> None:
        document = self.job_document(task, index, attempt, began, ended)
        document |= {"exit_code": 1, "sentence": "The cup is empty, expected tea.", "parameters": {}, **fields}
        self.write(protocol.failure_uri(self.attempt(task, index, attempt)), document)

    def scheduler(
        self,
        task: str,
        began: float,
        ended: float | None,
        state: str = "succeeded",
        index: int | None = None,
        attempt: int = 1,
        **fields: Any,
    ) -> None:
        name = {"dag_id": DAG, "run_id": RUN, "task_id": task, "map_index": index, "attempt": attempt}
        document = {"format": 1, "task": name, "job": task, "runtime": "process", "began": at(began), "state": state}
        document |= {"ended": None if ended is None else at(ended), "exit_code": None, "reason": None, "links": {}}
        self.write(protocol.scheduler_uri(self.attempt(task, index, attempt)), document | fields)

    def run(self, tasks: dict[str, Any], **fields: Any) -> None:
        document = {"format": 1, "environment": "prod", "dag": DAG, "run": RUN, "kind": "scheduled"}
        document |= {"run_after": at(0), "until": "2026-11-26", "began": at(1), "url": "https://airflow.example.com/1"}
        document |= {"tasks": tasks, "prices": {"currency": "USD", "million_write_units": 0.625}, **fields}
        self.write(protocol.run_uri(self.key(protocol.REPORT_TASK)), document)

    def record(self) -> Record:
        return collect.collect(self.lake, DAG, RUN, protocol.REPORT_TASK)


def task_of(record: Record, name: str) -> TaskSummary:
    """Return a task of a record."""
    return next(task for task in record.tasks if task.task == name)

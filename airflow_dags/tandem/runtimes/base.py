"""The interface of a runtime: the verbs around one command line, its input (Attempt) and its output (Outcome)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from tandem import lake, protocol
from tandem.catalogue import Job

GRACE_SECONDS = 3  # for a cancelled job to end; Airflow kills a task that does not end within 5


@dataclass(frozen=True)
class Attempt:
    """One attempt of one task, as a runtime gets it."""

    job: str
    lake: str
    dag_id: str
    run_id: str
    task_id: str
    number: int  # from 1
    map_index: int | None  # None: not mapped
    predecessors: Mapping[str, str]  # role to task ID
    parameters: Mapping[str, Any]
    request: Mapping[str, Any]  # the runtime's own request of the time when the pipeline was parsed, rendered
    cluster: Any  # the return value of the task that opened the cluster, None without one
    run_started: str | None = None  # a run that is deleted and recreated under its ID counts attempts from 1 again
    deadline_seconds: float | None = None  # after which it is cancelled; the pod template's where that is one

    @property
    def arguments(self) -> list[str]:
        """The arguments of main.py, the same in every runtime; each in one word, for an ID may begin with a dash."""
        return protocol.arguments({**vars(self), "attempt": self.number}, self.predecessors, self.parameters)

    @property
    def key(self) -> str:
        """URI of the folder that contains the task's manifest."""
        return protocol.task_key(self.lake.rstrip("/"), self.dag_id, self.run_id, self.task_id, self.map_index)

    @property
    def names(self) -> dict[str, str]:
        """The names among the arguments, by their description for messages."""
        names = {"The lake": self.lake, "The DAG ID": self.dag_id, "The run ID": self.run_id}
        tasks = {f"The task ID of '{role}'": task_id for role, task_id in self.predecessors.items()}
        return {**names, "The task ID": self.task_id, **tasks}

    @property
    def values(self) -> dict[str, str]:
        """The values of parameters among the arguments, by their description for messages."""
        return {f"The parameter '{name}'": protocol.to_text(value) for name, value in self.parameters.items()}


class Outcome(NamedTuple):
    """The end of an attempt."""

    exit_code: int  # negative: killed by that signal
    result: str | None  # content of the result file, None where the runtime cannot reach it
    last_line: str  # of the job's output
    explanation: str = ""  # a reason that only the runtime knows, for example that memory ran out
    guessed: bool = False  # True if the exit code is unknown, or the attempt never began
    attempt_number: int | None = None  # of the attempt that ran, if this one adopted it from a dead worker
    links: Mapping[str, str] = {}  # to pages that exist only at the end, by label
    out_of_memory: bool = False  # True if that is known to have killed it


def overdue(seconds: float | None) -> str:
    """The explanation of an attempt that was cancelled at its deadline."""
    return (
        f"It ran into its deadline of {seconds:.10g} s; give it more by deadline_seconds in [resources] of job.toml, "
        "or less to do."
    )


class Cluster(NamedTuple):
    """The operators around Spark jobs; the return value of `open` is the `cluster` of their attempts."""

    open: BaseOperator
    ready: BaseOperator  # waits until the cluster accepts jobs; the same as `open` if that already waits
    close: BaseOperator
    instances: Mapping[str, float] = {}  # number of the cluster's instances by type, if known

    @property
    def task_ids(self) -> set[str]:
        return {self.open.task_id, self.ready.task_id, self.close.task_id}


class Runtime(Protocol):
    """The verbs that run a job. Waiting is part of the attempt: submit, watch and cancel are one retry unit."""

    name: ClassVar[str]  # in environments
    refused: ClassVar[re.Pattern[str]]  # matches text that would not reach the job unchanged
    labels: ClassVar[tuple[str, ...]]  # of the links to an attempt on Airflow's page

    def request(self, job: Job, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The needs of the runtime besides the arguments; called while parsing, strings in it may be templates."""

    def payload(self, attempt: Attempt) -> Any:
        """The request or command line that starts the attempt, as JSON without secrets."""

    def check_product(self, attempt: Attempt) -> None:
        """Raise AirflowFailException unless the job's build product is the one that the run's release names."""

    def submit(self, attempt: Attempt) -> Any:
        """Start the attempt, or find it if it already runs under its name, and return its handle."""

    def links(self, handle: Any) -> dict[str, str]:
        """The pages about a started attempt by label; a name instead of an address if the environment has no page."""

    def watch(self, handle: Any) -> Outcome:
        """Print the job's log as it comes, until the attempt has ended."""

    def cancel(self, handle: Any) -> None:
        """End the attempt; called from a signal handler while `watch` waits, returns when nothing of it runs."""

    def rerun_command(self, attempt: Attempt) -> str:
        """The shell command that runs the attempt manually."""


class SparkRuntime(Runtime, Protocol):
    """A runtime for Spark jobs: it also opens and closes a cluster around them."""

    cluster_suffix: ClassVar[str]  # of the files in app folders that describe clusters of this runtime

    def open_and_close(self, name: str, request: Mapping[str, Any], where: str) -> Cluster | None:
        """The operators that open and close the cluster of such a file, their task IDs ending in `name`.

        None if there is nothing to open. `where` is the file, for messages.
        """


def check_built(attempt: Attempt) -> None:
    """Raise AirflowFailException if the Airflow variable `release` names no image of the job."""
    if not attempt.request["fingerprint"]:
        product = attempt.request["product"]
        raise AirflowFailException(
            f"The Airflow variable 'release' names no fingerprint of {product}; build the job and set the variable "
            'to the release: make build && AIRFLOW_VAR_RELEASE="$(cat dist/release.json)".'
        )


def bundle(attempt: Attempt) -> str:
    """URI of the folder of a Spark job's bundle in the lake; AirflowFailException if no cluster could read it."""
    if not lake.is_remote(attempt.lake):
        raise AirflowFailException(
            f"The lake {attempt.lake} can't be reached from a cluster, expected s3://… or gs://…; set the Airflow "
            "variable 'lake'."
        )
    if not attempt.request["fingerprint"]:
        raise AirflowFailException(
            f"The Airflow variable 'release' names no fingerprint of {attempt.job}; build the job, upload its bundle "
            "to the lake, and set the variable to the content of dist/release.json."
        )
    return protocol.code_folder(attempt.lake, attempt.job, attempt.request["fingerprint"])

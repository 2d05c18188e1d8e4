"""What a runtime is: the verbs around one command line, and what goes in and comes out."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from tandem import protocol
from tandem.catalogue import Job


@dataclass(frozen=True)
class Attempt:
    """One attempt of one task, as it goes to a runtime."""

    job: str
    lake: str
    dag_id: str
    run_id: str
    task_id: str
    attempt: int
    map_index: int | None  # None: not mapped
    predecessors: Mapping[str, str]  # role to task ID
    parameters: Mapping[str, Any]
    request: Mapping[str, Any]  # what the runtime asked for when the pipeline was parsed, its templates rendered
    cluster: Any  # what opening the cluster returned, None where none was opened
    run_started: str | None = None  # a run that is deleted and made anew under its ID counts attempts from 1 again
    deadline_seconds: float | None = None  # after which it is cancelled; the pod template's where that is one

    @property
    def arguments(self) -> list[str]:
        """The arguments of main.py, the same in every runtime; each in one word, for an ID may begin with a dash."""
        return protocol.arguments(vars(self), self.predecessors, self.parameters)

    @property
    def key(self) -> str:
        """URI of the folder that the task's manifest lies in."""
        return protocol.task_key(self.lake.rstrip("/"), self.dag_id, self.run_id, self.task_id, self.map_index)

    @property
    def names(self) -> dict[str, str]:
        """The names among the arguments, by what each is."""
        names = {"The lake": self.lake, "The DAG ID": self.dag_id, "The run ID": self.run_id}
        tasks = {f"The task ID of '{role}'": task_id for role, task_id in self.predecessors.items()}
        return {**names, "The task ID": self.task_id, **tasks}

    @property
    def values(self) -> dict[str, str]:
        """The values of parameters among the arguments, by what each is."""
        return {f"The parameter '{name}'": protocol.to_text(value) for name, value in self.parameters.items()}


class Outcome(NamedTuple):
    """How a work ended."""

    exit_code: int  # negative: killed by that signal
    result: str | None  # content of the result file, None where the runtime cannot reach it
    last_line: str  # of what the job printed
    explanation: str = ""  # what the runtime knows of the end beside the exit code: that memory ran out, say
    guessed: bool = False  # the exit code, because nobody knows it, or the work never began
    attempt: int | None = None  # whose work it was, if a dead worker's that this attempt took over


def overdue(seconds: float | None) -> str:
    """The explanation of a work that was cancelled at its deadline."""
    return (
        f"It ran into its deadline of {seconds:.10g} s; give it more by deadline_seconds in [resources] of job.toml, "
        "or less to do."
    )


class Cluster(NamedTuple):
    """The operators around Spark jobs; what `open` returns when it runs is the `cluster` of their works."""

    open: BaseOperator
    ready: BaseOperator  # waits until it takes jobs; the same as `open` where nothing has to be waited for
    close: BaseOperator


class ContainerRuntime(Protocol):
    """Where Python jobs run. Waiting is part of the work: submit, watch and cancel are one retry unit."""

    refused: ClassVar[re.Pattern[str]]  # what no argument may hold, because it would not reach the job

    def request(self, job: Job, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What the runtime needs beside the arguments; called while parsing, strings in it may be templates."""

    def sent(self, work: Attempt) -> Any:
        """What goes out to start the work, as JSON has it: a request without secrets, or a command line."""

    def submit(self, work: Attempt) -> Any:
        """Start the work, or find it if it runs already under its name, and return its handle."""

    def watch(self, handle: Any) -> Outcome:
        """Print the job's log as it comes, until the work has ended."""

    def cancel(self, handle: Any) -> None:
        """End the work; called from a signal handler while `watch` waits, and done when nothing of it runs."""

    def again(self, work: Attempt) -> str:
        """The line for a shell that does this work by hand."""


class SparkRuntime(ContainerRuntime, Protocol):
    """Where Spark jobs run: the same verbs around one command line, and a cluster that opens and closes around them."""

    cluster_suffix: ClassVar[str]  # of the files in app folders that describe clusters of this runtime

    def open_and_close(self, name: str, request: Mapping[str, Any], where: str) -> Cluster | None:
        """The operators that open and close what such a file describes, their task IDs ending in `name`.

        None where there is nothing to open. `where` is the file, for what does not fit.
        """


def check_built(work: Attempt) -> None:
    """Raise AirflowFailException if the Airflow variable `release` names no image of a Python job."""
    if not work.request["fingerprint"]:
        raise AirflowFailException(
            f"The Airflow variable 'release' names no fingerprint of {work.job}; build the job and give Airflow "
            'what the build left: make build && AIRFLOW_VAR_RELEASE="$(cat dist/release.json)".'
        )


def bundle(work: Attempt) -> str:
    """Where the bundle of a Spark job lies in the lake; AirflowFailException if no cluster could find it."""
    if not work.lake.startswith("s3://"):
        raise AirflowFailException(
            f"The lake {work.lake} can't be reached from a cluster, expected s3://…; set the Airflow variable 'lake'."
        )
    if not work.request["fingerprint"]:
        raise AirflowFailException(
            f"The Airflow variable 'release' names no fingerprint of {work.job}; build the job, bring its bundle to "
            "the lake, and give Airflow what the build left in dist/release.json."
        )
    return protocol.code_folder(work.lake, work.job, work.request["fingerprint"])

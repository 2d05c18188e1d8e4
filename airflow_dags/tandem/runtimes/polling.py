"""What runtimes share that send a Spark job to a service and ask until it has ended."""

import logging
import math
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from tandem.catalogue import Job
from tandem.dag_errors import PipelineError, check_known
from tandem.lake import read_document
from tandem.protocol import encode
from tandem.runtimes.base import Attempt, Outcome, overdue
from tandem.texts import ON_YARN

ALIVE_SECONDS = 30  # between lines that say that a job still runs
UNCANCELLED_SECONDS = 300  # a job may take to end after its deadline; then it is left, and its attempt failed
GRACE_SECONDS = 3  # to see a job end after its cancelling; Airflow kills a task that does not end within 5
MAX_NAME = 256  # of a step, and of a job run
# YARN starts a driver that failed once more, unasked, with the same attempt number: that is Airflow's to decide.
ONE_ATTEMPT = "spark.yarn.maxAppAttempts"
SIZES = {
    "spark.driver.memory": "driver_memory",
    "spark.executor.memory": "executor_memory",
    "spark.executor.cores": "executor_cores",
}
log = logging.getLogger(__name__)


class Sent(NamedTuple):
    """A work that a service does, under the ID that the service gave it, and a client that only `cancel` uses.

    `cancel` is called from a signal handler, when `watch` may hold a lock of its own client, and in a hurry.
    """

    id: str
    work: Attempt
    client: Any


@dataclass(frozen=True, kw_only=True)
class PollingRuntime(ABC):
    """The verbs `watch` and `cancel` over what a service calls its states."""

    refused: ClassVar[re.Pattern[str]] = ON_YARN
    noun: ClassVar[str]  # what the service calls a job
    waiting: ClassVar[tuple[str, ...]]  # states of what has not begun
    ended: ClassVar[tuple[str, ...]]
    cancelling: ClassVar[tuple[str, ...]] = ()  # states that a cancelled job leaves only by ending
    poll_seconds: float = 10
    pending_seconds: float = 7200  # a job may wait for its start

    @abstractmethod
    def client(self) -> Any: ...

    @abstractmethod
    def ask(self, client: Any, sent: Sent) -> tuple[str, Any]:
        """The state of what was sent, and all that the service says of it."""

    @abstractmethod
    def ask_to_cancel(self, client: Any, sent: Sent) -> None: ...

    @abstractmethod
    def outcome(self, client: Any, sent: Sent, said: Any) -> Outcome:
        """How that ended of which the service said this."""

    def watch(self, handle: Sent) -> Outcome:
        client, name = self.client(), f"{self.noun} {handle.id}"
        began = time.monotonic()
        state, told, late = "", 0.0, ""
        ends_at = math.inf  # it has its time from when it runs
        while True:
            now_in, said = self.ask(client, handle)
            now = time.monotonic()
            if now_in != state or now - told >= ALIVE_SECONDS:
                state, told = now_in, now
                log.info("%s on %s is %s after %.0f s.", name, handle.work.cluster, state, now - began)
            if state in self.ended:
                outcome = self.outcome(client, handle, said)
                return outcome._replace(explanation="\n".join(filter(None, [late, outcome.explanation])))
            if state not in self.waiting and ends_at == math.inf:
                ends_at = now + (handle.work.deadline_seconds or math.inf)
            if now > ends_at and not late:
                late = overdue(handle.work.deadline_seconds)
                log.warning("%s is cancelled. %s", name, late)
                self.cancel(handle)
            if now > ends_at + UNCANCELLED_SECONDS:
                return not_ended(f"{late} {name} was cancelled and is still {state}.")
            if state in self.waiting and now - began > self.pending_seconds:
                self.cancel(handle)
                return not_ended(f"{name} did not start within {self.pending_seconds:.0f} s.")
            time.sleep(self.poll_seconds)

    def cancel(self, handle: Sent) -> None:
        self.ask_to_cancel(handle.client, handle)
        deadline = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < deadline:
            if self.ask(handle.client, handle)[0] in self.ended + self.cancelling:
                return
            time.sleep(0.2)

    def log_of_driver(
        self, sent: Sent, place: str, find: Callable[[], dict[str, str]], seconds: float
    ) -> dict[str, str]:
        """What `find` finds at a place, by URI; waits up to so many seconds for the log of a job that left nothing."""
        left = read_document(f"{sent.work.key}/attempt-{sent.work.attempt}/failure.json")
        deadline = time.monotonic() + (0 if left else seconds)
        while not (found := find()) and time.monotonic() < deadline:
            log.info("The driver's log is not at %s yet.", place)
            time.sleep(min(self.poll_seconds, 10))
        return found


def not_ended(explanation: str) -> Outcome:
    """The outcome of a work that did not come to an end of its own."""
    return Outcome(1, None, "", explanation, guessed=True)


def spark_properties(job: Job, settings: Mapping[str, Any]) -> dict[str, str]:
    """Spark's properties that job.toml, and over it a task's own settings, ask for."""
    wanted = {**job.spark, **settings}
    sizes = {name: wanted[size] for name, size in SIZES.items() if size in wanted}
    conf = {**sizes, **job.spark.get("conf", {}), **settings.get("conf", {})}
    return {name: str(value) for name, value in conf.items()}


def libraries_properties(job: Job, driver: str) -> dict[str, str]:
    """Properties by which driver and executors find the libraries that a job brings; `driver` begins its variables."""
    return (
        {f"{process}.PYTHONPATH": "libraries" for process in (driver, "spark.executorEnv")} if job.requirements else {}
    )


def deploy_mode(job: Job, settings: Mapping[str, Any], default: str) -> str:
    """Where a job's driver runs; raises PipelineError if one outside of YARN would lack the libraries it brings."""
    mode: str = settings.get("deploy_mode", default)
    check_known("deploy mode", mode, ["client", "cluster"], f"A setting of {job.name}")
    if job.requirements and mode != "cluster":
        raise PipelineError(
            f"{job.name} brings libraries, which only a driver on YARN has; expected deploy mode 'cluster'."
        )
    return mode


def first_of_names(work: Attempt) -> str:
    """How the names of a task's jobs begin, the attempt's number follows: its folder among the lake's hand-overs."""
    task = work.key.removeprefix(f"{work.lake.rstrip('/')}/intermediate/")
    return f"{task if len(task) < MAX_NAME - 20 else encode(task)}/attempt-"

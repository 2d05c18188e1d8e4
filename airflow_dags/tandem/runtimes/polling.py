"""The base of runtimes that submit a Spark job to a service and poll its state until it has ended."""

import logging
import math
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, NamedTuple

from tandem.lake import read_document
from tandem.protocol import attempt_folder, encode, failure_uri
from tandem.runtimes.base import GRACE_SECONDS, Attempt, Outcome, overdue
from tandem.runtimes.released import check_bundle
from tandem.texts import ON_YARN

ALIVE_SECONDS = 30  # between log lines about a job that still runs
UNCANCELLED_SECONDS = 300  # a job may take to end after its deadline; then it is abandoned, and its attempt failed
MAX_NAME = 256  # of a step, and of a job run
log = logging.getLogger(__name__)


class Submission(NamedTuple):
    """An attempt that a service runs, under the ID that the service gave it, and a client that only `cancel` uses.

    `cancel` is called from a signal handler, when `watch` may hold a lock of its own client, and in a hurry.
    """

    id: str
    attempt: Attempt
    client: Any


@dataclass(frozen=True, kw_only=True)
class PollingRuntime(ABC):
    """The verbs `watch` and `cancel` over the states of a service."""

    refused: ClassVar[re.Pattern[str]] = ON_YARN
    noun: ClassVar[str]  # the service's word for a job
    waiting: ClassVar[tuple[str, ...]]  # states before the start
    ended: ClassVar[tuple[str, ...]]
    cancelling: ClassVar[tuple[str, ...]] = ()  # states that a cancelled job leaves only by ending
    poll_seconds: float = 10
    pending_seconds: float = 7200  # a job may wait for its start
    event_log: str = ""  # the folder of Spark's event logs; empty: the service's own
    history: str = ""  # the address of a history server that reads it

    @abstractmethod
    def client(self) -> Any: ...

    @abstractmethod
    def poll(self, client: Any, submission: Submission) -> tuple[str, Any]:
        """The state of a submission, and the service's whole response."""

    @abstractmethod
    def request_cancel(self, client: Any, submission: Submission) -> None: ...

    @abstractmethod
    def outcome(self, client: Any, submission: Submission, response: Any) -> Outcome:
        """The outcome from the service's final response."""

    def check_product(self, attempt: Attempt) -> None:
        check_bundle(attempt)

    def began(self, response: Any) -> datetime | None:
        """The time at which a job that is not waiting any more began, if the service tells it."""
        return None

    def watch(self, handle: Submission) -> Outcome:
        waiting = Waiting(self, handle, time.time())
        while (end := waiting.look()) is None:
            time.sleep(self.poll_seconds)
        return self.conclude(handle, end)

    def conclude(self, handle: Submission, end: "End") -> Outcome:
        """The outcome of a submission for which there is nothing left to wait."""
        if end.unfinished:
            return Outcome(1, None, "", end.unfinished, guessed=True)
        client = self.client()
        outcome = self.outcome(client, handle, self.poll(client, handle)[1])
        return outcome._replace(explanation="\n".join(filter(None, [end.late, outcome.explanation])))

    def cancel(self, handle: Submission) -> None:
        self.request_cancel(handle.client, handle)
        deadline = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < deadline:
            if self.poll(handle.client, handle)[0] in self.ended + self.cancelling:
                return
            time.sleep(0.2)

    def await_driver_log(
        self, attempt: Attempt, location: str, read: Callable[[], dict[str, str]], seconds: float
    ) -> dict[str, str]:
        """The driver's log as `read` returns it, by URI; waits at most `seconds` if there is no failure document."""
        failure = read_document(failure_uri(attempt_folder(attempt.key, attempt.number)))
        deadline = time.monotonic() + (0 if failure else seconds)
        while not (texts := read()) and time.monotonic() < deadline:
            log.info("The driver's log is not at %s yet.", location)
            time.sleep(min(self.poll_seconds, 10))
        return texts


class End(NamedTuple):
    """The reason why there is nothing left to wait for: the submission has ended, unless `unfinished` is set."""

    late: str = ""  # a sentence, if it was cancelled at its deadline
    unfinished: str = ""  # a sentence, if the attempt is given up before its end


class Waiting:
    """The wait for the end of a submission: one look after the other, in a worker or in Airflow's triggerer."""

    def __init__(self, runtime: PollingRuntime, handle: Submission, since: float, until: float = math.inf) -> None:
        self.runtime = runtime
        self.handle = handle
        self.client = runtime.client()
        self.since = since  # the time of the submission
        self.until = until  # the time at which the task's `execution_timeout` is over
        self.name = f"{runtime.noun} {handle.id}"
        self.state = ""
        self.logged_at = 0.0
        self.began = math.inf  # the deadline counts from the start of the job
        self.late = ""

    def look(self) -> End | None:
        """Ask for the state, and cancel what is overdue; return the end, or None while there is more to wait for."""
        runtime, handle = self.runtime, self.handle
        state, response = runtime.poll(self.client, handle)
        now = time.time()
        if state != self.state or now - self.logged_at >= ALIVE_SECONDS:
            self.state, self.logged_at = state, now
            log.info("%s on %s is %s after %.0f s.", self.name, handle.attempt.cluster, state, now - self.since)
        if state in runtime.ended:
            return End(self.late)
        if now > self.until:
            return self.give_up("was cancelled, because its task ran into its execution_timeout.")
        if state in runtime.waiting:
            in_time = now - self.since <= runtime.pending_seconds
            return None if in_time else self.give_up(f"did not start within {runtime.pending_seconds:.0f} s.")
        if self.began == math.inf:
            began = runtime.began(response)
            self.began = began.timestamp() if began else now
        return self.check_deadline(now - self.began - (handle.attempt.deadline_seconds or math.inf))

    def check_deadline(self, seconds: float) -> End | None:
        """Cancel a job that has passed its deadline by some seconds; give it up if it does not end."""
        if seconds > 0 and not self.late:
            self.late = overdue(self.handle.attempt.deadline_seconds)
            log.warning("%s is cancelled. %s", self.name, self.late)
            self.runtime.cancel(self.handle)
        if seconds > UNCANCELLED_SECONDS:
            return End(unfinished=f"{self.late} {self.name} was cancelled and is still {self.state}.")
        return None

    def give_up(self, reason: str) -> End:
        self.runtime.cancel(self.handle)
        return End(unfinished=f"{self.name} {reason}")


def name_prefix(attempt: Attempt) -> str:
    """The prefix of the names of all attempts of a task, before the number: the task's folder in the lake."""
    folder = attempt.key.removeprefix(f"{attempt.lake.rstrip('/')}/intermediate/")
    return f"{folder if len(folder) < MAX_NAME - 20 else encode(folder)}/attempt-"

"""The base of runtimes that submit a Spark job to a service and poll its state until it has ended."""

import logging
import math
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
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

    def watch(self, handle: Submission) -> Outcome:
        client, name = self.client(), f"{self.noun} {handle.id}"
        began = time.monotonic()
        state, logged_at, late = "", 0.0, ""
        ends_at = math.inf  # the deadline counts from the start of the job
        while True:
            polled, response = self.poll(client, handle)
            now = time.monotonic()
            if polled != state or now - logged_at >= ALIVE_SECONDS:
                state, logged_at = polled, now
                log.info("%s on %s is %s after %.0f s.", name, handle.attempt.cluster, state, now - began)
            if state in self.ended:
                outcome = self.outcome(client, handle, response)
                return outcome._replace(explanation="\n".join(filter(None, [late, outcome.explanation])))
            if state not in self.waiting and ends_at == math.inf:
                ends_at = now + (handle.attempt.deadline_seconds or math.inf)
            if now > ends_at and not late:
                late = overdue(handle.attempt.deadline_seconds)
                log.warning("%s is cancelled. %s", name, late)
                self.cancel(handle)
            if now > ends_at + UNCANCELLED_SECONDS:
                return unfinished(f"{late} {name} was cancelled and is still {state}.")
            if state in self.waiting and now - began > self.pending_seconds:
                self.cancel(handle)
                return unfinished(f"{name} did not start within {self.pending_seconds:.0f} s.")
            time.sleep(self.poll_seconds)

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


def unfinished(explanation: str) -> Outcome:
    """The outcome of an attempt that this runtime stopped watching before it had ended."""
    return Outcome(1, None, "", explanation, guessed=True)


def name_prefix(attempt: Attempt) -> str:
    """The prefix of the names of all attempts of a task, before the number: the task's folder in the lake."""
    folder = attempt.key.removeprefix(f"{attempt.lake.rstrip('/')}/intermediate/")
    return f"{folder if len(folder) < MAX_NAME - 20 else encode(folder)}/attempt-"

"""The base of the runtimes on Dataproc: a request with an ID made from the attempt, its output, its command."""

import importlib
import logging
import shlex
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from tandem.catalogue import Job
from tandem.dag_errors import PipelineError
from tandem.pin_release import fingerprint
from tandem.protocol import LIBRARIES
from tandem.runtimes.base import Attempt, Outcome, bundle
from tandem.runtimes.dataproc.clients import client
from tandem.runtimes.polling import PollingRuntime, Submission
from tandem.runtimes.spark_options import DRIVER_LOG, event_log_request, make_event_log

CONSOLE = "https://console.cloud.google.com"
INSTALL = (
    "pip install --no-deps --require-hashes -r requirements/airflow-dataproc.txt "
    "-r requirements/airflow-dataproc-provider.txt"
)
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class OnDataproc(PollingRuntime):
    """Submits what an attempt's ID names, or finds it, and ends with Dataproc's message."""

    name: ClassVar[str]
    service: ClassVar[str]  # Dataproc's name of it
    succeeded: ClassVar[str]  # the state
    project: str
    region: str
    endpoint: str = ""  # of Dataproc's API, HOST:PORT; empty: the region's own

    @abstractmethod
    def id(self, attempt: Attempt, number: int) -> str:
        """The ID of an attempt of this task, by its number."""

    @abstractmethod
    def create(self, client: Any, attempt: Attempt) -> None:
        """Request the attempt; raises AlreadyExists if its ID exists."""

    def provider(self) -> Any:
        """The module that needs Google's provider: operators around clusters, checks of messages."""
        try:
            return importlib.import_module("tandem.runtimes.dataproc.cluster")
        except ModuleNotFoundError as error:
            raise PipelineError(
                f"The runtime '{self.name}' needs Google's provider, but {error.name} is not installed; install it: "
                f"{INSTALL}"
            ) from None

    def described(self, job: Job, properties: Mapping[str, str]) -> dict[str, Any]:
        """The part of a request that all attempts of a job have in common."""
        return {
            "fingerprint": fingerprint(job.name),
            "properties": properties,
            "libraries": LIBRARIES if job.requirements else None,
            **event_log_request(self.event_log, self.history),
        }

    def client(self) -> Any:
        return client(self.service, self.region, self.endpoint)

    def submit(self, attempt: Attempt) -> Submission:
        """Submit this attempt, or find it by its ID; older attempts are cancelled."""
        from google.api_core.exceptions import AlreadyExists, NotFound

        service = self.client()
        for number in range(1, attempt.number):
            older = Submission(self.id(attempt, number), attempt, service)
            try:
                if self.poll(service, older)[0] not in self.ended:
                    log.warning("Cancelling what an older attempt left running: %s.", older.id)
                    self.request_cancel(service, older)
            except NotFound:
                continue
        handle = Submission(self.id(attempt, attempt.number), attempt, service)
        make_event_log(attempt)
        try:
            self.create(service, attempt)
            log.info("Submitted %s: %s", handle.id, code(attempt))
        except AlreadyExists:
            log.info("Found %s.", handle.id)
        return handle

    def ended_with(self, state: str, message: str, output: str) -> Outcome:
        """The outcome of a job or batch by its last state, Dataproc's message, and the URI of its driver's output."""
        location = f"The driver's output is at {output}*" if output else ""
        folder = output.removeprefix("gs://").rpartition("/")[0]
        links = {DRIVER_LOG: f"{CONSOLE}/storage/browser/{folder}?project={self.project}"} if output else {}
        if state == self.succeeded:
            return Outcome(0, None, "", location, links=links)
        return Outcome(1, None, "", "\n".join(filter(None, [message, location])), guessed=True, links=links)

    def gcloud(
        self, kind: str, spark: Mapping[str, Any], properties: Mapping[str, str], options: dict[str, str]
    ) -> str:
        """The command of gcloud that submits a job (`jobs`) or a batch (`batches`)."""
        listed = ";".join(f"{name}={value}" for name, value in properties.items())
        options = {
            "project": self.project,
            "region": self.region,
            **options,
            "py-files": ",".join(spark["python_file_uris"]),
            "archives": ",".join(spark["archive_uris"]),
            "properties": f"^;^{listed}" if listed else "",
        }
        flags = [f"--{name}={value}" for name, value in options.items() if value]
        command = ["gcloud", "dataproc", kind, "submit", "pyspark", spark["main_python_file_uri"], *flags]
        return shlex.join([*command, "--", *spark["args"]])


def code(attempt: Attempt) -> dict[str, Any]:
    """The part of a request that names the attempt's bundle and arguments."""
    folder, packed = bundle(attempt), attempt.request["libraries"]
    return {
        "main_python_file_uri": f"{folder}/main.py",
        "python_file_uris": [f"{folder}/code.zip"],
        "archive_uris": [f"{folder}/{packed}#libraries"] if packed else [],
        "args": attempt.arguments,
    }

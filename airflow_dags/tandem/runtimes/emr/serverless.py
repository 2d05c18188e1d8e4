"""Runtime `emr_serverless`: a Spark job as a job run of an EMR Serverless application."""

import hashlib
import logging
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar

from tandem.catalogue import Job
from tandem.pin_release import fingerprint
from tandem.protocol import LIBRARIES, bundle_arguments, conf_arguments
from tandem.runtimes.base import Attempt, Cluster, Outcome, bundle
from tandem.runtimes.cloud_request import check_request, client, merged
from tandem.runtimes.emr.logs import last_exceptions, texts
from tandem.runtimes.emr.steps import Emr
from tandem.runtimes.polling import PollingRuntime, Submission, name_prefix
from tandem.runtimes.spark_options import (
    DRIVER_LOG,
    HISTORY,
    event_log_properties,
    event_log_request,
    libraries_properties,
    make_event_log,
    spark_properties,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EmrServerless(PollingRuntime):
    """Runs the bundle that the Airflow variable `release` names as a job run.

    cluster.emr_serverless.json is the request CreateApplication; the environment's table `application`
    overrides it. An application that nobody closes costs nothing: it stops when it is idle.
    """

    name: ClassVar[str] = "emr_serverless"
    labels: ClassVar[tuple[str, ...]] = (DRIVER_LOG, HISTORY)
    cluster_suffix: ClassVar[str] = ".emr_serverless.json"
    noun: ClassVar[str] = "Job run"
    waiting: ClassVar[tuple[str, ...]] = ("SUBMITTED", "PENDING", "SCHEDULED", "QUEUED")
    ended: ClassVar[tuple[str, ...]] = ("SUCCESS", "FAILED", "CANCELLED")
    cancelling: ClassVar[tuple[str, ...]] = ("CANCELLING",)
    execution_role: str  # its ARN; {job} in it is the job's name, for a role per job
    region: str | None = None  # None: the one that boto3 finds
    application: Mapping[str, Any] = field(default_factory=dict)
    ready_seconds: float = 600  # an application may take to be created, started or stopped
    pending_seconds: float = 3600
    run_minutes: int = 720  # a job run may take
    log_seconds: float = 120  # to wait for the log of a job without failure document

    def open_and_close(self, name: str, request: Mapping[str, Any], where: str) -> Cluster:
        from tandem.runtimes.emr.application import operators

        application = merged(request, self.application, where)
        check_request("emr-serverless", "CreateApplication", {"clientToken": "-", **application}, where)
        return operators(name, application, self.region, self.poll_seconds, self.ready_seconds)

    def request(self, job: Job, settings: Mapping[str, Any]) -> dict[str, Any]:
        conf = event_log_properties(self.event_log) | spark_properties(job, settings)
        conf |= libraries_properties(job, "spark.emr-serverless.driverEnv")
        packed = LIBRARIES if job.requirements else None
        kept = event_log_request(self.event_log, self.history)
        return {"fingerprint": fingerprint(job.name), "conf": conf, "libraries": packed, **kept}

    def payload(self, attempt: Attempt) -> dict[str, Any]:
        """The request StartJobRun; its client token is made from the attempt, so that it starts one run only."""
        *code, main = bundle_arguments(bundle(attempt), bool(attempt.request["libraries"]))
        driver = {
            "entryPoint": main,
            "entryPointArguments": attempt.arguments,
            "sparkSubmitParameters": shlex.join([*conf_arguments(attempt.request["conf"]), *code]),
        }
        name = f"{name_prefix(attempt)}{attempt.number}"
        return {
            "applicationId": attempt.cluster,
            "clientToken": hashlib.sha256(f"{attempt.lake} {name}".encode()).hexdigest(),
            "executionRoleArn": self.execution_role.replace("{job}", attempt.job),
            "name": name,
            "jobDriver": {"sparkSubmit": driver},
            "configurationOverrides": {
                "monitoringConfiguration": {"s3MonitoringConfiguration": {"logUri": logs(attempt)}}
            },
            "executionTimeoutMinutes": min(self.run_minutes, whole_minutes(attempt.deadline_seconds)),
        }

    def client(self) -> Any:
        return client("emr-serverless", self.region)

    def submit(self, attempt: Attempt) -> Submission:
        """Start the job run of this attempt, or find it by its token; those of older attempts are cancelled."""
        request = self.payload(attempt)
        emr = self.client()
        prefix = name_prefix(attempt)
        for page in emr.get_paginator("list_job_runs").paginate(applicationId=attempt.cluster):
            for other in page["jobRuns"]:
                older = (
                    other.get("name", "").startswith(prefix)
                    and int(other["name"].removeprefix(prefix)) < attempt.number
                )
                if older and other["state"] not in self.ended:
                    log.warning("Cancelling a job run that an older attempt left running: %s.", other["id"])
                    emr.cancel_job_run(applicationId=attempt.cluster, jobRunId=other["id"])
        make_event_log(attempt)
        log.info("Running in application %s: %s", attempt.cluster, request["jobDriver"]["sparkSubmit"])
        return Submission(emr.start_job_run(**request)["jobRunId"], attempt, emr)

    def links(self, handle: Submission) -> dict[str, str]:
        from tandem.runtimes.emr import pages

        return {"Job run": handle.id, DRIVER_LOG: pages.folder(self.client(), driver_folder(handle))}

    def poll(self, client: Any, submission: Submission) -> tuple[str, Any]:
        run = client.get_job_run(applicationId=submission.attempt.cluster, jobRunId=submission.id)["jobRun"]
        return run["state"], run

    def began(self, response: Any) -> datetime | None:
        started: datetime | None = response.get("startedAt")
        return started

    def request_cancel(self, client: Any, submission: Submission) -> None:
        client.cancel_job_run(applicationId=submission.attempt.cluster, jobRunId=submission.id)

    def outcome(self, client: Any, submission: Submission, response: Any) -> Outcome:
        """The outcome of a job run: EMR's message and the driver's last exceptions."""
        if response["state"] == "SUCCESS":
            return Outcome(0, None, "")
        attempt = submission.attempt
        location = driver_folder(submission)
        driver_logs = self.await_driver_log(attempt, location, lambda: texts(location), self.log_seconds)
        name = f"Job run {submission.id} of application {attempt.cluster}"
        message = f"{name} is {response['state']}. {response.get('stateDetails', '')}".strip()
        lines = [message, *(last_exceptions(driver_logs) or [f"No log of the driver is at {location} yet."])]
        return Outcome(1, None, "", "\n".join(lines), guessed=True)

    def rerun_command(self, attempt: Attempt) -> str:
        return Emr().rerun_command(attempt)


def whole_minutes(seconds: float | None) -> float:
    """The minutes after which AWS itself ends a job run whose worker died: later than a worker would."""
    return math.inf if seconds is None else math.ceil(seconds / 60) + 1


def driver_folder(submission: Submission) -> str:
    """URI of the folder with the log of a job run's driver."""
    attempt = submission.attempt
    return f"{logs(attempt)}/applications/{attempt.cluster}/jobs/{submission.id}/SPARK_DRIVER/"


def logs(attempt: Attempt) -> str:
    """URI of the folder with the logs of job runs, by application and run."""
    return f"{attempt.lake.rstrip('/')}/logs/emr-serverless"

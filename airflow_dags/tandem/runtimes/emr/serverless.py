"""Runtime `emr_serverless`: a Spark job as a job run of an EMR Serverless application."""

import hashlib
import logging
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from tandem.catalogue import Job
from tandem.pin_release import fingerprint
from tandem.runtimes.base import Attempt, Cluster, Outcome, bundle
from tandem.runtimes.cloud_request import check_request, client, merged
from tandem.runtimes.emr.steps import Emr, last_exception, texts
from tandem.runtimes.polling import PollingRuntime, Sent, first_of_names, libraries_properties, spark_properties

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EmrServerless(PollingRuntime):
    """Runs the bundle that the Airflow variable `release` names as a job run.

    cluster.emr_serverless.json is the request CreateApplication; `application` is a table that an environment puts over
    it. Nobody pays for an application that no one closes: without work it stops by itself.
    """

    cluster_suffix: ClassVar[str] = ".emr_serverless.json"
    noun: ClassVar[str] = "Job run"
    waiting: ClassVar[tuple[str, ...]] = ("SUBMITTED", "PENDING", "SCHEDULED", "QUEUED")
    ended: ClassVar[tuple[str, ...]] = ("SUCCESS", "FAILED", "CANCELLED")
    cancelling: ClassVar[tuple[str, ...]] = ("CANCELLING",)
    execution_role: str  # its ARN; {job} in it is the job's name, for a role per job
    region: str | None = None  # the one that boto3 finds by itself
    application: Mapping[str, Any] = field(default_factory=dict)
    ready_seconds: float = 600  # an application may take to be created, started or stopped
    pending_seconds: float = 3600
    run_minutes: int = 720  # a job run may take
    log_seconds: float = 120  # to wait for the log of a job that left nothing else

    def open_and_close(self, name: str, request: Mapping[str, Any], where: str) -> Cluster:
        from tandem.runtimes.emr.application import operators

        wanted = merged(request, self.application, where)
        check_request("emr-serverless", "CreateApplication", {"clientToken": "-", **wanted}, where)
        return operators(name, wanted, self.region, self.poll_seconds, self.ready_seconds)

    def request(self, job: Job, settings: Mapping[str, Any]) -> dict[str, Any]:
        conf = spark_properties(job, settings) | libraries_properties(job, "spark.emr-serverless.driverEnv")
        packed = "libraries.zip" if job.requirements else None
        return {"fingerprint": fingerprint(job.name), "conf": conf, "libraries": packed}

    def sent(self, work: Attempt) -> dict[str, Any]:
        """The request StartJobRun; its client token is made from the attempt, so that it starts one run only."""
        place, packed = bundle(work), work.request["libraries"]
        conf = [part for name, value in work.request["conf"].items() for part in ("--conf", f"{name}={value}")]
        archives = ["--archives", f"{place}/{packed}#libraries"] if packed else []
        driver = {
            "entryPoint": f"{place}/main.py",
            "entryPointArguments": work.arguments,
            "sparkSubmitParameters": shlex.join([*conf, *archives, "--py-files", f"{place}/code.zip"]),
        }
        name = f"{first_of_names(work)}{work.attempt}"
        return {
            "applicationId": work.cluster,
            "clientToken": hashlib.sha256(f"{work.lake} {name}".encode()).hexdigest(),
            "executionRoleArn": self.execution_role.replace("{job}", work.job),
            "name": name,
            "jobDriver": {"sparkSubmit": driver},
            "configurationOverrides": {
                "monitoringConfiguration": {"s3MonitoringConfiguration": {"logUri": logs(work)}}
            },
            "executionTimeoutMinutes": min(self.run_minutes, whole_minutes(work.deadline_seconds)),
        }

    def client(self) -> Any:
        return client("emr-serverless", self.region)

    def submit(self, work: Attempt) -> Sent:
        """Start the job run of this attempt, or find it by its token; those of older attempts are cancelled."""
        request = self.sent(work)
        emr = self.client()
        base = first_of_names(work)
        for page in emr.get_paginator("list_job_runs").paginate(applicationId=work.cluster):
            for other in page["jobRuns"]:
                older = other.get("name", "").startswith(base) and int(other["name"].removeprefix(base)) < work.attempt
                if older and other["state"] not in self.ended:
                    log.warning("Cancelling what an older attempt left running: %s.", other["id"])
                    emr.cancel_job_run(applicationId=work.cluster, jobRunId=other["id"])
        log.info("Running in application %s: %s", work.cluster, request["jobDriver"]["sparkSubmit"])
        return Sent(emr.start_job_run(**request)["jobRunId"], work, emr)

    def ask(self, client: Any, sent: Sent) -> tuple[str, Any]:
        run = client.get_job_run(applicationId=sent.work.cluster, jobRunId=sent.id)["jobRun"]
        return run["state"], run

    def ask_to_cancel(self, client: Any, sent: Sent) -> None:
        client.cancel_job_run(applicationId=sent.work.cluster, jobRunId=sent.id)

    def outcome(self, client: Any, sent: Sent, said: Any) -> Outcome:
        """How a job run ended, in EMR's words and in the driver's last exceptions."""
        if said["state"] == "SUCCESS":
            return Outcome(0, None, "")
        application = sent.work.cluster
        place = f"{logs(sent.work)}/applications/{application}/jobs/{sent.id}/SPARK_DRIVER/"
        found = self.log_of_driver(sent, place, lambda: texts(place), self.log_seconds)
        ends = [f"{uri} ends with: {last_exception(text)}" for uri, text in found.items()]
        told = f"Job run {sent.id} of application {application} is {said['state']}. {said.get('stateDetails', '')}"
        lines = [told.strip(), *(ends or [f"No log of the driver is at {place} yet."])]
        return Outcome(1, None, "", "\n".join(lines), guessed=True)

    def again(self, work: Attempt) -> str:
        return Emr().again(work)


def whole_minutes(seconds: float | None) -> float:
    """The minutes after which AWS itself ends a job run whose worker is gone: later than a worker does."""
    return math.inf if seconds is None else math.ceil(seconds / 60) + 1


def logs(work: Attempt) -> str:
    """Where the logs of job runs are brought to, by application and run."""
    return f"{work.lake.rstrip('/')}/logs/emr-serverless"

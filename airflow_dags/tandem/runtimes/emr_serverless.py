"""Runtime `emr_serverless`: a Spark job as a job run of an EMR Serverless application."""

import hashlib
import logging
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from tandem.catalogue import Job
from tandem.lake import read_document
from tandem.release import fingerprint
from tandem.runtimes import Cluster, Outcome, Work, bundle
from tandem.runtimes.emr import ALIVE_SECONDS, GRACE_SECONDS, Emr, first_of_names, last_exception, texts
from tandem.runtimes.requests import check_request, client, merged

ENDED = ("SUCCESS", "FAILED", "CANCELLED")
WAITING = ("SUBMITTED", "PENDING", "SCHEDULED", "QUEUED")
log = logging.getLogger(__name__)


class JobRun(NamedTuple):
    """A job run of an application, the work that it does, and a client that only `cancel` uses."""

    application: str
    id: str
    work: Work
    emr: Any


@dataclass(frozen=True, kw_only=True)
class EmrServerless:
    """Runs the bundle that the Airflow variable `release` names as a job run.

    cluster.emr_serverless.json is the request CreateApplication; `application` is a table that an environment puts over
    it. Nobody pays for an application that no one closes: without work it stops by itself.
    """

    cluster_suffix: ClassVar[str] = ".emr_serverless.json"
    execution_role: str  # its ARN
    region: str | None = None  # the one that boto3 finds by itself
    application: Mapping[str, Any] = field(default_factory=dict)
    poll_seconds: float = 10
    ready_seconds: float = 600  # an application may take to be created, started or stopped
    pending_seconds: float = 3600  # a job run may wait for its start
    run_minutes: int = 720  # a job run may take
    log_seconds: float = 120  # to wait for the log of a job that left nothing else

    def open_and_close(self, name: str, request: Mapping[str, Any], where: str) -> Cluster:
        from tandem.runtimes.emr_serverless_application import operators

        wanted = merged(request, self.application, where)
        check_request("emr-serverless", "CreateApplication", {"clientToken": "-", **wanted}, where)
        return operators(name, wanted, self.region, self.poll_seconds, self.ready_seconds)

    def request(self, job: Job, settings: Mapping[str, Any]) -> dict[str, Any]:
        wanted = {**job.spark, **settings}
        names = {
            "spark.driver.memory": "driver_memory",
            "spark.executor.memory": "executor_memory",
            "spark.executor.cores": "executor_cores",
        }
        sizes = {name: str(wanted[size]) for name, size in names.items() if size in wanted}
        processes = ("spark.emr-serverless.driverEnv", "spark.executorEnv")
        libraries = {f"{process}.PYTHONPATH": "libraries" for process in processes} if job.requirements else {}
        return {
            "fingerprint": fingerprint(job.name),
            "conf": {**sizes, **job.spark.get("conf", {}), **settings.get("conf", {}), **libraries},
            "libraries": "libraries.zip" if job.requirements else None,
        }

    def sent(self, work: Work) -> dict[str, Any]:
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
            "executionRoleArn": self.execution_role,
            "name": name,
            "jobDriver": {"sparkSubmit": driver},
            "configurationOverrides": {
                "monitoringConfiguration": {"s3MonitoringConfiguration": {"logUri": logs(work)}}
            },
            "executionTimeoutMinutes": self.run_minutes,
        }

    def submit(self, work: Work) -> JobRun:
        """Start the job run of this attempt, or find it by its token; those of older attempts are cancelled."""
        request = self.sent(work)
        emr = client("emr-serverless", self.region)
        base = first_of_names(work)
        for page in emr.get_paginator("list_job_runs").paginate(applicationId=work.cluster):
            for other in page["jobRuns"]:
                older = other.get("name", "").startswith(base) and int(other["name"].removeprefix(base)) < work.attempt
                if older and other["state"] not in ENDED:
                    log.warning("Cancelling what an older attempt left running: %s.", other["id"])
                    emr.cancel_job_run(applicationId=work.cluster, jobRunId=other["id"])
        log.info("Running in application %s: %s", work.cluster, request["jobDriver"]["sparkSubmit"])
        return JobRun(work.cluster, emr.start_job_run(**request)["jobRunId"], work, emr)

    def watch(self, handle: JobRun) -> Outcome:
        emr = client("emr-serverless", self.region)
        began = time.monotonic()
        state, said = "", 0.0
        while True:
            run = emr.get_job_run(applicationId=handle.application, jobRunId=handle.id)["jobRun"]
            now = time.monotonic()
            if run["state"] != state or now - said >= ALIVE_SECONDS:
                state, said = run["state"], now
                log.info("Job run %s of application %s is %s.", handle.id, handle.application, state)
            if state in ENDED:
                return self.outcome(handle, run)
            if state in WAITING and now - began > self.pending_seconds:
                self.cancel(handle)
                return Outcome(1, None, "", f"Job run {handle.id} did not start within {self.pending_seconds:.0f} s.")
            time.sleep(self.poll_seconds)

    def outcome(self, handle: JobRun, run: Mapping[str, Any]) -> Outcome:
        """How a job run ended, in EMR's words and in the driver's last exceptions."""
        if run["state"] == "SUCCESS":
            return Outcome(0, None, "")
        place = f"{logs(handle.work)}/applications/{handle.application}/jobs/{handle.id}/SPARK_DRIVER/"
        left = read_document(f"{handle.work.key}/attempt-{handle.work.attempt}/failure.json")
        deadline = time.monotonic() + (0 if left else self.log_seconds)
        while not (found := texts(place)) and time.monotonic() < deadline:
            log.info("The driver's log is not at %s yet.", place)
            time.sleep(min(self.poll_seconds, 10))
        ends = [f"{uri} ends with: {last_exception(text)}" for uri, text in found.items()]
        told = (
            f"Job run {handle.id} of application {handle.application} is {run['state']}. {run.get('stateDetails', '')}"
        )
        return Outcome(1, None, "", "\n".join([told.strip(), *(ends or [f"No log of the driver is at {place} yet."])]))

    def cancel(self, handle: JobRun) -> None:
        which = {"applicationId": handle.application, "jobRunId": handle.id}
        handle.emr.cancel_job_run(**which)
        deadline = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < deadline:
            if handle.emr.get_job_run(**which)["jobRun"]["state"] in (*ENDED, "CANCELLING"):
                return
            time.sleep(0.2)

    def again(self, work: Work) -> str:
        return Emr().again(work)


def logs(work: Work) -> str:
    """Where the logs of job runs are brought to, by application and run."""
    return f"{work.lake.rstrip('/')}/logs/emr-serverless"

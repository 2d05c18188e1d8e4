"""Runtime `emr`: a Spark job as a step of an EMR cluster, which is open only as long as Spark jobs need it."""

import logging
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar

from airflow.sdk.exceptions import AirflowFailException

from tandem.catalogue import Job
from tandem.dag_errors import PipelineError
from tandem.pin_release import fingerprint
from tandem.protocol import LIBRARIES, ONE_ATTEMPT, bundle_arguments, conf_arguments
from tandem.runtimes.base import Attempt, Cluster, Outcome, bundle
from tandem.runtimes.cloud_request import check_request, client, merged
from tandem.runtimes.emr.logs import driver_log, last_exceptions, step_log
from tandem.runtimes.polling import PollingRuntime, Submission, name_prefix
from tandem.runtimes.spark_options import (
    DRIVER_LOG,
    HISTORY,
    deploy_mode,
    event_log_properties,
    event_log_request,
    libraries_properties,
    make_event_log,
    spark_properties,
)

ACTIVE = ("PENDING", "RUNNING", "CANCEL_PENDING")
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Emr(PollingRuntime):
    """Runs the bundle that the Airflow variable `release` names, by spark-submit in a step of a cluster.

    cluster.json is the request RunJobFlow; the environment's table `cluster` overrides it. A cluster that nobody closes
    ends by its AutoTerminationPolicy.
    """

    name: ClassVar[str] = "emr"
    labels: ClassVar[tuple[str, ...]] = ("EMR cluster", "Log of the step", DRIVER_LOG, HISTORY)
    cluster_suffix: ClassVar[str] = ".json"
    noun: ClassVar[str] = "Step"
    waiting: ClassVar[tuple[str, ...]] = ("PENDING",)
    ended: ClassVar[tuple[str, ...]] = ("COMPLETED", "CANCELLED", "FAILED", "INTERRUPTED")
    region: str | None = None  # None: the one that boto3 finds
    deploy_mode: str = "cluster"  # of jobs that set none
    cluster: Mapping[str, Any] = field(default_factory=dict)
    ready_seconds: float = 1800  # a cluster may take until it accepts steps
    log_seconds: float = 120  # to wait for the log of a job without failure document; EMR uploads it minutes later

    def open_and_close(self, name: str, request: Mapping[str, Any], where: str) -> Cluster:
        from tandem.runtimes.emr.cluster import operators

        cluster = merged(request, self.cluster, where)
        check_request("emr", "RunJobFlow", cluster, where)
        if "AutoTerminationPolicy" not in cluster or not cluster["Instances"].get("KeepJobFlowAliveWhenNoSteps"):
            raise PipelineError(
                f"{where} needs KeepJobFlowAliveWhenNoSteps, because steps are added once the cluster runs, and an "
                'AutoTerminationPolicy, because nothing else ends a cluster that Airflow lost: "Instances": '
                '{"KeepJobFlowAliveWhenNoSteps": true}, "AutoTerminationPolicy": {"IdleTimeout": 600}.'
            )
        return operators(name, cluster, self.region, self.poll_seconds, self.ready_seconds)

    def request(self, job: Job, settings: Mapping[str, Any]) -> dict[str, Any]:
        mode = deploy_mode(job, settings, self.deploy_mode)
        conf = event_log_properties(self.event_log) | spark_properties(job, settings)
        conf |= libraries_properties(job, "spark.yarn.appMasterEnv")
        master = ["--master", "yarn", "--deploy-mode", mode, "--name", job.name]
        conf[ONE_ATTEMPT] = "1"
        options = [*master, *conf_arguments(conf)]
        packed = LIBRARIES if job.requirements else None
        kept = event_log_request(self.event_log, self.history)
        return {
            "fingerprint": fingerprint(job.name),
            "deploy_mode": mode,
            "options": options,
            "libraries": packed,
            **kept,
        }

    def command(self, attempt: Attempt) -> list[str]:
        """The spark-submit of an attempt's bundle, as in the bundle's submit.txt."""
        code = bundle_arguments(bundle(attempt), bool(attempt.request["libraries"]))
        return ["spark-submit", *attempt.request["options"], *code, *attempt.arguments]

    def payload(self, attempt: Attempt) -> dict[str, Any]:
        jar = {"Jar": "command-runner.jar", "Args": self.command(attempt)}
        name = f"{name_prefix(attempt)}{attempt.number}"
        return {"Name": name, "ActionOnFailure": "CONTINUE", "HadoopJarStep": jar}

    def client(self) -> Any:
        return client("emr", self.region)

    def submit(self, attempt: Attempt) -> Submission:
        """Find the step of this attempt, else add it; steps of older attempts, whose workers died, are cancelled."""
        step = self.payload(attempt)
        emr = self.client()
        prefix = name_prefix(attempt)
        older = []
        pages = emr.get_paginator("list_steps").paginate(ClusterId=attempt.cluster)
        for other in (other for page in pages for other in page["Steps"] if other["Name"].startswith(prefix)):
            number = int(other["Name"].removeprefix(prefix))
            if number == attempt.number:
                log.info("Found step %s of cluster %s.", other["Id"], attempt.cluster)
                return Submission(other["Id"], attempt, emr)
            if number < attempt.number and other["Status"]["State"] in ACTIVE:
                older.append(other["Id"])
        if older:
            log.warning("Cancelling steps that older attempts left running: %s.", ", ".join(older))
            emr.cancel_steps(ClusterId=attempt.cluster, StepIds=older, StepCancellationOption="TERMINATE_PROCESS")
        make_event_log(attempt)
        log.info("Adding to cluster %s: %s", attempt.cluster, shlex.join(step["HadoopJarStep"]["Args"]))
        try:
            added = emr.add_job_flow_steps(JobFlowId=attempt.cluster, Steps=[step])
        except emr.exceptions.ClientError:
            if reason := self.describe_end_of_cluster(emr, attempt.cluster):
                raise AirflowFailException(f"{reason} Clear this task and the one that opens its cluster.") from None
            raise
        return Submission(added["StepIds"][0], attempt, emr)

    def links(self, handle: Submission) -> dict[str, str]:
        from tandem.runtimes.emr import pages

        emr, cluster = self.client(), handle.attempt.cluster
        links = {"EMR cluster": pages.cluster(emr, cluster), "EMR step": handle.id}
        if logs := log_folder(emr, cluster):
            links["Log of the step"] = pages.folder(emr, f"{logs}/steps/{handle.id}")
        return links

    def poll(self, client: Any, submission: Submission) -> tuple[str, Any]:
        status = client.describe_step(ClusterId=submission.attempt.cluster, StepId=submission.id)["Step"]["Status"]
        return status["State"], status

    def began(self, response: Any) -> datetime | None:
        started: datetime | None = response.get("Timeline", {}).get("StartDateTime")
        return started

    def request_cancel(self, client: Any, submission: Submission) -> None:
        cluster = submission.attempt.cluster
        client.cancel_steps(ClusterId=cluster, StepIds=[submission.id], StepCancellationOption="TERMINATE_PROCESS")

    def rerun_command(self, attempt: Attempt) -> str:
        return shlex.join([".venv/bin/python", "-m", "tools.run.submit", "--job", attempt.job, *attempt.arguments])

    def describe_end_of_cluster(self, emr: Any, cluster: str) -> str:
        """A sentence on the end of a cluster, empty if it has not ended."""
        from tandem.runtimes.emr.cluster import describe_state

        status = emr.describe_cluster(ClusterId=cluster)["Cluster"]["Status"]
        return f"Cluster {cluster} {describe_state(status)}." if status["State"].startswith("TERMINAT") else ""

    def outcome(self, client: Any, submission: Submission, response: Any) -> Outcome:
        """The outcome of a step: EMR's message, the driver's last exceptions, and the exit code that YARN logged."""
        from tandem.runtimes.emr import pages

        cluster = submission.attempt.cluster
        console = f"AWS shows it at {pages.cluster(client, cluster)}"
        if response["State"] == "COMPLETED":
            return Outcome(0, None, "", console)
        details = [f"{name}: {text}" for name, text in response.get("FailureDetails", {}).items() if text]
        message = " ".join([f"Step {submission.id} of cluster {cluster} is {response['State']}.", *details])
        cluster_end = self.describe_end_of_cluster(client, cluster)
        logs: dict[str, str] = {}
        location = "a LogUri, which cluster.json lacks,"
        if folder := log_folder(client, cluster):
            location = folder
            logs = self.await_driver_log(
                submission.attempt, location, lambda: driver_log(location, submission), self.log_seconds
            )
            logs = logs or step_log(location, submission)
        missing = f"No log of the driver is at {location} yet; EMR uploads it within some minutes."
        lines = [message, *([cluster_end] if cluster_end else []), *(last_exceptions(logs) or [missing]), console]
        codes = re.findall(r"User application exited with status (\d+)", "".join(logs.values()))
        links = {DRIVER_LOG: pages.folder(client, next(iter(logs)).rpartition("/")[0])} if logs else {}
        return Outcome(int(codes[-1]) if codes else 1, None, "", "\n".join(lines), guessed=not codes, links=links)


def log_folder(emr: Any, cluster: str) -> str | None:
    """URI of the folder to which EMR uploads the logs of a cluster, None if it does not."""
    root = emr.describe_cluster(ClusterId=cluster)["Cluster"].get("LogUri")
    return f"{re.sub('^s3[an]:', 's3:', root).rstrip('/')}/{cluster}" if root else None

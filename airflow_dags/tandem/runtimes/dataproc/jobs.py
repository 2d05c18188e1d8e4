"""Runtime `dataproc`: a Spark job as a job of a Dataproc cluster, which is open only as long as Spark jobs need it."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar

from airflow.sdk.exceptions import AirflowFailException

from tandem.catalogue import Job
from tandem.dag_errors import PipelineError, check_known
from tandem.protocol import ONE_ATTEMPT
from tandem.runtimes.base import Attempt, Cluster, Outcome
from tandem.runtimes.cloud_request import merged
from tandem.runtimes.dataproc.submitting import CONSOLE, OnDataproc, code
from tandem.runtimes.polling import Submission, name_prefix
from tandem.runtimes.spark_options import (
    DRIVER_LOG,
    HISTORY,
    deploy_mode,
    event_log_properties,
    libraries_properties,
    spark_properties,
)


@dataclass(frozen=True, kw_only=True)
class Dataproc(OnDataproc):
    """Runs the bundle that the Airflow variable `release` names as a PySpark job.

    cluster.dataproc.json is Dataproc's message Cluster, in Python's names; the environment's table `cluster`
    overrides it. A cluster that nobody closes is deleted by its lifecycle_config.
    """

    name: ClassVar[str] = "dataproc"
    labels: ClassVar[tuple[str, ...]] = ("Dataproc job", DRIVER_LOG, HISTORY)
    cluster_suffix: ClassVar[str] = ".dataproc.json"
    service: ClassVar[str] = "JobController"
    noun: ClassVar[str] = "Job"
    waiting: ClassVar[tuple[str, ...]] = ("PENDING", "SETUP_DONE")
    ended: ClassVar[tuple[str, ...]] = ("CANCELLED", "DONE", "ERROR")
    succeeded: ClassVar[str] = "DONE"
    cancelling: ClassVar[tuple[str, ...]] = ("CANCEL_STARTED",)
    deploy_mode: str = "cluster"  # of jobs that set none
    cluster: Mapping[str, Any] = field(default_factory=dict)
    ready_seconds: float = 1800  # a cluster may take until it accepts jobs, or until it is deleted

    def open_and_close(self, name: str, request: Mapping[str, Any], where: str) -> Cluster:
        provider = self.provider()
        merged_request = merged(request, self.cluster, where)
        for key in merged_request:  # the name is made from the run, so that the closing task knows it
            check_known("key", key, ["config", "labels"], where)
        provider.check_message("Cluster", merged_request, where)
        lifecycle = merged_request.get("config", {}).get("lifecycle_config", {})
        if not {"idle_delete_ttl", "auto_delete_ttl"} & lifecycle.keys():
            raise PipelineError(
                f"{where} needs a time after which an idle cluster is deleted, because nothing else ends a cluster "
                'that Airflow lost: "config": {"lifecycle_config": {"idle_delete_ttl": "600s"}}.'
            )
        place = (self.project, self.region, self.endpoint)
        cluster: Cluster = provider.operators(name, merged_request, place, self.poll_seconds, self.ready_seconds)
        return cluster

    def request(self, job: Job, settings: Mapping[str, Any]) -> dict[str, Any]:
        mode = deploy_mode(job, settings, self.deploy_mode)
        properties = {
            "spark.submit.deployMode": mode,
            **event_log_properties(self.event_log),
            **spark_properties(job, settings),
            **libraries_properties(job, "spark.yarn.appMasterEnv"),
            ONE_ATTEMPT: "1",
        }
        return self.described(job, properties)

    def payload(self, attempt: Attempt) -> dict[str, Any]:
        """The request SubmitJob; the job's ID is made from the attempt, so that it starts one job only."""
        job = {
            "reference": {"project_id": self.project, "job_id": self.id(attempt, attempt.number)},
            "placement": {"cluster_name": attempt.cluster},
            "pyspark_job": {**code(attempt), "properties": attempt.request["properties"]},
        }
        return {"project_id": self.project, "region": self.region, "job": job}

    def id(self, attempt: Attempt, number: int) -> str:
        """At most 100 of the characters that Dataproc allows."""
        task = re.sub(r"[^A-Za-z0-9_-]", "-", attempt.task_id)[:40]
        return f"{task}-{hashlib.sha256(f'{attempt.lake} {name_prefix(attempt)}'.encode()).hexdigest()[:32]}-{number}"

    def create(self, client: Any, attempt: Attempt) -> None:
        from google.api_core.exceptions import AlreadyExists, GoogleAPICallError

        try:
            client.submit_job(request=self.payload(attempt))
        except AlreadyExists:
            raise
        except GoogleAPICallError:
            if reason := self.describe_end_of_cluster(attempt.cluster):
                raise AirflowFailException(f"{reason} Clear this task and the one that opens its cluster.") from None
            raise

    def links(self, handle: Submission) -> dict[str, str]:
        page = f"{CONSOLE}/dataproc/jobs/{handle.id}?region={self.region}&project={self.project}"
        return {"Dataproc job": page}

    def poll(self, client: Any, submission: Submission) -> tuple[str, Any]:
        job = client.get_job(request=self.reference(submission))
        return job.status.state.name, job

    def began(self, response: Any) -> datetime | None:
        since: datetime | None = response.status.state_start_time
        return since

    def request_cancel(self, client: Any, submission: Submission) -> None:
        client.cancel_job(request=self.reference(submission))

    def outcome(self, client: Any, submission: Submission, response: Any) -> Outcome:
        """The outcome of a job: Dataproc's message, the end of its cluster, and the URI of its driver's output."""
        cluster, status = submission.attempt.cluster, response.status
        state = status.state.name
        lines = [f"Job {submission.id} of cluster {cluster} is {state}. {status.details}".strip()]
        if state != self.succeeded and (reason := self.describe_end_of_cluster(cluster)):
            lines.append(reason)
        return self.ended_with(state, "\n".join(lines), response.driver_output_resource_uri)

    def describe_end_of_cluster(self, name: str) -> str:
        """A sentence on the end of a cluster, empty if it still accepts jobs."""
        from tandem.runtimes.dataproc.cluster import ACCEPTING, Clusters

        state, sentence = Clusters(self.project, self.region, self.endpoint).state(name)
        return "" if state in ACCEPTING else sentence

    def rerun_command(self, attempt: Attempt) -> str:
        spark = self.payload(attempt)["job"]["pyspark_job"]
        return self.gcloud("jobs", spark, spark["properties"], {"cluster": attempt.cluster})

    def reference(self, submission: Submission) -> dict[str, str]:
        return {"project_id": self.project, "region": self.region, "job_id": submission.id}

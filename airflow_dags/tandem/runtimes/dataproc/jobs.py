"""Runtime `dataproc`: a Spark job as a job of a Dataproc cluster, which is open only as long as Spark jobs need it."""

import hashlib
import logging
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from tandem.catalogue import Job
from tandem.dag_errors import PipelineError, check_known
from tandem.pin_release import fingerprint
from tandem.protocol import LIBRARIES, ONE_ATTEMPT
from tandem.runtimes.base import Attempt, Cluster, Outcome, bundle
from tandem.runtimes.cloud_request import merged
from tandem.runtimes.polling import PollingRuntime, Submission, name_prefix
from tandem.runtimes.spark_options import deploy_mode, libraries_properties, spark_properties

INSTALL = (
    "pip install --no-deps --require-hashes -r requirements/airflow-dataproc.txt "
    "-r requirements/airflow-dataproc-provider.txt"
)
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Dataproc(PollingRuntime):
    """Runs the bundle that the Airflow variable `release` names as a PySpark job.

    cluster.dataproc.json is Dataproc's message Cluster, in Python's names; the environment's table `cluster`
    overrides it. A cluster that nobody closes is deleted by its lifecycle_config.
    """

    cluster_suffix: ClassVar[str] = ".dataproc.json"
    noun: ClassVar[str] = "Job"
    waiting: ClassVar[tuple[str, ...]] = ("PENDING", "SETUP_DONE")
    ended: ClassVar[tuple[str, ...]] = ("CANCELLED", "DONE", "ERROR")
    cancelling: ClassVar[tuple[str, ...]] = ("CANCEL_STARTED",)
    project: str
    region: str
    deploy_mode: str = "cluster"  # of jobs that set none
    cluster: Mapping[str, Any] = field(default_factory=dict)
    ready_seconds: float = 1800  # a cluster may take to be created or deleted

    def open_and_close(self, name: str, request: Mapping[str, Any], where: str) -> Cluster:
        try:
            from tandem.runtimes.dataproc.cluster import check_message, operators
        except ModuleNotFoundError as error:
            raise PipelineError(
                f"The runtime 'dataproc' needs Google's provider, but {error.name} is not installed; install it: "
                f"{INSTALL}"
            ) from None
        merged_request = merged(request, self.cluster, where)
        for key in merged_request:  # the name is made from the run, so that the closing task knows it
            check_known("key", key, ["config", "labels"], where)
        check_message("Cluster", merged_request, where)
        lifecycle = merged_request.get("config", {}).get("lifecycle_config", {})
        if not {"idle_delete_ttl", "auto_delete_ttl"} & lifecycle.keys():
            raise PipelineError(
                f"{where} needs a time after which an idle cluster is deleted, because nothing else ends a cluster "
                'that Airflow lost: "config": {"lifecycle_config": {"idle_delete_ttl": "600s"}}.'
            )
        return operators(name, merged_request, self.project, self.region, self.ready_seconds)

    def request(self, job: Job, settings: Mapping[str, Any]) -> dict[str, Any]:
        mode = deploy_mode(job, settings, self.deploy_mode)
        libraries = libraries_properties(job, "spark.yarn.appMasterEnv")
        return {
            "fingerprint": fingerprint(job.name),
            "properties": {
                "spark.submit.deployMode": mode,
                **spark_properties(job, settings),
                **libraries,
                ONE_ATTEMPT: "1",
            },
            "libraries": LIBRARIES if job.requirements else None,
        }

    def payload(self, attempt: Attempt) -> dict[str, Any]:
        """The request SubmitJob; the job's ID is made from the attempt, so that it starts one job only."""
        folder, packed = bundle(attempt), attempt.request["libraries"]
        spark = {
            "main_python_file_uri": f"{folder}/main.py",
            "python_file_uris": [f"{folder}/code.zip"],
            "archive_uris": [f"{folder}/{packed}#libraries"] if packed else [],
            "args": attempt.arguments,
            "properties": attempt.request["properties"],
        }
        job = {
            "reference": {"project_id": self.project, "job_id": job_id(attempt, attempt.number)},
            "placement": {"cluster_name": attempt.cluster},
            "pyspark_job": spark,
        }
        return {"project_id": self.project, "region": self.region, "job": job}

    def submit(self, attempt: Attempt) -> Submission:
        """Submit the job of this attempt, or find it by its ID; those of older attempts are cancelled."""
        from google.api_core.exceptions import AlreadyExists, NotFound

        request = self.payload(attempt)
        jobs = self.client()
        for number in range(1, attempt.number):
            older = Submission(job_id(attempt, number), attempt, jobs)
            try:
                if self.poll(jobs, older)[0] not in self.ended:
                    log.warning("Cancelling a job that an older attempt left running: %s.", older.id)
                    self.request_cancel(jobs, older)
            except NotFound:
                continue
        handle = Submission(job_id(attempt, attempt.number), attempt, jobs)
        try:
            jobs.submit_job(request=request)
            log.info("Submitted job %s to cluster %s: %s", handle.id, attempt.cluster, request["job"]["pyspark_job"])
        except AlreadyExists:
            log.info("Found job %s of cluster %s.", handle.id, attempt.cluster)
        return handle

    def poll(self, client: Any, submission: Submission) -> tuple[str, Any]:
        job = client.get_job(request=self.reference(submission))
        return job.status.state.name, job

    def request_cancel(self, client: Any, submission: Submission) -> None:
        client.cancel_job(request=self.reference(submission))

    def outcome(self, client: Any, submission: Submission, response: Any) -> Outcome:
        """The outcome of a job: Dataproc's message and the URI of its driver's output."""
        output = response.driver_output_resource_uri
        location = f"The driver's output is at {output}*" if output else ""
        if response.status.state.name == "DONE":
            return Outcome(0, None, "", location)
        cluster, status = submission.attempt.cluster, response.status
        message = f"Job {submission.id} of cluster {cluster} is {status.state.name}. {status.details}".strip()
        return Outcome(1, None, "", "\n".join([message, *([location] if location else [])]), guessed=True)

    def rerun_command(self, attempt: Attempt) -> str:
        spark = self.payload(attempt)["job"]["pyspark_job"]
        properties = ";".join(f"{name}={value}" for name, value in spark["properties"].items())
        options = {
            "project": self.project,
            "region": self.region,
            "cluster": attempt.cluster,
            "py-files": ",".join(spark["python_file_uris"]),
            "archives": ",".join(spark["archive_uris"]),
            "properties": f"^;^{properties}" if properties else "",
        }
        flags = [f"--{name}={value}" for name, value in options.items() if value]
        command = ["gcloud", "dataproc", "jobs", "submit", "pyspark", spark["main_python_file_uri"], *flags]
        return shlex.join([*command, "--", *spark["args"]])

    def client(self) -> Any:
        from airflow.providers.google.cloud.hooks.dataproc import DataprocHook

        return DataprocHook().get_job_client(self.region)

    def reference(self, submission: Submission) -> dict[str, str]:
        return {"project_id": self.project, "region": self.region, "job_id": submission.id}


def job_id(attempt: Attempt, number: int) -> str:
    """The ID of an attempt's job: at most 100 of the characters that Dataproc allows."""
    task = re.sub(r"[^A-Za-z0-9_-]", "-", attempt.task_id)[:40]
    return f"{task}-{hashlib.sha256(f'{attempt.lake} {name_prefix(attempt)}'.encode()).hexdigest()[:32]}-{number}"

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
from tandem.runtimes.base import Attempt, Cluster, Outcome, bundle
from tandem.runtimes.cloud_request import merged
from tandem.runtimes.polling import (
    ONE_ATTEMPT,
    PollingRuntime,
    Sent,
    deploy_mode,
    first_of_names,
    libraries_properties,
    spark_properties,
)

INSTALL = (
    "pip install --no-deps --require-hashes -r requirements/airflow-dataproc.txt "
    "-r requirements/airflow-dataproc-provider.txt"
)
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Dataproc(PollingRuntime):
    """Runs the bundle that the Airflow variable `release` names as a PySpark job.

    cluster.dataproc.json is Dataproc's message Cluster, in Python's names; `cluster` is a table that an environment
    puts over it. A cluster that no one closes is deleted by its lifecycle_config.
    """

    cluster_suffix: ClassVar[str] = ".dataproc.json"
    noun: ClassVar[str] = "Job"
    waiting: ClassVar[tuple[str, ...]] = ("PENDING", "SETUP_DONE")
    ended: ClassVar[tuple[str, ...]] = ("CANCELLED", "DONE", "ERROR")
    cancelling: ClassVar[tuple[str, ...]] = ("CANCEL_STARTED",)
    project: str
    region: str
    deploy_mode: str = "cluster"  # of jobs that say nothing else
    cluster: Mapping[str, Any] = field(default_factory=dict)
    ready_seconds: float = 1800  # a cluster may take to be created or deleted

    def open_and_close(self, name: str, request: Mapping[str, Any], where: str) -> Cluster:
        try:
            from tandem.runtimes.dataproc.cluster import check_message, operators
        except ModuleNotFoundError as error:
            raise PipelineError(
                f"The runtime 'dataproc' needs Google's provider, of which {error.name} is missing here: {INSTALL}"
            ) from None
        wanted = merged(request, self.cluster, where)
        for key in wanted:  # the name is made of the run, so that it is known to whoever closes the cluster
            check_known("key", key, ["config", "labels"], where)
        check_message("Cluster", wanted, where)
        if not {"idle_delete_ttl", "auto_delete_ttl"} & wanted.get("config", {}).get("lifecycle_config", {}).keys():
            raise PipelineError(
                f"{where} needs a time after which an idle cluster is deleted, because no one else ends what Airflow "
                'lost: "config": {"lifecycle_config": {"idle_delete_ttl": "600s"}}.'
            )
        return operators(name, wanted, self.project, self.region, self.ready_seconds)

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
            "libraries": "libraries.zip" if job.requirements else None,
        }

    def sent(self, work: Attempt) -> dict[str, Any]:
        """The request SubmitJob; the job's ID is made from the attempt, so that it is one job only."""
        place, packed = bundle(work), work.request["libraries"]
        spark = {
            "main_python_file_uri": f"{place}/main.py",
            "python_file_uris": [f"{place}/code.zip"],
            "archive_uris": [f"{place}/{packed}#libraries"] if packed else [],
            "args": work.arguments,
            "properties": work.request["properties"],
        }
        job = {
            "reference": {"project_id": self.project, "job_id": job_id(work, work.attempt)},
            "placement": {"cluster_name": work.cluster},
            "pyspark_job": spark,
        }
        return {"project_id": self.project, "region": self.region, "job": job}

    def submit(self, work: Attempt) -> Sent:
        """Submit the job of this attempt, or find it by its ID; those of older attempts are cancelled."""
        from google.api_core.exceptions import AlreadyExists, NotFound

        request = self.sent(work)
        jobs = self.client()
        for attempt in range(1, work.attempt):
            older = Sent(job_id(work, attempt), work, jobs)
            try:
                if self.ask(jobs, older)[0] not in self.ended:
                    log.warning("Cancelling what an older attempt left running: %s.", older.id)
                    self.ask_to_cancel(jobs, older)
            except NotFound:
                continue
        handle = Sent(job_id(work, work.attempt), work, jobs)
        try:
            jobs.submit_job(request=request)
            log.info("Submitted job %s to cluster %s: %s", handle.id, work.cluster, request["job"]["pyspark_job"])
        except AlreadyExists:
            log.info("Found job %s of cluster %s.", handle.id, work.cluster)
        return handle

    def ask(self, client: Any, sent: Sent) -> tuple[str, Any]:
        job = client.get_job(request=self.named(sent))
        return job.status.state.name, job

    def ask_to_cancel(self, client: Any, sent: Sent) -> None:
        client.cancel_job(request=self.named(sent))

    def outcome(self, client: Any, sent: Sent, said: Any) -> Outcome:
        """How a job ended, in Dataproc's words, and where the output of its driver is."""
        output = said.driver_output_resource_uri
        shown = f"The driver's output is at {output}*" if output else ""
        if said.status.state.name == "DONE":
            return Outcome(0, None, "", shown)
        told = f"Job {sent.id} of cluster {sent.work.cluster} is {said.status.state.name}. {said.status.details}"
        return Outcome(1, None, "", "\n".join([told.strip(), *([shown] if shown else [])]), guessed=True)

    def again(self, work: Attempt) -> str:
        sent = self.sent(work)["job"]["pyspark_job"]
        properties = ";".join(f"{name}={value}" for name, value in sent["properties"].items())
        options = {
            "project": self.project,
            "region": self.region,
            "cluster": work.cluster,
            "py-files": ",".join(sent["python_file_uris"]),
            "archives": ",".join(sent["archive_uris"]),
            "properties": f"^;^{properties}" if properties else "",
        }
        named = [f"--{name}={value}" for name, value in options.items() if value]
        command = ["gcloud", "dataproc", "jobs", "submit", "pyspark", sent["main_python_file_uri"], *named]
        return shlex.join([*command, "--", *sent["args"]])

    def client(self) -> Any:
        from airflow.providers.google.cloud.hooks.dataproc import DataprocHook

        return DataprocHook().get_job_client(self.region)

    def named(self, sent: Sent) -> dict[str, str]:
        return {"project_id": self.project, "region": self.region, "job_id": sent.id}


def job_id(work: Attempt, attempt: int) -> str:
    """The ID of an attempt's job: at most 100 of the characters that Dataproc takes."""
    task = re.sub(r"[^A-Za-z0-9_-]", "-", work.task_id)[:40]
    return f"{task}-{hashlib.sha256(f'{work.lake} {first_of_names(work)}'.encode()).hexdigest()[:32]}-{attempt}"

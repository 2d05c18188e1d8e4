"""Runtime `dataproc`: a Spark job as a job of a Dataproc cluster, which is open only as long as Spark jobs need it."""

import hashlib
import logging
import re
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from tandem.catalogue import Job
from tandem.errors import PipelineError, check_known
from tandem.release import fingerprint
from tandem.runtimes import Cluster, Outcome, Work, bundle
from tandem.runtimes.emr import ALIVE_SECONDS, GRACE_SECONDS, first_of_names
from tandem.runtimes.requests import merged

ENDED = ("CANCELLED", "DONE", "ERROR")
WAITING = ("PENDING", "SETUP_DONE")
INSTALL = (
    "pip install --no-deps --require-hashes -r requirements/airflow-dataproc.txt "
    "-r requirements/airflow-dataproc-provider.txt"
)
log = logging.getLogger(__name__)


class Submitted(NamedTuple):
    """A job of a cluster, the work that it does, and a client of Dataproc that only `cancel` uses."""

    id: str
    work: Work
    jobs: Any


@dataclass(frozen=True, kw_only=True)
class Dataproc:
    """Runs the bundle that the Airflow variable `release` names as a PySpark job.

    cluster.dataproc.json is Dataproc's message Cluster, in Python's names; `cluster` is a table that an environment
    puts over it. A cluster that no one closes is deleted by its lifecycle_config.
    """

    cluster_suffix: ClassVar[str] = ".dataproc.json"
    project: str
    region: str
    deploy_mode: str = "cluster"  # of jobs that say nothing else
    cluster: Mapping[str, Any] = field(default_factory=dict)
    poll_seconds: float = 10
    ready_seconds: float = 1800  # a cluster may take to be created or deleted
    pending_seconds: float = 7200  # a job may wait for its start

    def open_and_close(self, name: str, request: Mapping[str, Any], where: str) -> Cluster:
        try:
            from tandem.runtimes.dataproc_cluster import check_message, operators
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
        wanted = {"deploy_mode": self.deploy_mode, **job.spark, **settings}
        check_known("deploy mode", wanted["deploy_mode"], ["client", "cluster"], f"A setting of {job.name}")
        if job.requirements and wanted["deploy_mode"] != "cluster":
            raise PipelineError(
                f"{job.name} brings libraries, which only a driver on YARN has; expected deploy mode 'cluster'."
            )
        names = {
            "spark.submit.deployMode": "deploy_mode",
            "spark.driver.memory": "driver_memory",
            "spark.executor.memory": "executor_memory",
            "spark.executor.cores": "executor_cores",
        }
        sizes = {name: str(wanted[size]) for name, size in names.items() if size in wanted}
        processes = ("spark.yarn.appMasterEnv", "spark.executorEnv")
        libraries = {f"{process}.PYTHONPATH": "libraries" for process in processes} if job.requirements else {}
        conf = {**job.spark.get("conf", {}), **settings.get("conf", {})}
        return {
            "fingerprint": fingerprint(job.name),
            "properties": {**sizes, **{name: str(value) for name, value in conf.items()}, **libraries},
            "libraries": "libraries.zip" if job.requirements else None,
        }

    def sent(self, work: Work) -> dict[str, Any]:
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

    def submit(self, work: Work) -> Submitted:
        """Submit the job of this attempt, or find it by its ID; those of older attempts are cancelled."""
        from google.api_core.exceptions import AlreadyExists, NotFound

        request = self.sent(work)
        jobs = self.client()
        for attempt in range(1, work.attempt):
            older = Submitted(job_id(work, attempt), work, jobs)
            try:
                if self.job(jobs, older).status.state.name not in ENDED:
                    log.warning("Cancelling what an older attempt left running: %s.", older.id)
                    jobs.cancel_job(request=self.named(older))
            except NotFound:
                continue
        handle = Submitted(job_id(work, work.attempt), work, jobs)
        try:
            jobs.submit_job(request=request)
            log.info("Submitted job %s to cluster %s: %s", handle.id, work.cluster, request["job"]["pyspark_job"])
        except AlreadyExists:
            log.info("Found job %s of cluster %s.", handle.id, work.cluster)
        return handle

    def watch(self, handle: Submitted) -> Outcome:
        jobs = self.client()
        began = time.monotonic()
        state, said = "", 0.0
        while True:
            job = self.job(jobs, handle)
            now = time.monotonic()
            if job.status.state.name != state or now - said >= ALIVE_SECONDS:
                state, said = job.status.state.name, now
                log.info("Job %s of cluster %s is %s after %.0f s.", handle.id, handle.work.cluster, state, now - began)
            if state in ENDED:
                return outcome(handle, job)
            if state in WAITING and now - began > self.pending_seconds:
                self.cancel(handle)
                return Outcome(1, None, "", f"Job {handle.id} did not start within {self.pending_seconds:.0f} s.")
            time.sleep(self.poll_seconds)

    def cancel(self, handle: Submitted) -> None:
        handle.jobs.cancel_job(request=self.named(handle))
        deadline = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < deadline:
            if self.job(handle.jobs, handle).status.state.name in (*ENDED, "CANCEL_STARTED"):
                return
            time.sleep(0.2)

    def again(self, work: Work) -> str:
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

    def named(self, handle: Submitted) -> dict[str, str]:
        return {"project_id": self.project, "region": self.region, "job_id": handle.id}

    def job(self, jobs: Any, handle: Submitted) -> Any:
        return jobs.get_job(request=self.named(handle))


def outcome(handle: Submitted, job: Any) -> Outcome:
    """How a job ended, in Dataproc's words, and where the output of its driver is."""
    state = job.status.state.name
    output = job.driver_output_resource_uri
    shown = f"The driver's output is at {output}*" if output else ""
    if state == "DONE":
        return Outcome(0, None, "", shown)
    told = f"Job {handle.id} of cluster {handle.work.cluster} is {state}. {job.status.details}".strip()
    return Outcome(1, None, "", "\n".join([told, *([shown] if shown else [])]))


def job_id(work: Work, attempt: int) -> str:
    """The ID of an attempt's job: at most 100 of the characters that Dataproc takes."""
    task = re.sub(r"[^A-Za-z0-9_-]", "-", work.task_id)[:40]
    return f"{task}-{hashlib.sha256(f'{work.lake} {first_of_names(work)}'.encode()).hexdigest()[:32]}-{attempt}"

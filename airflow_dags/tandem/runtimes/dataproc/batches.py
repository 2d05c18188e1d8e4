"""Runtime `dataproc_serverless`: a Spark job as a batch of Dataproc Serverless; there is no cluster to open."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar

from tandem.catalogue import Job
from tandem.prices import gib
from tandem.runtimes.base import Attempt, Cluster, Outcome
from tandem.runtimes.cloud_request import merged
from tandem.runtimes.dataproc.submitting import CONSOLE, OnDataproc, code
from tandem.runtimes.polling import Submission, name_prefix
from tandem.runtimes.spark_options import (
    DRIVER_LOG,
    HISTORY,
    event_log_properties,
    libraries_properties,
    spark_properties,
)

CORES = (4, 8, 16)  # that a process of a batch may have
SHORTEST, LONGEST = 600, 14 * 24 * 3600  # seconds that a batch may be given


@dataclass(frozen=True, kw_only=True)
class DataprocServerless(OnDataproc):
    """Runs the bundle that the Airflow variable `release` names as a PySpark batch.

    The environment's table `batch` is Dataproc's message Batch, in Python's names: version, network, service account.
    cluster.dataproc.json, which only clusters need, stays unused.
    """

    name: ClassVar[str] = "dataproc_serverless"
    labels: ClassVar[tuple[str, ...]] = ("Dataproc batch", DRIVER_LOG, HISTORY)
    cluster_suffix: ClassVar[str] = ".dataproc.json"
    service: ClassVar[str] = "BatchController"
    noun: ClassVar[str] = "Batch"
    waiting: ClassVar[tuple[str, ...]] = ("PENDING",)
    ended: ClassVar[tuple[str, ...]] = ("CANCELLED", "FAILED", "SUCCEEDED")
    succeeded: ClassVar[str] = "SUCCEEDED"
    cancelling: ClassVar[tuple[str, ...]] = ("CANCELLING",)
    batch: Mapping[str, Any] = field(default_factory=dict)

    def open_and_close(self, name: str, request: Mapping[str, Any], where: str) -> Cluster | None:
        self.provider().check_message("Batch", self.batch, f"[spark.{self.name}.batch]")
        return None

    def request(self, job: Job, settings: Mapping[str, Any]) -> dict[str, Any]:
        properties = event_log_properties(self.event_log) | spark_properties(job, settings)
        return self.described(job, properties | libraries_properties(job, "spark.dataproc.driverEnv"))

    def payload(self, attempt: Attempt) -> dict[str, Any]:
        """The request CreateBatch; the batch's ID is made from the attempt, so that it starts one batch only."""
        batch = {
            "pyspark_batch": code(attempt),
            "runtime_config": {"properties": in_sizes_of_batches(attempt.request["properties"])},
        }
        if attempt.deadline_seconds is not None:  # later than a worker would, Google itself ends it
            seconds = min(LONGEST, max(SHORTEST, round(attempt.deadline_seconds) + 60))
            batch["environment_config"] = {"execution_config": {"ttl": f"{seconds}s"}}
        parent = f"projects/{self.project}/locations/{self.region}"
        number = attempt.number
        return {"parent": parent, "batch_id": self.id(attempt, number), "batch": merged(self.batch, batch, "")}

    def id(self, attempt: Attempt, number: int) -> str:
        """At most 63 of a-z, 0-9 and -."""
        task = re.sub("[^a-z0-9]+", "-", attempt.task_id.lower()).strip("-")[:24]
        key = hashlib.sha256(f"{attempt.lake} {name_prefix(attempt)}".encode()).hexdigest()[:24]
        return f"t-{task}-{key}-{number}"

    def create(self, client: Any, attempt: Attempt) -> None:
        client.create_batch(request=self.payload(attempt))

    def links(self, handle: Submission) -> dict[str, str]:
        page = f"{CONSOLE}/dataproc/batches/{self.region}/{handle.id}/summary?project={self.project}"
        return {"Dataproc batch": page}

    def poll(self, client: Any, submission: Submission) -> tuple[str, Any]:
        batch = self.find(client, submission)
        return batch.state.name, batch

    def began(self, response: Any) -> datetime | None:
        since: datetime | None = response.state_time
        return since

    def request_cancel(self, client: Any, submission: Submission) -> None:
        client.cancel_operation(request={"name": self.find(client, submission).operation})

    def find(self, client: Any, submission: Submission) -> Any:
        name = f"projects/{self.project}/locations/{self.region}/batches/{submission.id}"
        return client.get_batch(request={"name": name})

    def outcome(self, client: Any, submission: Submission, response: Any) -> Outcome:
        message = f"Batch {submission.id} is {response.state.name}. {response.state_message}".strip()
        return self.ended_with(response.state.name, message, response.runtime_info.output_uri)

    def rerun_command(self, attempt: Attempt) -> str:
        batch = self.payload(attempt)["batch"]
        version = {"version": batch["runtime_config"].get("version", "")}
        return self.gcloud("batches", batch["pyspark_batch"], batch["runtime_config"]["properties"], version)


def in_sizes_of_batches(properties: Mapping[str, str]) -> dict[str, str]:
    """Properties with 4, 8 or 16 cores for each process, and as much memory per core as before, at least 1 GiB."""
    fitted = dict(properties)
    for process in ("driver", "executor"):
        memory = properties.get(f"spark.{process}.memory")
        given = int(properties.get(f"spark.{process}.cores", 1 if memory else CORES[0]))
        cores = next((number for number in CORES if number >= given), CORES[-1])
        fitted[f"spark.{process}.cores"] = str(cores)
        if memory:
            share = gib(memory) / given if process == "executor" else gib(memory) / cores
            fitted[f"spark.{process}.memory"] = f"{round(1024 * cores * max(1, share))}m"
    return fitted

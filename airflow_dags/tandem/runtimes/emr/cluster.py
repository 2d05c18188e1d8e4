"""The operators around the steps of an EMR cluster: Airflow's own, or derived from them.

Apart from the runtime, because importing them takes a second, a cost that only environments with EMR should have.
"""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from airflow.providers.amazon.aws.operators.emr import EmrCreateJobFlowOperator, EmrTerminateJobFlowOperator
from airflow.providers.amazon.aws.sensors.emr import EmrJobFlowSensor
from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowFailException

from tandem.engine_choice import Sharing
from tandem.recording import Recorded, recording
from tandem.runtimes.base import Cluster
from tandem.runtimes.on_demand import OpenedOnDemand, opened_first, to_close


class OpenCluster(OpenedOnDemand, EmrCreateJobFlowOperator):
    """Requests a cluster and returns its ID without waiting, so that it can be closed in any case.

    If it is killed during the request, it closes the cluster as soon as EMR has named it. Amazon's own operator raises
    an error then, upon which botocore resends the request: two clusters that nobody knows.
    """

    template_ext = ()  # a string that ends in .json is a path on S3, not a file of templates
    killed = False
    _job_flow_id: str | None = None

    def execute(self, context: Context) -> str | None:
        with recording(context):
            cluster: str | None = super().execute(context)
            if self.killed:
                super().on_kill()
                raise AirflowFailException(f"Cluster {cluster} is closed, because this task was killed.")
            return cluster

    def on_kill(self) -> None:
        self.killed = True
        super().on_kill()


class AwaitCluster(Recorded, EmrJobFlowSensor):
    """Waits for a cluster without holding a worker; one that has ended fails the task at once, with its reason."""

    sharing: Sharing | None = None

    def poke(self, context: Context) -> bool:
        if not opened_first(context, self.sharing):
            self.log.info("There is no cluster to wait for.")
            return True
        status = self.get_emr_response(context)["Cluster"]["Status"]
        self.log.info("Cluster %s is %s.", self.job_flow_id, status["State"])
        if status["State"] in self.failed_states:
            raise AirflowFailException(f"Cluster {self.job_flow_id} {describe_state(status)}")
        return status["State"] in self.target_states


class CloseCluster(EmrTerminateJobFlowOperator):
    """Terminates the clusters that were opened, usually one, without waiting for their end."""

    sharing: Sharing | None = None

    def execute(self, context: Context) -> None:
        with recording(context):
            for cluster in to_close(context, self.sharing, self.job_flow_id):
                self.job_flow_id = cluster
                super().execute(context)


def describe_state(status: Mapping[str, Any]) -> str:
    """The state of a cluster and EMR's reason for it, as the end of a sentence."""
    reason = status.get("StateChangeReason", {})
    return f"is {status['State']}: {reason.get('Code', 'no code')}, {reason.get('Message', 'no message')}"


def operators(
    name: str, request: dict[str, Any], region: str | None, poll_seconds: float, ready_seconds: float
) -> Cluster:
    """The operators that open, await and close a cluster; credentials are those that boto3 finds."""
    aws: dict[str, Any] = {"aws_conn_id": None, "region_name": region}
    opened = OpenCluster(task_id=f"open_{name}", job_flow_overrides=request, emr_conn_id=None, **aws)
    cluster: Any = opened.output
    ready = AwaitCluster(
        task_id=f"await_{name}",
        job_flow_id=cluster,
        target_states=["WAITING", "RUNNING"],
        failed_states=["TERMINATING", "TERMINATED", "TERMINATED_WITH_ERRORS"],
        mode="reschedule",
        poke_interval=poll_seconds,
        timeout=ready_seconds,
        deferrable=False,
        **aws,
    )
    closed = CloseCluster(task_id=f"close_{name}", job_flow_id=cluster, retries=3, deferrable=False, **aws)
    return Cluster(opened, ready, closed, instances(request["Instances"]))


def instances(request: Mapping[str, Any]) -> dict[str, float]:
    """The number of a cluster's instances by type; a fleet counts as its first type."""
    counts: Counter[str] = Counter()
    for group in request.get("InstanceGroups", []):
        counts[group["InstanceType"]] += group["InstanceCount"]
    for fleet in request.get("InstanceFleets", []):
        for first in fleet.get("InstanceTypeConfigs", [])[:1]:
            units = fleet.get("TargetOnDemandCapacity", 0) + fleet.get("TargetSpotCapacity", 0)
            counts[first["InstanceType"]] += math.ceil(units / first.get("WeightedCapacity", 1))
    return dict(counts)

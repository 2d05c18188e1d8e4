"""The operators around the jobs of a Dataproc cluster, and checks against Dataproc's messages.

Apart from the runtime, because importing them needs Google's provider and takes seconds.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from airflow.providers.google.cloud.operators.dataproc import DataprocCreateClusterOperator
from airflow.sdk import BaseSensorOperator, Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from google.api_core.exceptions import AlreadyExists, NotFound
from google.cloud import dataproc_v1

from tandem.dag_errors import PipelineError, check_known
from tandem.engine_choice import Sharing
from tandem.recording import Recorded
from tandem.runtimes.base import Cluster
from tandem.runtimes.dataproc.clients import client
from tandem.runtimes.on_demand import OpenedOnDemand, opened_at_all, opened_first

ACCEPTING = ("RUNNING", "UPDATING")  # the states of a cluster that accepts jobs


class Clusters:
    """The clusters of a project in a region, by their names."""

    def __init__(self, project: str, region: str, endpoint: str) -> None:
        self.place = {"project_id": project, "region": region}
        self.client = client("ClusterController", region, endpoint)

    def create(self, name: str, described: Mapping[str, Any]) -> None:
        """Request a cluster, without waiting for it."""
        cluster = {"project_id": self.place["project_id"], "cluster_name": name, **described}
        self.client.create_cluster(request={**self.place, "cluster": cluster})

    def state(self, name: str) -> tuple[str, str]:
        """The state of a cluster, GONE if it does not exist, and a sentence on it with Dataproc's remark."""
        try:
            status = self.client.get_cluster(request={**self.place, "cluster_name": name}).status
        except NotFound:
            return "GONE", f"Cluster {name} does not exist any more."
        detail = f": {status.detail.rstrip('.')}" if status.detail else ""
        return status.state.name, f"Cluster {name} is {status.state.name}{detail}."

    def delete(self, name: str) -> None:
        """Request the end of a cluster, without waiting for it."""
        self.client.delete_cluster(request={**self.place, "cluster_name": name})


class RequestCluster(DataprocCreateClusterOperator):
    """Requests the cluster of a run without waiting, and returns its name; a cluster of this name is used if it can.

    If it is killed during the request, it deletes the cluster as soon as Dataproc has accepted it.
    """

    template_ext = ()  # a string with such an ending is a path, not a file of templates
    clusters: Clusters
    endpoint = ""
    killed = False

    def execute(self, context: Context) -> Any:
        self.cluster_name = cluster_name(self.task_id.removeprefix("open_"), context)
        self.clusters = Clusters(self.project_id, self.region, self.endpoint)
        try:
            self.clusters.create(self.cluster_name, {"config": self.cluster_config, "labels": self.labels})
            self.log.info("Requested cluster %s.", self.cluster_name)
        except AlreadyExists:
            self.use_existing()
        if self.killed:
            self.clusters.delete(self.cluster_name)
            raise AirflowFailException(f"Cluster {self.cluster_name} is deleted, because this task was killed.")
        return self.cluster_name

    def use_existing(self) -> None:
        """Log the state of the cluster that exists; AirflowException if it is ending, or has to."""
        state, sentence = self.clusters.state(self.cluster_name)
        if state in ("ERROR", "DELETING", "GONE"):
            if state == "ERROR":
                self.clusters.delete(self.cluster_name)
            raise AirflowException(f"{sentence} Once it is deleted, a retry opens another one.")
        self.log.info("%s", sentence)

    def on_kill(self) -> None:
        self.killed = True


class OpenCluster(Recorded, OpenedOnDemand, RequestCluster):
    """Requests the cluster of a run if the run needs it."""


class ClusterSensor(BaseSensorOperator):
    """The base of tasks that wait for a run's cluster without holding a worker."""

    sharing: Sharing | None = None

    def __init__(self, *, project: str, region: str, endpoint: str, **options: Any) -> None:
        super().__init__(mode="reschedule", **options)
        self.place = (project, region, endpoint)

    def find(self, context: Context) -> tuple[Clusters, str]:
        """The clusters, and the name of the run's one."""
        return Clusters(*self.place), cluster_name(self.task_id.partition("_")[2], context)


class AwaitCluster(Recorded, ClusterSensor):
    """Waits for a cluster; one that has failed or ended fails the task at once, with its reason."""

    def poke(self, context: Context) -> bool:
        if not opened_first(context, self.sharing):
            self.log.info("There is no cluster to wait for.")
            return True
        clusters, name = self.find(context)
        state, sentence = clusters.state(name)
        if state not in ("CREATING", *ACCEPTING):
            raise AirflowFailException(sentence)
        self.log.info("%s", sentence)
        return state in ACCEPTING


class CloseCluster(Recorded, ClusterSensor):
    """Deletes the cluster of a run and waits for its end, even if the task that opened it died before it returned."""

    def poke(self, context: Context) -> bool:
        if not opened_at_all(context, self.sharing):
            self.log.info("No task of this run needed the cluster, so none was opened.")
            return True
        clusters, name = self.find(context)
        state, sentence = clusters.state(name)
        self.log.info("%s", sentence)
        if state not in ("DELETING", "GONE"):
            clusters.delete(name)
        return state == "GONE"


def cluster_name(name: str, context: Context) -> str:
    """The name of a run's cluster, unique to the run, in the form of Dataproc: at most 51 of a-z, 0-9 and -."""
    run: Any = context["ti"]
    key = hashlib.sha256(f"{run.dag_id} {run.run_id} {name}".encode()).hexdigest()[:16]
    return f"tandem-{re.sub('[^a-z0-9]+', '-', run.dag_id.lower()).strip('-')[:24]}-{key}"


def operators(
    name: str, request: Mapping[str, Any], place: tuple[str, str, str], poll_seconds: float, ready_seconds: float
) -> Cluster:
    """The operators that open, await and close a cluster in a place: project, region, endpoint."""
    project, region, endpoint = place
    opened = OpenCluster(
        task_id=f"open_{name}",
        project_id=project,
        region=region,
        cluster_name=name,
        cluster_config=request["config"],
        labels=request.get("labels", {}),
    )
    opened.endpoint = endpoint
    options: dict[str, Any] = {"project": project, "region": region, "endpoint": endpoint}
    options |= {"poke_interval": poll_seconds, "timeout": ready_seconds}
    ready = AwaitCluster(task_id=f"await_{name}", **options)
    closed = CloseCluster(task_id=f"close_{name}", retries=3, **options)
    return Cluster(opened, ready, closed, instances(request["config"]))


def instances(config: Mapping[str, Any]) -> dict[str, float]:
    """The number of a cluster's instances by type."""
    counts: Counter[str] = Counter()
    for group in ("master_config", "worker_config", "secondary_worker_config"):
        if kind := config.get(group, {}).get("machine_type_uri"):
            counts[kind] += config[group].get("num_instances", 1)
    return dict(counts)


def check_message(kind: str, request: Mapping[str, Any], where: str) -> None:
    """Raise PipelineError unless a request is a message of that kind of Dataproc: names at all depths, types.

    Templates are strings here, so they can't stand for numbers.
    """
    message = getattr(dataproc_v1, kind)
    check_names(message.pb(message()).DESCRIPTOR, request, where)
    try:
        message(request)
    except (TypeError, ValueError) as error:
        raise PipelineError(f"{where} is not a valid {kind} of Dataproc: {error}.") from None


def check_names(descriptor: Any, value: Any, where: str) -> None:
    """Raise PipelineError for the first unknown key of a message, at any depth."""
    if isinstance(value, list):
        for number, entry in enumerate(value):
            check_names(descriptor, entry, f"{where}[{number}]")
    if descriptor is None or not isinstance(value, Mapping) or descriptor.GetOptions().map_entry:
        return
    fields = descriptor.fields_by_name
    for name, entry in value.items():
        check_known("key", name, list(fields), where)
        check_names(fields[name].message_type, entry, f"{where}, {name}")

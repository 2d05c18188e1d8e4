"""The operators around the jobs of a Dataproc cluster: Airflow's own; and checks against Dataproc's messages.

Apart from the runtime, because importing them needs Google's provider and takes seconds.
"""

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from airflow.providers.google.cloud.operators.dataproc import (
    DataprocCreateClusterOperator,
    DataprocDeleteClusterOperator,
)
from airflow.sdk import Context
from google.cloud import dataproc_v1

from tandem.dag_errors import PipelineError, check_known
from tandem.runtimes.base import Cluster


class OpenCluster(DataprocCreateClusterOperator):
    """Creates the cluster of a run, or finds the one that an earlier attempt created, and returns its name."""

    template_ext = ()  # a string with such an ending is a path, not a file of templates

    def execute(self, context: Context) -> Any:
        self.cluster_name = cluster_name(self.task_id.removeprefix("open_"), context)
        super().execute(context)
        return self.cluster_name


class CloseCluster(DataprocDeleteClusterOperator):
    """Deletes the cluster of a run, even if the task that opened it was killed before it returned."""

    def execute(self, context: Context) -> None:
        self.cluster_name = cluster_name(self.task_id.removeprefix("close_"), context)
        super().execute(context)


def cluster_name(name: str, context: Context) -> str:
    """The name of a run's cluster, unique to the run, in the form of Dataproc: at most 51 of a-z, 0-9 and -."""
    run: Any = context["ti"]
    key = hashlib.sha256(f"{run.dag_id} {run.run_id} {name}".encode()).hexdigest()[:16]
    return f"tandem-{re.sub('[^a-z0-9]+', '-', run.dag_id.lower()).strip('-')[:24]}-{key}"


def operators(name: str, request: Mapping[str, Any], project: str, region: str, ready_seconds: float) -> Cluster:
    """The operators that open and close a cluster; credentials are those of the connection google_cloud_default."""
    options: dict[str, Any] = {
        "project_id": project,
        "region": region,
        "cluster_name": name,
        "timeout": ready_seconds,
        "deferrable": False,
    }
    opened = OpenCluster(
        task_id=f"open_{name}", cluster_config=request["config"], labels=request.get("labels", {}), **options
    )
    closed = CloseCluster(task_id=f"close_{name}", retries=3, **options)
    return Cluster(opened, opened, closed)


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

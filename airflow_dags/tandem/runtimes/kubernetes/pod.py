"""Runtime `kubernetes_pod`: a Python job as a pod of its image, with Airflow's own KubernetesPodOperator."""

import json
import logging
import re
import shlex
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from airflow.sdk.exceptions import AirflowException

from tandem.catalogue import Job
from tandem.runtimes.base import GRACE_SECONDS, Attempt, Outcome, check_built
from tandem.runtimes.kubernetes import manifest
from tandem.texts import ANYWHERE

if TYPE_CHECKING:
    from tandem.runtimes.kubernetes.follower import Follower

# Airflow's operator and the client of Kubernetes are imported where they are used: they take 3 s, too slow for parsing.

log = logging.getLogger(__name__)
IGNORED = "already_checked"  # the label of pods that Airflow's own operator no longer adopts


class Running(NamedTuple):
    """An attempt in the cluster: its resource, and the follower of its pods."""

    resource: Any  # V1Pod or V1Job, as requested
    labels: str  # selector of its pods
    attempt_number: int
    follower: "Follower"

    @property
    def name(self) -> str:
        return str(self.resource.metadata.name)

    @property
    def namespace(self) -> str:
        return str(self.resource.metadata.namespace)

    @property
    def hook(self) -> Any:
        """Airflow's connection to Kubernetes."""
        return self.follower.hook


@dataclass(frozen=True)
class KubernetesPod:
    """Runs the image `<registry>/tandem/<job>:<fingerprint>` in the cluster of the connection kubernetes_default.

    A pod is deleted when its job has ended. With keep_failed it stays after a failure, for you to inspect and delete.
    """

    name: ClassVar[str] = "kubernetes_pod"
    refused: ClassVar[re.Pattern[str]] = ANYWHERE
    labels: ClassVar[tuple[str, ...]] = ("Pod",)
    registry: str  # to pull images from; empty if they are loaded onto the nodes
    template: Path  # JSON, a V1Pod; its strings may be templates
    startup_seconds: int  # a pod may wait for a node, and then for its image
    keep_failed: bool
    pod_page: str = field(default="", kw_only=True)  # its address, with {namespace} and {name} of the pod or Job
    cpu_reserved: float  # the share of a job's cpu that its node reserves; the job gets the rest only if it is idle

    def request(self, job: Job, settings: Mapping[str, Any]) -> dict[str, Any]:
        return manifest.request(self.template, self.registry, job, self.cpu_reserved)

    def manifest(self, attempt: Attempt) -> Any:
        """The V1Pod or V1Job of an attempt."""
        return manifest.manifest(attempt)

    def payload(self, attempt: Attempt) -> dict[str, Any]:
        from kubernetes.client import ApiClient

        document: dict[str, Any] = ApiClient().sanitize_for_serialization(self.manifest(attempt))
        return document

    def check_product(self, attempt: Attempt) -> None:
        check_built(attempt)

    def submit(self, attempt: Attempt) -> Running:
        from tandem.runtimes.kubernetes.follower import Follower

        follower = Follower(startup_timeout_seconds=self.startup_seconds)
        running = self.running(attempt, follower)
        resources = self.resources(running, selector(manifest.labels_of_task(attempt)))
        for resource in resources:
            number = int(resource.metadata.labels["try_number"])
            if number < attempt.number and IGNORED not in resource.metadata.labels:  # its worker died
                older = self.running(replace(attempt, number=number), follower)
                if self.may_succeed(resource) and image_and_arguments(resource) == image_and_arguments(older.resource):
                    log.info("Attempt %s adopts %s, whose worker died.", attempt.number, older.name)
                    running = older
                else:
                    self.remove(older.name, older.namespace, older.labels)
        if running.name not in {resource.metadata.name for resource in resources}:
            create(self.create, running)
        return running

    def running(self, attempt: Attempt, follower: "Follower") -> Running:
        return Running(self.manifest(attempt), selector(manifest.labels(attempt)), attempt.number, follower)

    def resources(self, running: Running, labels: str) -> list[Any]:
        """The pods or Jobs of all attempts of a task in the cluster."""
        client: Any = running.follower.client
        pods: list[Any] = client.list_namespaced_pod(running.namespace, label_selector=labels).items
        return pods

    def may_succeed(self, resource: Any) -> bool:
        """Return True if a pod or Job in the cluster may still succeed."""
        return resource.metadata.deletion_timestamp is None and resource.status.phase != "Failed"

    def create(self, running: Running) -> None:
        running.follower.pod_manager.create_pod(running.resource)

    def pods(self, running: Running) -> Iterator[Any]:
        """The pods of an attempt, one after the other, as long as Kubernetes replaces them."""
        yield running.resource

    def links(self, handle: Running) -> dict[str, str]:
        address = self.pod_page or "{namespace}/{name}"
        return {"Pod": address.replace("{namespace}", handle.namespace).replace("{name}", handle.name)}

    def watch(self, handle: Running) -> Outcome:
        outcome = Outcome(1, None, "", guessed=True)
        interrupted = True
        try:
            for pod in self.pods(handle):
                outcome = handle.follower.follow(pod)._replace(attempt_number=handle.attempt_number)
            interrupted = False
            return outcome
        finally:
            if outcome.exit_code and self.keep_failed and not interrupted:
                self.keep(handle)
            else:
                self.remove(handle.name, handle.namespace, handle.labels, wait=interrupted)

    def keep(self, handle: Running) -> None:
        """Keep a failed attempt in the cluster, marked so that retries ignore it."""
        handle.follower.keep_pod()

    def cancel(self, handle: Running) -> None:
        self.remove(handle.name, handle.namespace, handle.labels)

    def remove(self, name: str, namespace: str, labels: str, wait: bool = True) -> None:
        """End an attempt, and wait until nothing of it runs; a pod that stays is on a lost node, and ends with that.

        On a separate connection, because a signal may have come while `watch` held a lock of its own.
        """
        from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook

        client = KubernetesHook().core_v1_client
        grace = GRACE_SECONDS if wait else 1
        client.delete_collection_namespaced_pod(namespace, label_selector=labels, grace_period_seconds=grace)
        end = time.monotonic() + GRACE_SECONDS + 1
        while wait and client.list_namespaced_pod(namespace, label_selector=labels).items:
            time.sleep(0.2)
            if time.monotonic() > end:
                log.warning("The pod of %s is being deleted, but its node does not answer.", name)
                return

    def rerun_command(self, attempt: Attempt) -> str:
        return f"printf %s {shlex.quote(json.dumps(manifest.bare(attempt)))} | kubectl create --filename -"


def image_and_arguments(resource: Any) -> tuple[str, list[str]]:
    """The image and the arguments of a pod or Job."""
    container = getattr(resource.spec, "template", resource).spec.containers[0]
    return container.image, container.args


def selector(labels: Mapping[str, Any]) -> str:
    return ",".join(f"{name}={value}" for name, value in labels.items())


def create(function: Any, running: Running) -> None:
    """Create a pod or a Job; AirflowException with the reason if Kubernetes refuses it."""
    from kubernetes.client import ApiException

    try:
        function(running)
    except ApiException as error:
        raise AirflowException(
            f"Kubernetes refuses {running.name} ({message(error)}); request less in [resources] of job.toml, or "
            "correct the pod template of the environment."
        ) from None


def message(error: Any) -> str:
    """The API server's message about a request that it refused."""
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return f"{error.status} {error.reason}"

"""Runtime `kubernetes_pod`: a Python job as a pod of its image, with Airflow's own KubernetesPodOperator."""

import json
import logging
import re
import shlex
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from airflow.sdk.exceptions import AirflowException

from tandem.catalogue import Job
from tandem.runtimes.base import Attempt, Outcome, check_built
from tandem.runtimes.kubernetes import manifest
from tandem.runtimes.local.process import GRACE_SECONDS
from tandem.texts import ANYWHERE

if TYPE_CHECKING:
    from tandem.runtimes.kubernetes.follower import Follower

# Airflow's operator and the client of Kubernetes are imported where they are used: they take 3 s, which parsing a
# pipeline must not pay.

log = logging.getLogger(__name__)
LEFT = "already_checked"  # the label by which Airflow's own operator marks pods that it is done with


class Running(NamedTuple):
    """A work in the cluster: what was asked for, and what follows its pods."""

    wanted: Any  # V1Pod or V1Job
    labels: str  # by which its pods are found
    attempt: int
    follower: "Follower"

    @property
    def name(self) -> str:
        return str(self.wanted.metadata.name)

    @property
    def namespace(self) -> str:
        return str(self.wanted.metadata.namespace)

    @property
    def hook(self) -> Any:
        """Airflow's connection to Kubernetes."""
        return self.follower.hook


@dataclass(frozen=True)
class KubernetesPod:
    """Runs the image `<registry>/tandem/<job>:<fingerprint>` in the cluster of the connection kubernetes_default.

    A pod is deleted when its job is done; after a failure it is kept if the environment says so, and then it is for
    people to look at and to delete.
    """

    refused: ClassVar[re.Pattern[str]] = ANYWHERE
    registry: str  # where images are pulled from; empty where they are brought to the nodes
    template: Path  # JSON, a V1Pod; its strings may be templates
    startup_seconds: int  # how long a pod may wait for a node, and then for its image
    keep_failed: bool
    cpu_reserved: float  # the share of a job's cpu that is kept for it on its node; more than that only if it is idle

    def request(self, job: Job, settings: Mapping[str, Any]) -> dict[str, Any]:
        return manifest.request(self.template, self.registry, job, self.cpu_reserved)

    def manifest(self, work: Attempt) -> Any:
        """What is sent to Kubernetes."""
        return manifest.manifest(work)

    def sent(self, work: Attempt) -> dict[str, Any]:
        from kubernetes.client import ApiClient

        document: dict[str, Any] = ApiClient().sanitize_for_serialization(self.manifest(work))
        return document

    def submit(self, work: Attempt) -> Running:
        from tandem.runtimes.kubernetes.follower import Follower

        check_built(work)
        follower = Follower(startup_timeout_seconds=self.startup_seconds)
        running = self.running(work, follower)
        attempts = self.attempts(running, selector(manifest.labels_of_task(work)))
        for there in attempts:
            attempt = int(there.metadata.labels["try_number"])
            if attempt < work.attempt and LEFT not in there.metadata.labels:  # its worker died
                older = self.running(replace(work, attempt=attempt), follower)
                if self.goes_on(there) and asked(there) == asked(older.wanted):
                    log.info("Attempt %s goes on with %s, whose worker died.", work.attempt, older.name)
                    running = older
                else:
                    self.remove(older.name, older.namespace, older.labels)
        if running.name not in {there.metadata.name for there in attempts}:
            create(self.create, running)
        return running

    def running(self, work: Attempt, follower: "Follower") -> Running:
        return Running(self.manifest(work), selector(manifest.labels(work)), work.attempt, follower)

    def attempts(self, running: Running, labels: str) -> list[Any]:
        """All attempts of a task that are in the cluster."""
        found: list[Any] = running.follower.client.list_namespaced_pod(running.namespace, label_selector=labels).items
        return found

    def goes_on(self, there: Any) -> bool:
        """Whether an attempt that is in the cluster may still succeed."""
        return there.metadata.deletion_timestamp is None and there.status.phase != "Failed"

    def create(self, running: Running) -> None:
        running.follower.pod_manager.create_pod(running.wanted)

    def pods(self, running: Running) -> Iterator[Any]:
        """The pods of a work, one after the other, as long as there is another one to come."""
        yield running.wanted

    def watch(self, handle: Running) -> Outcome:
        outcome = Outcome(1, None, "", guessed=True)
        interrupted = True
        try:
            for each in self.pods(handle):
                outcome = handle.follower.follow(each)._replace(attempt=handle.attempt)
            interrupted = False
            return outcome
        finally:
            if outcome.exit_code and self.keep_failed and not interrupted:
                self.leave(handle)
            else:
                self.remove(handle.name, handle.namespace, handle.labels, wait=interrupted)

    def leave(self, handle: Running) -> None:
        """Let what failed stay, marked so that a retry lets it be."""
        handle.follower.leave()

    def cancel(self, handle: Running) -> None:
        self.remove(handle.name, handle.namespace, handle.labels)

    def remove(self, name: str, namespace: str, labels: str, wait: bool = True) -> None:
        """End an attempt, and wait until nothing of it runs; a pod that stays is on a lost node, and goes with that.

        By a connection of its own: a signal may have come while `watch` held a lock of the other one.
        """
        from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook

        client = KubernetesHook().core_v1_client
        grace = GRACE_SECONDS if wait else 1
        client.delete_collection_namespaced_pod(namespace, label_selector=labels, grace_period_seconds=grace)
        end = time.monotonic() + GRACE_SECONDS + 1
        while wait and client.list_namespaced_pod(namespace, label_selector=labels).items:
            time.sleep(0.2)
            if time.monotonic() > end:
                log.warning("The pod of %s is told to end, but its node does not answer.", name)
                return

    def again(self, work: Attempt) -> str:
        return f"printf %s {shlex.quote(json.dumps(manifest.bare(work)))} | kubectl create --filename -"


def asked(there: Any) -> tuple[str, list[str]]:
    """The image and the arguments of the job of a pod or Job."""
    container = getattr(there.spec, "template", there).spec.containers[0]
    return container.image, container.args


def selector(labels: Mapping[str, Any]) -> str:
    return ",".join(f"{name}={value}" for name, value in labels.items())


def create(function: Any, running: Running) -> None:
    """Create a pod or a Job; AirflowException says in a sentence what Kubernetes has against it."""
    from kubernetes.client import ApiException

    try:
        function(running)
    except ApiException as error:
        raise AirflowException(
            f"Kubernetes refuses {running.name} ({message(error)}); ask for less in [resources] of job.toml, or "
            "correct the pod template of the environment."
        ) from None


def message(error: Any) -> str:
    """What the API server says of a request that it refused."""
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return f"{error.status} {error.reason}"

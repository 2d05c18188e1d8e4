"""Runtime `kubernetes_job`: a Python job as a Job of Kubernetes, which replaces a pod that is taken away."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from airflow.sdk.exceptions import AirflowException

from tandem.runtimes.base import Attempt
from tandem.runtimes.kubernetes import manifest
from tandem.runtimes.kubernetes.pod import IGNORED, KubernetesPod, Running


@dataclass(frozen=True)
class KubernetesJob(KubernetesPod):
    """Runs the same pod in a Job, through the hook of Airflow's provider.

    Only Airflow retries a job that fails. A pod that is evicted, preempted or drained is not a failure of its job, and
    Kubernetes replaces it within the attempt.
    """

    name: ClassVar[str] = "kubernetes_job"
    ttl_seconds: int  # after which Kubernetes deletes an ended Job that no worker deleted

    def manifest(self, attempt: Attempt) -> Any:
        from kubernetes.client import models

        template = manifest.manifest(attempt)
        taken_away = models.V1PodFailurePolicyOnPodConditionsPattern(type="DisruptionTarget", status="True")
        return models.V1Job(
            api_version="batch/v1",
            kind="Job",
            metadata=template.metadata,
            spec=models.V1JobSpec(
                backoff_limit=0,
                ttl_seconds_after_finished=self.ttl_seconds,
                pod_failure_policy=models.V1PodFailurePolicy(
                    rules=[models.V1PodFailurePolicyRule(action="Ignore", on_pod_conditions=[taken_away])]
                ),
                template=models.V1PodTemplateSpec(
                    metadata=models.V1ObjectMeta(labels=template.metadata.labels), spec=template.spec
                ),
            ),
        )

    def resources(self, running: Running, labels: str) -> list[Any]:
        client = running.hook.batch_v1_client
        jobs: list[Any] = client.list_namespaced_job(running.namespace, label_selector=labels).items
        return jobs

    def may_succeed(self, resource: Any) -> bool:
        return resource.metadata.deletion_timestamp is None and not resource.status.failed

    def create(self, running: Running) -> None:
        running.hook.create_job(running.resource)

    def pods(self, running: Running) -> Iterator[Any]:
        followed: set[str] = set()
        while True:
            pod = self.next_pod(running, followed)
            if pod is None:
                return
            followed.add(pod.metadata.name)
            yield pod
            if not running.follower.taken_away:
                return

    def next_pod(self, running: Running, followed: set[str]) -> Any:
        """The next pod of a Job, None if the Job has ended or gets no other pod in time.

        Raises AirflowException with the warning of Kubernetes if the Job gets no pod at all.
        """
        follower = running.follower
        end = time.monotonic() + self.startup_seconds
        while time.monotonic() < end:
            pods = follower.client.list_namespaced_pod(running.namespace, label_selector=running.labels).items
            for pod in pods:
                if pod.metadata.name not in followed:
                    return pod
            if self.is_over(running):
                return None
            time.sleep(1)
        if followed:
            return None
        events = follower.pod_manager.read_pod_events(running.resource).items  # this finds events by name, of any kind
        warnings = [event.message for event in events if event.type == "Warning"]
        raise AirflowException(
            f"The Job {running.name} got no pod ({warnings[-1] if warnings else 'and Kubernetes gives no reason'}); "
            "request less in [resources] of job.toml, or raise the quota of the namespace."
        )

    def is_over(self, running: Running) -> bool:
        """Return True if a Job has ended, or is gone."""
        from kubernetes.client import ApiException

        try:
            job = running.hook.get_job(running.name, running.namespace)
        except ApiException as error:
            if error.status != 404:
                raise
            return True
        return bool(running.hook.is_job_complete(job))

    def keep(self, handle: Running) -> None:
        super().keep(handle)
        handle.hook.patch_namespaced_job(handle.name, handle.namespace, {"metadata": {"labels": {IGNORED: "True"}}})

    def remove(self, name: str, namespace: str, labels: str, wait: bool = True) -> None:
        from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook
        from kubernetes.client import ApiException

        try:
            KubernetesHook().batch_v1_client.delete_namespaced_job(name, namespace, propagation_policy="Background")
        except ApiException as error:
            if error.status != 404:
                raise
        super().remove(name, namespace, labels, wait)

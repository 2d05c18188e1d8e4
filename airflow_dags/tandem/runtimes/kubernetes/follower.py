"""Follow a pod from its start to its end: its log, its result, and the reason of its end."""

import contextlib
import datetime
import logging
import time
from collections import deque
from functools import cached_property
from typing import Any

from airflow.providers.cncf.kubernetes.kubernetes_helper_functions import KubernetesApiException
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.cncf.kubernetes.utils.pod_manager import PodManager, parse_log_line
from airflow.providers.cncf.kubernetes.utils.xcom_sidecar import PodDefaults
from airflow.sdk.exceptions import AirflowException
from kubernetes.client import ApiException
from kubernetes.stream import stream as kubernetes_stream
from urllib3.exceptions import HTTPError

from tandem.protocol import MAX_RESULT
from tandem.runtimes.base import Outcome, overdue
from tandem.runtimes.kubernetes.manifest import CONTAINER
from tandem.runtimes.output import MAX_LINE, shorten_last_line

GONE = 404
KILLED = 137
LOST_SECONDS = 30  # a deleted pod may stay after its grace period; later its node must be lost
REPORT_SECONDS = 2  # the kubelet may take to report a container's end
RESULT_SECONDS = 60  # to transfer a result file
RETRY_SECONDS = 3  # between requests while the API server does not answer
log = logging.getLogger(__name__)


class PodLost(AirflowException):
    """A deleted pod stays: its node does not answer."""


class Manager(PodManager):
    """Airflow's own, which also keeps the last state of the pod, and gives up a pod whose node is lost."""

    last_state: Any = None

    def read_pod(self, pod: Any) -> Any:
        self.last_state = super().read_pod(pod)
        deleted_at = self.last_state.metadata.deletion_timestamp  # includes the grace period
        now = datetime.datetime.now(datetime.UTC)
        if deleted_at and now > deleted_at + datetime.timedelta(seconds=LOST_SECONDS):
            raise PodLost(f"The pod {pod.metadata.name} should have ended at {deleted_at} and still exists.")
        return self.last_state

    def container_is_running(self, pod: Any, container_name: str) -> bool:
        """Return True if it runs. A log ends shortly before its container's end is reported, and is not read twice."""
        running = super().container_is_running(pod, container_name)
        end = time.monotonic() + REPORT_SECONDS
        while running and container_name == CONTAINER and time.monotonic() < end:
            time.sleep(0.2)
            running = super().container_is_running(pod, container_name)
        return running

    def result_file(self, pod: Any) -> bytes:
        """The content of the result file, at most MAX_RESULT + 1 bytes; empty if there is none.

        Airflow's own reads a file of any size, and waits for ever for a pipe.
        """
        file = f"{PodDefaults.XCOM_MOUNT_PATH}/return.json"
        script = f"if [ -f {file} ] && [ ! -L {file} ]; then head -c {MAX_RESULT + 1} {file}; fi"
        stream = kubernetes_stream(
            self._client.connect_get_namespaced_pod_exec,
            pod.metadata.name,
            pod.metadata.namespace,
            container=PodDefaults.SIDECAR_CONTAINER_NAME,
            command=["/bin/sh", "-c", script],
            stdin=False,
            stdout=True,
            stderr=True,
            tty=False,
            binary=True,
            _preload_content=False,
        )
        with contextlib.closing(stream) as response:
            response.run_forever(timeout=RESULT_SECONDS)
            return bytes(response.read_stdout())


class Follower(KubernetesPodOperator):
    """Airflow's own operator, of which a runtime uses the parts that handle an existing pod."""

    def __init__(self, **options: Any) -> None:
        super().__init__(task_id="pod", startup_check_interval_seconds=1, log_formatter=self.remember, **options)
        self.last_lines: deque[str] = deque([""], maxlen=1)
        self.taken_away = False  # True if the last pod was taken away before its job had ended by itself

    @cached_property
    def pod_manager(self) -> Manager:
        return Manager(self.client)

    def remember(self, container: str, line: str) -> str:
        """The line itself, which is kept as the last one unless it is blank."""
        if line.strip():
            self.last_lines.append(shorten_last_line(line))
        return line.rstrip()[:MAX_LINE]

    def follow(self, pod: Any) -> Outcome:
        """Print the log of a pod as it comes until its job has ended; AirflowException if it did not start.

        While the API server does not answer, the pod still runs, so this retries until the pod's own deadline is over.
        """
        give_up = time.monotonic() + self.startup_timeout_seconds + pod.spec.active_deadline_seconds
        result = None
        while True:
            try:
                self.await_pod_start(pod)
                self.await_pod_completion(pod)
                self.print_rest(pod)
                result = self.result(pod)
                state = self.pod_manager.read_pod(pod)
                break
            except (ApiException, HTTPError, KubernetesApiException) as error:
                if isinstance(error, ApiException) and error.status == GONE:
                    state = None
                    break
                if time.monotonic() > give_up or (isinstance(error, ApiException) and 400 <= (error.status or 0) < 500):
                    raise
                log.warning(
                    "Kubernetes does not answer (%s); the pod still runs, so the request is retried.", brief(error)
                )
                time.sleep(RETRY_SECONDS)
            except AirflowException as error:  # the pod did not start, or is lost
                state = self.pod_manager.last_state
                if state.status.phase == "Pending" and not isinstance(error, PodLost):
                    raise AirflowException(
                        f"The pod {pod.metadata.name} did not start: {obstacle(state) or error}"
                    ) from None
                break
        last = state or self.pod_manager.last_state
        code, explanation = describe_end(last, gone=state is None)
        self.taken_away = state is None or bool(disruption(last)) or last.status.phase == "Failed"
        unknown = last is None or (terminated(last) is None and last.status.reason != "DeadlineExceeded")
        ended = terminated(last) if last else None
        memory = bool(ended and ended.reason == "OOMKilled")
        return Outcome(code, result, self.last_lines[0], explanation, guessed=unknown, out_of_memory=memory)

    def print_rest(self, pod: Any) -> None:
        """Print the end of the log, which Airflow misses if the connection was cut shortly before."""
        name = (pod.metadata.namespace, pod.metadata.name, CONTAINER)
        last = self.pod_manager.container_log_times.get(name)
        since = {"since_seconds": int(time.time() - last.timestamp()) + 2} if last else {}
        try:
            lines = self.pod_manager.read_pod_logs(pod, CONTAINER, timestamps=True, follow=False, **since)
            for line in lines:
                logged_at, text = parse_log_line(line.decode(errors="backslashreplace"))
                if logged_at and (last is None or logged_at > last):
                    self.pod_manager.log.info(self.remember(CONTAINER, text))
        except ApiException as error:
            if not 400 <= (error.status or 0) < 500:
                raise
            log.info("The node has no log of %s (%s).", pod.metadata.name, brief(error))

    def result(self, pod: Any) -> str | None:
        """The content of the result file, None if it cannot be read."""
        try:
            self.pod_manager.await_xcom_sidecar_container_start(pod)
            content = self.pod_manager.result_file(pod)
        except (AirflowException, ApiException, HTTPError, ValueError) as error:
            if isinstance(error, ApiException) and error.status == GONE:
                raise
            log.warning("The result file cannot be read from the pod (%s).", brief(error))
            return None
        return content.decode(errors="replace") or None

    def keep_pod(self) -> None:
        """Keep the last pod for inspection, without its sidecar, and marked so that no retry adopts it."""
        pod = self.pod_manager.last_state
        with contextlib.suppress(AirflowException, ApiException, HTTPError):
            self.pod_manager.extract_xcom_kill(pod)
        self.patch_already_checked(pod, reraise=False)


def describe_end(pod: Any, gone: bool) -> tuple[int, str]:
    """Exit code and explanation of a pod's end, from its last state; None if there never was one."""
    deleted = "Its pod was deleted while it ran, and not by Airflow."
    if pod is None:
        return KILLED, deleted
    ended = terminated(pod)
    limits = pod.spec.containers[0].resources.limits or {}
    if ended and ended.exit_code == 0:
        return 0, ""
    if pod.status.reason == "DeadlineExceeded":
        explanation = overdue(pod.spec.active_deadline_seconds)
    elif pod.status.reason == "Evicted":
        explanation = (
            f"Its node evicted it ({pod.status.message.strip()}); request all that it needs in [resources] of "
            "job.toml, or give it more scratch space in the pod template."
        )
    elif taken := disruption(pod):
        explanation = f"Kubernetes took its pod or its node away ({taken.reason}: {taken.message})."
    elif ended and ended.reason == "OOMKilled":
        explanation = (
            f"It ran out of memory at its limit of {limits.get('memory')}; give it more in [resources] of job.toml, "
            "or smaller input."
        )
    elif gone or (pod.metadata.deletion_timestamp and ended):
        explanation = deleted
    elif not ended:
        explanation = f"Its node {pod.spec.node_name} does not answer."
    else:
        explanation = ""
    return ended.exit_code if ended else KILLED, explanation


def disruption(pod: Any) -> Any:
    """The condition of a pod that Kubernetes itself ends, None if it does not."""
    for condition in pod.status.conditions or []:
        if condition.type == "DisruptionTarget" and condition.status == "True":
            return condition
    return None


def terminated(pod: Any) -> Any:
    """The end of the job's container, None if it has not ended."""
    for container in pod.status.container_statuses or []:
        if container.name == CONTAINER:
            return container.state.terminated
    return None


def obstacle(pod: Any) -> str:
    """The reason that a pod does not start: no image, no node, or another that its containers report."""
    for container in pod.status.container_statuses or []:
        waiting = container.state.waiting
        if waiting and "Image" in (waiting.reason or ""):
            return (
                f"its image {container.image} cannot be pulled ({waiting.reason}: {waiting.message}); push it, or "
                "correct the registry of the environment."
            )
        if waiting and waiting.message:
            return f"{waiting.reason}: {waiting.message}"
    for condition in pod.status.conditions or []:
        if condition.type == "PodScheduled" and condition.status == "False":
            return (
                f"no node takes it ({condition.message}); request less in [resources] of job.toml, or add capacity to "
                "the cluster."
            )
    return ""


def brief(error: BaseException) -> str:
    """An error in one line."""
    reason = f"{error.status} {error.reason}" if isinstance(error, ApiException) else str(error)
    return f"{type(error).__name__}: {reason.splitlines()[0] if reason else ''}"

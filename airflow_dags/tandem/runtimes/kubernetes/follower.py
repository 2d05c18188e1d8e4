"""A pod from its start to its end, whatever happens to it on the way: its log, its result, and why it ended."""

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
from tandem.runtimes.output import MAX_LINE, remembered

GONE = 404
KILLED = 137
PATIENCE_SECONDS = 30  # how long a pod may be overdue that was told to go; then no node is there that could end it
MOMENT_SECONDS = 2  # how much later than a container's end the kubelet may tell of it
RESULT_SECONDS = 60  # for a result file to come over
PAUSE_SECONDS = 3  # before the API server is asked again
log = logging.getLogger(__name__)


class PodLost(AirflowException):
    """A pod was told to go and stays: its node does not answer."""


class Manager(PodManager):
    """Airflow's own, which also remembers the pod as it saw it last, and gives one up whose node is gone."""

    seen: Any = None

    def read_pod(self, pod: Any) -> Any:
        self.seen = super().read_pod(pod)
        told = self.seen.metadata.deletion_timestamp  # already with the time it was given to end
        now = datetime.datetime.now(datetime.UTC)
        if told and now > told + datetime.timedelta(seconds=PATIENCE_SECONDS):
            raise PodLost(f"The pod {pod.metadata.name} was told to end at {told} and is still there.")
        return self.seen

    def container_is_running(self, pod: Any, container_name: str) -> bool:
        """Whether it runs; a log ends a moment before its container is told to have ended, and is not read again."""
        running = super().container_is_running(pod, container_name)
        end = time.monotonic() + MOMENT_SECONDS
        while running and container_name == CONTAINER and time.monotonic() < end:
            time.sleep(0.2)
            running = super().container_is_running(pod, container_name)
        return running

    def result_file(self, pod: Any) -> bytes:
        """The content of the result file, of at most one byte more than a result may have; nothing if there is none.

        Airflow's own reads all of whatever lies there, and waits for ever for a pipe.
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
        with contextlib.closing(stream) as answer:
            answer.run_forever(timeout=RESULT_SECONDS)
            return bytes(answer.read_stdout())


class Follower(KubernetesPodOperator):
    """Airflow's own operator, of which a runtime uses what it does with a pod that is there."""

    def __init__(self, **options: Any) -> None:
        super().__init__(task_id="pod", startup_check_interval_seconds=1, log_formatter=self.keep, **options)
        self.last_lines: deque[str] = deque([""], maxlen=1)
        self.taken_away = False  # the pod that was followed last, before its job had ended by itself

    @cached_property
    def pod_manager(self) -> Manager:
        return Manager(self.client)

    def keep(self, container: str, line: str) -> str:
        """The line itself, remembered as the last one if it says something."""
        if line.strip():
            self.last_lines.append(remembered(line))
        return line.rstrip()[:MAX_LINE]

    def follow(self, pod: Any) -> Outcome:
        """Print the log of a pod as it comes until its job has ended; AirflowException says why it did not start.

        While the API server does not answer the pod goes on, and so does this, until the pod's own deadline is over.
        """
        give_up = time.monotonic() + self.startup_timeout_seconds + pod.spec.active_deadline_seconds
        result = None
        while True:
            try:
                self.await_pod_start(pod)
                self.await_pod_completion(pod)
                self.print_rest(pod)
                result = self.result(pod)
                seen = self.pod_manager.read_pod(pod)
                break
            except (ApiException, HTTPError, KubernetesApiException) as error:
                if isinstance(error, ApiException) and error.status == GONE:
                    seen = None
                    break
                if time.monotonic() > give_up or (isinstance(error, ApiException) and 400 <= (error.status or 0) < 500):
                    raise
                log.warning("Kubernetes does not answer (%s); the pod goes on, so it is asked again.", brief(error))
                time.sleep(PAUSE_SECONDS)
            except AirflowException as error:  # it did not start, or it is lost
                seen = self.pod_manager.seen
                if seen.status.phase == "Pending" and not isinstance(error, PodLost):
                    raise AirflowException(
                        f"The pod {pod.metadata.name} did not start: {obstacle(seen) or error}"
                    ) from None
                break
        last = seen or self.pod_manager.seen
        code, explanation = end(last, gone=seen is None)
        self.taken_away = seen is None or bool(disruption(last)) or last.status.phase == "Failed"
        unknown = last is None or (terminated(last) is None and last.status.reason != "DeadlineExceeded")
        return Outcome(code, result, self.last_lines[0], explanation, guessed=unknown)

    def print_rest(self, pod: Any) -> None:
        """Print what a job said last, if the connection had just been cut: Airflow does not read the log again then."""
        name = (pod.metadata.namespace, pod.metadata.name, CONTAINER)
        last = self.pod_manager.container_log_times.get(name)
        since = {"since_seconds": int(time.time() - last.timestamp()) + 2} if last else {}
        try:
            lines = self.pod_manager.read_pod_logs(pod, CONTAINER, timestamps=True, follow=False, **since)
            for each in lines:
                said, text = parse_log_line(each.decode(errors="backslashreplace"))
                if said and (last is None or said > last):
                    self.pod_manager.log.info(self.keep(CONTAINER, text))
        except ApiException as error:
            if not 400 <= (error.status or 0) < 500:
                raise
            log.info("The node has no log of %s (%s).", pod.metadata.name, brief(error))

    def result(self, pod: Any) -> str | None:
        """The content of the result file, None if it cannot be had."""
        try:
            self.pod_manager.await_xcom_sidecar_container_start(pod)
            content = self.pod_manager.result_file(pod)
        except (AirflowException, ApiException, HTTPError, ValueError) as error:
            if isinstance(error, ApiException) and error.status == GONE:
                raise
            log.warning("The result file cannot be had from the pod (%s).", brief(error))
            return None
        return content.decode(errors="replace") or None

    def leave(self) -> None:
        """Let the pod seen last stay for people to look at, without its sidecar, and not to be taken for a live one."""
        pod = self.pod_manager.seen
        with contextlib.suppress(AirflowException, ApiException, HTTPError):
            self.pod_manager.extract_xcom_kill(pod)
        self.patch_already_checked(pod, reraise=False)


def end(pod: Any, gone: bool) -> tuple[int, str]:
    """Exit code, and what Kubernetes knows of the end beside it, of a pod as it was seen last; None: it never was."""
    deleted = "Its pod was deleted while it ran, and not by Airflow."
    if pod is None:
        return KILLED, deleted
    ended = terminated(pod)
    limits = pod.spec.containers[0].resources.limits or {}
    if ended and ended.exit_code == 0:
        return 0, ""
    if pod.status.reason == "DeadlineExceeded":
        why = overdue(pod.spec.active_deadline_seconds)
    elif pod.status.reason == "Evicted":
        why = (
            f"Its node evicted it ({pod.status.message.strip()}); ask in [resources] of job.toml for all that it needs "
            "or let the pod template give it more scratch space."
        )
    elif taken := disruption(pod):
        why = f"Kubernetes took its place or its node away ({taken.reason}: {taken.message})."
    elif ended and ended.reason == "OOMKilled":
        why = (
            f"It ran out of memory at its limit of {limits.get('memory')}; give it more in [resources] of job.toml, "
            "or smaller input."
        )
    elif gone or (pod.metadata.deletion_timestamp and ended):
        why = deleted
    elif not ended:
        why = f"Its node {pod.spec.node_name} does not answer."
    else:
        why = ""
    return ended.exit_code if ended else KILLED, why


def disruption(pod: Any) -> Any:
    """The condition that says that Kubernetes itself ends a pod, None if it does not."""
    for each in pod.status.conditions or []:
        if each.type == "DisruptionTarget" and each.status == "True":
            return each
    return None


def terminated(pod: Any) -> Any:
    """How the job's container ended, None if it has not."""
    for each in pod.status.container_statuses or []:
        if each.name == CONTAINER:
            return each.state.terminated
    return None


def obstacle(pod: Any) -> str:
    """Why a pod does not start: no image, no node, or what else its containers wait for."""
    for each in pod.status.container_statuses or []:
        waiting = each.state.waiting
        if waiting and "Image" in (waiting.reason or ""):
            return (
                f"its image {each.image} cannot be had ({waiting.reason}: {waiting.message}); push it, or correct the "
                "registry of the environment."
            )
        if waiting and waiting.message:
            return f"{waiting.reason}: {waiting.message}"
    for each in pod.status.conditions or []:
        if each.type == "PodScheduled" and each.status == "False":
            return (
                f"no node takes it ({each.message}); ask for less in [resources] of job.toml, or give the cluster more."
            )
    return ""


def brief(error: BaseException) -> str:
    """An error in one line."""
    reason = f"{error.status} {error.reason}" if isinstance(error, ApiException) else str(error)
    return f"{type(error).__name__}: {reason.splitlines()[0] if reason else ''}"

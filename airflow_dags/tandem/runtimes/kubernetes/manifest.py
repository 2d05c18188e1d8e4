"""The pod of an attempt: the environment's template, resources from job.toml, names and labels of the attempt."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from tandem.catalogue import Job
from tandem.dag_errors import PipelineError
from tandem.pin_release import fingerprint
from tandem.protocol import image, quantity
from tandem.runtimes.base import Attempt

CONTAINER = "base"  # the name of the container in Airflow's own operator
# A deleted pod stays two seconds longer than its job, so that its end can be read; Airflow's own sidecar never ends.
SIDECAR = 'trap "exit 0" INT; trap "sleep 2; exit 0" TERM; while true; do sleep 1 & wait; done'
SIDECAR_RESOURCES = {"cpu": "50m", "memory": "32Mi"}  # for a shell that sleeps, and prints a file once


def request(template: Path, registry: str, job: Job, cpu_reserved: float) -> dict[str, Any]:
    """The pod of a job before its attempt is known; PipelineError names the error in the template."""
    from tandem.runtimes.kubernetes import schema  # 1 s, a cost that only pipelines with pods should have

    pod = json.loads(template.read_text())
    schema.check(pod, "V1Pod", template.name)
    containers = [each["name"] for each in pod.get("spec", {}).get("containers", [])]
    if containers != [CONTAINER] or not pod.get("metadata", {}).get("namespace"):
        raise PipelineError(
            f"{template.name} has the containers {containers} and the namespace "
            f"{pod.get('metadata', {}).get('namespace')!r}, expected one container '{CONTAINER}' and a namespace."
        )
    spec = pod["spec"]
    if "deadline_seconds" in job.resources:
        spec["activeDeadlineSeconds"] = job.resources["deadline_seconds"]
    if "activeDeadlineSeconds" not in spec:
        raise PipelineError(
            f"{template.name} has no activeDeadlineSeconds; set it, because only it ends a pod whose worker died."
        )
    limits = {name: job.resources[name] for name in ("cpu", "memory") if name in job.resources}
    requests = dict(limits)
    if "cpu" in limits:
        requests["cpu"] = f"{quantity(limits['cpu']) * cpu_reserved * 1000:.0f}m"
    spec["containers"][0] |= {
        "image": image(job.image, fingerprint(job.image), registry),
        "resources": {"requests": requests, "limits": limits},
    }
    return {"product": job.image, "fingerprint": fingerprint(job.image), "pod": pod}


def manifest(attempt: Attempt) -> Any:
    """The V1Pod of an attempt, complete with name, labels, arguments and the XCom sidecar.

    The sidecar is a shell in the job's own image, so that no other image is needed.
    """
    from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator  # 3 s, too slow for parsing
    from airflow.providers.cncf.kubernetes.utils.xcom_sidecar import PodDefaults, add_xcom_sidecar

    pod = bare(attempt)
    container = pod["spec"]["containers"][0]
    result = {"name": "TANDEM_RESULT_FILE", "value": f"{PodDefaults.XCOM_MOUNT_PATH}/return.json"}
    container["env"] = [*container.get("env", []), result]
    full = add_xcom_sidecar(
        PodGenerator.deserialize_model_dict(pod),
        sidecar_container_image=container["image"],
        sidecar_container_resources={"requests": SIDECAR_RESOURCES, "limits": SIDECAR_RESOURCES},
    )
    sidecar = full.spec.containers[-1]
    sidecar.security_context = container.get("securityContext", {})  # Composer's provider has no argument for it
    sidecar.command[-1] = SIDECAR
    return full


def bare(attempt: Attempt) -> dict[str, Any]:
    """The pod of an attempt without the sidecar, so that it ends with its job."""
    pod: dict[str, Any] = json.loads(json.dumps(attempt.request["pod"]))
    pod |= {"apiVersion": "v1", "kind": "Pod"}
    pod["metadata"] |= {"name": name(attempt), "labels": {**pod["metadata"].get("labels", {}), **labels(attempt)}}
    # Kubernetes expands $(NAME) in arguments, secrets too; $$ is an escaped $.
    pod["spec"]["containers"][0]["args"] = [argument.replace("$", "$$") for argument in attempt.arguments]
    return pod


def name(attempt: Attempt) -> str:
    """The name of an attempt's pod: readable, and unique by the hash of the task's key in the lake."""
    shard = [] if attempt.map_index is None else [str(attempt.map_index)]
    parts = [attempt.dag_id[:14], attempt.task_id[:18], *shard, digest(attempt), str(attempt.number)]
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


def digest(attempt: Attempt) -> str:
    """A hash of the task's key, which differs for a run of the same ID on another lake."""
    return hashlib.sha256(attempt.key.encode()).hexdigest()[:12]


def labels(attempt: Attempt) -> dict[str, str]:
    """DAG, run, task, map index and attempt, as Airflow's own operator labels its pods, and the digest of the key."""
    return {**labels_of_task(attempt), "try_number": str(attempt.number)}


def labels_of_task(attempt: Attempt) -> dict[str, str]:
    """The labels that all attempts of a task share."""
    from airflow.providers.cncf.kubernetes.pod_generator import make_safe_label_value

    names = {"dag_id": attempt.dag_id, "run_id": attempt.run_id, "task_id": attempt.task_id}
    if attempt.map_index is not None:
        names["map_index"] = str(attempt.map_index)
    return {"task_key": digest(attempt), **{name: make_safe_label_value(value) for name, value in names.items()}}

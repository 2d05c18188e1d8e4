"""What a work looks like as a pod: the environment's template, what job.toml says, and what names this attempt."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from tandem.catalogue import Job
from tandem.dag_errors import PipelineError
from tandem.pin_release import fingerprint
from tandem.protocol import image
from tandem.runtimes.base import Attempt
from tandem.runtimes.quantity import quantity

CONTAINER = "base"  # the name that Airflow's own operator gives the container it runs
# A pod that is told to end stays two seconds longer than its job, to be seen as it ended; Airflow's own stays for ever.
SIDECAR = 'trap "exit 0" INT; trap "sleep 2; exit 0" TERM; while true; do sleep 1 & wait; done'
SIDECARS_SHARE = {"cpu": "50m", "memory": "32Mi"}  # a shell that sleeps, and once prints a file


def request(template: Path, registry: str, job: Job, cpu_reserved: float) -> dict[str, Any]:
    """The pod of a job before its attempt is known; PipelineError names what is wrong with the template."""
    from tandem.runtimes.kubernetes import schema  # 1 s, which only pipelines with pods must pay

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
        raise PipelineError(f"{template.name} has no activeDeadlineSeconds; set it, it ends pods that all have left.")
    limits = {name: job.resources[name] for name in ("cpu", "memory") if name in job.resources}
    requests = dict(limits)
    if "cpu" in limits:
        requests["cpu"] = f"{quantity(limits['cpu']) * cpu_reserved * 1000:.0f}m"
    spec["containers"][0] |= {
        "image": image(job.name, fingerprint(job.name), registry),
        "resources": {"requests": requests, "limits": limits},
    }
    return {"fingerprint": fingerprint(job.name), "pod": pod}


def manifest(work: Attempt) -> Any:
    """The pod of an attempt as it is sent, a V1Pod: with its name, labels, arguments, and the XCom sidecar.

    The sidecar is a shell in the job's own image, so that no other image has to be there.
    """
    from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator  # 3 s, which parsing must not pay
    from airflow.providers.cncf.kubernetes.utils.xcom_sidecar import PodDefaults, add_xcom_sidecar

    pod = bare(work)
    container = pod["spec"]["containers"][0]
    result = {"name": "TANDEM_RESULT_FILE", "value": f"{PodDefaults.XCOM_MOUNT_PATH}/return.json"}
    container["env"] = [*container.get("env", []), result]
    full = add_xcom_sidecar(
        PodGenerator.deserialize_model_dict(pod),
        sidecar_container_image=container["image"],
        sidecar_container_resources={"requests": SIDECARS_SHARE, "limits": SIDECARS_SHARE},
        sidecar_container_security_context=container.get("securityContext", {}),
    )
    full.spec.containers[-1].command[-1] = SIDECAR
    return full


def bare(work: Attempt) -> dict[str, Any]:
    """The pod of an attempt without the sidecar: it ends with its job."""
    pod: dict[str, Any] = json.loads(json.dumps(work.request["pod"]))
    pod |= {"apiVersion": "v1", "kind": "Pod"}
    pod["metadata"] |= {"name": name(work), "labels": {**pod["metadata"].get("labels", {}), **labels(work)}}
    # Kubernetes puts a variable's value for $(NAME) in arguments, secrets too; $$ it takes for $.
    pod["spec"]["containers"][0]["args"] = [argument.replace("$", "$$") for argument in work.arguments]
    return pod


def name(work: Attempt) -> str:
    """The name of an attempt's pod: to be read by people, unique by the hash of the task's place in the lake."""
    part = [] if work.map_index is None else [str(work.map_index)]
    parts = [work.dag_id[:14], work.task_id[:18], *part, place(work), str(work.attempt)]
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


def place(work: Attempt) -> str:
    """A hash of the task's place in the lake: a run of the same name on another lake is another one."""
    return hashlib.sha256(work.key.encode()).hexdigest()[:12]


def labels(work: Attempt) -> dict[str, str]:
    """Dag, run, task, map index and attempt, as Airflow's own operator labels its pods, and the place in the lake."""
    return {**labels_of_task(work), "try_number": str(work.attempt)}


def labels_of_task(work: Attempt) -> dict[str, str]:
    """The labels that all attempts of a task share."""
    from airflow.providers.cncf.kubernetes.pod_generator import make_safe_label_value

    names = {"dag_id": work.dag_id, "run_id": work.run_id, "task_id": work.task_id}
    if work.map_index is not None:
        names["map_index"] = str(work.map_index)
    return {"place": place(work), **{name: make_safe_label_value(value) for name, value in names.items()}}

"""Runtime `docker`: a job as a container of its image, on the engine that DOCKER_HOST names.

Functions import the client themselves: it takes as long as all else that a DAG file imports, and most environments
never use it.
"""

import contextlib
import hashlib
import logging
import os
import re
import shlex
import shutil
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from airflow.sdk.exceptions import AirflowException, AirflowFailException

from tandem.catalogue import Job
from tandem.pin_release import fingerprint
from tandem.protocol import (
    CREDENTIALS_FILE,
    image,
    is_on_loopback,
    quantity,
    service_variables,
    services_of,
)
from tandem.runtimes.base import GRACE_SECONDS, Attempt, Outcome, check_built, overdue
from tandem.runtimes.output import lines, pass_on, read_result
from tandem.texts import ANYWHERE

RESULT = "/result"  # the folder of the result file in the container
SCRATCH = "/tmp"
LABELLED = ("key", "dag_id", "run_id", "task_id", "map_index", "deadline_seconds")
MAX_PROCESSES = 1024  # and threads
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Docker:
    """Runs the image `tandem/<product>:<fingerprint>`, which the engine has or pulls from the environment's registry.

    A container gets the lake (its folder, or the network and the variables of its store), the services that its
    job.toml names (by network and variables too), a scratch folder, and this machine's OPENBLAS_* variables, nothing
    else. The light engine spills to its scratch folder, which is on disk: memory would count against the container's
    limit.
    """

    name: ClassVar[str] = "docker"
    refused: ClassVar[re.Pattern[str]] = ANYWHERE
    labels: ClassVar[tuple[str, ...]] = ()
    registry: str = ""

    def request(self, job: Job, settings: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "product": job.image,
            "fingerprint": fingerprint(job.image),
            "scratch_on_disk": job.engine == "spark",
            "registry": self.registry,
            "services": list(job.services),
            **job.resources,
        }

    def check_product(self, attempt: Attempt) -> None:
        check_built(attempt)

    def submit(self, attempt: Attempt) -> Any:
        from docker.errors import NotFound

        client = engine()
        same_task = {"label": f"tandem.key={attempt.key}"}
        for container in client.containers.list(all=True, ignore_removed=True, filters=same_task):
            if int(container.labels["tandem.attempt"]) < attempt.number:  # its worker died before it could
                best_effort(remove, container)  # one that stays cannot publish any more
        try:
            container = client.containers.get(name(attempt))
        except NotFound:
            pull(client, attempt)
            container = create(client, attempt)
        if container.status == "created":
            try:
                container.start()
            except BaseException:
                remove(container)
                raise
        return container

    def links(self, handle: Any) -> dict[str, str]:
        return {"Container": handle.name}

    def watch(self, handle: Any) -> Outcome:
        last_lines = deque([""], maxlen=1)
        output = handle.logs(stream=True, follow=True)
        ended = False
        try:
            with Deadline(self, handle, output) as deadline:
                pass_on(lines(output), last_lines)
                if deadline.failure:  # it still runs, unwatched
                    explanation = f"{deadline.explanation} {deadline.failure}"
                    return Outcome(1, None, last_lines[0], explanation, guessed=True)
                exit_code = handle.wait()["StatusCode"]
            ended = True
            handle.reload()
            result = read_result(result_folder(handle) / "result.json")
            explanations = [deadline.explanation, explain(handle, exit_code)]
            memory = exit_code != 0 and handle.attrs["State"]["OOMKilled"]
            explanation = "\n".join(filter(None, explanations))
            return Outcome(exit_code, result, last_lines[0], explanation, out_of_memory=memory)
        finally:  # nothing here changes the job's outcome
            if not ended:  # a timeout of the task interrupted this
                best_effort(self.cancel, handle)
            best_effort(remove, handle)

    def cancel(self, handle: Any) -> None:
        from docker.errors import NotFound

        with contextlib.suppress(NotFound):
            # On a separate connection, because the signal may have come while `watch` held the lock of its own.
            engine().containers.get(handle.id).stop(timeout=GRACE_SECONDS)

    def rerun_command(self, attempt: Attempt) -> str:
        return shlex.join(self.payload(attempt))

    def payload(self, attempt: Attempt) -> list[str]:
        """A command line that creates the same container."""
        container = options(attempt)
        flags = {
            "user": container["user"],
            "network": container["network_mode"],
            "memory": container["mem_limit"],
            "memory-swap": container["mem_limit"],
            "cpu-quota": container["cpu_quota"],
            "pids-limit": MAX_PROCESSES,
            "volume" if attempt.request["scratch_on_disk"] else "tmpfs": SCRATCH,
            "cap-drop": "ALL",
            "security-opt": "no-new-privileges",
        }
        command: list[str] = [
            *("docker", "run", "--rm", "--read-only"),
            *(f"--{flag}={value}" for flag, value in flags.items() if value),
            *(
                f"--volume={mount['Source']}:{mount['Target']}{':ro' * mount['ReadOnly']}"
                for mount in container["mounts"]
            ),
            *(f"--env={variable}" for variable in container["environment"]),  # by name: the log shows no secret
            image_of(attempt),
        ]
        return [*command, *attempt.arguments]


class Deadline:
    """Ends a container at its deadline, from a separate thread; closes the container's output if that fails."""

    def __init__(self, runtime: Docker, container: Any, output: Any) -> None:
        self.runtime = runtime
        self.container = container
        self.output = output
        self.explanation = ""
        self.failure = ""
        label = container.labels.get("tandem.deadline_seconds", "None")
        self.seconds = float("inf") if label == "None" else float(label)
        self.timer = threading.Timer(min(self.seconds, threading.TIMEOUT_MAX), self.end)
        self.timer.daemon = True

    def __enter__(self) -> "Deadline":
        self.timer.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.timer.cancel()

    def end(self) -> None:
        self.explanation = overdue(self.seconds)
        try:
            self.runtime.cancel(self.container)
        except engine_errors() as error:
            self.failure = f"The engine could not end its container: {error}."
            self.output.close()


def best_effort(action: Callable[[Any], None], container: Any) -> None:
    """Run an action on a container; only log it if the engine fails."""
    try:
        action(container)
    except engine_errors() as error:
        log.warning("The engine could not end or remove %s (%s); remove it yourself.", container.name, error)


def engine_errors() -> tuple[type[Exception], ...]:
    """The errors of a request to the engine."""
    from docker.errors import DockerException
    from requests.exceptions import RequestException

    return DockerException, RequestException, AirflowException


def engine() -> Any:
    """A client of the engine; AirflowException if no engine answers."""
    import docker

    try:
        return docker.from_env()
    except docker.errors.DockerException as error:
        raise AirflowException(
            f"No Docker engine answers ({error}); start it, or name another in DOCKER_HOST."
        ) from None


def image_of(attempt: Attempt) -> str:
    return image(attempt.request["product"], attempt.request["fingerprint"])


def name(attempt: Attempt) -> str:
    """The name of an attempt's container: readable, and unique by the hash of the task's key in the lake.

    Engines allow fewer characters in names than Airflow in IDs.
    """
    shard = [] if attempt.map_index is None else [str(attempt.map_index)]
    digest = hashlib.sha256(attempt.key.encode()).hexdigest()[:16]
    parts = ["tandem", attempt.dag_id[:60], attempt.task_id[:60], *shard, digest, str(attempt.number)]
    return re.sub(r"[^A-Za-z0-9_.-]", "_", "-".join(parts))


def options(attempt: Attempt) -> dict[str, Any]:
    """Options of an attempt's container: lake, network, user, memory, CPU."""
    from docker.types import Mount

    request = attempt.request
    memory = int(quantity(request["memory"])) if "memory" in request else None
    container: dict[str, Any] = {
        "mem_limit": memory,
        "cpu_quota": int(quantity(request["cpu"]) * 100_000) if "cpu" in request else None,  # microseconds in 0.1 s
        "user": None,  # the user of the image
        "network_mode": "none",
        "mounts": [],
        "environment": {  # which decides the last bits of results
            name: value for name, value in os.environ.items() if name.startswith("OPENBLAS_")
        },
    }
    if attempt.lake.startswith("file://"):
        folder = Path(attempt.lake.removeprefix("file://"))
        folder.mkdir(parents=True, exist_ok=True)
        owner = folder.stat()
        container["user"] = f"{owner.st_uid}:{owner.st_gid}"  # only the owner may write to it
        container["mounts"] = [Mount(str(folder), str(folder), type="bind")]
    if services := services_of(attempt.lake, request.get("services", [])):
        passed = service_variables(services, os.environ)
        container["environment"] |= passed
        if file := passed.get(CREDENTIALS_FILE):
            container["mounts"].append(Mount(file, file, type="bind", read_only=True))
        local = any(is_on_loopback(service, os.environ) for service in services)
        container["network_mode"] = "host" if local else "bridge"
    return container


def pull(client: Any, attempt: Attempt) -> None:
    """Pull the image of an attempt if the engine lacks it; AirflowFailException if there is none to pull."""
    from docker.errors import ImageNotFound, NotFound

    registry = attempt.request.get("registry")
    try:
        client.images.get(image_of(attempt))
    except ImageNotFound:
        if not registry:
            raise AirflowFailException(
                f"The engine has no image {image_of(attempt)}; build it: make build JOB={attempt.job}."
            ) from None
        repository, tag = f"{registry}/{image_of(attempt)}".rsplit(":", 1)
        log.info("Pulling %s:%s.", repository, tag)
        try:
            client.images.pull(repository, tag).tag(image_of(attempt))
        except NotFound as error:
            raise AirflowFailException(
                f"There is no image {repository}:{tag} ({error.explanation}); deploy the job: make deploy-jobs."
            ) from None


def create(client: Any, attempt: Attempt) -> Any:
    """Create the container of an attempt, without starting it."""
    from docker.types import Mount

    container = options(attempt)
    results = (
        Path(tempfile.mkdtemp(prefix="tandem-")) / "result"
    )  # below a folder that only this user and the engine can enter
    results.mkdir()
    results.chmod(0o777)  # for any user of the container
    container["mounts"] += [Mount(RESULT, str(results), type="bind")]
    if attempt.request["scratch_on_disk"]:
        container["mounts"] += [Mount(SCRATCH, None, type="volume")]  # without a name: it goes with the container
    container["environment"] |= {"TANDEM_RESULT_FILE": f"{RESULT}/result.json"}
    try:
        return client.containers.create(
            image_of(attempt),
            attempt.arguments,
            name=name(attempt),
            labels=labels(attempt),
            read_only=True,
            pids_limit=MAX_PROCESSES,
            tmpfs=None if attempt.request["scratch_on_disk"] else {SCRATCH: ""},
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            memswap_limit=container["mem_limit"],  # no swap
            **container,
        )
    except BaseException:
        shutil.rmtree(results.parent)
        raise


def labels(attempt: Attempt) -> dict[str, str]:
    values = {"attempt": attempt.number, **{name: getattr(attempt, name) for name in LABELLED}}
    return {f"tandem.{name}": str(value) for name, value in values.items()}


def result_folder(container: Any) -> Path:
    """The folder on this machine that contains a container's result file."""
    (source,) = [mount["Source"] for mount in container.attrs["Mounts"] if mount["Destination"] == RESULT]
    return Path(source)


def remove(container: Any) -> None:
    """Remove a container, running or not, and its result; another process may remove it concurrently."""
    from docker.errors import APIError

    try:
        container.remove(force=True, v=True)
    except APIError as error:
        if error.status_code not in (404, 409):  # removed, being removed
            raise
    shutil.rmtree(result_folder(container).parent, ignore_errors=True)


def explain(container: Any, exit_code: int) -> str:
    """The reason of a container's end that only the engine knows: that memory ran out."""
    if exit_code == 0 or not container.attrs["State"]["OOMKilled"]:
        return ""
    limit = container.attrs["HostConfig"]["Memory"] >> 20
    return (
        f"It ran out of memory at its limit of {limit} MiB; give it more in [resources] of job.toml, or smaller input."
    )

"""Runtime `docker`: a Python job as a container of its image, on the engine that DOCKER_HOST names."""

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

import docker
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.types import Mount
from requests.exceptions import RequestException

from tandem.catalogue import Job
from tandem.pin_release import fingerprint
from tandem.protocol import image, is_on_loopback
from tandem.runtimes.base import Attempt, Outcome, check_built, overdue
from tandem.runtimes.local.process import GRACE_SECONDS, pass_on
from tandem.runtimes.output import lines, read_result
from tandem.runtimes.quantity import quantity
from tandem.texts import ANYWHERE

RESULT = "/result"  # the folder of the result file, inside
NAMED_AFTER = ("key", "dag_id", "run_id", "task_id", "map_index", "attempt", "deadline_seconds")  # labels of a work
MAX_PROCESSES = 1024  # threads count, too
FAILURES = (DockerException, RequestException, AirflowException)  # of an engine
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Docker:
    """Runs the image `tandem/<job>:<fingerprint>`, which the engine has or gets from the environment's registry.

    A container gets the lake (its folder, or the network and AWS_* variables), the services that its job.toml names
    (by network and variables too), a scratch folder, and nothing else of this machine but how OpenBLAS is to compute.
    """

    refused: ClassVar[re.Pattern[str]] = ANYWHERE
    registry: str = ""

    def request(self, job: Job, settings: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "fingerprint": fingerprint(job.name),
            "registry": self.registry,
            "services": list(job.services),
            **job.resources,
        }

    def submit(self, work: Attempt) -> Any:
        check_built(work)
        client = engine()
        of_this_task = {"label": f"tandem.key={work.key}"}
        for container in client.containers.list(all=True, ignore_removed=True, filters=of_this_task):
            if int(container.labels["tandem.attempt"]) < work.attempt:  # its worker died and could not do it
                attempt(remove, container)  # one that stays can publish no more
        try:
            container = client.containers.get(name(work))
        except NotFound:
            fetch(client, work)
            container = create(client, work)
        if container.status == "created":
            try:
                container.start()
            except BaseException:
                remove(container)
                raise
        return container

    def watch(self, handle: Any) -> Outcome:
        last_lines = deque([""], maxlen=1)
        output = handle.logs(stream=True, follow=True)
        ended = False
        try:
            with Deadline(self, handle, output) as deadline:
                pass_on(lines(output), last_lines)
                if deadline.failure:  # it still runs, and nobody waits for it any more
                    why = f"{deadline.explanation} {deadline.failure}"
                    return Outcome(1, None, last_lines[0], why, guessed=True)
                exit_code = handle.wait()["StatusCode"]
            ended = True
            handle.reload()
            result = read_result(result_folder(handle) / "result.json")
            causes = [deadline.explanation, explanation(handle, exit_code)]
            return Outcome(exit_code, result, last_lines[0], "\n".join(filter(None, causes)))
        finally:  # none of it changes how the job ended
            if not ended:  # a timeout of the task interrupted this
                attempt(self.cancel, handle)
            attempt(remove, handle)

    def cancel(self, handle: Any) -> None:
        with contextlib.suppress(NotFound):
            # By a connection of its own: the signal may have come while `watch` held its lock.
            engine().containers.get(handle.id).stop(timeout=GRACE_SECONDS)

    def again(self, work: Attempt) -> str:
        return shlex.join(self.sent(work))

    def sent(self, work: Attempt) -> list[str]:
        """A command line that makes the same container."""
        given = options(work)
        flags = {
            "user": given["user"],
            "network": given["network_mode"],
            "memory": given["mem_limit"],
            "memory-swap": given["mem_limit"],
            "cpu-quota": given["cpu_quota"],
            "pids-limit": MAX_PROCESSES,
            "tmpfs": "/tmp",
            "cap-drop": "ALL",
            "security-opt": "no-new-privileges",
        }
        command: list[str] = [
            *("docker", "run", "--rm", "--read-only"),
            *(f"--{flag}={value}" for flag, value in flags.items() if value),
            *(f"--volume={mount['Source']}:{mount['Target']}" for mount in given["mounts"]),
            *(f"--env={variable}" for variable in given["environment"]),  # by name: the log shows no secret
            image_of(work),
        ]
        return [*command, *work.arguments]


class Deadline:
    """Ends a container, from a thread of its own, when its work has taken too long; closes its output if it can't."""

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
        except FAILURES as error:
            self.failure = f"The engine could not end its container: {error}."
            self.output.close()


def attempt(action: Callable[[Any], None], container: Any) -> None:
    """Have the engine do something with a container; if it can't, the log says so and that is all."""
    try:
        action(container)
    except FAILURES as error:
        log.warning("The engine could not end or remove %s (%s); remove it yourself.", container.name, error)


def engine() -> Any:
    """A client of the engine; AirflowException if none answers."""
    try:
        return docker.from_env()
    except DockerException as error:
        raise AirflowException(
            f"No Docker engine answers ({error}); start it, or name another in DOCKER_HOST."
        ) from None


def image_of(work: Attempt) -> str:
    return image(work.job, work.request["fingerprint"])


def name(work: Attempt) -> str:
    """The name of an attempt's container: to be read by people, and unique by the hash of the task's place in the lake.

    An engine allows fewer characters in it than Airflow in IDs.
    """
    part = [] if work.map_index is None else [str(work.map_index)]
    place = hashlib.sha256(work.key.encode()).hexdigest()[:16]
    parts = ["tandem", work.dag_id[:60], work.task_id[:60], *part, place, str(work.attempt)]
    return re.sub(r"[^A-Za-z0-9_.-]", "_", "-".join(parts))


def options(work: Attempt) -> dict[str, Any]:
    """What the container of a work may use: lake, network, user, memory, processor."""
    request = work.request
    memory = int(quantity(request["memory"])) if "memory" in request else None
    given: dict[str, Any] = {
        "mem_limit": memory,
        "cpu_quota": int(quantity(request["cpu"]) * 100_000) if "cpu" in request else None,  # microseconds in 0.1 s
        "user": None,  # the image's own
        "network_mode": "none",
        "mounts": [],
        "environment": variables("OPENBLAS_"),  # how this machine wants to compute: it decides on last bits of results
    }
    if work.lake.startswith("file://"):
        folder = Path(work.lake.removeprefix("file://"))
        folder.mkdir(parents=True, exist_ok=True)
        owner = folder.stat()
        given["user"] = f"{owner.st_uid}:{owner.st_gid}"  # no other may write to it
        given["mounts"] = [Mount(str(folder), str(folder), type="bind")]
    services = [*([] if work.lake.startswith("file://") else ["s3"]), *request.get("services", [])]
    if services:
        given["environment"] |= variables("AWS_") | variables("TANDEM_S3_") | variables("DYNAMODB_ENDPOINT")
        given["network_mode"] = "host" if any(is_on_loopback(service, os.environ) for service in services) else "bridge"
    return given


def variables(prefix: str) -> dict[str, str]:
    """The environment variables of this process whose names begin so."""
    return {name: value for name, value in os.environ.items() if name.startswith(prefix)}


def fetch(client: Any, work: Attempt) -> None:
    """Get the image of a work from the registry, if the engine lacks it; AirflowFailException if there is none."""
    registry = work.request.get("registry")
    try:
        client.images.get(image_of(work))
    except ImageNotFound:
        if not registry:
            raise AirflowFailException(
                f"The engine has no image {image_of(work)}; build it: make build JOB={work.job}."
            ) from None
        repository, tag = f"{registry}/{image_of(work)}".rsplit(":", 1)
        log.info("Pulling %s:%s.", repository, tag)
        try:
            client.images.pull(repository, tag).tag(image_of(work))
        except NotFound as error:
            raise AirflowFailException(
                f"There is no image {repository}:{tag} ({error.explanation}); release the job: make deploy-jobs."
            ) from None


def create(client: Any, work: Attempt) -> Any:
    """The container of a work, not yet started."""
    given = options(work)
    results = Path(tempfile.mkdtemp(prefix="tandem-")) / "result"  # in a folder that only the engine and we may enter
    results.mkdir()
    results.chmod(0o777)  # whatever user the container runs as
    given["mounts"] += [Mount(RESULT, str(results), type="bind")]
    given["environment"] |= {"TANDEM_RESULT_FILE": f"{RESULT}/result.json"}
    try:
        return client.containers.create(
            image_of(work),
            work.arguments,
            name=name(work),
            labels={f"tandem.{label}": str(getattr(work, label)) for label in NAMED_AFTER},
            read_only=True,
            pids_limit=MAX_PROCESSES,
            tmpfs={"/tmp": ""},
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            memswap_limit=given["mem_limit"],  # no swap
            **given,
        )
    except BaseException:
        shutil.rmtree(results.parent)
        raise


def result_folder(container: Any) -> Path:
    """The folder on this machine that a container's result file lies in."""
    (source,) = [mount["Source"] for mount in container.attrs["Mounts"] if mount["Destination"] == RESULT]
    return Path(source)


def remove(container: Any) -> None:
    """Remove a container, whatever it does, and its result; fine if another one does it, too."""
    try:
        container.remove(force=True, v=True)
    except APIError as error:
        if error.status_code not in (404, 409):  # it is gone, it is going
            raise
    shutil.rmtree(result_folder(container).parent, ignore_errors=True)


def explanation(container: Any, exit_code: int) -> str:
    """What the engine knows of a container's end beside its exit code."""
    if exit_code == 0 or not container.attrs["State"]["OOMKilled"]:
        return ""
    limit = container.attrs["HostConfig"]["Memory"] >> 20
    return (
        f"It ran out of memory at its limit of {limit} MiB; give it more in [resources] of job.toml, or smaller input."
    )

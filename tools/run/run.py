"""Run a job in its image as the runtimes of pipelines do, isolated from all but the lake; the exit code is the job's.

A Spark job runs in its light image, on DuckDB, or with `--kind image` in one with Spark.

Other options go to the job: `--from ROLE=TASK_ID`, `--set NAME=VALUE`; `--help` with a job prints the job's help.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from common.handover import storage
from common.handover.job_toml import Job
from common.protocol import (
    CREDENTIALS_FILE,
    arguments,
    image,
    is_on_loopback,
    light_product,
    service_variables,
    services_of,
)
from tools.command_line import exit_on_task_error
from tools.packaging.base_image import BASE_IMAGE
from tools.packaging.build import build_image, current_product
from tools.packaging.docker_client import docker_client
from tools.packaging.fingerprint import has_light, select_jobs
from tools.run.by_hand import add_task

KILLED = 137


@exit_on_task_error()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, add_help=False, allow_abbrev=False)
    parser.add_argument("--job", metavar="JOB", help="a job")
    parser.add_argument("--kind", choices=("light", "image"), help="of a Spark job's image; light if absent")
    parser.add_argument("--base-image", default=BASE_IMAGE, metavar="NAME", help="the base of its image")
    add_task(parser)
    parser.add_argument("--help", action="store_true", help="explain the job, or this command if no job is named")
    task, rest = parser.parse_known_args()
    if task.job is None:
        parser.print_help()
        sys.exit(0 if task.help else 2)
    task.task_id = task.task_id or task.job
    select_jobs([task.job])
    light = task.kind == "light" or (task.kind is None and has_light(task.job))
    wanted = current_product(light_product(task.job) if light else task.job, task.base_image)
    build_image(wanted)
    name = image(wanted.name, wanted.fingerprint)
    if task.help:
        sys.exit(call("run", "--rm", name, "--help"))
    code = call("run", *options(wanted.job, task.lake), name, *arguments(vars(task)), *rest)
    if code == KILLED:
        limit = wanted.job.resources.get("memory", "none")
        print(f"The container was killed, most likely at its memory limit ({limit}); see [resources] of job.toml.")
    sys.exit(code)


def options(job: Job, lake: str) -> list[str]:
    """Return docker options that grant a container the lake, services and limits of `job.toml`, and scratch space."""
    resources = job.resources
    # Spark jobs spill to a scratch folder on disk, from which Java also loads programs.
    scratch = "--tmpfs=/tmp" if job.engine == "python" else "--volume=/tmp"
    flags = ["--rm", "--read-only", scratch, "--cap-drop=ALL", "--security-opt=no-new-privileges"]
    flags += variables("OPENBLAS_")  # it affects the last bits of results
    if "memory" in resources:
        memory = resources["memory"].removesuffix("i")  # docker's units are binary without i
        flags += [f"--memory={memory}", f"--memory-swap={memory}"]
    if "cpu" in resources:
        cpu = resources["cpu"]
        flags.append(f"--cpus={int(cpu.removesuffix('m')) / 1000 if cpu.endswith('m') else cpu}")
    services = services_of(lake, job.services)
    if services:
        here = any(is_on_loopback(service, os.environ) for service in services)
        passed = service_variables(services, os.environ)
        flags += [f"--network={'host' if here else 'bridge'}", *(f"--env={name}" for name in sorted(passed))]
        if file := passed.get(CREDENTIALS_FILE):
            flags.append(f"--volume={file}:{file}:ro")
    else:
        flags += ["--network=none", "--hostname=job", "--add-host=job:127.0.0.1"]  # Java resolves its own host name
    if storage.is_remote(lake):
        return flags
    folder = Path(lake.removeprefix("file://"))
    folder.mkdir(parents=True, exist_ok=True)
    owner = folder.stat()  # the only user with write access
    return [*flags, f"--user={owner.st_uid}:{owner.st_gid}", f"--volume={folder}:{folder}"]


def variables(prefix: str) -> list[str]:
    """Return options that pass environment variables by a prefix of their names; the values stay hidden."""
    return [f"--env={name}" for name in sorted(os.environ) if name.startswith(prefix)]


def call(*arguments: str) -> int:
    """Run docker in the foreground; return its exit code, which is the container's."""
    process = subprocess.Popen([docker_client(), *arguments])
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:  # docker got the signal, too, and forwards it
            continue


if __name__ == "__main__":
    main()

"""Run a job in its image, as the runtimes of pipelines do: locked in, with the lake and nothing else; exits as the job.

What is not known here goes to the job: `--from ROLE=TASK_ID`, `--set NAME=VALUE`; `--help` with a job is the job's.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from common.errors import TaskError
from common.handover import storage
from common.handover.job_toml import Job
from common.protocol import arguments, image, is_on_loopback
from tools.packaging.base_image import BASE_IMAGE
from tools.packaging.build import build_image, current_product, select_jobs
from tools.packaging.docker_client import docker_client
from tools.run.by_hand import add_task

KILLED = 137


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, add_help=False, allow_abbrev=False)
    parser.add_argument("--job", metavar="JOB", help="a job; a Spark job runs on this machine alone")
    parser.add_argument("--base-image", default=BASE_IMAGE, metavar="NAME", help="what its image is built upon")
    add_task(parser)
    parser.add_argument("--help", action="store_true", help="explain the job, or this command if no job is named")
    task, rest = parser.parse_known_args()
    if task.job is None:
        parser.print_help()
        sys.exit(0 if task.help else 2)
    task.task_id = task.task_id or task.job
    try:
        select_jobs([task.job])
        wanted = current_product(task.job, task.base_image)
        build_image(wanted)
        name = image(task.job, wanted.fingerprint)
        if task.help:
            sys.exit(call("run", "--rm", name, "--help"))
        code = call("run", *options(wanted.job, task.lake), name, *arguments(vars(task)), *rest)
    except TaskError as error:
        sys.exit(str(error))
    if code == KILLED:
        limit = wanted.job.resources.get("memory", "none")
        print(f"The container was killed, most likely at its memory limit ({limit}); [resources] of job.toml has it.")
    sys.exit(code)


def options(job: Job, lake: str) -> list[str]:
    """What the container may use: the lake, the services and limits of `job.toml`, a scratch folder, nothing else."""
    resources = job.resources
    scratch = "--tmpfs=/tmp" if job.engine == "python" else "--volume=/tmp"  # Spark's is on disk and holds programs
    given = ["--rm", "--read-only", scratch, "--cap-drop=ALL", "--security-opt=no-new-privileges"]
    given += variables("OPENBLAS_")  # how this machine wants to compute: it decides on last bits of results
    if "memory" in resources:
        memory = resources["memory"].removesuffix("i")  # docker's units are binary without it
        given += [f"--memory={memory}", f"--memory-swap={memory}"]
    if "cpu" in resources:
        cpu = resources["cpu"]
        given.append(f"--cpus={int(cpu.removesuffix('m')) / 1000 if cpu.endswith('m') else cpu}")
    services = [*(["s3"] if storage.is_s3(lake) else []), *job.services]
    if services:
        here = any(is_on_loopback(service, os.environ) for service in services)
        given += [f"--network={'host' if here else 'bridge'}", *variables("AWS_"), *variables("DYNAMODB_ENDPOINT")]
    else:
        given += ["--network=none", "--hostname=job", "--add-host=job:127.0.0.1"]  # Java looks its own name up
    if storage.is_s3(lake):
        return [*given, *variables("TANDEM_S3_")]
    folder = Path(lake.removeprefix("file://"))
    folder.mkdir(parents=True, exist_ok=True)
    owner = folder.stat()  # no other may write to it
    return [*given, f"--user={owner.st_uid}:{owner.st_gid}", f"--volume={folder}:{folder}"]


def variables(prefix: str) -> list[str]:
    """Options that hand over environment variables by the beginning of their names, and no values for others to see."""
    return [f"--env={name}" for name in sorted(os.environ) if name.startswith(prefix)]


def call(*arguments: str) -> int:
    """Run docker in the foreground; its exit code, which is the container's."""
    process = subprocess.Popen([docker_client(), *arguments])
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:  # docker got it, too, and hands it on
            continue


if __name__ == "__main__":
    main()

"""Push the images of the last build to a registry, and pull each back to verify it."""

import argparse
import json
import re
import sys
import time

from rich.console import Console
from rich.table import Table

from common.errors import TaskError
from common.handover import job_toml
from common.protocol import image
from tools.command_line import exit_on_task_error
from tools.environment import load, require
from tools.packaging.build import RELEASE, image_size
from tools.packaging.docker_client import docker
from tools.packaging.fingerprint import ROOT, job_of, products, select_jobs


@exit_on_task_error()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--environment", metavar="NAME", help="push to its registry")
    target.add_argument("--registry", metavar="HOST[:PORT][/PREFIX]", help="push to this registry")
    parser.add_argument("--job", action="append", metavar="JOB", help="a job; all jobs with images if none is named")
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 160)
    table = Table(title="Pushed, and pulled back unchanged", title_justify="left")
    for heading in ("image", "digest", "seconds"):
        table.add_column(heading, justify="right" if heading == "seconds" else "left", overflow="fold")
    registry = arguments.registry or require(load(arguments.environment), "registry", "HOST[:PORT][/PREFIX]")
    release = json.loads(RELEASE.read_text()) if RELEASE.exists() else {}
    for name in products(names=select_jobs(arguments.job)):
        bundle = name == job_of(name) and job_toml.load(ROOT / "jobs" / name).engine == "spark"
        if bundle and (name not in release or image_size(image(name, release[name])) is None):
            continue  # it has no image
        if name not in release:
            raise TaskError(f"{RELEASE.relative_to(ROOT)} has no image of {name}; build it first: make build.")
        started = time.monotonic()
        with console.status(f"pushing the image of {name}"):
            remote, digest = push(name, release[name], registry)
        table.add_row(remote, digest, f"{time.monotonic() - started:.1f}")
    console.print(table)


def push(name: str, fingerprint: str, registry: str) -> tuple[str, str]:
    """Push the image of a product; return its name and its digest in the registry."""
    remote = image(name, fingerprint, registry)
    return remote, copy(image(name, fingerprint), remote)


def copy(source: str, remote: str) -> str:
    """Push an image of the engine under another name; return its digest in the registry.

    TaskError if docker fails, or if a pull returns another image.
    """
    built = run_docker("image", "inspect", "--format", "{{.Id}}", source)
    run_docker("tag", source, remote)
    run_docker("push", remote)
    run_docker("pull", remote)
    returned = run_docker("image", "inspect", "--format", "{{.Id}}", remote)
    if returned != built:
        raise TaskError(f"{remote} was pulled back as {returned}, expected {built}; another push used that name.")
    digests = json.loads(run_docker("image", "inspect", "--format", "{{json .RepoDigests}}", remote))
    repository = remote.rpartition(":")[0]
    return str(next(entry.partition("@")[2] for entry in digests if entry.startswith(f"{repository}@")))


def pull(remote: str) -> bool:
    """Pull an image; False if its registry has none of that name, TaskError if docker fails otherwise."""
    process = docker("pull", "--quiet", remote)
    if process.returncode and not re.search("not found|manifest unknown|name unknown", process.stderr):
        raise TaskError(f"docker pull {remote} failed: {process.stderr.strip()}.")
    return process.returncode == 0


def run_docker(*arguments: str) -> str:
    """Run docker and return its output; TaskError with its last line if it fails."""
    process = docker(*arguments)
    if process.returncode:
        message = (process.stderr.strip().splitlines() or ["no message"])[-1]
        raise TaskError(f"docker {' '.join(arguments)} failed: {message}.")
    return process.stdout.strip()


if __name__ == "__main__":
    main()

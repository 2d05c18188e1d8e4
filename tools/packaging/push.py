"""Push the images of the last build to a registry, and pull each back to check that it is the one that was built."""

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
from tools.environment import load, needed
from tools.packaging.build import RELEASE, image_size, named
from tools.packaging.docker_client import docker
from tools.packaging.fingerprint import ROOT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--environment", metavar="NAME", help="whose registry images go to")
    where.add_argument("--registry", metavar="HOST[:PORT][/PREFIX]", help="another one")
    parser.add_argument("--job", action="append", metavar="JOB", help="a job, all that have images if none is named")
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 160)
    table = Table(title="Pushed, and pulled back unchanged", title_justify="left")
    for heading in ("image", "digest", "seconds"):
        table.add_column(heading, justify="right" if heading == "seconds" else "left", overflow="fold")
    try:
        registry = arguments.registry or needed(load(arguments.environment), "registry", "HOST[:PORT][/PREFIX]")
        release = json.loads(RELEASE.read_text()) if RELEASE.exists() else {}
        for name in named(arguments.job):
            spark = job_toml.load(ROOT / "jobs" / name).engine == "spark"
            if spark and (name not in release or image_size(image(name, release[name])) is None):
                continue  # it is run from its bundle
            if name not in release:
                raise TaskError(f"{RELEASE.relative_to(ROOT)} has no image of {name}; build it first: make build.")
            started = time.monotonic()
            with console.status(f"pushing the image of {name}"):
                remote, digest = push(name, release[name], registry)
            table.add_row(remote, digest, f"{time.monotonic() - started:.1f}")
    except TaskError as error:
        sys.exit(str(error))
    console.print(table)


def push(job: str, fingerprint: str, registry: str) -> tuple[str, str]:
    """Push a job's image; its name in the registry and its digest there."""
    remote = image(job, fingerprint, registry)
    return remote, copy(image(job, fingerprint), remote)


def copy(source: str, remote: str) -> str:
    """Push an image that the engine has under another name; its digest in the registry.

    TaskError if docker can't, or if the image that comes back is another one.
    """
    built = call("image", "inspect", "--format", "{{.Id}}", source)
    call("tag", source, remote)
    call("push", remote)
    call("pull", remote)
    returned = call("image", "inspect", "--format", "{{.Id}}", remote)
    if returned != built:
        raise TaskError(f"{remote} came back as {returned}, expected {built}; someone else pushes to that name.")
    digests = json.loads(call("image", "inspect", "--format", "{{json .RepoDigests}}", remote))
    repository = remote.rpartition(":")[0]
    return str(next(entry.partition("@")[2] for entry in digests if entry.startswith(f"{repository}@")))


def pulled(remote: str) -> bool:
    """Pull an image; False if its registry has none of that name, TaskError if docker can't tell."""
    process = docker("pull", "--quiet", remote)
    if process.returncode and not re.search("not found|manifest unknown|name unknown", process.stderr):
        raise TaskError(f"docker pull {remote} failed and says: {process.stderr.strip()}.")
    return process.returncode == 0


def call(*arguments: str) -> str:
    """What docker prints; TaskError with its last line if it fails."""
    process = docker(*arguments)
    if process.returncode:
        told = (process.stderr.strip().splitlines() or ["nothing"])[-1]
        raise TaskError(f"docker {' '.join(arguments)} failed and says: {told}.")
    return process.stdout.strip()


if __name__ == "__main__":
    main()

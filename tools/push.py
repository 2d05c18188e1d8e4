"""Push the images of the last build to a registry, and pull each back to check that it is the one that was built."""

import argparse
import json
import sys
import time

from rich.console import Console
from rich.table import Table

from common.failures import Failure
from common.job import load
from tools.build import RELEASE, docker, named
from tools.fingerprint import ROOT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--registry", required=True, metavar="HOST[:PORT][/PREFIX]", help="where images go")
    parser.add_argument("--job", action="append", metavar="JOB", help="a Python job, all of them if none is named")
    arguments = parser.parse_args()
    table = Table(title="Pushed, and pulled back unchanged", title_justify="left")
    for heading in ("image", "digest", "seconds"):
        table.add_column(heading, justify="right" if heading == "seconds" else "left", overflow="fold")
    try:
        release = json.loads(RELEASE.read_text()) if RELEASE.exists() else {}
        for name in named(arguments.job):
            if load(ROOT / "jobs" / name).engine != "python":
                continue
            if name not in release:
                raise Failure(f"{RELEASE.relative_to(ROOT)} has no image of {name}; build it first: make build.")
            started = time.monotonic()
            remote, digest = push(f"tandem/{name}:{release[name]}", arguments.registry)
            table.add_row(remote, digest, f"{time.monotonic() - started:.1f}")
    except Failure as error:
        sys.exit(str(error))
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def push(image: str, registry: str) -> tuple[str, str]:
    """Push an image; its name in the registry and its digest there.

    Failure if docker can't, or if the image that comes back is another one.
    """
    remote = f"{registry.rstrip('/')}/{image}"
    built = call("image", "inspect", "--format", "{{.Id}}", image)
    call("tag", image, remote)
    call("push", remote)
    call("pull", remote)
    returned = call("image", "inspect", "--format", "{{.Id}}", remote)
    if returned != built:
        raise Failure(f"{remote} came back as {returned}, expected {built}; someone else pushes to that name.")
    digests = json.loads(call("image", "inspect", "--format", "{{json .RepoDigests}}", remote))
    repository = remote.rpartition(":")[0]
    return remote, next(entry.partition("@")[2] for entry in digests if entry.startswith(f"{repository}@"))


def call(*arguments: str) -> str:
    """What docker prints; Failure with its last line if it fails."""
    process = docker(*arguments)
    if process.returncode:
        told = (process.stderr.strip().splitlines() or ["nothing"])[-1]
        raise Failure(f"docker {' '.join(arguments)} failed and says: {told}.")
    return process.stdout.strip()


if __name__ == "__main__":
    main()

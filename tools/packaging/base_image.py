"""Name the base of images, and identify its content by the digest that goes into their fingerprints."""

import functools
import json
import os
import re
from pathlib import Path

from common.errors import TaskError
from tools.packaging.docker_client import docker, docker_client

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = re.compile(r"(?m)^ARG BASE_IMAGE=(\S+)$")


def default(root: Path) -> str | None:
    """The base that the Dockerfile of a checkout names where nothing else does, None if it names none."""
    file = root / "dockerfiles/python-job.Dockerfile"
    found = DEFAULT.search(file.read_text("utf-8")) if file.is_file() else None
    return found[1] if found else None


BASE_IMAGE = default(ROOT) or "scratch"


def identified(name: str) -> str:
    """The name of an image with the digest of its content, NAME@sha256:…, if the name pins it or the engine has it."""
    return name if "@" in name else f"{name}{digest(name, docker_client(), os.environ.get('DOCKER_HOST'))}"


@functools.cache
def digest(name: str, client: str, host: str | None) -> str:
    """The digest of an image on the engine that a client reaches, after an @; empty if it is not there.

    Asked once in a process: it costs 30 ms, and products are compared by the hundred.
    """
    try:
        inspected = docker("image", "inspect", name)
    except TaskError:  # no client: nothing is built here
        return ""
    if inspected.returncode:
        return ""
    image = json.loads(inspected.stdout)[0]
    repository = name.rpartition(":")[0] if ":" in name.rpartition("/")[2] else name
    pulled = [entry for entry in image["RepoDigests"] or [] if entry.rpartition("@")[0] == repository]
    return f"@{pulled[0].rpartition('@')[2] if pulled else image['Id']}"


def fetch(name: str) -> bool:
    """Pull a base that the engine lacks; True if it was pulled. TaskError if no registry in reach has it."""
    if docker("image", "inspect", name).returncode == 0 or docker("version").returncode:
        return False  # an engine that does not answer is told by whoever builds
    process = docker("pull", "--quiet", name)
    if process.returncode:
        raise TaskError(
            f"The base image {name} is neither here nor can it be pulled ({process.stderr.strip()}); pull it, or name "
            "another one: BASE_IMAGE=NAME."
        )
    digest.cache_clear()
    return True

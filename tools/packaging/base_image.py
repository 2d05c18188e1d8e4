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
    """Return the default base in the Dockerfile of a checkout, None if it has none."""
    file = root / "dockerfiles/python-job.Dockerfile"
    match = DEFAULT.search(file.read_text("utf-8")) if file.is_file() else None
    return match[1] if match else None


BASE_IMAGE = default(ROOT) or "scratch"


def with_digest(name: str) -> str:
    """Return an image name with the digest of its content, NAME@sha256:…, if the name pins it or the engine has it."""
    return name if "@" in name else f"{name}{digest(name, docker_client(), os.environ.get('DOCKER_HOST'))}"


@functools.cache
def digest(name: str, client: str, host: str | None) -> str:
    """Return "@" and the digest of an image on the engine of a client; empty if the engine lacks it.

    Cached per process: a call costs 30 ms, and products are compared by the hundred.
    """
    try:
        inspected = docker("image", "inspect", name)
    except TaskError:  # without a client nothing is built
        return ""
    if inspected.returncode:
        return ""
    image = json.loads(inspected.stdout)[0]
    repository = name.rpartition(":")[0] if ":" in name.rpartition("/")[2] else name
    pulled = [entry for entry in image["RepoDigests"] or [] if entry.rpartition("@")[0] == repository]
    return f"@{pulled[0].rpartition('@')[2] if pulled else image['Id']}"


def pull_if_missing(name: str) -> bool:
    """Pull a base that the engine lacks; True if it was pulled. TaskError if no reachable registry has it."""
    if docker("image", "inspect", name).returncode == 0 or docker("version").returncode:
        return False  # the build reports an engine that does not answer
    process = docker("pull", "--quiet", name)
    if process.returncode:
        raise TaskError(
            f"The base image {name} is neither on this engine nor can it be pulled ({process.stderr.strip()}); pull "
            "it, or name another one: BASE_IMAGE=NAME."
        )
    digest.cache_clear()
    return True

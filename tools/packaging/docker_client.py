"""Call the docker client that DOCKER names."""

import os
import subprocess

from common.errors import TaskError


def docker(*arguments: str, stdin: str | None = None) -> "subprocess.CompletedProcess[str]":
    """Call the docker client; TaskError if there is none."""
    try:
        return subprocess.run(
            [docker_client(), *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            env={**os.environ, "DOCKER_BUILDKIT": "1"},
        )
    except FileNotFoundError:
        raise TaskError(
            f"There is no docker client '{docker_client()}'; install one, or name one in the variable DOCKER."
        ) from None


def docker_client() -> str:
    """Return the program that DOCKER names."""
    return os.environ.get("DOCKER", "docker")

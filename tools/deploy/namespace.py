"""A name space of a Kubernetes cluster for jobs: rights, secret, images. It is for Airflow's Python, with its client.

TANDEM_LOAD_IMAGE is the command that brings an archive of `docker save` to the nodes (`kind load image-archive`), for
clusters without a registry. TANDEM_HOST_FOR_PODS is this machine's address as pods reach it; without it, it is the
address by which this machine reaches the API server.
"""

import argparse
import base64
import json
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

from kubernetes import client, config

SECRET = "lake"  # which the pod template names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", action="store_true", help="print this machine's address for pods, and nothing else")
    parser.add_argument("--name", help="the name space to make, if it is not there; its secret comes as JSON on stdin")
    arguments = parser.parse_args()
    config.load_kube_config()
    if arguments.host:
        print(host())
    else:
        make(arguments.name)
        give(arguments.name, json.load(sys.stdin))


def host() -> str:
    """The address of this machine for pods."""
    if given := os.environ.get("TANDEM_HOST_FOR_PODS"):
        return given
    server = urlsplit(client.Configuration.get_default_copy().host)
    with socket.create_connection((server.hostname, server.port or 443)) as connection:
        return str(connection.getsockname()[0])


def make(name: str) -> None:
    """A name space that takes no pod that may do more than the strictest standard of Kubernetes allows."""
    core = client.CoreV1Api()
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    try:
        core.create_namespace({"metadata": {"name": name, "labels": labels}})
    except client.ApiException as error:
        if error.status != 409:
            raise
    while not core.list_namespaced_service_account(name).items:
        time.sleep(0.2)


def give(name: str, variables: dict[str, str]) -> None:
    """Give all pods of a name space environment variables."""
    core = client.CoreV1Api()
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in variables.items()}
    body = {"metadata": {"name": SECRET}, "data": encoded}
    try:
        core.create_namespaced_secret(name, body)
    except client.ApiException as error:
        if error.status != 409:
            raise
        core.replace_namespaced_secret(SECRET, name, body)


def load(images: list[str]) -> None:
    """Bring images of the Docker engine to the nodes, by the command that TANDEM_LOAD_IMAGE names."""
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "images.tar"
        subprocess.run([os.environ.get("DOCKER", "docker"), "save", "--output", archive, *images], check=True)
        subprocess.run([*shlex.split(os.environ["TANDEM_LOAD_IMAGE"]), archive], check=True)


if __name__ == "__main__":
    main()

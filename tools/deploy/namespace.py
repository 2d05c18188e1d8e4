"""A namespace of a Kubernetes cluster for jobs: rights, secret, images. Runs in Airflow's Python, which has the client.

TANDEM_LOAD_IMAGE is the command that loads an archive of `docker save` into the nodes (`kind load image-archive`), for
clusters without a registry. TANDEM_HOST_FOR_PODS is this machine's address as pods reach it; the default is the address
from which this machine reaches the API server.
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

SECRET = "lake"  # the name in the pod template


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", action="store_true", help="only print this machine's address for pods")
    parser.add_argument("--name", help="the namespace to create if missing; its secret is read from stdin as JSON")
    arguments = parser.parse_args()
    config.load_kube_config()
    if arguments.host:
        print(host())
    else:
        create(arguments.name)
        write_secret(arguments.name, json.load(sys.stdin))


def host() -> str:
    """Return the address of this machine for pods."""
    if configured := os.environ.get("TANDEM_HOST_FOR_PODS"):
        return configured
    server = urlsplit(client.Configuration.get_default_copy().host)
    with socket.create_connection((server.hostname, server.port or 443)) as connection:
        return str(connection.getsockname()[0])


def create(name: str) -> None:
    """Create a namespace that admits only pods within the strictest security standard of Kubernetes."""
    core = client.CoreV1Api()
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    try:
        core.create_namespace({"metadata": {"name": name, "labels": labels}})
    except client.ApiException as error:
        if error.status != 409:
            raise
    while not core.list_namespaced_service_account(name).items:
        time.sleep(0.2)


def write_secret(name: str, variables: dict[str, str]) -> None:
    """Set the environment variables of all pods of a namespace."""
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
    """Load images of the Docker engine into the nodes with the command in TANDEM_LOAD_IMAGE."""
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "images.tar"
        subprocess.run([os.environ.get("DOCKER", "docker"), "save", "--output", archive, *images], check=True)
        subprocess.run([*shlex.split(os.environ["TANDEM_LOAD_IMAGE"]), archive], check=True)


if __name__ == "__main__":
    main()

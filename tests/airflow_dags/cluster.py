"""A name space of the cluster that KUBECONFIG names, for tests: with a lake on S3 that pods reach, and nothing else.

TANDEM_LOAD_IMAGE is the command that brings an archive of `docker save` to the nodes, where images are not pulled:
`kind load image-archive`, say. TANDEM_HOST_FOR_PODS is this machine's address as pods reach it; without it, it is the
address by which this machine reaches the API server.
"""

import base64
import contextlib
import json
import os
import shlex
import socket
import subprocess
import threading
import time
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from kubernetes import client, config

TEMPLATE = Path(__file__).parents[2] / "airflow_dags" / "environments" / "pod.json"


class Cluster:
    def __init__(self, folder: Path) -> None:
        config.load_kube_config()
        self.folder = folder
        self.core = client.CoreV1Api()
        self.batch = client.BatchV1Api()
        self.namespace = f"tandem-test-{uuid.uuid4().hex[:8]}"
        self.server = urlsplit(client.Configuration.get_default_copy().host)
        self.template = folder / "pod.json"
        self.template.write_text(json.dumps(self.pod_template()))

    def open(self) -> None:
        """Make the name space; it takes no pod that wants more rights or more memory than there is reason for."""
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        self.core.create_namespace({"metadata": {"name": self.namespace, "labels": labels}})
        quota = {"metadata": {"name": "much"}, "spec": {"hard": {"requests.memory": "1Ti"}}}
        self.core.create_namespaced_resource_quota(self.namespace, quota)
        wait_for(lambda: self.core.list_namespaced_service_account(self.namespace).items)

    def close(self) -> None:
        self.core.delete_namespace(self.namespace)

    @property
    def host(self) -> str:
        """The address of this machine for pods."""
        if given := os.environ.get("TANDEM_HOST_FOR_PODS"):
            return given
        with socket.create_connection((self.server.hostname, self.server.port or 443)) as connection:
            return str(connection.getsockname()[0])

    def give(self, variables: dict[str, str]) -> None:
        """Give every pod environment variables, by the secret that the pod template names."""
        encoded = {name: base64.b64encode(value.encode()).decode() for name, value in variables.items()}
        self.core.create_namespaced_secret(self.namespace, {"metadata": {"name": "lake"}, "data": encoded})

    def load(self, images: list[str]) -> None:
        archive = self.folder / "images.tar"
        subprocess.run(["docker", "save", "--output", archive, *images], check=True)
        subprocess.run([*shlex.split(os.environ["TANDEM_LOAD_IMAGE"]), archive], check=True)
        archive.unlink()

    def pod_template(self) -> dict[str, Any]:
        """The environment's pod template, in this name space, and with little patience for a lost node."""
        pod: dict[str, Any] = json.loads(TEMPLATE.read_text())
        pod["metadata"]["namespace"] = self.namespace
        for toleration in pod["spec"]["tolerations"]:
            toleration["tolerationSeconds"] = 1
        return pod

    def pods(self, labels: str = "") -> list[client.V1Pod]:
        return self.core.list_namespaced_pod(self.namespace, label_selector=labels).items

    def left(self) -> list[str]:
        """The names of all pods and Jobs that are there."""
        jobs = self.batch.list_namespaced_job(self.namespace).items
        return [each.metadata.name for each in [*self.pods(), *jobs]]

    def said(self, labels: str, text: str) -> client.V1Pod:
        """Wait until a pod has said something, and return it."""

        def saying() -> client.V1Pod | None:
            for pod in self.pods(labels):
                with contextlib.suppress(client.ApiException):
                    if text in self.core.read_namespaced_pod_log(pod.metadata.name, self.namespace, container="base"):
                        return pod
            return None

        return wait_for(saying, 60)


class Proxy:
    """A way to the API server that can be cut: all of it for some seconds, or connections on which nothing comes."""

    def __init__(self, server: tuple[str, int]) -> None:
        self.server = server
        self.idle: float | None = None  # seconds after which a silent connection is cut
        self.cuts = 0
        self.closed = False
        self.pairs: set[tuple[socket.socket, socket.socket]] = set()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            if self.closed:
                connection.close()
                continue
            pair = (connection, socket.create_connection(self.server))
            self.pairs.add(pair)
            threading.Thread(target=self.pump, args=pair, daemon=True).start()
            threading.Thread(target=self.pump, args=pair[::-1], kwargs={"answers": True}, daemon=True).start()

    def pump(self, source: socket.socket, sink: socket.socket, answers: bool = False) -> None:
        with contextlib.suppress(OSError):
            if answers:
                source.settimeout(self.idle)
            while data := source.recv(65536):
                sink.sendall(data)
        self.cuts += answers
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def away(self, seconds: float) -> None:
        """As if the API server were started again."""
        self.closed = True
        for pair in list(self.pairs):
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        time.sleep(seconds)
        self.closed = False

    def kubeconfig(self, folder: Path) -> Path:
        """The configuration of KUBECONFIG with this proxy in place of the API server."""
        document = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())
        for each in document["clusters"]:
            named = urlsplit(each["cluster"]["server"]).hostname
            each["cluster"] |= {"server": f"https://127.0.0.1:{self.port}", "tls-server-name": named}
        file = folder / "kubeconfig"
        file.touch(0o600)
        file.write_text(yaml.safe_dump(document))
        return file


def wait_for(what, seconds=30):
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found

"""A namespace of the cluster that KUBECONFIG names, for tests, and a way to its API server that can be cut."""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
import yaml
from kubernetes import client, config
from waiting import until

from tools.deploy import namespace

TEMPLATE = Path(__file__).parents[2] / "airflow_dags" / "environments" / "pod.json"


@contextlib.contextmanager
def prepared(folder: Path, serve_s3: Callable[..., Any], images: list[str]) -> Iterator["Cluster"]:
    """A namespace with a lake, and images on the nodes; this process gets the lake's variables, too."""
    found = Cluster(folder)
    found.open()
    try:
        namespace.load(images)
        with serve_s3(folder / "s3", namespace.host()) as variables, pytest.MonkeyPatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            patch.setattr(boto3, "DEFAULT_SESSION", None)  # it would keep the keys of another test's S3 server
            namespace.write_secret(found.namespace, variables)
            yield found
    finally:
        found.close()


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
        """Create the namespace with a quota that a pod of absurd memory exceeds."""
        namespace.create(self.namespace)
        quota = {"metadata": {"name": "much"}, "spec": {"hard": {"requests.memory": "1Ti"}}}
        self.core.create_namespaced_resource_quota(self.namespace, quota)

    def close(self) -> None:
        self.core.delete_namespace(self.namespace)

    def pod_template(self) -> dict[str, Any]:
        """The environment's pod template, in this namespace, with short tolerations of a lost node.

        Its pods get this machine's OPENBLAS_* variables, which decide the last bits of results.
        """
        pod: dict[str, Any] = json.loads(TEMPLATE.read_text())
        pod["metadata"]["namespace"] = self.namespace
        pod["spec"]["terminationGracePeriodSeconds"] = 5
        for toleration in pod["spec"]["tolerations"]:
            toleration["tolerationSeconds"] = 1
        variables = [
            {"name": name, "value": value} for name, value in os.environ.items() if name.startswith("OPENBLAS_")
        ]
        pod["spec"]["containers"][0]["env"] = variables
        return pod

    @contextlib.contextmanager
    def behind(self, proxy: "Proxy") -> Iterator[None]:
        """Connect Airflow to the API server through a proxy in this block."""
        settings = {"conn_type": "kubernetes", "extra": {"kube_config_path": str(proxy.kubeconfig(self.folder))}}
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", json.dumps(settings))
            yield
        proxy.listener.close()

    def pods(self, labels: str = "") -> list[client.V1Pod]:
        return self.core.list_namespaced_pod(self.namespace, label_selector=labels).items

    def resources(self) -> list[str]:
        """The names of all pods and Jobs in the namespace."""
        jobs = self.batch.list_namespaced_job(self.namespace).items
        return [each.metadata.name for each in [*self.pods(), *jobs]]

    def await_output(self, labels: str, text: str) -> client.V1Pod:
        """Wait until a pod has printed a text, and return the pod."""

        def saying() -> client.V1Pod | None:
            for pod in self.pods(labels):
                with contextlib.suppress(client.ApiException):
                    output = self.core.read_namespaced_pod_log(pod.metadata.name, self.namespace, container="base")
                    if output and text in output:
                        return pod
            return None

        return until(saying)


class Proxy:
    """A proxy of the API server that can cut all connections for some seconds, or silent ones."""

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
        """Simulate a restart of the API server."""
        self.closed = True
        for pair in list(self.pairs):
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        time.sleep(seconds)
        self.closed = False

    def kubeconfig(self, folder: Path) -> Path:
        """The configuration of KUBECONFIG with this proxy instead of the API server."""
        document = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())
        for each in document["clusters"]:
            named = urlsplit(each["cluster"]["server"]).hostname
            each["cluster"] |= {"server": f"https://127.0.0.1:{self.port}", "tls-server-name": named}
        file = folder / "kubeconfig"
        file.touch(0o600)
        file.write_text(yaml.safe_dump(document))
        return file

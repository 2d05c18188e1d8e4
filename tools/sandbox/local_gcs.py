"""Google's object store on this machine, fake-gcs-server, during a block; its objects are in its memory."""

import contextlib
import json
import urllib.request
from collections.abc import Iterator

from tools.sandbox import parts, servers
from tools.sandbox.local_airflow import free_port

BUCKET = "tandem-lake"


@contextlib.contextmanager
def serve(address: str = "127.0.0.1") -> Iterator[dict[str, str]]:
    """Serve one bucket, BUCKET; yield the environment variables with which clients reach it.

    Installs the server if it is missing. TaskError if it cannot be installed or does not start.
    """
    program = parts.installed("fake-gcs-server")
    port = free_port(address)
    host = f"{address}:{port}"
    command = [program, "-scheme", "http", "-host", address, "-port", str(port)]
    command += ["-backend", "memory", "-public-host", host, "-log-level", "error"]
    environment = {"STORAGE_EMULATOR_HOST": f"http://{host}"}
    with servers.listening(command, port, address):
        make_bucket(environment["STORAGE_EMULATOR_HOST"], BUCKET)
        yield environment


def make_bucket(server: str, name: str) -> None:
    """Make a bucket on a server that asks for no credentials."""
    body = json.dumps({"name": name}).encode()
    request = urllib.request.Request(
        f"{server}/storage/v1/b?project=tandem", body, {"Content-Type": "application/json"}
    )
    urllib.request.urlopen(request, timeout=60).close()

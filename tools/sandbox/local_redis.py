"""A Redis server on this machine during a block; its data are in memory."""

import contextlib
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

from common.errors import TaskError
from tools.sandbox import parts, servers
from tools.sandbox.local_airflow import free_port


@contextlib.contextmanager
def serve(folder: Path, *options: str, address: str = "127.0.0.1") -> Iterator[dict[str, str]]:
    """Run redis-server with further options; yield the environment variable with which clients reach it.

    TaskError if the program is missing or does not start.
    """
    if sentence := parts.lack("redis-server"):
        raise TaskError(sentence)
    port, password = free_port(address), uuid.uuid4().hex
    settings = ["--port", str(port), "--bind", address, "--save", "", "--dir", str(folder), "--requirepass", password]
    # By default a cluster node also listens 10,000 ports higher, and refuses to start where there is no such port.
    settings += ["--cluster-port", str(free_port(address))]
    command = [str(parts.program("redis-server")), *settings, *options]
    with servers.listening(command, port, address, stdout=subprocess.DEVNULL):
        yield {"REDIS_URL": f"redis://:{password}@{address}:{port}"}

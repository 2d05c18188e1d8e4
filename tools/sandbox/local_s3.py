"""An S3 server on this machine, versitygw, during a block; its objects are files of a folder."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from tools.sandbox import parts, servers
from tools.sandbox.local_airflow import free_port

BUCKET = "tandem-lake"


@contextlib.contextmanager
def running(folder: Path, address: str = "127.0.0.1") -> Iterator[dict[str, str]]:
    """Serve a folder with one bucket, BUCKET; yield the environment variables with which clients reach it.

    Installs the server if it is missing. TaskError if it cannot be installed or does not start.
    """
    program = parts.installed("versitygw")
    port = free_port(address)
    url = f"http://{address}:{port}"
    user, secret = uuid.uuid4().hex, uuid.uuid4().hex
    (folder / BUCKET).mkdir(parents=True, exist_ok=True)
    keys = {"ROOT_ACCESS_KEY": user, "ROOT_SECRET_KEY": secret}
    command = [program, "--port", f"{address}:{port}", "--quiet", "posix", str(folder)]
    with servers.listening(command, port, address, env={**os.environ, **keys}):
        yield {
            "AWS_ACCESS_KEY_ID": user,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": url,
        }

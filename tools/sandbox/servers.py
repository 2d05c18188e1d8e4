"""Servers of this machine in processes of their own, which end with a block."""

import contextlib
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from common.errors import TaskError
from tools.packaging.fingerprint import ROOT


@contextlib.contextmanager
def listening(command: list[str], port: int, address: str = "127.0.0.1", **options: Any) -> Iterator[None]:
    """Run a server during this block, which begins once it listens; TaskError if it ends before, or takes a minute."""
    server = subprocess.Popen(command, start_new_session=True, **options)  # Ctrl-C must not reach it
    name, deadline = Path(command[0]).name, time.monotonic() + 60
    try:
        while True:
            if server.poll() is not None:
                code = server.returncode
                raise TaskError(f"{name} ended with exit code {code} before it listened on {address}:{port}.")
            with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=1):
                break
            if time.monotonic() > deadline:
                raise TaskError(f"{name} does not listen on {address}:{port} after 60 s.")
            time.sleep(0.05)
        yield
    finally:
        server.terminate()
        server.wait()


def ended_by_signal() -> threading.Event:
    """Return an event that SIGTERM and Ctrl-C set, for the process of a module that announces its server."""
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    return ended


@contextlib.contextmanager
def announcing(
    python: str | Path, module: str, environment: Mapping[str, str] | None = None
) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """Run a module that prints the address of its server; yield that and its process. TaskError if it prints none."""
    command = [str(python), "-m", module]
    server = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        if not address:
            raise TaskError(f"{module} ended at once; its output is above.")
        yield address, server
    finally:
        server.terminate()
        server.wait()

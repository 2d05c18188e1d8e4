"""Google's emulator of Bigtable on this machine during a block; its data are in memory."""

import contextlib
import subprocess
from collections.abc import Iterator

from tools.sandbox import parts, servers
from tools.sandbox.local_airflow import free_port


@contextlib.contextmanager
def serve(address: str = "127.0.0.1") -> Iterator[dict[str, str]]:
    """Run the emulator; yield the environment variable with which clients reach it, for any project and instance.

    Installs the emulator if it is missing. TaskError if it cannot be installed or does not start.
    """
    program = parts.installed("bigtable-emulator")
    port = free_port(address)
    command = [program, "-host", address, "-port", str(port)]
    with servers.listening(command, port, address, stdout=subprocess.DEVNULL):
        yield {"BIGTABLE_EMULATOR_HOST": f"{address}:{port}"}

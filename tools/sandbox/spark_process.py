"""A driver of Spark on this machine, as a service's node runs it: spark-submit in a folder of its own."""

import contextlib
import io
import os
import re
import signal
import subprocess
import zipfile
from collections.abc import Mapping
from pathlib import Path

from common.handover import storage

ROOT = Path(__file__).parents[2]
QUICK = {  # properties for short runs on little data
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseParallelGC",
    "spark.ui.enabled": "false",
}


def start(command: list[str], folder: Path, variables: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    """Start a spark-submit in a folder, with its output in the files stdout and stderr there."""
    with (folder / "stdout").open("wb") as stdout, (folder / "stderr").open("wb") as stderr:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            cwd=folder,
            env={**os.environ, "PYSPARK_PYTHON": f"{ROOT}/.venv/bin/python", **variables},
            start_new_session=True,
        )


def end(process: "subprocess.Popen[bytes]") -> None:
    """Kill a spark-submit and its children."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def unpack(archives: list[str], folder: Path) -> None:
    """Unpack archives, `URI#name`, under their names, as a cluster does for each process."""
    for archive in archives:
        if found := re.fullmatch(r"(\S+\.zip)#(\w+)", archive):
            content = io.BytesIO(storage.read(found[1])[0])
            zipfile.ZipFile(content).extractall(folder / found[2])

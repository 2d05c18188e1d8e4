"""Run one task of a pipeline again, here: its inputs are fetched into a scratch lake, the code is this checkout's.

Exits as the job does. What the task appended to (partitions of a dataset) is not fetched: that starts empty.
"""

import argparse
import ipaddress
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from common import protocol
from common.errors import ArgumentError, InputError, TaskError
from common.handover import Task, manifest, partitions, s3, storage
from common.handover.command_line import lake_uri, parse
from common.handover.inputs import Input, resolve
from common.handover.job_toml import Job, load
from common.handover.storage import File
from common.protocol import nearest
from tools.packaging.build import select_jobs
from tools.packaging.fingerprint import ROOT

NOBODY = "http://127.0.0.1:9"  # the port of the service that discards

console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    laptop = f"file://{ROOT}/.tandem/lake"
    parser.add_argument("--lake", type=lake_uri, default=laptop, metavar="URI", help="its root, the laptop's if absent")
    parser.add_argument("--dag-id", required=True, metavar="ID")
    parser.add_argument("--run-id", required=True, metavar="ID")
    parser.add_argument("--task-id", required=True, metavar="ID")
    parser.add_argument("--map-index", type=int, metavar="NUMBER", help="which instance, if the task is mapped")
    asked = parser.parse_args()
    asked.lake = asked.lake.rstrip("/")
    try:
        sys.exit(replay(asked))
    except TaskError as error:
        sys.exit(str(error))


def replay(asked: argparse.Namespace) -> int:
    """Fetch what the task's newest attempt read, run its job on that, and compare; the job's exit code."""
    document = left_behind(asked)
    console.print(f"attempt {document['task']['attempt']} of {asked.task_id} {how_it_ended(document)}")
    (name,) = select_jobs([document["job"]])
    folder = ROOT / "jobs" / name
    job = load(folder)
    environment = harmless(job, os.environ)
    task = Task(job, folder, parse(job, command_line(document, asked.lake)))
    if task.code != document["fingerprint"]:
        console.print(f"it ran code {document['fingerprint']}, this checkout's is {task.code}")
    parts = [asked.dag_id, asked.run_id, asked.task_id, *([] if asked.map_index is None else [f"{asked.map_index}"])]
    scratch = f"file://{ROOT}/.tandem/replay/{'/'.join(map(protocol.encode, parts))}"
    wanted = read_then(task, document["parents"])
    fetch(wanted, asked.lake, scratch)
    note_days(wanted, asked.lake, scratch)
    command = [*program(job), str(folder / "main.py"), *command_line(document, scratch)]
    console.print(f"running {shlex.join(command)}", soft_wrap=True)
    environment |= {"PYTHONPATH": str(ROOT), "PYSPARK_PYTHON": sys.executable}
    code = subprocess.run(command, env=environment).returncode
    if code == 0:
        compare(document, manifest.load_or_none(protocol.manifest_uri(task.key.replace(asked.lake, scratch, 1))))
    return code


def left_behind(asked: argparse.Namespace) -> dict[str, Any]:
    """What the newest attempt of a task left that left anything: its manifest, or its failure document."""
    key = protocol.task_key(asked.lake, asked.dag_id, asked.run_id, asked.task_id, asked.map_index)
    names = storage.folders(key)
    if not names:
        above, name = key.rpartition("/")[::2]
        while not (known := storage.folders(above)) and above != asked.lake:
            above, name = above.rpartition("/")[::2]
        raise ArgumentError(f"{above} has no folder '{name}'{nearest(name, known)}.")
    if parts := [name for name in names if name.startswith("map-")]:
        raise ArgumentError(f"Task '{asked.task_id}' has {len(parts)} parts; say which one, as in MAP_INDEX=0.")
    uris = [protocol.manifest_uri(key), *(protocol.failure_uri(f"{key}/{name}") for name in names)]
    found = [each.document for each in storage.in_parallel(manifest.load_or_none, uris) if each]
    if not found:
        raise InputError(
            f"No attempt at {key} left a manifest or a failure document: it was killed. The last line of its log on "
            "Airflow's page is the command that runs it again."
        )
    newest: dict[str, Any] = found[0]  # of one attempt the manifest
    for document in found[1:]:
        newest = document if manifest.compare_attempts(document["task"], newest["task"]) > 0 else newest
    return newest


def how_it_ended(document: dict[str, Any]) -> str:
    if "sentence" in document:
        return f"ended with exit code {document['exit_code']}: {document['sentence']}"
    return f"published its result in {document['seconds']} s"


def harmless(job: Job, variables: Mapping[str, str]) -> dict[str, str]:
    """The environment in which a job reaches no service but those on this machine; its lake is a scratch one.

    Clients of S3 and of any service that the job does not name get an address where nobody answers. ArgumentError if
    the server of a service that it names is not proven to be on this machine.
    """
    kept = {name: value for name, value in variables.items() if not name.startswith("AWS_ENDPOINT_URL")}
    kept |= {
        "AWS_ENDPOINT_URL": NOBODY,
        "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "false",
        "NO_PROXY": "*",
        "no_proxy": "*",
    }
    for service in job.services:
        variable = f"{service.upper()}_ENDPOINT"
        try:
            address = local_address(variables.get(variable, ""))
        except ValueError as error:
            raise ArgumentError(
                f"{job.name} writes to {service}, which others may read, and {variable} is "
                f"{variables.get(variable)!r} ({error}); name a server on this machine there, as in "
                f"{variable}=http://127.0.0.1:8000."
            ) from None
        kept |= {variable: address, f"AWS_ENDPOINT_URL_{service.upper()}": address}
    return kept


def local_address(url: str) -> str:
    """The URL of a server with its host as the loopback address that it resolves to; ValueError if it is none."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("expected http://HOST:PORT")
    if not re.fullmatch(r"[A-Za-z0-9.:\[\]-]+", parts.netloc) or parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError("expected http://HOST:PORT and nothing else")
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(parts.hostname, parts.port or 80)}
    except OSError as error:
        raise ValueError(f"{parts.hostname} has no address: {error}") from None
    if others := sorted(address for address in found if not ipaddress.ip_address(address).is_loopback):
        raise ValueError(f"{others[0]} is not an address of this machine's loopback")
    address = min(found)  # 127.… before ::1
    return f"{parts.scheme}://{f'[{address}]' if ':' in address else address}{f':{parts.port}' if parts.port else ''}"


def command_line(document: dict[str, Any], root: str) -> list[str]:
    """The arguments of main.py by which an attempt ran, but for the lake."""
    task = document["task"]
    names = ("dag_id", "run_id", "task_id", "attempt", "run_started", "map_index")
    told = [f"--{name.replace('_', '-')}={task[name]}" for name in names if task.get(name) is not None]
    told = [f"--lake={root}", *told]
    told += [f"--from={role}={predecessor}" for role, predecessor in document["predecessors"].items()]
    for name, value in document["parameters"].items():
        written = "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        told.append(f"--set={name}={written}")
    return told


def program(job: Job) -> list[str]:
    if job.engine == "python":
        return [sys.executable]
    memory = ["--driver-memory", job.spark["driver_memory"]] if "driver_memory" in job.spark else []
    conf = [part for name, value in job.spark.get("conf", {}).items() for part in ("--conf", f"{name}={value}")]
    return [str(Path(sys.executable).with_name("spark-submit")), *memory, *conf]


def read_then(task: Task, parents: list[dict[str, str]]) -> list[File]:
    """Files and manifests of all inputs, as they are now, without partitions that were not there for the attempt.

    An input that can't be read is told and left out: the job will say the same of it.
    """
    wanted = []
    for role, table in task.job.inputs.items():
        then = {parent["uri"]: parent["digest"] for parent in parents if parent["role"] == role}
        try:
            source = resolve(task, role, table)
        except InputError as error:
            console.print(f"input {role} is not fetched: {error}", soft_wrap=True)
            continue
        kept = {each.uri: each for each in source.manifests if not then or each.uri in then}
        changed = sum(kept[uri].digest != then[uri] for uri in kept.keys() & then.keys())
        gone = len(then.keys() - kept.keys())
        if changed or gone:
            console.print(
                f"input {role}: of {len(then)} manifests that it read {changed} have changed, {gone} are gone"
            )
        wanted += [File(uri, len(manifest.to_json(each.document))) for uri, each in kept.items()]
        wanted += files_of(source, list(kept))
    return wanted


def files_of(source: Input, manifests: list[str]) -> list[File]:
    """The files of an input that some manifests name; all of them if none does (raw files)."""
    folders = tuple(f"{uri.rpartition('/')[0]}/" for uri in manifests)
    return [file for file in source.files if not source.manifests or file.uri.startswith(folders)]


def fetch(wanted: list[File], root: str, scratch: str) -> None:
    """Make a scratch lake hold these files and no others; what was fetched before is there already."""
    places = {storage.local(f"{scratch}{file.uri.removeprefix(root)}"): file for file in wanted}
    storage.local(scratch).mkdir(parents=True, exist_ok=True)
    for file in storage.local(scratch).rglob("*"):
        if file.is_file() and (file not in places or file.name == "manifest.json"):
            file.unlink()
    missing = {
        place: file for place, file in places.items() if not (place.exists() and place.stat().st_size == file.bytes)
    }
    with Progress(console=console) as progress:
        bar = progress.add_task(
            f"fetching {len(missing)} of {len(places)} files", total=sum(file.bytes for file in missing.values())
        )

        def get(place: Path) -> None:
            uri = missing[place].uri
            place.parent.mkdir(parents=True, exist_ok=True)
            if storage.is_s3(uri):
                s3.client().download_file(*s3.bucket_and_key(uri), str(place))
            else:
                shutil.copyfile(storage.local(uri), place)
            progress.advance(bar, missing[place].bytes)

        storage.in_parallel(get, missing)


def note_days(wanted: list[File], root: str, scratch: str) -> None:
    """Note the days of datasets of which a scratch lake has partitions, by which readers find these."""
    found: dict[str, set[str]] = {}
    for file in wanted:
        if match := re.fullmatch(r"(.*)/date=([^/]+)/manifest.json", file.uri):
            found.setdefault(f"{scratch}{match[1].removeprefix(root)}", set()).add(match[2])
    for dataset, dates in found.items():
        partitions.register(dataset, dates)


def compare(former: dict[str, Any], again: manifest.Manifest | None) -> None:
    """Show rows and bytes of each output, then and now."""
    table = Table("output", "rows then", "rows now", "bytes then", "bytes now", title="Then and now")
    table.title_justify = "left"
    for role, output in again.document["outputs"].items() if again else []:
        before = former.get("outputs", {}).get(role, {})
        numbers = [before.get("rows", "-"), output["rows"], before.get("bytes", "-"), output["bytes"]]
        table.add_row(role, *map(str, numbers))
    console.print(table)
    if again:
        console.print(f"all of it: {again.uri}", soft_wrap=True)


if __name__ == "__main__":
    main()

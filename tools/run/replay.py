"""Rerun one task of a pipeline on this machine: inputs are fetched into a scratch lake, the code is this checkout's.

The exit code is the job's. Partitions to which the task appended are not fetched: they start empty.
"""

import argparse
import ipaddress
import os
import re
import shlex
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
from common.errors import ArgumentError, InputError
from common.handover import Task, manifest, partitions, storage
from common.handover.command_line import lake_uri, parse
from common.handover.inputs import Input, resolve
from common.handover.job_toml import Job, load
from common.handover.storage import File
from common.protocol import nearest
from tools.command_line import exit_on_task_error
from tools.packaging.fingerprint import ROOT, has_light, select_jobs

NO_SERVER = "http://127.0.0.1:9"  # the port of the service that discards
STORES = ("DYNAMODB_ENDPOINT", "BIGTABLE_EMULATOR_HOST", "REDIS_URL")  # variables that name the server of a store

console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)


@exit_on_task_error()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    laptop = f"file://{ROOT}/.tandem/lake"
    parser.add_argument("--lake", type=lake_uri, default=laptop, metavar="URI", help="root, the laptop's if absent")
    parser.add_argument("--dag-id", required=True, metavar="ID")
    parser.add_argument("--run-id", required=True, metavar="ID")
    parser.add_argument("--task-id", required=True, metavar="ID")
    parser.add_argument("--map-index", type=int, metavar="NUMBER", help="the instance of a mapped task")
    parser.add_argument("--spark", action="store_true", help="run a Spark job on Spark, not on the light engine")
    arguments = parser.parse_args()
    arguments.lake = arguments.lake.rstrip("/")
    sys.exit(replay(arguments))


def replay(arguments: argparse.Namespace) -> int:
    """Fetch the inputs of the task's newest attempt, run its job on them, and compare; return the job's exit code."""
    document = load_newest(arguments)
    console.print(f"attempt {document['task']['attempt']} of {arguments.task_id} {describe_end(document)}")
    (name,) = select_jobs([document["job"]])
    folder = ROOT / "jobs" / name
    job = load(folder)
    environment = isolate(job, os.environ)
    task = Task(job, folder, parse(job, command_line(document, arguments.lake)))
    if task.code != document["fingerprint"]:
        console.print(f"it ran code {document['fingerprint']}, this checkout has {task.code}")
    folders = [
        arguments.dag_id,
        arguments.run_id,
        arguments.task_id,
        *([] if arguments.map_index is None else [f"{arguments.map_index}"]),
    ]
    scratch = f"file://{ROOT}/.tandem/replay/{'/'.join(map(protocol.encode, folders))}"
    wanted = list_inputs(task, document["parents"], document.get("deliveries"))
    fetch(wanted, arguments.lake, scratch)
    register_days(wanted, arguments.lake, scratch)
    command = [*program(job, arguments.spark), str(folder / "main.py"), *command_line(document, scratch)]
    console.print(f"running {shlex.join(command)}", soft_wrap=True)
    environment |= {"PYTHONPATH": str(ROOT), "PYSPARK_PYTHON": sys.executable}
    code = subprocess.run(command, env=environment).returncode
    if code == 0:
        compare(document, manifest.load_or_none(protocol.manifest_uri(task.key.replace(arguments.lake, scratch, 1))))
    return code


def load_newest(arguments: argparse.Namespace) -> dict[str, Any]:
    """Load the newest manifest or failure document that an attempt of a task left."""
    key = protocol.task_key(arguments.lake, arguments.dag_id, arguments.run_id, arguments.task_id, arguments.map_index)
    names = storage.folders(key)
    if not names:
        parent, name = key.rpartition("/")[::2]
        while not (known := storage.folders(parent)) and parent != arguments.lake:
            parent, name = parent.rpartition("/")[::2]
        raise ArgumentError(f"{parent} has no folder '{name}'{nearest(name, known)}.")
    if instances := [name for name in names if name.startswith("map-")]:
        raise ArgumentError(
            f"Task '{arguments.task_id}' has {len(instances)} instances; select one, as in MAP_INDEX=0."
        )
    uris = [protocol.manifest_uri(key), *(protocol.failure_uri(f"{key}/{name}") for name in names)]
    documents = [each.document for each in storage.in_parallel(manifest.load_or_none, uris) if each]
    if not documents:
        raise InputError(
            f"No attempt at {key} left a manifest or a failure document: it was killed. The last line of its log on "
            "Airflow's page is the command to rerun it."
        )
    newest: dict[str, Any] = documents[0]  # the manifest comes before a failure of the same attempt
    for document in documents[1:]:
        newest = document if manifest.compare_attempts(document["task"], newest["task"]) > 0 else newest
    return newest


def describe_end(document: dict[str, Any]) -> str:
    if "sentence" in document:
        return f"ended with exit code {document['exit_code']}: {document['sentence']}"
    return f"published its result in {document['seconds']} s"


def isolate(job: Job, variables: Mapping[str, str]) -> dict[str, str]:
    """Return environment variables with which a job reaches only services on this machine; its lake is a scratch one.

    Clients of other services get an address without a server. ArgumentError if the job writes products, and the server
    of their store is not proven to be on this machine.
    """
    kept = {name: value for name, value in variables.items() if not name.startswith("AWS_ENDPOINT_URL")}
    kept |= {
        "AWS_ENDPOINT_URL": NO_SERVER,
        "STORAGE_EMULATOR_HOST": NO_SERVER,
        "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "false",
        "BIGTABLE_EMULATOR_HOST": NO_SERVER.removeprefix("http://"),
        "REDIS_URL": NO_SERVER.replace("http", "redis"),
        "NO_PROXY": "*",
        "no_proxy": "*",
    }
    if "delivery" in job.services:
        kept |= local_stores(job.name, variables)
    return kept


def local_stores(job: str, variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that name the servers of stores; ArgumentError if none does or one is elsewhere."""
    given = {name: variables[name] for name in STORES if variables.get(name)}
    found = {}
    for name, value in (given or {STORES[0]: variables.get(STORES[0], "")}).items():
        try:
            found[name] = local_store(name, value)
        except ValueError as error:
            raise ArgumentError(
                f"{job} writes to a store of products, which others may read, and {name} is {value!r} ({error}); set "
                f"it to a server on this machine, as in {STORES[0]}=http://127.0.0.1:8000."
            ) from None
    if STORES[0] in found:
        found["AWS_ENDPOINT_URL_DYNAMODB"] = found[STORES[0]]
    return found


def local_store(name: str, value: str) -> str:
    """Return the address of a store's server with its host resolved; ValueError if it is not a loopback address."""
    if name == "BIGTABLE_EMULATOR_HOST":
        return local_address(f"http://{value}").removeprefix("http://")
    if name == "REDIS_URL":
        parts = re.fullmatch(r"(rediss?://(?:[^@/?#]*@)?)([^@/?#]+)(/\d*)?", value)
        if parts is None:
            raise ValueError("expected redis://HOST:PORT")
        return parts[1] + local_address(f"http://{parts[2]}").removeprefix("http://") + (parts[3] or "")
    return local_address(value)


def local_address(url: str) -> str:
    """Return the URL of a server with its host resolved to a loopback address; ValueError if it is not one."""
    split = urlsplit(url)
    if split.scheme not in ("http", "https") or not split.hostname:
        raise ValueError("expected http://HOST:PORT")
    if not re.fullmatch(r"[A-Za-z0-9.:\[\]-]+", split.netloc) or split.path.strip("/") or split.query or split.fragment:
        raise ValueError("expected http://HOST:PORT and nothing else")
    try:
        addresses = {str(entry[4][0]) for entry in socket.getaddrinfo(split.hostname, split.port or 80)}
    except OSError as error:
        raise ValueError(f"{split.hostname} has no address: {error}") from None
    if others := sorted(address for address in addresses if not ipaddress.ip_address(address).is_loopback):
        raise ValueError(f"{others[0]} is not an address of this machine's loopback")
    address = min(addresses)  # 127.… before ::1
    return f"{split.scheme}://{f'[{address}]' if ':' in address else address}{f':{split.port}' if split.port else ''}"


def command_line(document: dict[str, Any], root: str) -> list[str]:
    """Return the arguments of main.py of an attempt, with another lake."""
    task = document["task"]
    names = ("dag_id", "run_id", "task_id", "attempt", "run_started", "map_index")
    options = [f"--{name.replace('_', '-')}={task[name]}" for name in names if task.get(name) is not None]
    options = [f"--lake={root}", *options]
    options += [f"--from={role}={predecessor}" for role, predecessor in document["predecessors"].items()]
    for name, value in document["parameters"].items():
        text = "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        options.append(f"--set={name}={text}")
    return options


def program(job: Job, on_spark: bool) -> list[str]:
    """Return the command that runs a job's main.py."""
    if job.engine == "python":
        return [sys.executable]
    if has_light(job.name) and not on_spark:
        return [sys.executable, "-m", "common.engines.light.submit"]
    memory = ["--driver-memory", job.spark["driver_memory"]] if "driver_memory" in job.spark else []
    conf = [word for name, value in job.spark.get("conf", {}).items() for word in ("--conf", f"{name}={value}")]
    return [str(Path(sys.executable).with_name("spark-submit")), *memory, *conf]


def list_inputs(task: Task, parents: list[dict[str, str]], taken: list[str] | None) -> list[File]:
    """List the present files and manifests of all inputs, without partitions published after the attempt.

    Of the raw level only the files that the attempt took, if it recorded them.
    An input that can't be read is reported and omitted: the job will report the same.
    """
    wanted = []
    for role, table in task.job.inputs.items():
        if table.raw and taken is not None:
            wanted += deliveries(task.lake, role, taken)
            continue
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
                f"input {role}: of {len(then)} manifests that it read, {changed} have changed, {gone} are gone"
            )
        wanted += [File(uri, len(manifest.to_json(each.document))) for uri, each in kept.items()]
        wanted += files_of(source, list(kept))
    return wanted


def deliveries(lake: str, role: str, taken: list[str]) -> list[File]:
    """List the present ones of the raw files that an attempt took."""
    inside = [path for path in taken if path.startswith("raw/") and not {"", ".", ".."} & set(path.split("/"))]
    sizes = storage.sizes([f"{lake}/{path}" for path in inside])
    present = [File(uri, sizes[uri]) for path in inside if (uri := f"{lake}/{path}") in sizes]
    if gone := len(taken) - len(present):
        console.print(f"input {role}: of {len(taken)} files that it took, {gone} are gone")
    return present


def files_of(source: Input, manifests: list[str]) -> list[File]:
    """Return the files of an input that some manifests name; all files of a raw input."""
    folders = tuple(f"{uri.rpartition('/')[0]}/" for uri in manifests)
    return [file for file in source.files if not source.manifests or file.uri.startswith(folders)]


def fetch(wanted: list[File], root: str, scratch: str) -> None:
    """Make a scratch lake contain these files and no others; files from earlier calls stay."""
    targets = {storage.local(f"{scratch}{file.uri.removeprefix(root)}"): file for file in wanted}
    storage.local(scratch).mkdir(parents=True, exist_ok=True)
    for file in storage.local(scratch).rglob("*"):
        if file.is_file() and (file not in targets or file.name == "manifest.json"):
            file.unlink()
    missing = {
        target: file
        for target, file in targets.items()
        if not (target.exists() and target.stat().st_size == file.bytes)
    }
    with Progress(console=console) as progress:
        bar = progress.add_task(
            f"fetching {len(missing)} of {len(targets)} files", total=sum(file.bytes for file in missing.values())
        )

        def get(target: Path) -> None:
            target.parent.mkdir(parents=True, exist_ok=True)
            storage.download(missing[target].uri, str(target))
            progress.advance(bar, missing[target].bytes)

        storage.in_parallel(get, missing)


def register_days(wanted: list[File], root: str, scratch: str) -> None:
    """Register the days of partitions in a scratch lake, so that readers find them."""
    days: dict[str, set[str]] = {}
    for file in wanted:
        if match := re.fullmatch(r"(.*)/date=([^/]+)/manifest.json", file.uri):
            days.setdefault(f"{scratch}{match[1].removeprefix(root)}", set()).add(match[2])
    for dataset, dates in days.items():
        partitions.register(dataset, dates)


def compare(former: dict[str, Any], rerun: manifest.Manifest | None) -> None:
    """Print rows and bytes of each output, then and now."""
    table = Table("output", "rows then", "rows now", "bytes then", "bytes now", title="Then and now")
    table.title_justify = "left"
    for role, output in rerun.document["outputs"].items() if rerun else []:
        before = former.get("outputs", {}).get(role, {})
        numbers = [before.get("rows", "-"), output["rows"], before.get("bytes", "-"), output["bytes"]]
        table.add_row(role, *map(str, numbers))
    console.print(table)
    if rerun:
        console.print(f"manifest: {rerun.uri}", soft_wrap=True)


if __name__ == "__main__":
    main()

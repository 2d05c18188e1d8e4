# Generated from common/protocol.py by make format; edit that file.
"""The one source of the agreement between jobs and schedulers: names in the lake, arguments, exit codes, results.

Standard library only. `make format` copies this file to airflow_dags/tandem/protocol.py, because neither side of the
wall imports from the other; `make lint` checks the copy.
"""

import datetime
import difflib
import hashlib
import json
import math
import re
import string
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict
from urllib.parse import urlsplit

MAX_NAME = 200  # file systems end at 255 bytes, S3 keys at 1,024: three IDs and a file's name must fit
MAX_RESULT = 48 << 10  # bytes of a task's result: an orchestrator's database is not meant for data
S3_ATTEMPTS = 8  # per request, over about half a minute: a server that restarts is back by then

EXIT_ARGUMENTS, EXIT_INPUT, EXIT_REFUSED, EXIT_STALE, EXIT_MEMORY = 2, 3, 4, 5, 6
FINAL = {  # exit codes that a retry would only repeat
    EXIT_ARGUMENTS: "wrong arguments",
    EXIT_INPUT: "an input is missing or breaks its contract",
    EXIT_REFUSED: "a quality gate refused the result",
    EXIT_STALE: "fenced, this attempt or a newer one has published",
}
MEANINGS = {**FINAL, EXIT_MEMORY: "out of memory"}

LIBRARIES = "libraries.zip"  # of a bundle: the libraries that a cluster lacks
SPARK_SIZES = {
    "spark.driver.memory": "driver_memory",
    "spark.executor.memory": "executor_memory",
    "spark.executor.cores": "executor_cores",
}
# YARN itself restarts a driver that failed, under the same attempt number; only the scheduler decides on retries.
ONE_ATTEMPT = "spark.yarn.maxAppAttempts"

PARSERS: dict[str, Any] = {  # by type of a parameter
    "integer": int,
    "number": float,
    "string": str,
    "boolean": lambda text: {"true": True, "false": False}[text.lower()],
    "date": datetime.date.fromisoformat,
}
EXPECTED = {
    "integer": "an integer",
    "number": "a number",
    "string": "a string",
    "boolean": "true or false",
    "date": "a date such as 2011-06-01",
}

UNITS = {"m": 1e-3, "": 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}  # as in job.toml and Kubernetes
LEDGER_FORMAT = 1
REPORTS = "products/reports"
REPORT_TASK = "report_run"  # the last task of every pipeline; also its job


class LedgerEntry(TypedDict):
    """A raw file that was ingested: bytes, tag (ETag on S3, st_mtime_ns of a file), records in quarantine."""

    bytes: int
    tag: str
    unusable: int


# Names in the lake


def encode(identifier: str) -> str:
    """Return the name of a folder for an ID: readable, injective and safe for Hadoop paths, S3 keys and file systems.

    Letters, digits, `_`, `-` and `.` stay; every other byte of the UTF-8 form becomes `~` and two hexadecimal digits
    (run IDs contain `:` and `+`, which Hadoop and URLs misread). A first `.` or `_` is encoded too, because Hadoop
    hides such names and `..` climbs. A name over 200 characters keeps 150 and ends in `~~` and a SHA-256 prefix.
    Raises ValueError for an empty ID.
    """
    if not identifier:
        raise ValueError("An ID is empty, expected at least one character.")
    name = re.sub(
        rb"^[._]|[^A-Za-z0-9_.-]",
        lambda match: b"~%02x" % match.group()[0],
        identifier.encode("utf-8", "surrogatepass"),
    ).decode("ascii")
    if len(name) > MAX_NAME:
        digest = hashlib.sha256(identifier.encode("utf-8", "surrogatepass")).hexdigest()
        return f"{name[:150]}~~{digest[:32]}"
    return name


def task_key(lake: str, dag_id: str, run_id: str, task_id: str, map_index: int | None = None) -> str:
    """URI of the folder that contains a task's attempts and the manifest that names the valid one."""
    key = "/".join([lake, "intermediate", *map(encode, (dag_id, run_id, task_id))])
    return key if map_index is None else f"{key}/map-{map_index}"


def attempt_folder(key: str, attempt: int) -> str:
    """URI of the only folder that an attempt writes to."""
    return f"{key}/attempt-{attempt}"


def manifest_uri(folder: str) -> str:
    """URI of the manifest of a task's key or of a dataset's partition."""
    return f"{folder}/manifest.json"


def failure_uri(attempt: str) -> str:
    """URI of the failure document in an attempt's folder."""
    return f"{attempt}/failure.json"


def scheduler_uri(attempt: str) -> str:
    """URI of the scheduler's document about an attempt, in its folder: beginning, end, state, reason, links."""
    return f"{attempt}/scheduler.json"


def run_uri(report_key: str) -> str:
    """URI of the scheduler's document about a whole run, in the folder of the task that reports on it."""
    return f"{report_key}/run.json"


def report_name(run_after: datetime.datetime, run_id: str) -> str:
    """Return the name of a run's card and record: month, then the time for which it was due (UTC) and its ID."""
    due = run_after.astimezone(datetime.UTC)
    return f"{due:%Y-%m}/{due:%Y-%m-%dT%H%M%SZ}_{encode(run_id)}"


def card_uri(lake: str, dag_id: str, name: str) -> str:
    """URI of the page about a run, by its `report_name`."""
    return f"{lake.rstrip('/')}/{REPORTS}/cards/{encode(dag_id)}/{name}.html"


def record_uri(lake: str, dag_id: str, name: str) -> str:
    """URI of the record of a run, by its `report_name`."""
    return f"{lake.rstrip('/')}/{REPORTS}/records/{encode(dag_id)}/{name}.json"


def ledger_folder(lake: str, kind: str) -> str:
    """URI of the folder that contains the ledger of a dataset that is filled from deliveries of a kind."""
    return f"{lake}/curated/{kind}/ingested"


def arrival_day(path: str) -> str | None:
    """Return the day of a raw file's folder `arrival=YYYY-MM-DD`, by its path in the lake; None without one."""
    match = re.search(r"/arrival=([0-9]{4}-(?:0[1-9]|1[0-2])-[0-9]{2})/", path)
    return match[1] if match else None


def ledger_uri(lake: str, kind: str, path: str) -> str:
    """URI of the document of the ledger that has a raw file, by its path in the lake: one for each month of arrival."""
    return f"{ledger_folder(lake, kind)}/{(arrival_day(path) or 'other')[:7]}.json"


def ledger_entries(content: bytes) -> dict[str, LedgerEntry]:
    """Return the entries of a document of a ledger by path; none if it is cut off or of another format.

    Files without an entry are ingested again, which deduplication makes harmless.
    """
    try:
        document = json.loads(content)
        if document["format"] != LEDGER_FORMAT:
            return {}
        return {
            path: LedgerEntry(bytes=int(each["bytes"]), tag=str(each["tag"]), unusable=int(each["unusable"]))
            for path, each in document["files"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def is_ingested(entry: LedgerEntry | None, size: int, tag: str) -> bool:
    """Return True if a ledger's entry is about the raw file of this size and tag, and not about a former one."""
    return entry is not None and (entry["bytes"], entry["tag"]) == (size, tag)


def code_folder(lake: str, job: str, fingerprint: str) -> str:
    """URI of the folder that contains the bundle of a Spark job."""
    return f"{lake.rstrip('/')}/code/{job}/{fingerprint}"


def bundle_arguments(folder: str, libraries: bool) -> list[str]:
    """Return the arguments of spark-submit for a bundle's files; each process unpacks `libraries` in its folder."""
    archives = ["--archives", f"{folder}/{LIBRARIES}#libraries"] if libraries else []
    return [*archives, "--py-files", f"{folder}/code.zip", f"{folder}/main.py"]


def spark_properties(spark: Mapping[str, Any]) -> dict[str, str]:
    """Return Spark's properties from a table like [spark] of job.toml: its sizes, then its `conf`."""
    sizes = {name: spark[size] for name, size in SPARK_SIZES.items() if size in spark}
    return {name: str(value) for name, value in {**sizes, **spark.get("conf", {})}.items()}


def library_properties(driver: str) -> dict[str, str]:
    """Return properties that put unpacked libraries on the path of driver and executors.

    `driver` prefixes the driver's environment variables.
    """
    return {f"{process}.PYTHONPATH": "libraries" for process in (driver, "spark.executorEnv")}


def conf_arguments(properties: Mapping[str, str]) -> list[str]:
    """Return the arguments of spark-submit that set properties."""
    return [argument for name, value in properties.items() for argument in ("--conf", f"{name}={value}")]


def light_product(job: str) -> str:
    """Return the name of a Spark job's second build product, an image without Spark, in releases and of that image."""
    return f"{job}-light"


def image(job: str, fingerprint: str, registry: str = "") -> str:
    """Return the name of a job's image, on this engine or in a registry."""
    return f"{registry.rstrip('/')}/tandem/{job}:{fingerprint}".lstrip("/")


# Arguments and parameters


def arguments(
    identity: Mapping[str, Any],
    predecessors: Mapping[str, str] | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> list[str]:
    """Return the arguments of every job's main.py, each as one word, because an ID may begin with a dash.

    `identity` has lake, dag_id, run_id, task_id, attempt, run_started and map_index; None is omitted.
    """
    names = ("lake", "dag_id", "run_id", "task_id", "attempt", "run_started", "map_index")
    return [
        *(f"--{name.replace('_', '-')}={identity[name]}" for name in names if identity.get(name) is not None),
        *(f"--from={role}={task_id}" for role, task_id in (predecessors or {}).items()),
        *(f"--set={name}={to_text(value)}" for name, value in (parameters or {}).items()),
    ]


def to_text(value: Any) -> str:
    """Return the value of a parameter as the command line expects it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def parse_parameter(
    kind: str, text: str, limits: Sequence[float] | None = None, choices: Sequence[str] | None = None
) -> Any:
    """Return the typed value of a parameter; ValueError states the expectation, as the end of a sentence.

    `limits` are inclusive. An empty date is None: not set.
    """
    if kind == "date" and not text:
        return None
    try:
        value = PARSERS[kind](text)
        if kind == "number" and not math.isfinite(value):
            raise ValueError
    except (ValueError, KeyError):
        raise ValueError(f", expected {EXPECTED[kind]}") from None
    if limits and not limits[0] <= value <= limits[1]:
        raise ValueError(f", expected a value from {limits[0]} to {limits[1]}")
    if choices and value not in choices:
        raise ValueError(nearest(value, list(choices)))
    return value


def quantity(text: str) -> float:
    """Return the number that a text such as 500m, 2, 512Mi or 4Gi denotes; ValueError or KeyError for another text."""
    number = text.rstrip(string.ascii_letters)
    return float(number) * UNITS[text.removeprefix(number)]


def nearest(word: str, known: Sequence[str]) -> str:
    """Return the end of a sentence about an unknown word: the closest known word, else all known ones."""
    if close := difflib.get_close_matches(word, known, 1, 0.5):
        return f"; did you mean '{close[0]}'"
    return f"; expected one of {', '.join(known)}" if known else "; expected none"


# Results


def fit_result(manifest_uri: str, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result of a task for its orchestrator: manifest URI and metrics, at most MAX_RESULT bytes as JSON.

    The largest metrics are left out, and `left_out` counts them; the manifest has all of them. Metrics are plain JSON.
    """
    sizes = {name: len(json.dumps(name)) + len(json.dumps(value)) + 4 for name, value in metrics.items()}
    kept, size = set(), len(manifest_uri) + 1024
    for name in sorted(sizes, key=lambda name: sizes[name]):
        size += sizes[name]
        if size > MAX_RESULT:
            break
        kept.add(name)
    result: dict[str, Any] = {"manifest": manifest_uri}
    result["metrics"] = {name: value for name, value in metrics.items() if name in kept}
    if left_out := sorted(sizes.keys() - kept):
        result["left_out"] = f"{len(left_out)} metrics, '{left_out[0][:100]}' first; the manifest has them."
    return result


# Services outside of a container

CREDENTIALS_FILE = "GOOGLE_APPLICATION_CREDENTIALS"  # its value is the path of a file
GOOGLE = (CREDENTIALS_FILE, "GOOGLE_CLOUD_PROJECT")
# The variables by which a job reaches a service, by prefixes of their names: credentials, keys, addresses.
VARIABLES: dict[str, tuple[str, ...]] = {
    "s3": ("AWS_", "TANDEM_S3_"),
    "gs": (*GOOGLE, "STORAGE_EMULATOR_HOST", "TANDEM_GS_"),
    "delivery": ("AWS_", "DYNAMODB_ENDPOINT", *GOOGLE, "BIGTABLE_EMULATOR_HOST", "REDIS_URL"),
}
# The variables that may name a server instead of the cloud's; of each line the first that is set counts.
ADDRESSES: dict[str, list[tuple[str, ...]]] = {
    "s3": [("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")],
    "gs": [("STORAGE_EMULATOR_HOST",)],
    "delivery": [
        ("DYNAMODB_ENDPOINT", "AWS_ENDPOINT_URL_DYNAMODB", "AWS_ENDPOINT_URL"),
        ("BIGTABLE_EMULATOR_HOST",),
        ("REDIS_URL",),
    ],
}


def services_of(lake: str, services: Iterable[str]) -> list[str]:
    """Return the services that a job needs outside of its container: its lake's store, unless that is a folder."""
    scheme = lake.partition("://")[0]
    return [*([scheme] if scheme in VARIABLES else []), *services]


def service_variables(services: Iterable[str], environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables by which a job reaches services."""
    prefixes = tuple(prefix for service in services for prefix in VARIABLES[service])
    return {name: value for name, value in environment.items() if name.startswith(prefixes)}


def is_on_loopback(service: str, environment: Mapping[str, str]) -> bool:
    """Return True if the environment names a server on this machine for a service."""
    found = (next((environment[name] for name in names if environment.get(name)), "") for names in ADDRESSES[service])
    hosts = [urlsplit(address if "://" in address else f"//{address}").hostname or "" for address in found]
    return any(host in ("localhost", "::1") or host.startswith("127.") for host in hosts)

"""The environment that pipelines run in: environments/<TANDEM_ENVIRONMENT>.toml, `laptop` if that is not set."""

import os
import tomllib
from dataclasses import dataclass, fields
from datetime import timedelta
from pathlib import Path
from typing import Any

from tandem.errors import check_known
from tandem.runtimes import ContainerRuntime, SparkRuntime
from tandem.runtimes.docker import Docker
from tandem.runtimes.emr import Emr
from tandem.runtimes.emr_serverless import EmrServerless
from tandem.runtimes.kubernetes_job import KubernetesJob
from tandem.runtimes.kubernetes_pod import KubernetesPod
from tandem.runtimes.process import Process
from tandem.runtimes.spark_submit import SparkSubmit

CONTAINER_RUNTIMES: dict[str, type[Process | Docker | KubernetesPod]] = {
    "process": Process,
    "docker": Docker,
    "kubernetes_pod": KubernetesPod,
    "kubernetes_job": KubernetesJob,
}
SPARK_RUNTIMES: dict[str, type[SparkSubmit | Emr | EmrServerless]] = {
    "spark_submit": SparkSubmit,
    "emr": Emr,
    "emr_serverless": EmrServerless,
}
VARIABLES = {"container": "TANDEM_CONTAINERS", "spark": "TANDEM_SPARK"}  # each names another runtime of its kind


@dataclass(frozen=True)
class Environment:
    """Where the lake is, how often a task is tried again, and what runs the jobs."""

    lake: str  # a template; it knows `code`
    code: Path  # the folder that holds `jobs`
    tables: str  # how the names of the tables begin that products are published to; templates know it as `tables`
    retries: int
    retry_delay: timedelta
    parts_at_once: int  # of a mapped task in a run
    container: ContainerRuntime
    spark: SparkRuntime


def load(folder: Path) -> Environment:
    """The environment of this process, from the folder that holds one file for each."""
    name = os.environ.get("TANDEM_ENVIRONMENT", "laptop")
    check_known("environment", name, [file.stem for file in folder.glob("*.toml")], "TANDEM_ENVIRONMENT")
    file = folder / f"{name}.toml"
    table = tomllib.loads(file.read_text())
    known = [
        "lake",
        "code",
        "registry",
        "retries",
        "retry_delay_seconds",
        "parts_at_once",
        "container",
        "spark",
        "delivery",
    ]
    for key in table:
        check_known("key", key, known, file.name)
    code = Path(os.environ.get("TANDEM_CODE", folder / table["code"])).resolve()
    shared = {"code": code, "registry": table.get("registry", "")}
    container = chosen("container", table, file.name)
    spark = chosen("spark", table, file.name)
    return Environment(
        lake=table["lake"],
        code=code,
        tables=table["delivery"]["tables"],
        retries=table["retries"],
        retry_delay=timedelta(seconds=table["retry_delay_seconds"]),
        parts_at_once=table["parts_at_once"],
        container=runtime(CONTAINER_RUNTIMES, container, f"[container] of {file.name}", shared, folder),
        spark=runtime(SPARK_RUNTIMES, spark, f"[spark] of {file.name}", shared, folder),
    )


def chosen(kind: str, table: dict[str, Any], file: str) -> dict[str, Any]:
    """The runtime of a kind of jobs that its variable names, else the environment's own choice, with its settings."""
    runtimes, where = table[kind], f"{VARIABLES[kind]} or [{kind}] of {file}"
    name = os.environ.get(VARIABLES[kind], runtimes["runtime"])
    check_known("runtime", name, runtimes.keys() - {"runtime"}, where)
    return {"runtime": name, **runtimes[name]}


def runtime(
    kinds: dict[str, type[Any]], table: dict[str, Any], where: str, shared: dict[str, Any], folder: Path
) -> Any:
    """The runtime that a table of an environment describes; its files are named relative to that file's folder.

    What several runtimes need is `shared`: each takes of it what it has a field for.
    """
    settings = dict(table)
    name = settings.pop("runtime")
    check_known("runtime", name, kinds, where)
    known = {entry.name: entry.type for entry in fields(kinds[name])}
    own = {name: value for name, value in shared.items() if known.pop(name, None)}
    for key in settings:
        check_known("key", key, known, where)
    paths = {key: folder.absolute() / value for key, value in settings.items() if known[key] is Path}
    return kinds[name](**{**own, **settings, **paths})

"""The environment that pipelines run in: environments/<TANDEM_ENVIRONMENT>.toml, `laptop` if that is not set."""

import os
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from datetime import timedelta
from pathlib import Path
from typing import Any

from tandem import settings
from tandem.dag_errors import PipelineError, check_known
from tandem.failure_notice import FailureNotice
from tandem.protocol import quantity
from tandem.runtimes.base import Runtime, SparkRuntime
from tandem.runtimes.dataproc.batches import DataprocServerless
from tandem.runtimes.dataproc.jobs import Dataproc
from tandem.runtimes.emr.serverless import EmrServerless
from tandem.runtimes.emr.steps import Emr
from tandem.runtimes.kubernetes.job import KubernetesJob
from tandem.runtimes.kubernetes.pod import KubernetesPod
from tandem.runtimes.local.docker import Docker
from tandem.runtimes.local.process import Process
from tandem.runtimes.local.spark_submit import SparkSubmit
from tandem.settings import Settings

CONTAINER_RUNTIMES: dict[str, type[Process | Docker | KubernetesPod]] = {
    kind.name: kind for kind in (Process, Docker, KubernetesPod, KubernetesJob)
}
SPARK_RUNTIMES: dict[str, type[SparkSubmit | Emr | EmrServerless | Dataproc | DataprocServerless]] = {
    kind.name: kind for kind in (SparkSubmit, Emr, EmrServerless, Dataproc, DataprocServerless)
}
VARIABLES = {"container": "TANDEM_CONTAINERS", "spark": "TANDEM_SPARK"}  # each overrides the runtime of its kind
CONTAINER, AUTO, CLUSTER = "container", "auto", "cluster"  # where a Spark job runs; the last: on the Spark runtime


@dataclass(frozen=True)
class Environment:
    """The lake, the schedules, the retries and limits of tasks, and the runtimes of an environment."""

    name: str
    lake: str  # a template with the macro `code`
    code: Path  # the folder that contains `jobs`
    store: str  # URL of the store of products; the macro `store` of templates
    tables: str  # prefix of the names of products in it; the macro `tables`
    retries: int
    retry_delay: timedelta
    deadline_seconds: int  # of an attempt, if its job.toml names none
    max_active_runs: int  # of a pipeline
    max_active_tis_per_dagrun: int  # of a mapped task in a run
    pipelines: Mapping[str, Mapping[str, Any]]  # schedule and overdue_hours of each, both optional
    failure_notice: FailureNotice
    prices: Mapping[str, Any]  # empty where nothing costs
    container: Runtime
    spark: SparkRuntime | None  # None if the environment names none
    spark_place: str  # CONTAINER, AUTO or CLUSTER; the settings of a task override it
    max_bytes: float  # of the inputs of a Spark job that AUTO runs in a container

    @property
    def overdue_hours(self) -> dict[str, float]:
        """The hours within which each pipeline must succeed, if any."""
        return {name: table["overdue_hours"] for name, table in self.pipelines.items() if "overdue_hours" in table}


def load(folder: Path) -> Environment:
    """The environment of this process, from the folder with one file per environment."""
    loaded = settings.of_this_process(folder)
    place, spark = spark_runtime(loaded)
    shared = {"code": loaded.code, "registry": loaded.get("registry") or ""}
    return Environment(
        name=loaded.name,
        lake=loaded["lake"],
        code=loaded.code,
        store=loaded["delivery"]["store"],
        tables=loaded["delivery"]["tables"],
        retries=loaded["retries"],
        retry_delay=timedelta(seconds=loaded["retry_delay_seconds"]),
        deadline_seconds=loaded["deadline_seconds"],
        max_active_runs=loaded["max_active_runs"],
        max_active_tis_per_dagrun=loaded["max_active_tis_per_dagrun"],
        pipelines=loaded.get("pipelines") or {},
        failure_notice=FailureNotice(loaded.name, **loaded["failures"]),
        prices=loaded["prices"] if loaded["prices"].get("currency") else {},
        container=runtime(CONTAINER_RUNTIMES, "container", named(loaded, "container"), loaded, shared),
        spark=runtime(SPARK_RUNTIMES, "spark", spark, loaded, shared) if spark else None,
        spark_place=place,
        max_bytes=size(loaded["spark"]["auto"]["max_bytes"], f"[spark.auto] of {loaded.file}"),
    )


def named(loaded: Settings, kind: str) -> str:
    """The name of the runtime of a kind of jobs, by its variable or else by the environment."""
    name: str = os.environ.get(VARIABLES[kind], loaded[kind]["runtime"])
    return name


def spark_runtime(loaded: Settings) -> tuple[str, str | None]:
    """The place where Spark jobs run, and the name of the Spark runtime for those outside of containers, if any."""
    name = named(loaded, "spark")
    check_known(
        "runtime", name, {*SPARK_RUNTIMES, CONTAINER, AUTO}, f"{VARIABLES['spark']} or [spark] of {loaded.file}"
    )
    if name not in (CONTAINER, AUTO):
        return CLUSTER, name
    cluster: str | None = loaded["spark"]["auto"].get("cluster")
    if name == AUTO and cluster is None:
        raise PipelineError(
            f"cluster is set neither in [spark.auto] of {loaded.file} nor in {settings.SHARED}.toml; name the Spark "
            "runtime for large inputs there."
        )
    if cluster is not None:
        check_known("runtime", cluster, SPARK_RUNTIMES, f"[spark.auto] of {loaded.file}")
    return name, cluster


def size(text: str, where: str) -> float:
    """The number of bytes in a text such as 2GiB."""
    try:
        return quantity(text.removesuffix("B"))
    except (KeyError, ValueError):
        raise PipelineError(f"{where} sets max_bytes = {text!r}, expected a size such as 2GiB.") from None


def runtime(kinds: dict[str, type[Any]], kind: str, name: str, loaded: Settings, shared: dict[str, Any]) -> Any:
    """The runtime of a kind of jobs with its settings.

    Paths are relative to the folder of environments. `shared` has values for several runtimes: each runtime gets those
    that it has a field for.
    """
    where = f"[{kind}] of {loaded.file}"
    configured = {each for each, table in loaded[kind].items() if isinstance(table, dict)} - {AUTO}
    check_known("runtime", name, configured, f"{VARIABLES[kind]} or {where}")
    check_known("runtime", name, kinds, where)
    table, where = loaded[kind][name], f"[{kind}.{name}] of {loaded.file}"
    known = {entry.name: entry for entry in fields(kinds[name])}
    inherited = {name: value for name, value in shared.items() if known.pop(name, None)}
    for key in table:
        check_known("key", key, known, where)
    for key, entry in known.items():
        if key not in table and entry.default is MISSING and entry.default_factory is MISSING:
            raise PipelineError(
                f"{key} is set neither in {where} nor in {settings.SHARED}.toml; add it to one of them."
            )
    paths = {key: loaded.folder.absolute() / value for key, value in table.items() if known[key].type is Path}
    return kinds[name](**{**inherited, **table, **paths})

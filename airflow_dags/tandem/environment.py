"""The environment that pipelines run in: environments/<TANDEM_ENVIRONMENT>.toml, `laptop` if that is not set."""

import os
from dataclasses import MISSING, dataclass, fields
from datetime import timedelta
from pathlib import Path
from typing import Any

from tandem import settings
from tandem.dag_errors import PipelineError, check_known
from tandem.failure_notice import FailureNotice
from tandem.runtimes.base import ContainerRuntime, SparkRuntime
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
    "process": Process,
    "docker": Docker,
    "kubernetes_pod": KubernetesPod,
    "kubernetes_job": KubernetesJob,
}
SPARK_RUNTIMES: dict[str, type[SparkSubmit | Emr | EmrServerless | Dataproc]] = {
    "spark_submit": SparkSubmit,
    "emr": Emr,
    "emr_serverless": EmrServerless,
    "dataproc": Dataproc,
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
    deadline_seconds: int  # of an attempt, if its job.toml names none
    max_active_runs: int  # of a pipeline
    max_active_tis_per_dagrun: int  # of a mapped task in a run
    failure_notice: FailureNotice
    container: ContainerRuntime
    spark: SparkRuntime


def load(folder: Path) -> Environment:
    """The environment of this process, from the folder that holds one file for each."""
    said = settings.load(folder, os.environ.get("TANDEM_ENVIRONMENT", "laptop"), "TANDEM_ENVIRONMENT")
    code = Path(os.environ.get("TANDEM_CODE", folder / said["code"])).resolve()
    shared = {"code": code, "registry": said.get("registry") or ""}
    return Environment(
        lake=said["lake"],
        code=code,
        tables=said["delivery"]["tables"],
        retries=said["retries"],
        retry_delay=timedelta(seconds=said["retry_delay_seconds"]),
        deadline_seconds=said["deadline_seconds"],
        max_active_runs=said["max_active_runs"],
        max_active_tis_per_dagrun=said["max_active_tis_per_dagrun"],
        failure_notice=FailureNotice(said.name, **said["failures"]),
        container=runtime(CONTAINER_RUNTIMES, "container", said, shared),
        spark=runtime(SPARK_RUNTIMES, "spark", said, shared),
    )


def runtime(kinds: dict[str, type[Any]], kind: str, said: Settings, shared: dict[str, Any]) -> Any:
    """The runtime of a kind of jobs that its variable names, else the environment's own choice, with its settings.

    Its files and programs are named relative to the folder of environments. What several runtimes need is `shared`:
    each takes of it what it has a field for.
    """
    where = f"[{kind}] of {said.file}"
    name = os.environ.get(VARIABLES[kind], said[kind]["runtime"])
    described = {each for each, table in said[kind].items() if isinstance(table, dict)}
    check_known("runtime", name, described, f"{VARIABLES[kind]} or {where}")
    check_known("runtime", name, kinds, where)
    table, where = said[kind][name], f"[{kind}.{name}] of {said.file}"
    known = {entry.name: entry for entry in fields(kinds[name])}
    own = {name: value for name, value in shared.items() if known.pop(name, None)}
    for key in table:
        check_known("key", key, known, where)
    for key, entry in known.items():
        if key not in table and entry.default is MISSING and entry.default_factory is MISSING:
            raise PipelineError(f"{where} lacks {key}, and so does {settings.SHARED}.toml; say it in one of the two.")
    paths = {key: said.folder.absolute() / value for key, value in table.items() if known[key].type is Path}
    return kinds[name](**{**own, **table, **paths})

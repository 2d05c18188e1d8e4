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
from tandem.runtimes.base import Runtime, SparkRuntime
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
VARIABLES = {"container": "TANDEM_CONTAINERS", "spark": "TANDEM_SPARK"}  # each overrides the runtime of its kind


@dataclass(frozen=True)
class Environment:
    """The lake, the schedules, the retries and limits of tasks, and the runtimes of an environment."""

    name: str
    lake: str  # a template with the macro `code`
    code: Path  # the folder that contains `jobs`
    tables: str  # prefix of the names of DynamoDB tables; the macro `tables` of templates
    retries: int
    retry_delay: timedelta
    deadline_seconds: int  # of an attempt, if its job.toml names none
    max_active_runs: int  # of a pipeline
    max_active_tis_per_dagrun: int  # of a mapped task in a run
    pipelines: Mapping[str, Mapping[str, Any]]  # schedule and overdue_hours of each, both optional
    failure_notice: FailureNotice
    container: Runtime
    spark: SparkRuntime

    @property
    def overdue_hours(self) -> dict[str, float]:
        """The hours within which each pipeline must succeed, if any."""
        return {name: table["overdue_hours"] for name, table in self.pipelines.items() if "overdue_hours" in table}


def load(folder: Path) -> Environment:
    """The environment of this process, from the folder with one file per environment."""
    loaded = settings.load(folder, os.environ.get("TANDEM_ENVIRONMENT", "laptop"), "TANDEM_ENVIRONMENT")
    code = Path(os.environ.get("TANDEM_CODE", folder / loaded["code"])).resolve()
    shared = {"code": code, "registry": loaded.get("registry") or ""}
    return Environment(
        name=loaded.name,
        lake=loaded["lake"],
        code=code,
        tables=loaded["delivery"]["tables"],
        retries=loaded["retries"],
        retry_delay=timedelta(seconds=loaded["retry_delay_seconds"]),
        deadline_seconds=loaded["deadline_seconds"],
        max_active_runs=loaded["max_active_runs"],
        max_active_tis_per_dagrun=loaded["max_active_tis_per_dagrun"],
        pipelines=loaded.get("pipelines") or {},
        failure_notice=FailureNotice(loaded.name, **loaded["failures"]),
        container=runtime(CONTAINER_RUNTIMES, "container", loaded, shared),
        spark=runtime(SPARK_RUNTIMES, "spark", loaded, shared),
    )


def runtime(kinds: dict[str, type[Any]], kind: str, loaded: Settings, shared: dict[str, Any]) -> Any:
    """The runtime of a kind of jobs, named by its variable or else by the environment, with its settings.

    Paths are relative to the folder of environments. `shared` has values for several runtimes: each runtime gets those
    that it has a field for.
    """
    where = f"[{kind}] of {loaded.file}"
    name = os.environ.get(VARIABLES[kind], loaded[kind]["runtime"])
    configured = {each for each, table in loaded[kind].items() if isinstance(table, dict)}
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

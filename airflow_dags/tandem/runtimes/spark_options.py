"""Options of Spark jobs: properties from job.toml and a task's settings, the libraries of a bundle, the deploy mode."""

from collections.abc import Mapping
from typing import Any

from tandem.catalogue import Job
from tandem.dag_errors import PipelineError, check_known

# YARN itself restarts a driver that failed, under the same attempt number; only Airflow decides on retries.
ONE_ATTEMPT = "spark.yarn.maxAppAttempts"
SIZES = {
    "spark.driver.memory": "driver_memory",
    "spark.executor.memory": "executor_memory",
    "spark.executor.cores": "executor_cores",
}


def spark_properties(job: Job, settings: Mapping[str, Any]) -> dict[str, str]:
    """Spark's properties from job.toml, which a task's own settings override."""
    options = {**job.spark, **settings}
    sizes = {name: options[size] for name, size in SIZES.items() if size in options}
    conf = {**sizes, **job.spark.get("conf", {}), **settings.get("conf", {})}
    return {name: str(value) for name, value in conf.items()}


def libraries_properties(job: Job, driver: str) -> dict[str, str]:
    """Properties that put the job's libraries on the path of driver and executors; `driver` prefixes its variables."""
    return (
        {f"{process}.PYTHONPATH": "libraries" for process in (driver, "spark.executorEnv")} if job.requirements else {}
    )


def conf_arguments(properties: Mapping[str, str]) -> list[str]:
    """The arguments of spark-submit that set properties."""
    return [argument for name, value in properties.items() for argument in ("--conf", f"{name}={value}")]


def deploy_mode(job: Job, settings: Mapping[str, Any], default: str) -> str:
    """The deploy mode of a job's driver; PipelineError if a driver outside of YARN would lack the job's libraries."""
    mode: str = settings.get("deploy_mode", default)
    check_known("deploy mode", mode, ["client", "cluster"], f"A setting of {job.name}")
    if job.requirements and mode != "cluster":
        raise PipelineError(
            f"{job.name} brings libraries, which only a driver on YARN has; expected deploy mode 'cluster'."
        )
    return mode

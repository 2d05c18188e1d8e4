"""Options of Spark jobs: properties from job.toml and a task's settings, the libraries of a bundle, the deploy mode."""

from collections.abc import Mapping
from typing import Any

from tandem import protocol
from tandem.catalogue import Job
from tandem.dag_errors import PipelineError, check_known


def spark_properties(job: Job, settings: Mapping[str, Any]) -> dict[str, str]:
    """Spark's properties from job.toml, which a task's own settings override."""
    conf = {**job.spark.get("conf", {}), **settings.get("conf", {})}
    return protocol.spark_properties({**job.spark, **settings, "conf": conf})


def libraries_properties(job: Job, driver: str) -> dict[str, str]:
    """Properties that put the job's libraries, if any, on the path of driver and executors."""
    return protocol.library_properties(driver) if job.requirements else {}


def deploy_mode(job: Job, settings: Mapping[str, Any], default: str) -> str:
    """The deploy mode of a job's driver; PipelineError if a driver outside of YARN would lack the job's libraries."""
    mode: str = settings.get("deploy_mode", default)
    check_known("deploy mode", mode, ["client", "cluster"], f"A setting of {job.name}")
    if job.requirements and mode != "cluster":
        raise PipelineError(
            f"{job.name} brings libraries, which only a driver on YARN has; expected deploy mode 'cluster'."
        )
    return mode

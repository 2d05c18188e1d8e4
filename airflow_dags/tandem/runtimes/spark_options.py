"""Options of Spark jobs: properties from job.toml and a task's settings, the libraries of a bundle, the deploy mode."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tandem import lake, protocol
from tandem.catalogue import Job
from tandem.dag_errors import PipelineError, check_known
from tandem.runtimes.base import Attempt
from tandem.stores.files import make_folder

DRIVER_LOG = "Driver log"
HISTORY = "Spark history"  # the label of the page on the history server


def spark_properties(job: Job, settings: Mapping[str, Any]) -> dict[str, str]:
    """Spark's properties from job.toml, which a task's own settings override."""
    conf = {**job.spark.get("conf", {}), **settings.get("conf", {})}
    return protocol.spark_properties({**job.spark, **settings, "conf": conf})


def event_log_properties(folder: str) -> dict[str, str]:
    """Spark's properties for an environment that keeps event logs in a folder; none without."""
    if not folder:
        return {}
    return {"spark.eventLog.enabled": "true", "spark.eventLog.compress": "true", "spark.eventLog.dir": folder}


def event_log_request(folder: str, history: str) -> dict[str, str]:
    """The part of a request about event logs: their folder, and the address of the history server, if any."""
    return {name: value for name, value in (("event_log", folder), ("history", history)) if value}


def make_event_log(attempt: Attempt) -> None:
    """Make the folder of event logs, without which Spark does not start."""
    folder = attempt.request.get("event_log", "")
    if folder.startswith("file:"):
        make_folder(Path(folder.removeprefix("file://")))
    elif lake.is_remote(folder):
        lake.write(f"{folder.rstrip('/')}/", b"")


def history_links(attempt: Attempt, application: str | None) -> dict[str, str]:
    """The page of an attempt on the history server, if the environment has one; else the application's ID."""
    if not application:
        return {}
    server = attempt.request.get("history", "").rstrip("/")
    return {HISTORY: f"{server}/history/{application}/" if server else application}


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

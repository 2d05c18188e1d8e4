"""Gauges for StatsD or OpenTelemetry, sent where Airflow's own [metrics] are configured and nowhere else."""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from airflow.sdk.configuration import conf
from airflow.sdk.observability import stats

log = logging.getLogger(__name__)


def report_gauges(manifest: Mapping[str, Any]) -> None:
    """Report gauges of a task by its manifest; a job may be faulty, and no gauge fails a task that has published."""
    try:
        report_task(manifest)
    except Exception:
        log.warning("The gauges of a task were not reported.", exc_info=True)


def report_task(manifest: Mapping[str, Any]) -> None:
    """Report rows, quarantined share and published version of a task by its manifest."""
    task, metrics = manifest["task"], manifest["metrics"]
    tags = {"dag_id": task["dag_id"], "task_id": task["task_id"]}
    if task["map_index"] is not None:
        tags["map_index"] = str(task["map_index"])
    for output, entry in manifest["outputs"].items():
        gauge("tandem.rows", entry["rows"], {**tags, "output": output})
    if metrics.get("lines"):
        gauge("tandem.quarantined_share", metrics["unusable"] / metrics["lines"], tags)
    if "version" in metrics and not manifest["outputs"]:  # published: a shard that is written hands its part over
        basis = datetime.fromisoformat(manifest["basis"])
        product = {"table": metrics["table"]}
        gauge("tandem.live_version_basis", basis.timestamp(), product)
        gauge("tandem.live_version_age_seconds", (datetime.now(UTC) - basis).total_seconds(), product)


def gauge(name: str, value: float, tags: Mapping[str, str]) -> None:
    """Report a gauge with tags and, as Airflow does for receivers without tags, under a name that has their values."""
    stats.gauge(name, value, tags=dict(tags))
    if conf.getboolean("metrics", "legacy_names_on"):
        values = [stats.normalize_name_for_stats(each, log_warning=False) for each in tags.values()]
        stats.gauge(".".join([name, *(value.replace(".", "__") for value in values)]), value)

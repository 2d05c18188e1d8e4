"""The operators around the job runs of an EMR Serverless application: Airflow's own.

Apart from the runtime, because importing them takes a second, a cost that only environments with EMR should have.
"""

import math
from collections.abc import Sequence
from typing import Any

from airflow.providers.amazon.aws.operators.emr import (
    EmrServerlessCreateApplicationOperator,
    EmrServerlessDeleteApplicationOperator,
)

from tandem.runtimes.base import Cluster


class OpenApplication(EmrServerlessCreateApplicationOperator):
    """Creates an application, starts it and returns its ID; its configuration may contain templates."""

    template_fields: Sequence[str] = (*EmrServerlessCreateApplicationOperator.template_fields, "config")


def operators(
    name: str, request: dict[str, Any], region: str | None, poll_seconds: float, ready_seconds: float
) -> Cluster:
    """The operators that open and close an application; credentials are those that boto3 finds."""
    config = {key: value for key, value in request.items() if key not in ("releaseLabel", "type")}
    options: dict[str, Any] = {
        "aws_conn_id": None,
        "region_name": region,
        "waiter_delay": max(1, round(poll_seconds)),
        "waiter_max_attempts": math.ceil(ready_seconds / max(1, round(poll_seconds))),
        "deferrable": False,
    }
    opened = OpenApplication(
        task_id=f"open_{name}",
        release_label=request["releaseLabel"],
        job_type=request["type"],
        config=config,
        **options,
    )
    application: Any = opened.output
    closed = EmrServerlessDeleteApplicationOperator(
        task_id=f"close_{name}", application_id=application, force_stop=True, retries=3, **options
    )
    return Cluster(opened, opened, closed)

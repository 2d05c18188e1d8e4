"""The operators around the job runs of an EMR Serverless application: Airflow's own, or derived from them.

Apart from the runtime, because importing them takes a second, a cost that only environments with EMR should have.
"""

import math
from collections.abc import Sequence
from typing import Any

from airflow.providers.amazon.aws.operators.emr import (
    EmrServerlessCreateApplicationOperator,
    EmrServerlessDeleteApplicationOperator,
)
from airflow.providers.amazon.aws.sensors.emr import EmrServerlessApplicationSensor
from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowFailException

from tandem.engine_choice import Sharing
from tandem.recording import Recorded, recording
from tandem.runtimes.base import Cluster
from tandem.runtimes.on_demand import OpenedOnDemand, opened_first, to_close


class RequestApplication(EmrServerlessCreateApplicationOperator):
    """Requests an application and returns its ID without waiting; its configuration may contain templates."""

    template_fields: Sequence[str] = (*EmrServerlessCreateApplicationOperator.template_fields, "config")

    def execute(self, context: Context) -> str:
        made = {"clientToken": self.client_request_token, "releaseLabel": self.release_label, "type": self.job_type}
        application: str = self.hook.conn.create_application(**made, **self.config)["applicationId"]
        return application


class OpenApplication(Recorded, OpenedOnDemand, RequestApplication):
    """Requests an application if the run needs it."""


class AwaitApplication(Recorded, EmrServerlessApplicationSensor):
    """Starts an application once it is created, and waits for that without holding a worker."""

    sharing: Sharing | None = None

    def poke(self, context: Context) -> bool:
        if not opened_first(context, self.sharing):
            self.log.info("There is no application to wait for.")
            return True
        described = self.hook.conn.get_application(applicationId=self.application_id)["application"]
        sentence = f"Application {self.application_id} is {described['state']}. {described.get('stateDetails', '')}"
        self.log.info("%s", sentence.strip())
        if described["state"] in ("STOPPING", "STOPPED", "TERMINATED"):
            raise AirflowFailException(sentence.strip())
        if described["state"] == "CREATED":
            self.hook.conn.start_application(applicationId=self.application_id)
        return bool(described["state"] == "STARTED")


class CloseApplication(EmrServerlessDeleteApplicationOperator):
    """Stops and deletes the applications that were created, usually one."""

    sharing: Sharing | None = None

    def execute(self, context: Context) -> None:
        with recording(context):
            for application in to_close(context, self.sharing, self.application_id):
                self.application_id = application
                super().execute(context)


def operators(
    name: str, request: dict[str, Any], region: str | None, poll_seconds: float, ready_seconds: float
) -> Cluster:
    """The operators that open, await and close an application; credentials are those that boto3 finds."""
    config = {key: value for key, value in request.items() if key not in ("releaseLabel", "type")}
    aws: dict[str, Any] = {"aws_conn_id": None, "region_name": region}
    opened = OpenApplication(
        task_id=f"open_{name}",
        release_label=request["releaseLabel"],
        job_type=request["type"],
        config=config,
        **aws,
    )
    application: Any = opened.output
    ready = AwaitApplication(
        task_id=f"await_{name}",
        application_id=application,
        mode="reschedule",
        poke_interval=poll_seconds,
        timeout=ready_seconds,
        **aws,
    )
    waiter_delay = max(1, round(poll_seconds))
    closed = CloseApplication(
        task_id=f"close_{name}",
        application_id=application,
        force_stop=True,
        retries=3,
        waiter_delay=waiter_delay,
        waiter_max_attempts=math.ceil(ready_seconds / waiter_delay),
        deferrable=False,
        **aws,
    )
    return Cluster(opened, ready, closed)

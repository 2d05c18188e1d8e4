"""Runtime `spark_submit`: a Spark job by spark-submit on this machine; there is no cluster to open."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from tandem.catalogue import Job
from tandem.protocol import conf_arguments
from tandem.runtimes.base import Attempt, Cluster
from tandem.runtimes.local.process import Process, Running
from tandem.runtimes.spark_options import (
    HISTORY,
    event_log_properties,
    event_log_request,
    make_event_log,
    spark_properties,
)


@dataclass(frozen=True, kw_only=True)
class SparkSubmit(Process):
    """Runs `spark-submit jobs/<job>/main.py`; its driver and workers run in `python`."""

    name: ClassVar[str] = "spark_submit"
    labels: ClassVar[tuple[str, ...]] = (HISTORY,)
    cluster_suffix: ClassVar[str] = ".json"
    spark_submit: Path
    master: str
    conf: Mapping[str, str] = field(default_factory=dict)
    event_log: str = ""
    history: str = ""

    def open_and_close(self, name: str, request: Mapping[str, Any], where: str) -> Cluster | None:
        return None

    def request(self, job: Job, settings: Mapping[str, Any]) -> dict[str, Any]:
        kept = {**event_log_properties(self.event_log), **spark_properties(job, settings), **self.conf}
        return {"conf": kept, **event_log_request(self.event_log, self.history)}

    def submit(self, attempt: Attempt) -> Running:
        make_event_log(attempt)
        return super().submit(attempt)

    def payload(self, attempt: Attempt) -> list[str]:
        conf = conf_arguments(attempt.request["conf"])
        return [str(self.spark_submit), "--master", self.master, *conf, self.main(attempt), *attempt.arguments]

    def environment(self) -> dict[str, str]:
        # Java decodes arguments in the encoding of its locale, and loses characters that this lacks.
        return {"PYSPARK_PYTHON": str(self.python), "LC_ALL": "C.UTF-8", **super().environment()}

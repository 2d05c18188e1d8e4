"""Runtime `emr`: a Spark job as a step of an EMR cluster, which is open only as long as Spark jobs need it."""

import contextlib
import gzip
import logging
import re
import shlex
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from airflow.sdk.exceptions import AirflowFailException

from tandem.catalogue import Job
from tandem.dag_errors import PipelineError
from tandem.lake import list_s3, read_s3
from tandem.pin_release import fingerprint
from tandem.protocol import bundle_arguments
from tandem.runtimes.base import Attempt, Cluster, Outcome, bundle
from tandem.runtimes.cloud_request import check_request, client, merged
from tandem.runtimes.local.process import SPARKS_OWN
from tandem.runtimes.output import MAX_LAST_LINE
from tandem.runtimes.polling import (
    ONE_ATTEMPT,
    PollingRuntime,
    Sent,
    deploy_mode,
    first_of_names,
    libraries_properties,
    spark_properties,
)

MAX_LOG = 4 << 20  # bytes of a log that are looked through for its last lines
ACTIVE = ("PENDING", "RUNNING", "CANCEL_PENDING")
RAISED = re.compile(
    r"(Caused by: )?([\w$]+\.)*\w+(Error|Exception|Interrupt|Exit)\b"
)  # begins an exception's last line
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Emr(PollingRuntime):
    """Runs the bundle that the Airflow variable `release` names, by spark-submit in a step of a cluster.

    cluster.json is the request RunJobFlow; `cluster` is a table that an environment puts over it. A cluster that no one
    closes ends by itself, by its AutoTerminationPolicy.
    """

    cluster_suffix: ClassVar[str] = ".json"
    noun: ClassVar[str] = "Step"
    waiting: ClassVar[tuple[str, ...]] = ("PENDING",)
    ended: ClassVar[tuple[str, ...]] = ("COMPLETED", "CANCELLED", "FAILED", "INTERRUPTED")
    region: str | None = None  # the one that boto3 finds by itself
    deploy_mode: str = "cluster"  # of jobs that say nothing else
    cluster: Mapping[str, Any] = field(default_factory=dict)
    ready_seconds: float = 1800  # a cluster may take to take steps
    log_seconds: float = 120  # to wait for the log of a job that left nothing else; EMR brings it some minutes later

    def open_and_close(self, name: str, request: Mapping[str, Any], where: str) -> Cluster:
        from tandem.runtimes.emr.cluster import operators

        wanted = merged(request, self.cluster, where)
        check_request("emr", "RunJobFlow", wanted, where)
        if "AutoTerminationPolicy" not in wanted or not wanted["Instances"].get("KeepJobFlowAliveWhenNoSteps"):
            raise PipelineError(
                f"{where} needs KeepJobFlowAliveWhenNoSteps, because steps come when the cluster is there, and an "
                'AutoTerminationPolicy, because no one else ends what Airflow lost: "Instances": '
                '{"KeepJobFlowAliveWhenNoSteps": true}, "AutoTerminationPolicy": {"IdleTimeout": 600}.'
            )
        return operators(name, wanted, self.region, self.poll_seconds, self.ready_seconds)

    def request(self, job: Job, settings: Mapping[str, Any]) -> dict[str, Any]:
        mode = deploy_mode(job, settings, self.deploy_mode)
        conf = spark_properties(job, settings) | libraries_properties(job, "spark.yarn.appMasterEnv")
        where = ["--master", "yarn", "--deploy-mode", mode, "--name", job.name]
        conf[ONE_ATTEMPT] = "1"
        options = [*where, *(part for name, value in conf.items() for part in ("--conf", f"{name}={value}"))]
        packed = "libraries.zip" if job.requirements else None
        return {"fingerprint": fingerprint(job.name), "deploy_mode": mode, "options": options, "libraries": packed}

    def command(self, work: Attempt) -> list[str]:
        """The spark-submit of a work's bundle, as the build wrote it into the bundle's submit.txt."""
        place = bundle(work)
        code = bundle_arguments(place, bool(work.request["libraries"]))
        return ["spark-submit", *work.request["options"], *code, *work.arguments]

    def sent(self, work: Attempt) -> dict[str, Any]:
        jar = {"Jar": "command-runner.jar", "Args": self.command(work)}
        name = f"{first_of_names(work)}{work.attempt}"
        return {"Name": name, "ActionOnFailure": "CONTINUE", "HadoopJarStep": jar}

    def client(self) -> Any:
        return client("emr", self.region)

    def submit(self, work: Attempt) -> Sent:
        """Find the step of this attempt, else add it; steps of older attempts, whose workers died, are cancelled."""
        step = self.sent(work)
        emr = self.client()
        base = first_of_names(work)
        older = []
        pages = emr.get_paginator("list_steps").paginate(ClusterId=work.cluster)
        for there in (there for page in pages for there in page["Steps"] if there["Name"].startswith(base)):
            attempt = int(there["Name"].removeprefix(base))
            if attempt == work.attempt:
                log.info("Found step %s of cluster %s.", there["Id"], work.cluster)
                return Sent(there["Id"], work, emr)
            if attempt < work.attempt and there["Status"]["State"] in ACTIVE:
                older.append(there["Id"])
        if older:
            log.warning("Cancelling what older attempts left running: %s.", ", ".join(older))
            emr.cancel_steps(ClusterId=work.cluster, StepIds=older, StepCancellationOption="TERMINATE_PROCESS")
        log.info("Adding to cluster %s: %s", work.cluster, shlex.join(step["HadoopJarStep"]["Args"]))
        try:
            added = emr.add_job_flow_steps(JobFlowId=work.cluster, Steps=[step])
        except emr.exceptions.ClientError:
            if reason := self.ending_of_cluster(emr, work.cluster):
                raise AirflowFailException(f"{reason} Clear this task and what opens its cluster.") from None
            raise
        return Sent(added["StepIds"][0], work, emr)

    def ask(self, client: Any, sent: Sent) -> tuple[str, Any]:
        status = client.describe_step(ClusterId=sent.work.cluster, StepId=sent.id)["Step"]["Status"]
        return status["State"], status

    def ask_to_cancel(self, client: Any, sent: Sent) -> None:
        client.cancel_steps(ClusterId=sent.work.cluster, StepIds=[sent.id], StepCancellationOption="TERMINATE_PROCESS")

    def again(self, work: Attempt) -> str:
        return shlex.join([".venv/bin/python", "-m", "tools.run.submit", "--job", work.job, *work.arguments])

    def ending_of_cluster(self, emr: Any, cluster: str) -> str:
        """How a cluster ended, nothing if it has not."""
        from tandem.runtimes.emr.cluster import ended

        status = emr.describe_cluster(ClusterId=cluster)["Cluster"]["Status"]
        return f"Cluster {cluster} {ended(status)}." if status["State"].startswith("TERMINAT") else ""

    def outcome(self, client: Any, sent: Sent, said: Any) -> Outcome:
        """How a step ended: in EMR's words, in the driver's last exceptions, in the exit code that YARN noted."""
        region, cluster = client.meta.region_name, sent.work.cluster
        page = f"https://{region}.console.aws.amazon.com/emr/home?region={region}#/clusterDetails/{cluster}"
        shown = f"AWS shows it at {page}"
        if said["State"] == "COMPLETED":
            return Outcome(0, None, "", shown)
        details = [f"{name}: {text}" for name, text in said.get("FailureDetails", {}).items() if text]
        told = " ".join([f"Step {sent.id} of cluster {cluster} is {said['State']}.", *details])
        ending = self.ending_of_cluster(client, cluster)
        log: dict[str, str] = {}
        place = "a LogUri, which cluster.json lacks,"
        if root := client.describe_cluster(ClusterId=cluster)["Cluster"].get("LogUri"):
            place = f"{re.sub('^s3[an]:', 's3:', root).rstrip('/')}/{cluster}"
            log = self.log_of_driver(sent, place, lambda: driver_log(place, sent), self.log_seconds)
            log = log or step_log(place, sent)
        ends = [f"{uri} ends with: {last_exception(text)}" for uri, text in log.items()]
        missing = f"No log of the driver is at {place} yet; EMR brings it within some minutes."
        lines = [told, *([ending] if ending else []), *(ends or [missing]), shown]
        codes = re.findall(r"User application exited with status (\d+)", "".join(log.values()))
        return Outcome(int(codes[-1]) if codes else 1, None, "", "\n".join(lines), guessed=not codes)


def driver_log(logs: str, step: Sent) -> dict[str, str]:
    """What the driver printed, by URI, as far as it is on S3.

    In client mode the step's process is the driver. In cluster mode it is the first container of the YARN application
    that the step's process names, if it got that far.
    """
    own = step_log(logs, step)
    application = re.search(r"application_\d+_\d+", "".join(own.values()))
    if application is None or step.work.request["deploy_mode"] == "client":
        return own
    return texts(f"{logs}/containers/{application[0]}/", r"_0*1/std...\.gz$")


def step_log(logs: str, step: Sent) -> dict[str, str]:
    """What a step's process printed, by URI."""
    return texts(f"{logs}/steps/{step.id}/")


def texts(prefix: str, ending: str = r"/std(out|err)\.gz$") -> dict[str, str]:
    """The ends of all outputs that begin and end so, by URI; of processes that printed nothing there is none."""
    found = {uri: read_s3(uri, end_of).decode(errors="replace") for uri in list_s3(prefix) if re.search(ending, uri)}
    return {uri: text for uri, text in found.items() if text.strip()}


def end_of(packed: Any) -> bytes:
    """The last bytes of what gzip packed; all of it, if it is not larger than that."""
    kept = b""
    with contextlib.suppress(EOFError, OSError, zlib.error), gzip.open(packed) as file:  # some logs are cut off
        while piece := file.read(1 << 20):
            kept = (kept + piece)[-MAX_LOG:]
    return kept


def last_exception(text: str) -> str:
    """The last line that begins as an exception's does, else the last that the job printed, else the last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    raised = [line for line in lines if RAISED.match(line)]
    return (raised or [line for line in lines if not SPARKS_OWN.match(line)] or lines)[-1][:MAX_LAST_LINE]

"""EMR on this machine, for tests and demonstrations: moto's API over HTTP, and a node that really runs the steps.

A cluster starts, runs its bootstrap actions, runs as many steps as StepConcurrencyLevel allows, and ends by a request,
by its idle time-out, or by a step's ActionOnFailure. A step is the requested spark-submit with the bundle from S3, but
on this machine instead of YARN; its log goes to EMR's path on S3. The cluster's tag `fault`, one of FAULTS, injects a
failure. The S3 server is the one in the environment variables. Job runs of EMR Serverless run as well.
"""

import argparse
import contextlib
import functools
import gzip
import logging
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from moto.core.utils import utcnow
from moto.emr import models, responses
from moto.emr.exceptions import ValidationException
from moto.server import ThreadedMotoServer

from common.handover import storage
from tools.sandbox import emr_serverless_node, servers, spark_process

FAULTS = {
    "answers_late": "the response to the request for the cluster comes seconds late",
    "never_ready": "the cluster never becomes ready",
    "dies": "the cluster's primary node fails soon after its first step began",
    "never_starts": "steps stay pending",
    "terminate_once": "the first request to terminate the cluster is refused",
    "uncancellable": "a request to cancel a running step has no effect",
    "no_logs": "logs never arrive on S3",
}
ACTIVE = ("PENDING", "RUNNING")
ENDED = ("TERMINATED", "TERMINATED_WITH_ERRORS")
TICK_SECONDS = 0.1
LATE_SECONDS = 4
SDK = "software.amazon.awssdk.auth.credentials"
Play = Callable[[Any, Any], int | None]  # (cluster, step): its exit code, None if it set the step's state itself


class Node:
    """The nodes of all of moto's clusters, in one thread until `stop`."""

    def __init__(self, spark_submit: Path, start_seconds: float = 0.5) -> None:
        self.spark_submit = spark_submit
        self.start_seconds = start_seconds
        self.play: Play = self.run
        self.stopped = threading.Event()
        complete_moto()
        emr_serverless_node.complete_moto()
        self.thread = threading.Thread(target=self.tick, daemon=True)
        self.thread.start()

    def tick(self) -> None:
        while not self.stopped.wait(TICK_SECONDS):
            for cluster in clusters():
                self.advance(cluster)
            emr_serverless_node.advance(functools.partial(local_submit, self.spark_submit))

    def stop(self) -> None:
        self.stopped.set()
        self.thread.join()
        for step in (step for cluster in clusters() for step in cluster.steps):
            if step.state in ACTIVE:
                cancel(step, "The node is gone.")

    def advance(self, cluster: Any) -> None:
        """Advance a cluster by one tick."""
        age = (utcnow() - cluster.creation_datetime).total_seconds()
        if cluster.state == "STARTING" and age > self.start_seconds and fault(cluster) != "never_ready":
            cluster.state = "BOOTSTRAPPING"
            threading.Thread(target=self.bootstrap, args=[cluster], daemon=True).start()
        elif cluster.state in ("RUNNING", "WAITING"):
            self.advance_steps(cluster)
        elif cluster.state in ENDED:
            for step in cluster.steps:
                if step.state in ACTIVE:
                    cancel(step, "The cluster was terminated.")

    def bootstrap(self, cluster: Any) -> None:
        """Run a cluster's bootstrap actions from S3, as its nodes do."""
        for number, action in enumerate(cluster.bootstrap_actions, 1):
            try:
                script = storage.read(action.script_path)[0]
            except FileNotFoundError:
                finish(cluster, "BOOTSTRAP_FAILURE", f"Bootstrap action {number}: {action.script_path} does not exist")
                return
            done = subprocess.run(["bash", "-s", "--", *action.args], input=script, capture_output=True)
            if done.returncode:
                text = f"On the master instance (i-0), bootstrap action {number} returned a non-zero return code"
                finish(cluster, "BOOTSTRAP_FAILURE", text)
                return
        if cluster.state == "BOOTSTRAPPING":  # not terminated concurrently
            cluster.state = "WAITING"
            cluster.ready_datetime = cluster.idle_since = utcnow()

    def advance_steps(self, cluster: Any) -> None:
        """Start pending steps, and end a cluster that was idle for too long."""
        running = [step for step in cluster.steps if step.state == "RUNNING"]
        pending = [step for step in cluster.steps if step.state == "PENDING"]
        if fault(cluster) != "never_starts":
            for step in pending[: max(0, cluster.step_concurrency_level - len(running))]:
                step.state, step.start_date_time = "RUNNING", utcnow()
                threading.Thread(target=self.execute, args=[cluster, step], daemon=True).start()
        if running and fault(cluster) == "dies" and (utcnow() - running[0].start_date_time).total_seconds() > 1:
            finish(cluster, "INSTANCE_FAILURE", "The master node was terminated")
        elif running or pending:
            cluster.state, cluster.idle_since = "RUNNING", utcnow()
        else:
            cluster.state = "WAITING"
            idle = (utcnow() - cluster.idle_since).total_seconds()
            if cluster.idle_seconds and idle > cluster.idle_seconds:
                finish(cluster, "ALL_STEPS_COMPLETED", "Terminated by its auto-termination policy", "TERMINATED")

    def execute(self, cluster: Any, step: Any) -> None:
        """Run a step, and its ActionOnFailure if it fails."""
        try:
            code = self.play(cluster, step)
        except Exception as error:
            step.failure_details = {"Reason": "Internal error.", "Message": repr(error)}
            code = 1
        if code is None:
            return
        if step.state == "RUNNING":
            step.state = "FAILED" if code else "COMPLETED"
            step.end_date_time = utcnow()
        if step.state == "FAILED" and step.action_on_failure in ("TERMINATE_CLUSTER", "TERMINATE_JOB_FLOW"):
            finish(cluster, "STEP_FAILURE", f"Shut down as step {step.id} failed")
        if step.state == "FAILED" and step.action_on_failure == "CANCEL_AND_WAIT":
            for other in cluster.steps:
                if other.state == "PENDING":
                    cancel(other, f"Step {step.id} failed")

    def run(self, cluster: Any, step: Any) -> int | None:
        """Run a step's spark-submit here and upload its log to S3; return its exit code."""
        for uri in missing(step.args):
            step.failure_details = {"Reason": "The given path does not exist.", "Message": f"{uri} does not exist"}
            return 1
        with tempfile.TemporaryDirectory(prefix="emr-step-") as folder:
            spark_process.unpack(step.args, Path(folder))
            submit = command(self.spark_submit, step.args)
            step.process = process = spark_process.start(submit, Path(folder), yarn_variables(step.args))
            if step.state != "RUNNING":  # cancelled concurrently
                spark_process.end(process)
            code = process.wait()
            if cluster.log_uri and fault(cluster) != "no_logs":
                read_out, read_err = (Path(folder, name).read_bytes() for name in ("stdout", "stderr"))
                uri = upload_logs(cluster, step, read_out, read_err, code)
                step.failure_details = {"Reason": "Unknown Error.", "LogFile": uri}
        return code


def clusters() -> list[Any]:
    """Return all of moto's clusters."""
    backends = [backend for regions in list(models.emr_backends.values()) for backend in list(regions.values())]
    return [cluster for backend in backends for cluster in list(backend.clusters.values())]


def fault(cluster: Any) -> str:
    """Return the fault in a cluster's tag."""
    return str(cluster._tags.get("fault", ""))


def finish(cluster: Any, code: str, message: str, state: str = "TERMINATED_WITH_ERRORS") -> None:
    """End a cluster; its steps are cancelled in the next tick."""
    cluster.state, cluster.end_datetime = state, utcnow()
    cluster.reason = {"Code": code, "Message": message}


def cancel(step: Any, reason: str) -> None:
    step.state, step.end_date_time = "CANCELLED", utcnow()
    step.last_state_change_reason = reason
    if process := getattr(step, "process", None):
        spark_process.end(process)


def missing(arguments: list[str]) -> Iterator[str]:
    """Yield the files on S3 that a spark-submit names and that do not exist."""
    for argument in arguments:
        if found := re.fullmatch(r"(s3://\S+\.(py|zip))(#\w+)?", argument):
            try:
                storage.read(found[1])
            except FileNotFoundError:
                yield found[1]


def yarn_variables(arguments: list[str]) -> dict[str, str]:
    """Return the environment variables of a step's driver on YARN."""
    found = (re.fullmatch(r"spark\.yarn\.appMasterEnv\.(\w+)=(.*)", argument) for argument in arguments)
    return {variable[1]: variable[2] for variable in found if variable}


def command(program: Path, arguments: list[str]) -> list[str]:
    """Return a step's spark-submit on this machine, with one process instead of YARN."""
    name, *rest = arguments
    if name != "spark-submit" or "--master" not in rest:
        raise ValueError(f"A step runs {name}, expected spark-submit --master yarn.")
    position = rest.index("--master")
    if rest[position + 1 : position + 3] != ["yarn", "--deploy-mode"]:
        raise ValueError(f"A step is submitted to {rest[position + 1 : position + 4]}, expected YARN.")
    if "--archives" in rest:
        archives = rest.index("--archives")
        del rest[archives : archives + 2]
    return local_submit(program, [*rest[:position], *rest[position + 4 :]])


def local_submit(program: Path, arguments: list[str]) -> list[str]:
    """Return a spark-submit in local mode, with the S3 server of the environment variables."""
    settings = {
        **spark_process.QUICK,
        "spark.hadoop.fs.s3.impl": "org.apache.hadoop.fs.s3a.S3AFileSystem",
        "spark.hadoop.fs.s3a.endpoint": os.environ["AWS_ENDPOINT_URL"],
        "spark.hadoop.fs.s3a.endpoint.region": os.environ["AWS_REGION"],
        "spark.hadoop.fs.s3a.path.style.access": "true",
        "spark.hadoop.fs.s3a.aws.credentials.provider": f"{SDK}.EnvironmentVariableCredentialsProvider",
    }
    conf = [word for name, value in settings.items() for word in ("--conf", f"{name}={value}")]
    return [str(program), *conf, "--master", "local[2]", *arguments]


def upload_logs(cluster: Any, step: Any, stdout: bytes, stderr: bytes, code: int) -> str:
    """Upload a step's log as EMR does, return its URI; in cluster mode the driver's log is that of a YARN container."""
    logs = f"{re.sub('^s3[an]:', 's3:', cluster.log_uri).rstrip('/')}/{cluster.id}"
    step_logs = f"{logs}/steps/{step.id}"
    if step.args[step.args.index("--deploy-mode") + 1] == "cluster":
        number = f"{int(cluster.creation_datetime.timestamp() * 1000)}_{cluster.steps.index(step) + 1:04}"
        if code:
            status = 128 - code if code < 0 else code
            note = (
                f"{utcnow():%y/%m/%d %H:%M:%S} ERROR ApplicationMaster: User application exited with status {status}\n"
            )
            stderr += note.encode()
        driver = f"{logs}/containers/application_{number}/container_{number}_01_000001"
        storage.write(f"{driver}/stdout.gz", gzip.compress(stdout))
        storage.write(f"{driver}/stderr.gz", gzip.compress(stderr))
        stdout, stderr = b"", f"INFO YarnClientImpl: Submitted application application_{number}\n".encode()
    storage.write(f"{step_logs}/stdout.gz", gzip.compress(stdout))
    storage.write(f"{step_logs}/stderr.gz", gzip.compress(stderr))
    return f"{step_logs}/stderr.gz"


def complete_moto() -> None:
    """Add to moto's EMR: states that only the node changes, details of failures, cancellation, refusals."""
    if getattr(models.Cluster, "has_node", False):
        return
    models.Cluster.has_node = True
    models.Cluster.idle_since = datetime.max
    models.Cluster.idle_seconds = None
    models.Cluster.run_bootstrap_actions = lambda cluster: None
    models.Cluster.add_steps = add_steps
    models.Cluster.status = with_more(models.Cluster, "StateChangeReason", "reason")
    models.Step.status = with_more(models.Step, "FailureDetails", "failure_details")
    response = responses.ElasticMapReduceResponse
    response.cancel_steps = cancel_steps
    response.run_job_flow = with_idle_time(response.run_job_flow)
    models.ElasticMapReduceBackend.terminate_job_flows = with_refusals(
        models.ElasticMapReduceBackend.terminate_job_flows
    )


def add_steps(cluster: Any, steps: list[dict[str, Any]]) -> list[Any]:
    if cluster.__dict__.get("state") in ENDED:
        raise ValidationException("A job flow that is shutting down, terminated, or finished may not be modified.")
    added = [models.Step(state="PENDING", **step) for step in steps]
    cluster.steps += added
    return added


def with_more(kind: Any, key: str, attribute: str) -> property:
    """Add to the status of a cluster or step a key that moto omits, if it has a value."""
    plain = kind.status.fget

    def status(self: Any) -> dict[str, Any]:
        more = getattr(self, attribute, None)
        known: dict[str, Any] = plain(self)
        failed = self.state in ("FAILED", *ENDED) and more
        return known | ({key: more} if failed else {})

    return property(status)


def cancel_steps(response: Any) -> Any:
    cluster = response.backend.describe_cluster(response._get_param("ClusterId"))
    results = []
    for step in cluster.steps:
        if step.id in response._get_param("StepIds"):
            accepted = step.state in ACTIVE
            if accepted and fault(cluster) != "uncancellable":
                cancel(step, "Cancelled by user.")
            results.append({"StepId": step.id, "Status": "SUBMITTED" if accepted else "FAILED"})
    return responses.ActionResult({"CancelStepsInfoList": results})


def with_idle_time(plain: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def run_job_flow(response: Any) -> Any:
        result = plain(response)
        cluster = response.backend.describe_cluster(result.result["JobFlowId"])
        if fault(cluster) not in ("", *FAULTS):
            raise ValidationException(f"The tag fault is {fault(cluster)}, expected one of {', '.join(FAULTS)}.")
        cluster.idle_seconds = response._get_int_param("AutoTerminationPolicy.IdleTimeout")
        if fault(cluster) == "answers_late":
            time.sleep(LATE_SECONDS)
        return result

    return run_job_flow


def with_refusals(plain: Callable[[Any, list[str]], Any]) -> Callable[[Any, list[str]], Any]:
    def terminate_job_flows(backend: Any, job_flow_ids: list[str]) -> Any:
        for cluster in (backend.clusters[job_flow_id] for job_flow_id in job_flow_ids):
            if fault(cluster) == "terminate_once":
                cluster.remove_tags(["fault"])
                raise ValidationException("The cluster is being resized, try again later.")
            if cluster.state not in ENDED:
                plain(backend, [cluster.id])
                cluster.reason = {"Code": "USER_REQUEST", "Message": "Terminated by user request"}

    return terminate_job_flows


@contextlib.contextmanager
def serve(spark_submit: Path, port: int = 0) -> Iterator[tuple[str, Node]]:
    """Serve EMR's interface on a port of this machine (0: any) and run its node during this block."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port)
    with contextlib.redirect_stdout(sys.stderr):
        server.start()
    node = Node(spark_submit)
    try:
        host, bound = server.get_host_and_port()
        yield f"http://{host}:{bound}", node
    finally:
        node.stop()
        server.stop()


def main() -> None:
    faults = "; ".join(f"{name}: {text}" for name, text in FAULTS.items())
    parser = argparse.ArgumentParser(description=__doc__, epilog=f"Faults: {faults}.")
    parser.add_argument("--port", type=int, default=0, metavar="NUMBER", help="a free port if absent")
    program = Path(sys.executable).with_name("spark-submit")
    parser.add_argument(
        "--spark-submit", type=Path, default=program, metavar="PROGRAM", help="program that runs the steps"
    )
    arguments = parser.parse_args()
    ended = servers.ended_by_signal()
    with serve(arguments.spark_submit, arguments.port) as (url, _):
        print(url, flush=True)
        ended.wait()


if __name__ == "__main__":
    main()

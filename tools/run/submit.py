"""Run the bundle of a Spark job by spark-submit here, or as a step on an EMR cluster; the exit code is the job's.

Other options go to the job: `--from ROLE=TASK_ID`, `--set NAME=VALUE`, `--map-index NUMBER`.
"""

import argparse
import contextlib
import gzip
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import protocol
from common.errors import StaleAttempt, TaskError
from common.handover import manifest, storage
from common.protocol import code_folder
from tools.command_line import exit_on_task_error
from tools.deploy.releases import store
from tools.environment import ON_YARN, PipelineError, check_texts
from tools.packaging.build import CLUSTER, build_bundle, folder, install_libraries, spark_submit
from tools.packaging.fingerprint import Product, product, select_jobs
from tools.run.by_hand import add_task

POLL_SECONDS = 10
ALIVE_SECONDS = 30
LOG_LINES = 30
ENDED = ("COMPLETED", "CANCELLED", "FAILED", "INTERRUPTED")
INTERRUPTED = 130  # the exit code after Ctrl-C


@exit_on_task_error()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--job", required=True, metavar="JOB", help="a Spark job")
    parser.add_argument("--cluster", metavar="j-…", help="a running EMR cluster; this machine if absent")
    add_task(parser)
    arguments, rest = parser.parse_known_args()
    select_jobs([arguments.job])
    wanted = product(arguments.job)
    if wanted.job.engine != "spark":
        raise TaskError(f"{arguments.job} is a Python job, expected a Spark job; run its image with make run.")
    sys.exit(submit(wanted, arguments, rest))


def submit(wanted: Product, arguments: argparse.Namespace, rest: list[str]) -> int:
    """Upload the bundle, run it and wait; return the job's exit code."""
    arguments.task_id = arguments.task_id or wanted.job.name
    command_line = [*protocol.arguments(vars(arguments)), *rest]
    if arguments.cluster:
        check_for_yarn(command_line)
    built, _ = build_bundle(wanted)
    report(f"{wanted.job.name} {wanted.fingerprint} {'built' if built else 'up to date'}: {folder(wanted)}")
    remote = upload(wanted, arguments.lake) if storage.is_remote(arguments.lake) else None
    if arguments.cluster is None:
        return run_here(wanted, command_line)
    if remote is None or not remote.startswith("s3://"):
        raise TaskError(
            f"The lake {arguments.lake} can't be reached from a cluster of EMR; name one on S3 with --lake s3://…."
        )
    command = spark_submit(wanted.job, remote, CLUSTER, command_line)
    return run_step(arguments, command)


def check_for_yarn(command_line: list[str]) -> None:
    """Raise TaskError for an argument that the shells between a step and its driver would change, or run."""
    try:
        for argument in command_line:
            check_texts({"An argument": argument}, ON_YARN)
    except PipelineError as error:
        raise TaskError(str(error)) from None


def upload(wanted: Product, root: str) -> str:
    """Upload the missing files of the bundle to the lake's code prefix; return the URI of its folder."""
    remote = code_folder(root, wanted.job.name, wanted.fingerprint)
    if store({file.name: file.read_bytes() for file in folder(wanted).iterdir()}, remote):
        report(f"uploaded {remote}")
    return remote


def run_here(wanted: Product, arguments: list[str]) -> int:
    """Run the bundle on all cores of this machine; Ctrl-C reaches it, too."""
    command = spark_submit(wanted.job, str(folder(wanted)), ["--master", "local[*]"], arguments)
    program = str(Path(sys.executable).with_name("spark-submit"))
    environment = {**os.environ, "PYSPARK_PYTHON": sys.executable}
    with tempfile.TemporaryDirectory() as libraries:
        if wanted.job.requirements:
            install_libraries(wanted, libraries)  # those of the bundle are for the nodes of a cluster
            environment["PYTHONPATH"] = os.pathsep.join([libraries, *filter(None, [os.environ.get("PYTHONPATH")])])
        process = subprocess.Popen([program, *command[1:]], env=environment)
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.wait()
            return INTERRUPTED


def run_step(task: argparse.Namespace, command: list[str]) -> int:
    """Run a command as a step of a cluster, report its progress, and return the exit code that the job left."""
    import boto3

    emr = boto3.client("emr")
    jar = {"Jar": "command-runner.jar", "Args": command}
    step = {"Name": f"{task.task_id} {task.run_id}", "ActionOnFailure": "CONTINUE", "HadoopJarStep": jar}
    (step_id,) = emr.add_job_flow_steps(JobFlowId=task.cluster, Steps=[step])["StepIds"]
    report(f"step {step_id} of cluster {task.cluster}")
    log = DriverLog(emr, task.cluster, step_id)
    if log.logs:
        report(f"the driver's log is read from {log.logs}, with a delay of minutes")
    try:
        status = wait(emr, task.cluster, step_id, log)
    except KeyboardInterrupt:
        report(f"step {step_id} continues unattended")
        return INTERRUPTED
    key = protocol.task_key(task.lake.rstrip("/"), task.dag_id, task.run_id, task.task_id, task.map_index)
    published = manifest.load_or_none(protocol.manifest_uri(key))
    for line in log.rest():
        print(line, flush=True)
    if status["State"] == "COMPLETED" and published and published.document["task"]["attempt"] == task.attempt:
        report(f"published {published.uri}")
        return 0
    for name, text in status.get("FailureDetails", {}).items():
        report(f"{name}: {text}")
    if status["State"] == "CANCELLED":
        return INTERRUPTED
    failure = manifest.load_or_none(protocol.failure_uri(protocol.attempt_folder(key, task.attempt)))
    if failure is None and published and published.document["task"]["attempt"] > task.attempt:
        report(f"stale attempt: attempt {published.document['task']['attempt']} has published {published.uri}")
        return StaleAttempt.exit_code
    if failure is None:
        report("this attempt left no failure document in the lake: it was killed or never started")
        return 1
    report(str(failure.document["sentence"]))
    return int(failure.document["exit_code"])


class DriverLog:
    """The driver's output, as far as the cluster has copied it to S3, which it does every few minutes.

    In cluster mode the driver is the first container of a YARN application, whose ID is in the step's own log.
    """

    def __init__(self, emr: Any, cluster: str, step_id: str) -> None:
        log_uri = emr.describe_cluster(ClusterId=cluster)["Cluster"].get("LogUri")
        self.logs = f"{re.sub('^s3[an]:', 's3:', log_uri).rstrip('/')}/{cluster}" if log_uri else None
        self.step_id = step_id
        self.shown: dict[str, int] = {}  # lines of each file

    def new_lines(self) -> list[str]:
        """Return the new lines since the last call, at most the last 30 of each file."""
        lines = []
        for uri, content in self.driver().items():
            new = content.splitlines()[self.shown.get(uri, 0) :]
            self.shown[uri] = self.shown.get(uri, 0) + len(new)
            lines += new[-LOG_LINES:]
        return lines

    def rest(self) -> list[str]:
        """Return the lines to print at the end: new ones, or the step's own log if the driver left none."""
        if self.logs is None:
            return ["The cluster keeps no logs on S3."]
        lines = self.new_lines()
        if self.shown:
            return lines
        step_lines = [line for content in self.step().values() for line in content.splitlines()[-LOG_LINES:]]
        return step_lines or [
            f"No log is at {self.logs}/steps/{self.step_id} yet; it comes some minutes after the step's end."
        ]

    def driver(self) -> dict[str, str]:
        """Return the texts of the driver's files by URI."""
        application = re.search(r"application_\d+_\d+", self.step().get("stderr.gz", ""))
        if application is None:
            return {}
        containers = storage.files(f"{self.logs}/containers/{application[0]}")
        return {file.uri: text(file.uri) for file in containers if re.search(r"_0*1/std(out|err)\.gz$", file.uri)}

    def step(self) -> dict[str, str]:
        """Return the texts of the step's own files by name."""
        if self.logs is None:
            return {}
        files = storage.files(f"{self.logs}/steps/{self.step_id}")
        return {file.uri.rpartition("/")[2]: text(file.uri) for file in files if file.bytes and "/std" in file.uri}


def wait(emr: Any, cluster: str, step_id: str, log: DriverLog) -> dict[str, Any]:
    """Print a step's states and its driver's output until it ends; return its last status.

    Ctrl-C prompts for a cancellation of the step; a second one instead of an answer raises KeyboardInterrupt.
    """
    state, reported = "", 0.0
    started = time.monotonic()
    while True:
        try:
            status: dict[str, Any] = emr.describe_step(ClusterId=cluster, StepId=step_id)["Step"]["Status"]
            if status["State"] != state or time.monotonic() - reported >= ALIVE_SECONDS:
                state, reported = status["State"], time.monotonic()
                report(f"{state} after {reported - started:.0f} s")
                for line in log.new_lines():
                    print(line, flush=True)
            if state in ENDED:
                return status
            time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            if confirm(f"\nCancel step {step_id}? [y/N] "):
                emr.cancel_steps(ClusterId=cluster, StepIds=[step_id], StepCancellationOption="TERMINATE_PROCESS")


def confirm(question: str) -> bool:
    """Return True if the answer is yes."""
    with contextlib.suppress(EOFError):
        return input(question).strip().lower() in ("y", "yes")
    return False


def text(uri: str) -> str:
    """Return the text of a compressed log."""
    return gzip.decompress(storage.read(uri)[0]).decode(errors="replace")


def report(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


if __name__ == "__main__":
    main()

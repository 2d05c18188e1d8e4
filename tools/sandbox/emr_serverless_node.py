"""EMR Serverless on this machine, behind moto's API: each job run really runs, by spark-submit, in a thread."""

import gzip
import shlex
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from moto.emrserverless import models

from common.handover import storage
from tools.sandbox import spark_process


def complete_moto() -> None:
    """Change moto: new applications are not started, job runs wait for the node, a client token starts one run."""
    backend = models.EMRServerlessBackend
    if models.JOB_STATUS == "SUBMITTED":
        return
    models.APPLICATION_STATUS, models.JOB_STATUS = "CREATED", "SUBMITTED"
    create, start = backend.create_application, backend.start_job_run

    def create_application(self: Any, **arguments: Any) -> Any:
        application = create(self, **arguments)
        self.job_runs[application.id] = []
        return application

    def start_job_run(self: Any, **arguments: Any) -> Any:
        same = [
            run for run in self.job_runs[arguments["application_id"]] if run.client_token == arguments["client_token"]
        ]
        return same[0] if same else start(self, **arguments)

    backend.create_application, backend.start_job_run = create_application, start_job_run


def advance(command: Callable[[list[str]], list[str]]) -> None:
    """Start submitted job runs; end those that were cancelled or whose application was."""
    for backend in [
        backend for regions in list(models.emrserverless_backends.values()) for backend in regions.values()
    ]:
        for application, runs in list(backend.job_runs.items()):
            ended = backend.applications[application].state in ("STOPPED", "TERMINATED")
            for run in runs:
                if ended and run.state in ("SUBMITTED", "RUNNING"):
                    run.state = "CANCELLED"
                if run.state == "SUBMITTED":
                    run.state = "RUNNING"
                    threading.Thread(target=execute, args=[run, command], daemon=True).start()
                process = getattr(run, "process", None)
                if run.state == "CANCELLED" and process:
                    spark_process.end(process)


def execute(run: Any, command: Callable[[list[str]], list[str]]) -> None:
    """Execute a job run and upload its log to S3."""
    driver = run.job_driver["sparkSubmit"]
    submit = [*shlex.split(driver["sparkSubmitParameters"]), driver["entryPoint"], *driver["entryPointArguments"]]
    with tempfile.TemporaryDirectory(prefix="emr-serverless-") as folder:
        run.process = spark_process.start(command(submit), Path(folder), {})
        code = run.process.wait()
        log_uri = run.configuration_overrides["monitoringConfiguration"]["s3MonitoringConfiguration"]["logUri"]
        logs = f"{log_uri.rstrip('/')}/applications/{run.application_id}/jobs/{run.id}/SPARK_DRIVER"
        for name in ("stdout", "stderr"):
            storage.write(f"{logs}/{name}.gz", gzip.compress(Path(folder, name).read_bytes()))
    if run.state == "RUNNING":
        run.state = "FAILED" if code else "SUCCESS"
        run.state_details = f"Job failed, exit code {code}." if code else ""

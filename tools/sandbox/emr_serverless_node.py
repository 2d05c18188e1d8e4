"""EMR Serverless on this machine, behind moto's API: each job run really runs, by spark-submit, in a thread."""

import gzip
import os
import shlex
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from moto.emrserverless import models

from common.handover import storage


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
                    process.kill()


def execute(run: Any, command: Callable[[list[str]], list[str]]) -> None:
    """Execute a job run and upload its log to S3."""
    driver = run.job_driver["sparkSubmit"]
    submit = [*shlex.split(driver["sparkSubmitParameters"]), driver["entryPoint"], *driver["entryPointArguments"]]
    with tempfile.TemporaryDirectory(prefix="emr-serverless-") as folder:
        outputs = [Path(folder, name) for name in ("stdout", "stderr")]
        with outputs[0].open("wb") as stdout, outputs[1].open("wb") as stderr:
            environment = {**os.environ, "PYSPARK_PYTHON": sys.executable}
            run.process = subprocess.Popen(command(submit), stdout=stdout, stderr=stderr, cwd=folder, env=environment)
            code = run.process.wait()
        log_uri = run.configuration_overrides["monitoringConfiguration"]["s3MonitoringConfiguration"]["logUri"]
        logs = f"{log_uri.rstrip('/')}/applications/{run.application_id}/jobs/{run.id}/SPARK_DRIVER"
        for output in outputs:
            storage.write(f"{logs}/{output.name}.gz", gzip.compress(output.read_bytes()))
    if run.state == "RUNNING":
        run.state = "FAILED" if code else "SUCCESS"
        run.state_details = f"Job failed, exit code {code}." if code else ""

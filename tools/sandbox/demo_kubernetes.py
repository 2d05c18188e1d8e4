"""The demo with its jobs as pods or Jobs of the cluster in KUBECONFIG; Spark jobs in their light images.

The lake is on an S3 server on this machine, which pods reach. TANDEM_LOAD_IMAGE loads images into the nodes.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from common.errors import TaskError
from common.protocol import image, light_product
from tools.command_line import exit_on_task_error
from tools.packaging.fingerprint import ROOT
from tools.sandbox import local_dynamodb, local_s3
from tools.sandbox.demo import Clock, add_s3_arguments, build_images, console, run
from tools.sandbox.local_airflow import PROGRAMS

NAMESPACE = "tandem"  # of the pod template


@exit_on_task_error()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--containers", default="kubernetes_pod", choices=("kubernetes_pod", "kubernetes_job"))
    add_s3_arguments(parser)
    arguments = parser.parse_args()
    for name, value in (
        ("KUBECONFIG", "the cluster's configuration"),
        ("TANDEM_LOAD_IMAGE", "a command that loads images"),
    ):
        if not os.environ.get(name):
            sys.exit(f"{name} is not set, expected {value}; docs/kubernetes.md has examples.")
    os.environ["TANDEM_CONTAINERS"] = arguments.containers
    show(arguments.folder, arguments.sample, Clock())


def show(folder: Path, sample: Path, clock: Clock) -> None:
    """Run the pipelines and print their tasks."""
    lake = f"s3://{local_s3.BUCKET}/lake"
    address = run_namespace("--host").strip()
    clock.report("building the missing images of all jobs")
    os.environ["AIRFLOW_VAR_RELEASE"] = build_images()
    load_images(json.loads(os.environ["AIRFLOW_VAR_RELEASE"]))
    clock.report("the images are on the nodes")
    with local_s3.running(folder, address) as variables:
        os.environ.update(variables)
        with local_dynamodb.running(address):
            endpoint = {"DYNAMODB_ENDPOINT": os.environ["DYNAMODB_ENDPOINT"]}
            run_namespace("--name", NAMESPACE, stdin=json.dumps(variables | endpoint))
            clock.report(f"the namespace {NAMESPACE} has a secret, with which pods reach the lake at {address}")
            run(lake, sample, clock)
    console.print(f"The lake stays in {folder / local_s3.BUCKET}. Done in {clock.seconds:.0f} s.")


def run_namespace(*arguments: str, stdin: str = "") -> str:
    """Run tools.deploy.namespace in Airflow's Python, secrets on stdin; return its output, TaskError if it fails."""
    command = [str(PROGRAMS / "python"), "-m", "tools.deploy.namespace", *arguments]
    process = subprocess.run(command, cwd=ROOT, input=stdin, capture_output=True, text=True)
    if process.returncode:
        raise TaskError(f"The cluster of KUBECONFIG rejected a request: {process.stderr.strip().splitlines()[-1]}")
    return process.stdout


def load_images(release: dict[str, str]) -> None:
    """Load the images of a release into the nodes: of Spark jobs the light ones."""
    jobs = json.loads((ROOT / "airflow_dags" / "job_catalogue.json").read_text())
    products = [name if job["engine"] == "python" else light_product(name) for name, job in jobs.items()]
    images = [image(name, release[name]) for name in products if name in release]
    code = f"from tools.deploy.namespace import load; load({images!r})"
    subprocess.run([PROGRAMS / "python", "-c", code], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()

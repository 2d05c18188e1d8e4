"""The demo with its Python jobs as pods of the cluster that KUBECONFIG names, or as Jobs of it.

The lake is on an S3 server on this machine, which pods reach. TANDEM_LOAD_IMAGE is how images come to the nodes.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from common.errors import TaskError
from common.protocol import image
from tools.airflow_api import AirflowError
from tools.data import load_sample
from tools.packaging.fingerprint import ROOT
from tools.sandbox import local_dynamodb, local_s3
from tools.sandbox.demo import Clock, built, console, run
from tools.sandbox.local_airflow import PROGRAMS

NAME_SPACE = "tandem"  # of the pod template


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--containers", default="kubernetes_pod", choices=("kubernetes_pod", "kubernetes_job"))
    parser.add_argument("--folder", type=Path, default=ROOT / ".tandem" / "s3", metavar="PATH", help="of the S3 server")
    parser.add_argument("--sample", type=Path, default=load_sample.SOURCE, metavar="FILE", help="transactions to load")
    arguments = parser.parse_args()
    for name, what in (("KUBECONFIG", "the cluster"), ("TANDEM_LOAD_IMAGE", "how images get to its nodes")):
        if not os.environ.get(name):
            sys.exit(f"{name} is not set; let it name {what}. docs/kubernetes.md has examples.")
    os.environ["TANDEM_CONTAINERS"] = arguments.containers
    try:
        show(arguments.folder, arguments.sample, Clock())
    except (AirflowError, TaskError) as error:
        sys.exit(str(error))


def show(folder: Path, sample: Path, clock: Clock) -> None:
    """Run the pipelines and print what became of their tasks."""
    lake = f"s3://{local_s3.BUCKET}/lake"
    address = name_space("--host").strip()
    clock.say("building the images of all Python jobs that the engine does not have yet")
    os.environ["AIRFLOW_VAR_RELEASE"] = built()
    bring_images(json.loads(os.environ["AIRFLOW_VAR_RELEASE"]))
    clock.say("the images are on the nodes")
    with local_s3.running(folder, address) as variables:
        os.environ.update(variables)
        with local_dynamodb.running(address):
            endpoint = {"DYNAMODB_ENDPOINT": os.environ["DYNAMODB_ENDPOINT"]}
            name_space("--name", NAME_SPACE, given=json.dumps(variables | endpoint))
            clock.say(f"the name space {NAME_SPACE} has a secret by which pods reach the lake at {address}")
            run(lake, sample, clock)
    console.print(f"The lake stays in {folder / local_s3.BUCKET}. Done in {clock.seconds:.0f} s.")


def name_space(*arguments: str, given: str = "") -> str:
    """What tools.deploy.namespace prints, by Airflow's Python; TaskError if it fails. Secrets go by stdin."""
    command = [str(PROGRAMS / "python"), "-m", "tools.deploy.namespace", *arguments]
    process = subprocess.run(command, cwd=ROOT, input=given, capture_output=True, text=True)
    if process.returncode:
        raise TaskError(f"The cluster of KUBECONFIG does not do as asked: {process.stderr.strip().splitlines()[-1]}")
    return process.stdout


def bring_images(release: dict[str, str]) -> None:
    """Bring the images of a release's Python jobs to the nodes."""
    jobs = json.loads((ROOT / "airflow_dags" / "job_catalogue.json").read_text())
    images = [image(job, release[job]) for job in jobs if jobs[job]["engine"] == "python"]
    code = f"from tools.deploy.namespace import load; load({images!r})"
    subprocess.run([PROGRAMS / "python", "-c", code], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()

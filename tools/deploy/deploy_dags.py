"""Deploy the DAGs of this checkout to an environment's lake, as a version, if they fit the released jobs.

The DAGs get the catalogue of the released jobs and are imported with it, so that the checks of a checkout also refuse a
job that is not released, and a role, parameter or contract that does not fit. Airflow reads the newest version; a run
keeps the one that it began with.
"""

import argparse
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from common.errors import TaskError
from common.handover import storage
from common.protocol import code_folder
from tools import environment
from tools.airflow_api import Airflow
from tools.command_line import exit_on_task_error
from tools.deploy import dag_versions, releases
from tools.deploy.releases import Release
from tools.packaging.archive import zip_archive
from tools.packaging.catalogue import catalogue
from tools.packaging.fingerprint import ROOT, job_of, product, products

NOT_DEPLOYED = ("__pycache__", "plugins")  # plugins belong to Airflow's installation
PYTHON = ROOT / ".venv-airflow" / "bin" / "python"
IMPORT_PROGRAM = """
import glob, json, os, sys
sys.path.insert(0, sys.argv[1])
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(sys.argv[1])
dag_files = {os.path.basename(os.path.dirname(file)): file for file in glob.glob(sys.argv[1] + "/*/dag.py")}
without_dag = {os.path.relpath(file, sys.argv[1]): "Airflow finds no DAG in it" for name, file in dag_files.items()
               if name not in bag.dags and file not in bag.import_errors}
failed = {os.path.relpath(file, sys.argv[1]): text.strip().splitlines()[-1] for file, text in bag.import_errors.items()}
errors = without_dag | failed
print(json.dumps({"dags": sorted(bag.dags), "errors": errors}))
"""


@exit_on_task_error()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environment", required=True, metavar="NAME", help="one of airflow_dags/environments")
    name = parser.parse_args().environment
    version, dags = deploy(name)
    print(f"{name} has {len(dags)} DAGs in version {version}: {', '.join(dags)}")


def deploy(name: str) -> tuple[str, list[str]]:
    """Make the DAGs of this checkout the newest version of an environment; return its name and the DAGs."""
    settings = environment.load(name)
    lake, server = environment.lake(settings), releases.connect(settings)
    before = dag_versions.current(lake)
    release = releases.airflow_release(server)
    with tempfile.TemporaryDirectory() as temporary:
        new = Path(temporary) / "airflow_dags"
        shutil.copytree(ROOT / "airflow_dags", new, ignore=shutil.ignore_patterns(*NOT_DEPLOYED))
        (new / "job_catalogue.json").write_text(released_catalogue(lake, release.jobs))
        imported = import_dags(new, name)
        if imported["errors"]:
            raise TaskError(refusal(name, release, imported["errors"]))
        files = [path for path in new.rglob("*") if path.is_file()]
        archive = zip_archive({path.relative_to(new).as_posix(): path.read_bytes() for path in files})
    version = dag_versions.publish(lake, archive, before)
    dag_versions.delete_old(lake, versions_in_use(server))
    return version, imported["dags"]


def versions_in_use(server: Airflow) -> set[str]:
    """Return the versions of the 100 unfinished runs that began first."""
    runs = server.call("/api/v2/dags/~/dagRuns?state=queued&state=running&order_by=id&limit=100")["dag_runs"]
    return {run["bundle_version"] for run in runs if run["bundle_version"]}


def released_catalogue(lake: str, released: dict[str, str]) -> str:
    """Return the catalogue of a release's jobs, from the descriptions in their products."""

    def files(job: str) -> list[bytes]:
        uri = code_folder(lake, job, released[job])
        try:
            return [storage.read(f"{uri}/{file}")[0] for file in ("job.toml", "fingerprint")]
        except FileNotFoundError:
            raise TaskError(f"{uri} has no job.toml, though {job} is released; release it again.") from None

    jobs = [name for name in released if name == job_of(name)]  # light images have the same descriptions
    with tempfile.TemporaryDirectory() as temporary:
        for job, (description, mark) in zip(jobs, storage.in_parallel(files, jobs)):
            folder = Path(temporary) / job
            folder.mkdir()
            (folder / "job.toml").write_bytes(description)
            (folder / "fingerprint").write_bytes(mark)
        return catalogue(Path(temporary))


def import_dags(folder: Path, name: str) -> dict[str, Any]:
    """Import a folder as the environment's Airflow would; return its DAGs, and the errors by file."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW_", "TANDEM_"))}
    with tempfile.TemporaryDirectory() as home:
        overrides = {
            "AIRFLOW_HOME": home,
            "AIRFLOW__CORE__DAGS_FOLDER": str(folder),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "TANDEM_ENVIRONMENT": name,
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        command = [str(PYTHON), "-c", IMPORT_PROGRAM, str(folder)]
        ran = subprocess.run(command, env=inherited | overrides, capture_output=True, text=True, cwd=home)
    if ran.returncode:
        raise TaskError(f"Airflow can't import the DAGs; its last line: {ran.stderr.strip().splitlines()[-1]}")
    imported: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return imported


def refusal(name: str, release: Release, errors: dict[str, str]) -> str:
    """Explain why DAGs do not fit a release: the error of each, and jobs that differ from those of this checkout."""
    here = {name: product(name).fingerprint for name in products()}
    missing = sorted(here.keys() - release.jobs.keys())
    other = sorted(job for job in here.keys() & release.jobs.keys() if here[job] != release.jobs[job])
    lines = [f"The DAGs of this checkout do not fit the jobs of {name} ({release}), which keeps its present DAGs:"]
    lines += [f"  {file}: {text.removeprefix('tandem.dag_errors.PipelineError: ')}" for file, text in errors.items()]
    if missing:
        lines.append(f"Only in this checkout, not released in {name}: {', '.join(missing)}.")
    if other:
        lines.append(f"Released in {name} in another version: {', '.join(other)}.")
    return "\n".join(
        [*lines, f"Release the jobs first: make deploy-jobs ENV={name}, or adapt the DAGs to the released jobs."]
    )


if __name__ == "__main__":
    main()

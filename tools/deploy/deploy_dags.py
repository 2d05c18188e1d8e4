"""Switch an environment's Airflow to the DAGs of this checkout, in one step, if they fit the jobs released there.

The DAGs get the catalogue of the released jobs and are imported with it, so that the checks of a checkout also refuse a
job that is not released, and a role, parameter or contract that does not fit. They go to versions/<hash>/ of the
environment's folder; Airflow reads the link `current`. The versions deployed last stay.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common.errors import ArgumentError, TaskError
from common.handover import storage
from common.protocol import code_folder
from tools import environment
from tools.command_line import exit_on_task_error
from tools.deploy import releases
from tools.deploy.releases import Release
from tools.packaging.catalogue import catalogue
from tools.packaging.fingerprint import ROOT, jobs, product

KEPT_VERSIONS = 5  # the versions deployed last, in addition to the one that was live before
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
    try:
        version, dags = deploy(name)
    except OSError as error:
        sys.exit(f"The DAGs of {name} could not be written ({error}); run this where Airflow's folder is writable.")
    print(f"{name} has {len(dags)} DAGs in version {version}: {', '.join(dags)}")


def deploy(name: str) -> tuple[str, list[str]]:
    """Replace the DAGs of an environment by those of this checkout; return the version and its DAGs."""
    settings = environment.load(name)
    folder = Path(environment.require(settings, "dags", "/FOLDER"))
    if not folder.is_absolute():
        raise ArgumentError(f"{settings.file} has dags = '{folder}', expected the absolute path of a folder.")
    lake, release = environment.lake(settings), releases.airflow_release(releases.connect(settings))
    versions, link = folder / "versions", folder / "current"
    versions.mkdir(parents=True, exist_ok=True)
    before = link.resolve()
    with tempfile.TemporaryDirectory(dir=versions, prefix=".") as temporary:
        new = Path(temporary) / "airflow_dags"
        shutil.copytree(ROOT / "airflow_dags", new, ignore=shutil.ignore_patterns("__pycache__"))
        (new / "job_catalogue.json").write_text(released_catalogue(lake, release.jobs))
        imported = import_dags(new, name)
        if imported["errors"]:
            raise TaskError(refusal(name, release, imported["errors"]))
        version = content_hash(new)
        switch_link(new, version, link, before)
    return version, imported["dags"]


def switch_link(new: Path, name: str, link: Path, before: Path) -> None:
    """Make a folder a version and point the link at it, atomically: Airflow sees either version, never a mixture.

    TaskError if the link no longer points to `before`, because another deployment was faster.
    """
    version = link.parent / "versions" / name
    with storage.locked(link):
        if link.resolve() not in (before, version.resolve()):
            raise TaskError(
                f"Another deployment concurrently switched to the DAGs of version {link.resolve().name}, so those of "
                "this checkout are not deployed; check them, then rerun this command."
            )
        if not version.exists():
            new.chmod(0o755)
            new.rename(version)
        os.utime(version)  # the time of a version is that of its last deployment
        next_link = new.parent / link.name
        next_link.symlink_to(Path("versions") / name)
        next_link.replace(link)
        for old in sorted(version.parent.glob("[!.]*"), key=lambda path: path.stat().st_mtime)[:-KEPT_VERSIONS]:
            if old.resolve() != before:
                old.rename(new.parent / old.name)  # deleted with it, so that no partial version has its name


def released_catalogue(lake: str, released: dict[str, str]) -> str:
    """Return the catalogue of a release's jobs, from the descriptions in their products."""

    def files(job: str) -> list[bytes]:
        uri = code_folder(lake, job, released[job])
        try:
            return [storage.read(f"{uri}/{file}")[0] for file in ("job.toml", "fingerprint")]
        except FileNotFoundError:
            raise TaskError(f"{uri} has no job.toml, though {job} is released; release it again.") from None

    with tempfile.TemporaryDirectory() as temporary:
        for job, (description, mark) in zip(released, storage.in_parallel(files, released)):
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
    here = {job: product(job).fingerprint for job in jobs()}
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


def content_hash(folder: Path) -> str:
    """Return 16 hexadecimal digits that differ if any file does, by name or content."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        digest.update(f"{file.relative_to(folder).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    main()

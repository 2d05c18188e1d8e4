"""Switch an environment's Airflow to the DAGs of this checkout, in one step, if they fit the jobs released there.

The DAGs get the catalogue of the released jobs and are imported with it, so that a job that is not released, a role, a
parameter or a contract that does not fit is refused by what refuses it in a checkout, too. They go to
versions/<hash>/ of the environment's folder; current, a link, is what Airflow reads. The versions deployed last stay.
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
from tools.deploy import releases
from tools.deploy.releases import Release
from tools.packaging.catalogue import catalogue
from tools.packaging.fingerprint import ROOT, jobs, product

KEPT = 5  # versions that were deployed last; and the one that was in place before, if it is none of these
PYTHON = ROOT / ".venv-airflow" / "bin" / "python"
IMPORT = """
import glob, json, os, sys
sys.path.insert(0, sys.argv[1])
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(sys.argv[1])
written = {os.path.basename(os.path.dirname(file)): file for file in glob.glob(sys.argv[1] + "/*/dag.py")}
unseen = {os.path.relpath(file, sys.argv[1]): "Airflow finds no DAG in it" for name, file in written.items()
          if name not in bag.dags and file not in bag.import_errors}
told = {os.path.relpath(file, sys.argv[1]): text.strip().splitlines()[-1] for file, text in bag.import_errors.items()}
errors = unseen | told
print(json.dumps({"dags": sorted(bag.dags), "errors": errors}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environment", required=True, metavar="NAME", help="one of airflow_dags/environments")
    name = parser.parse_args().environment
    try:
        version, dags = deploy(name)
    except TaskError as error:
        sys.exit(str(error))
    except OSError as error:
        sys.exit(
            f"The DAGs of {name} could not be put in place ({error}); run this where Airflow's folder can be written."
        )
    print(f"{name} has {len(dags)} DAGs in version {version}: {', '.join(dags)}")


def deploy(name: str) -> tuple[str, list[str]]:
    """Put the DAGs of this checkout in place of those of an environment; the version, and what is in it."""
    said = environment.load(name)
    folder = Path(environment.needed(said, "dags", "/FOLDER"))
    if not folder.is_absolute():
        raise ArgumentError(f"{said.file} says dags = '{folder}', expected the whole path of a folder.")
    lake, release = environment.lake(said), releases.running(releases.airflow(said))
    versions, link = folder / "versions", folder / "current"
    versions.mkdir(parents=True, exist_ok=True)
    before = link.resolve()
    with tempfile.TemporaryDirectory(dir=versions, prefix=".") as temporary:
        new = Path(temporary) / "airflow_dags"
        shutil.copytree(ROOT / "airflow_dags", new, ignore=shutil.ignore_patterns("__pycache__"))
        (new / "job_catalogue.json").write_text(released_catalogue(lake, release.jobs))
        found = imported(new, name)
        if found["errors"]:
            raise TaskError(refusal(name, release, found["errors"]))
        version = content_hash(new)
        put_in_place(new, version, link, before)
    return version, found["dags"]


def put_in_place(new: Path, name: str, link: Path, before: Path) -> None:
    """Make a folder a version, and the link lead to it in one step: Airflow sees the one version or the other.

    TaskError if the link does not lead to what it led to before, because another deployment was quicker.
    """
    version = link.parent / "versions" / name
    with storage.locked(link):
        if link.resolve() not in (before, version.resolve()):
            raise TaskError(
                f"Another deployment put the DAGs of version {link.resolve().name} in place meanwhile, so those of "
                "this checkout are not deployed; look at them, then run this again."
            )
        if not version.exists():
            new.chmod(0o755)
            new.rename(version)
        os.utime(version)  # by which versions are in the order of their last deployment
        next_link = new.parent / link.name
        next_link.symlink_to(Path("versions") / name)
        next_link.replace(link)
        for old in sorted(version.parent.glob("[!.]*"), key=lambda path: path.stat().st_mtime)[:-KEPT]:
            if old.resolve() != before:
                old.rename(new.parent / old.name)  # to be deleted with it, so that no half version has its name


def released_catalogue(lake: str, released: dict[str, str]) -> str:
    """The catalogue of the jobs of a release, as their products describe them."""

    def files(job: str) -> list[bytes]:
        place = code_folder(lake, job, released[job])
        try:
            return [storage.read(f"{place}/{file}")[0] for file in ("job.toml", "fingerprint")]
        except FileNotFoundError:
            raise TaskError(f"{place} has no job.toml, though {job} is released; release it again.") from None

    with tempfile.TemporaryDirectory() as temporary:
        for job, (description, mark) in zip(released, storage.at_once(files, released)):
            place = Path(temporary) / job
            place.mkdir()
            (place / "job.toml").write_bytes(description)
            (place / "fingerprint").write_bytes(mark)
        return catalogue(Path(temporary))


def imported(folder: Path, name: str) -> dict[str, Any]:
    """What Airflow imports from a folder as the environment would: its DAGs, and by file what is wrong."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW_", "TANDEM_"))}
    with tempfile.TemporaryDirectory() as home:
        own = {
            "AIRFLOW_HOME": home,
            "AIRFLOW__CORE__DAGS_FOLDER": str(folder),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "TANDEM_ENVIRONMENT": name,
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        command = [str(PYTHON), "-c", IMPORT, str(folder)]
        ran = subprocess.run(command, env=inherited | own, capture_output=True, text=True, cwd=home)
    if ran.returncode:
        raise TaskError(f"Airflow can't import the DAGs; it said last: {ran.stderr.strip().splitlines()[-1]}")
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


def refusal(name: str, release: Release, errors: dict[str, str]) -> str:
    """Why DAGs do not fit a release: what each says, and where this checkout has other jobs than the release."""
    here = {job: product(job).fingerprint for job in jobs()}
    missing = sorted(here.keys() - release.jobs.keys())
    other = sorted(job for job in here.keys() & release.jobs.keys() if here[job] != release.jobs[job])
    lines = [f"The DAGs of this checkout do not fit the jobs of {name} ({release}), which keeps the DAGs it has:"]
    lines += [f"  {file}: {text.removeprefix('tandem.dag_errors.PipelineError: ')}" for file, text in errors.items()]
    if missing:
        lines.append(f"Not released in {name}, but here: {', '.join(missing)}.")
    if other:
        lines.append(f"Released in {name} as another version than here: {', '.join(other)}.")
    return "\n".join(
        [*lines, f"Release the jobs first: make deploy-jobs ENV={name}, or bring the DAGs to what is there."]
    )


def content_hash(folder: Path) -> str:
    """16 hexadecimal digits that differ if any file does, by name or content."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        digest.update(f"{file.relative_to(folder).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    main()

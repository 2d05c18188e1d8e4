"""Write airflow_dags/job_catalogue.json, all that DAGs know of jobs, from every job.toml; --check: is it up to date?"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from common.handover.job_toml import load

ROOT = Path(__file__).resolve().parents[2]
KEYS = ("engine", "mapped_by", "services", "inputs", "outputs", "parameters", "resources", "spark")


def catalogue(jobs: Path) -> str:
    """The catalogue of all jobs in a folder, as JSON; ArgumentError names what is wrong in a job.toml."""
    found = [load(file.parent) for file in sorted(jobs.glob("*/job.toml"))]
    entries = {
        job.name: {
            key: value
            for key, value in dataclasses.asdict(job, dict_factory=given).items()
            if key in KEYS or (key == "requirements" and job.engine == "spark")  # an image holds them already
        }
        for job in found
    }
    return json.dumps(entries, indent=2, default=str) + "\n"


def given(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The fields of a job, parameter or table that its job.toml fills."""
    return {name: value for name, value in pairs if value not in (None, ())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 if the file is out of date")
    file = ROOT / "airflow_dags" / "job_catalogue.json"
    content = catalogue(ROOT / "jobs")
    if not parser.parse_args().check:
        file.write_text(content)
    elif not file.exists() or file.read_text() != content:
        sys.exit(f"{file.relative_to(ROOT)} differs from jobs/*/job.toml; run make format.")


if __name__ == "__main__":
    main()

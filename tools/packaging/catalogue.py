"""Write generated files of DAGs: job_catalogue.json from every job.toml, and a copy of common/protocol.py."""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from common.handover.job_toml import load

ROOT = Path(__file__).resolve().parents[2]
PROTOCOL = "common/protocol.py"
KEYS = ("engine", "mapped_by", "services", "inputs", "outputs", "parameters", "resources", "spark")


def catalogue(jobs: Path) -> str:
    """Return the catalogue of all jobs in a folder, as JSON; ArgumentError for an error in a job.toml."""
    loaded = [load(file.parent) for file in sorted(jobs.glob("*/job.toml"))]
    entries = {
        job.name: {
            key: value
            for key, value in dataclasses.asdict(job, dict_factory=drop_empty).items()
            if key in KEYS or (key == "requirements" and job.engine == "spark")  # an image contains them already
        }
        for job in loaded
    }
    return json.dumps(entries, indent=2, default=str) + "\n"


def drop_empty(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the fields of a job, parameter or table that have a value."""
    return {name: value for name, value in pairs if value not in (None, ())}


def protocol() -> str:
    """Return the copy of the protocol for DAGs."""
    return f"# Generated from common/protocol.py by make format; edit that file.\n{(ROOT / PROTOCOL).read_text()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 if a file is out of date")
    generated = {
        ROOT / "airflow_dags" / "job_catalogue.json": ("jobs/*/job.toml", catalogue(ROOT / "jobs")),
        ROOT / "airflow_dags" / "tandem" / "protocol.py": (PROTOCOL, protocol()),
    }
    check = parser.parse_args().check
    for file, (source, content) in generated.items():
        if not check:
            file.write_text(content)
        elif not file.exists() or file.read_text() != content:
            sys.exit(f"{file.relative_to(ROOT)} differs from {source}; run make format.")


if __name__ == "__main__":
    main()

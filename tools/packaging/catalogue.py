"""Write generated files of DAGs: catalogues of all jobs and all contracts, and a copy of common/protocol.py."""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from common import contracts
from common.handover.job_toml import load

ROOT = Path(__file__).resolve().parents[2]
PROTOCOL = "common/protocol.py"
KEYS = ("description", "engine", "mapped_by", "services", "inputs", "outputs", "parameters", "resources", "spark")


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


def contract_catalogue() -> str:
    """Return descriptions and columns of all contracts, as JSON: a type ends in `?` where null is allowed."""
    names = sorted(file.stem for file in (ROOT / "common" / "contracts").glob("*.toml"))
    entries = {
        name: {
            "description": " ".join(contracts.load(name).description.split()),
            "columns": {
                column: each.type + "?" * each.nullable for column, each in contracts.load(name).columns.items()
            },
        }
        for name in names
    }
    return json.dumps(entries, indent=2) + "\n"


def drop_empty(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the fields of a job, parameter or table that have a value."""
    return {name: value for name, value in pairs if value not in (None, ())}


def protocol() -> str:
    """Return the copy of the protocol for DAGs."""
    return f"# Generated from common/protocol.py by make format; edit that file.\n{(ROOT / PROTOCOL).read_text()}"


def generated() -> dict[Path, tuple[str, str]]:
    """Return the source and the content of each generated file."""
    return {
        ROOT / "airflow_dags" / "job_catalogue.json": ("jobs/*/job.toml", catalogue(ROOT / "jobs")),
        ROOT / "airflow_dags" / "contract_catalogue.json": ("common/contracts/*.toml", contract_catalogue()),
        ROOT / "airflow_dags" / "tandem" / "protocol.py": (PROTOCOL, protocol()),
    }


def write() -> None:
    """Write the generated files."""
    for file, (_, content) in generated().items():
        file.write_text(content)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 if a file is out of date")
    if not parser.parse_args().check:
        write()
        return
    for file, (source, content) in generated().items():
        if not file.exists() or file.read_text() != content:
            sys.exit(f"{file.relative_to(ROOT)} differs from {source}; run make format.")


if __name__ == "__main__":
    main()

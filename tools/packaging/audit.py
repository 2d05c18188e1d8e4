"""Look up known vulnerabilities of pinned libraries: exit 0 for none, 1 for some, 2 if not all could be checked.

Libraries without an answer of the database count as unchecked: an unreachable database is not a clean result.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / ".venv-audit/bin/pip-audit"
OPTIONS = ["--require-hashes", "--disable-pip", "--format", "json", "--progress-spinner", "off"]


@dataclass(frozen=True)
class Finding:
    """A vulnerability of a pinned library."""

    library: str
    version: str
    identifier: str
    fixed_in: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="requirements; all files if none is named")
    files = parser.parse_args().files or [
        file
        for file in sorted((ROOT / "requirements").glob("*.txt"))
        if not file.name.startswith("airflow-managed")  # the services decide these versions; only a test installs them
    ]
    console = Console(width=None if sys.stdout.isatty() else 160)
    table = Table(title="Known vulnerabilities", title_justify="left")
    for heading in ("requirements", "library", "version", "vulnerability", "fixed in"):
        table.add_column(heading)
    checked, unchecked, reason = 0, 0, ""
    for file in files:
        findings, known, unknown, why = audit(file)
        for finding in findings:
            table.add_row(file.name, finding.library, finding.version, finding.identifier, finding.fixed_in)
        checked, unchecked, reason = checked + known, unchecked + unknown, reason or why
    if table.row_count:
        console.print(table)
    console.print(f"Checked {checked} pinned libraries in {len(files)} files: {table.row_count} known vulnerabilities.")
    if unchecked:
        console.print(
            f"{unchecked} could not be checked ({reason}); run make audit where PyPI's database is reachable.",
            markup=False,
        )
    sys.exit(1 if table.row_count else 2 if unchecked else 0)


def audit(file: Path) -> tuple[list[Finding], int, int, str]:
    """Audit a file of requirements; return findings, the number of libraries checked and unchecked, and why not."""
    process = subprocess.run([PROGRAM, "--requirement", file, *OPTIONS], capture_output=True, text=True)
    try:
        return evaluate(json.loads(process.stdout)["dependencies"])
    except (json.JSONDecodeError, KeyError):
        pinned = [line for line in file.read_text("utf-8").splitlines() if line[:1].isalnum()]
        lines = process.stderr.strip().splitlines() or ["pip-audit gave no reason"]
        return [], 0, len(pinned), lines[-1]


def evaluate(dependencies: list[dict[str, Any]]) -> tuple[list[Finding], int, int, str]:
    """Return the findings of pip-audit's report, the number of libraries checked and unchecked, and why not."""
    skipped = [entry["skip_reason"] for entry in dependencies if "skip_reason" in entry]
    findings = [
        Finding(
            entry["name"],
            entry["version"],
            vulnerability["id"],
            ", ".join(vulnerability["fix_versions"]) or "no version",
        )
        for entry in dependencies
        for vulnerability in entry.get("vulns", [])
    ]
    return findings, len(dependencies) - len(skipped), len(skipped), skipped[0] if skipped else ""


if __name__ == "__main__":
    main()

"""Which build products a change touches: old and new fingerprint, and by which imports what changed reaches a job."""

import argparse
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rich.console import Console
from rich.table import Table

from common.errors import ArgumentError, TaskError
from tools.packaging.base_image import BASE_IMAGE, default
from tools.packaging.build import BASES
from tools.packaging.fingerprint import ROOT, Product, jobs, product

Row = tuple[str, str, str, list[str]]  # job, former and present fingerprint, reasons
FOLDERS = ["common", "dockerfiles", "jobs", "requirements"]  # all that goes into products


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default="origin/main", metavar="REVISION", help="since it and HEAD went apart")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what changed there, too, for machines")
    arguments = parser.parse_args()
    try:
        revision = fork(arguments.base)
        with tempfile.TemporaryDirectory() as former:
            extract(revision, Path(former))
            bases = json.loads(BASES.read_text()) if BASES.exists() else {}
            rows = compare(Path(former), ROOT, bases)
    except TaskError as error:
        sys.exit(str(error))
    table = Table(title=f"Since {revision[:10]}, uncommitted changes included", title_justify="left")
    for heading in ("job", "old", "new", "why"):
        table.add_column(heading)
    for name, old, new, why in rows:
        if old != new:
            table.add_row(name, old, new, "\n".join(why))
    console = Console(width=None if sys.stdout.isatty() else 160)
    if arguments.json:
        arguments.json.write_text(json.dumps(changed(rows), indent=1) + "\n")
    console.print(table)
    console.print(f"As before: {', '.join(name for name, old, new, _ in rows if old == new) or 'none'}.")


def changed(rows: list[Row]) -> list[dict[str, Any]]:
    """The jobs whose products differ, as JSON has them; `old` or `new` is null where there is no product."""
    return [
        {"job": name, "old": None if old == "-" else old, "new": None if new == "-" else new, "why": why}
        for name, old, new, why in rows
        if old != new
    ]


def fork(base: str, root: Path = ROOT) -> str:
    """The newest commit that HEAD and a revision have in common, so that what others did since then doesn't count."""
    return git(root, "merge-base", base, "HEAD").decode().strip()


def extract(revision: str, folder: Path, root: Path = ROOT) -> None:
    """Lay down what a revision has of the folders that products are made of; the checkout stays as it is."""
    there = git(root, "ls-tree", "--name-only", revision, "--", *FOLDERS).decode().splitlines()
    if there:
        with tarfile.open(fileobj=io.BytesIO(git(root, "archive", revision, "--", *there))) as archive:
            archive.extractall(folder, filter="data")


def compare(former: Path, root: Path, bases: Mapping[str, str] = MappingProxyType({})) -> list[Row]:
    """Each job of either tree with its fingerprint in both, `-` where it has none, and what makes the difference.

    `bases` are the base images of the last build, by name with the digest that they had then.
    """
    rows = []
    for name in sorted({*jobs(former), *jobs(root)}):
        old, trouble = there_then(name, former, bases)
        new = product(name, root) if (root / "jobs" / name / "job.toml").exists() else None
        why = [trouble] if trouble else reasons(old, new)
        rows.append((name, old.fingerprint if old else "-", new.fingerprint if new else "-", why))
    return rows


def there_then(name: str, former: Path, bases: Mapping[str, str]) -> tuple[Product | None, str]:
    """A job's former product, or why there is none."""
    if not (former / "jobs" / name / "job.toml").exists():
        return None, "a new job"
    try:
        base_image = default(former) or BASE_IMAGE
        return product(name, former, base_image, bases.get(base_image)), ""
    except ArgumentError as error:
        return None, f"could not be built then: {error}"


def reasons(old: Product | None, new: Product | None) -> list[str]:
    """What differs between two products of a job."""
    if old is None or new is None:
        return ["the job is gone"]
    found = [
        f"{name} changed: {old.settings.get(name, 'none')} → {value}"
        for name, value in new.settings.items()
        if old.settings.get(name) != value
    ]
    for path in sorted({*old.parts, *new.parts}):
        before, after = old.parts.get(path), new.parts.get(path)
        if before is None and after:
            found.append(f"{after.file} came in: {after.why}")
        elif before and after is None:
            found.append(f"{before.file} fell out: {before.why}")
        elif before and after and before.content != after.content:
            found.append(f"{after.file} changed: {after.why}")
    return found


def git(root: Path, *arguments: str) -> bytes:
    """What git says; TaskError with its own words if it can't."""
    process = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True)
    if process.returncode:
        told = process.stderr.decode(errors="replace").strip() or "nothing"
        raise TaskError(f"git {' '.join(arguments)} failed and says: {told}; name a revision that is here with --base.")
    return process.stdout


if __name__ == "__main__":
    main()

"""List the build products that a change affects: old and new fingerprint, and the imports that lead to the change."""

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
from tools.command_line import exit_on_task_error
from tools.packaging.base_image import BASE_IMAGE, default
from tools.packaging.build import BASES
from tools.packaging.fingerprint import ROOT, Product, job_of, product, products

Row = tuple[str, str, str, list[str]]  # product, old and new fingerprint, reasons
FOLDERS = ["common", "dockerfiles", "jobs", "requirements", "sources"]  # every file of a product is in one of them


@exit_on_task_error()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--base", default="origin/main", metavar="REVISION", help="compare with where HEAD branched off"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the changes there, for machines")
    arguments = parser.parse_args()
    revision = fork(arguments.base)
    with tempfile.TemporaryDirectory() as former:
        extract(revision, Path(former))
        bases = json.loads(BASES.read_text()) if BASES.exists() else {}
        rows = compare(Path(former), ROOT, bases)
    table = Table(title=f"Since {revision[:10]}, uncommitted changes included", title_justify="left")
    for heading in ("product", "old", "new", "why"):
        table.add_column(heading)
    for name, old, new, why in rows:
        if old != new:
            table.add_row(name, old, new, "\n".join(why))
    console = Console(width=None if sys.stdout.isatty() else 160)
    if arguments.json:
        arguments.json.write_text(json.dumps(changed(rows), indent=1) + "\n")
    console.print(table)
    console.print(f"Unchanged: {', '.join(name for name, old, new, _ in rows if old == new) or 'none'}.")


def changed(rows: list[Row]) -> list[dict[str, Any]]:
    """Return the products that differ, for JSON; `old` or `new` is null if there is no product."""
    return [
        {
            "product": name,
            "job": job_of(name),
            "old": None if old == "-" else old,
            "new": None if new == "-" else new,
            "why": why,
        }
        for name, old, new, why in rows
        if old != new
    ]


def fork(base: str, root: Path = ROOT) -> str:
    """Return the newest common commit of HEAD and a revision, so that later changes of others do not count."""
    return git(root, "merge-base", base, "HEAD").decode().strip()


def extract(revision: str, folder: Path, root: Path = ROOT) -> None:
    """Extract the folders of products from a revision; the checkout does not change."""
    present = git(root, "ls-tree", "--name-only", revision, "--", *FOLDERS).decode().splitlines()
    if present:
        with tarfile.open(fileobj=io.BytesIO(git(root, "archive", revision, "--", *present))) as archive:
            archive.extractall(folder, filter="data")


def compare(former: Path, root: Path, bases: Mapping[str, str] = MappingProxyType({})) -> list[Row]:
    """Return each product of either tree: its fingerprint in both, `-` if it has none, and the reasons of a difference.

    `bases` maps the names of the last build's base images to the names with their digests then.
    """
    rows = []
    before, now = products(former), products(root)
    for name in sorted({*before, *now}):
        old, trouble = former_product(name, former, bases) if name in before else (None, "a new product")
        new = product(name, root) if name in now else None
        why = [trouble] if trouble else reasons(old, new)
        rows.append((name, old.fingerprint if old else "-", new.fingerprint if new else "-", why))
    return rows


def former_product(name: str, former: Path, bases: Mapping[str, str]) -> tuple[Product | None, str]:
    """Return a former product, or the reason why there is none."""
    try:
        base_image = default(former) or BASE_IMAGE
        return product(name, former, base_image, bases.get(base_image)), ""
    except ArgumentError as error:
        return None, f"could not be built then: {error}"


def reasons(old: Product | None, new: Product | None) -> list[str]:
    """List the differences of two states of a product."""
    if old is None or new is None:
        return ["the product is gone"]
    differences = [
        f"{name} changed: {old.settings.get(name, 'none')} → {value}"
        for name, value in new.settings.items()
        if old.settings.get(name) != value
    ]
    for path in sorted({*old.files, *new.files}):
        before, after = old.files.get(path), new.files.get(path)
        if before is None and after:
            differences.append(f"{after.source} added: {after.reason}")
        elif before and after is None:
            differences.append(f"{before.source} removed: {before.reason}")
        elif before and after and before.content != after.content:
            differences.append(f"{after.source} changed: {after.reason}")
    return differences


def git(root: Path, *arguments: str) -> bytes:
    """Run git and return its output; TaskError with its message if it fails."""
    process = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True)
    if process.returncode:
        message = process.stderr.decode(errors="replace").strip() or "no message"
        raise TaskError(f"git {' '.join(arguments)} failed: {message}; give --base a revision of this clone.")
    return process.stdout


if __name__ == "__main__":
    main()

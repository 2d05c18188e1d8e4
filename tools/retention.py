"""Runs of the intermediate level that are too old: those in which nothing changed for some days; --apply deletes them.

Tasks read what was handed over in their own run only, so no run needs another one's. Datasets and products stay.
"""

import argparse
import datetime
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.progress import track
from rich.table import Table

from common import s3, storage
from common.command_line import lake_uri
from common.failures import ArgumentError, Failure
from tools import environment
from tools.fingerprint import ROOT

console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)


@dataclass
class Run:
    """What a run of a pipeline has left: files, bytes, and the last time that any of it changed, in seconds."""

    files: int = 0
    bytes: int = 0
    changed: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environment", default="laptop", metavar="NAME", help="whose lake, and how long it keeps")
    parser.add_argument("--lake", type=lake_uri, metavar="URI", help="another root than the environment's")
    parser.add_argument("--days", type=int, metavar="NUMBER", help="another time than keep_intermediate_days says")
    parser.add_argument("--apply", action="store_true", help="delete it")
    asked = parser.parse_args()
    try:
        said = environment.load(asked.environment)
        here = f"file://{ROOT}/.tandem/lake"
        root = (asked.lake or (here if asked.environment == "laptop" else environment.lake(said))).rstrip("/")
        days = said["keep_intermediate_days"] if asked.days is None else asked.days
        if days < 1:
            raise ArgumentError(f"DAYS is {days}, expected one at least: a run of today may still be at work.")
        tell(root, days, asked.apply)
    except Failure as error:
        sys.exit(str(error))


def tell(root: str, days: int, apply: bool) -> None:
    """Show the runs that are too old, and delete them if asked to."""
    limit = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=days)
    with console.status(f"listing {root}/intermediate"):
        found = runs(f"{root}/intermediate")
    old = {name: run for name, run in sorted(found.items()) if run.changed < limit.timestamp()}
    table = Table("pipeline", "run", "files", "MB", "last changed", title=f"Nothing changed for {days} days")
    table.title_justify = "left"
    for name, run in old.items():
        day = datetime.datetime.fromtimestamp(run.changed, datetime.UTC).date()
        table.add_row(*name.split("/"), f"{run.files:,}", f"{run.bytes / 1e6:,.1f}", str(day))
    console.print(table)
    if apply:
        for name in track(old, "deleting", console=console):
            storage.delete(f"{root}/intermediate/{name}")
    size = sum(run.bytes for run in old.values()) / 1e6
    console.print(
        f"{len(old)} of {len(found)} runs of {root} ({size:,.1f} MB) "
        + ("are deleted." if apply else "would be deleted by APPLY=1.")
    )


def runs(folder: str) -> dict[str, Run]:
    """What each run has left, by `<pipeline>/<run>`, from one listing of the intermediate level."""
    found: dict[str, Run] = {}
    for path, size, changed in entries(folder):
        run = found.setdefault("/".join(path.split("/")[:2]), Run())
        run.files += 1
        run.bytes += size
        run.changed = max(run.changed, changed)
    return found


def entries(folder: str) -> Iterator[tuple[str, int, float]]:
    """Path, bytes and time of change of every file below a folder, hidden ones too."""
    if storage.is_s3(folder):
        bucket, prefix = s3.bucket_and_key(f"{folder}/")
        for page in s3.client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for each in page.get("Contents", []):
                yield each["Key"].removeprefix(prefix), each["Size"], each["LastModified"].timestamp()
        return
    root = storage.local(folder)
    for parent, _, names in os.walk(root):
        for name in names:
            status = os.stat(f"{parent}/{name}")
            yield f"{parent}/{name}".removeprefix(f"{root}/"), status.st_size, status.st_mtime


if __name__ == "__main__":
    main()

"""Show what of a lake nothing needs any more and nothing has changed for some days; --apply deletes it.

Runs of the intermediate level; in runs that stay, what processes left that the manifest does not name; versions of
partitions that no manifest names. What a published version of a product descends from stays, and so does the raw level.
"""

import argparse
import datetime
import os
import sys
from collections.abc import Iterator

from rich.console import Console
from rich.progress import track
from rich.table import Table

from common.delivery import tables
from common.delivery.versions import VERSIONS
from common.delivery.writer import items_of
from common.errors import ArgumentError, TaskError
from common.handover import storage
from common.handover.command_line import lake_uri
from tools import environment
from tools.lake import garbage
from tools.lake.garbage import Garbage
from tools.tables import delivery, products, use_local_server

KINDS = {"run": "runs", "process": "folders of processes that do not count", "version": "versions that nothing names"}
console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environment", default="laptop", metavar="NAME", help="whose lake, and how long it keeps")
    parser.add_argument("--lake", type=lake_uri, metavar="URI", help="another root than the environment's")
    parser.add_argument("--days", type=int, metavar="NUMBER", help="another time than keep_intermediate_days says")
    parser.add_argument("--apply", action="store_true", help="delete it")
    asked = parser.parse_args()
    try:
        said = environment.load(asked.environment)
        root = environment.resolve_lake(said, asked.lake)
        days = said["keep_intermediate_days"] if asked.days is None else asked.days
        if days < 1:
            raise ArgumentError(f"DAYS is {days}, expected one at least: a run of today may still be at work.")
        tell(root, days, asked.apply, live_runs(asked.environment, root, asked.apply))
    except (TaskError, OSError) as error:
        sys.exit(str(error))


def tell(root: str, days: int, apply: bool, live: set[str]) -> None:
    """Show what can go, and delete it if asked to."""
    limit = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=days)
    with console.status(f"listing {root}"):
        lake, found = garbage.find(root, limit.timestamp(), live)
    table = Table("folder", "files", "MB", "last changed", title=f"Nothing changed for {days} days")
    table.title_justify = "left"
    for each in found:
        day = datetime.datetime.fromtimestamp(each.changed, datetime.UTC).date()
        table.add_row(each.name, f"{len(each.entries):,}", f"{each.bytes / 1e6:,.1f}", str(day))
    console.print(table)
    if lake.strays:
        console.print(f"{len(lake.strays)} files of intermediate belong to no run and stay, as {lake.strays[0]} does.")
    if kept := live & lake.runs.keys():
        console.print(f"{len(kept)} runs stay because published products come from them.")
    gone = [each for each in track(found, "deleting", console=console) if delete(root, each)] if apply else found
    runs = sum(each.kind == "run" for each in gone)
    size = sum(each.bytes for each in gone) / 1e6
    rest = "".join(f", {count} {KINDS[kind]}" for kind in ("process", "version") if (count := number(gone, kind)))
    console.print(
        f"{runs} of {len(lake.runs)} runs of {root}{rest} ({size:,.1f} MB) "
        + ("are deleted." if apply else "would be deleted by APPLY=1.")
    )


def number(found: list[Garbage], kind: str) -> int:
    return sum(each.kind == kind for each in found)


def delete(root: str, each: Garbage) -> bool:
    """Delete a folder unless something needs it by now; whether it was deleted."""
    if not each.unneeded():
        return False
    storage.delete(f"{root}/{each.name}")
    return True


def live_runs(name: str, root: str, needed: bool) -> set[str]:
    """The runs, as <pipeline>/<run>, that the published versions of an environment's products come from.

    TaskError if that can't be known though it is needed. A laptop's DynamoDB is gone when its Airflow is.
    """
    brought_along = name == "laptop" and not os.environ.get("DYNAMODB_ENDPOINT")
    try:
        if brought_along:
            use_local_server(name)
        uris = set(published(name))
    except TaskError as error:
        if needed and not brought_along:
            raise TaskError(
                f"{error} So it is not known which runs published products come from, and nothing is deleted."
            ) from None
        if not brought_along:
            console.print(f"Runs that published products come from are not known: {error}", soft_wrap=True)
        return set()
    above = f"{root}/intermediate/"
    return {"/".join(uri.removeprefix(above).split("/")[:2]) for uri in uris if uri.startswith(above)}


def published(name: str) -> Iterator[str]:
    """The manifest of each version of each product that does not expire."""
    section = delivery(name)
    client = tables.client()
    with tables.explained():
        for product in products():
            table = tables.Table(client, tables.table_name(section["tables"], product), 1)
            try:
                for version in items_of(table, VERSIONS):
                    yield version["manifest"]["S"]
            except client.exceptions.ResourceNotFoundException:
                continue  # nothing was ever published


if __name__ == "__main__":
    main()

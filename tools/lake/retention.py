"""List garbage of a lake that has not changed for some days; --apply deletes it.

Garbage is: runs of the intermediate level; in runs that stay, folders of processes that the manifest does not name;
versions of partitions that no manifest names; months of cards and records, which have days of their own. Ancestors of a
published version of a product and the raw level stay.
"""

import argparse
import datetime
import sys
from collections.abc import Iterator

from rich.console import Console
from rich.progress import track
from rich.table import Table

from common.errors import ArgumentError, TaskError
from common.handover import storage
from tools import environment
from tools.lake import garbage
from tools.lake.garbage import Garbage
from tools.tables import delivery, needs_local_server, open_product, products, use_local_server

KINDS = {
    "process": "folders of unpublished processes",
    "version": "unnamed versions",
    "report": "months of cards or records",
}
console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    environment.add_options(parser)
    parser.add_argument("--days", type=int, metavar="NUMBER", help="overrides keep_intermediate_days")
    parser.add_argument("--apply", action="store_true", help="delete the garbage")
    arguments = parser.parse_args()
    try:
        settings = environment.load(arguments.environment)
        root = environment.resolve_lake(settings, arguments.lake)
        days = settings["keep_intermediate_days"] if arguments.days is None else arguments.days
        if days < 1:
            raise ArgumentError(f"DAYS is {days}, expected at least 1: a run of today may still be in progress.")
        live = live_runs(arguments.environment, root, arguments.apply)
        clean(root, days, settings["keep_reports_days"], arguments.apply, live)
    except (TaskError, OSError) as error:
        sys.exit(str(error))


def clean(root: str, days: int, reports_days: int, apply: bool, live: set[str]) -> None:
    """List the garbage of a lake, and delete it if `apply`."""
    now = datetime.datetime.now(datetime.UTC)
    limit, limit_of_reports = ((now - datetime.timedelta(days=each)).timestamp() for each in (days, reports_days))
    with console.status(f"listing {root}"):
        lake, found = garbage.find(root, limit, live)
        found += garbage.old_reports(root, limit_of_reports)
    title = f"Nothing changed for {days} days, reports for {reports_days}"
    table = Table("folder", "files", "MB", "last changed", title=title)
    table.title_justify = "left"
    for each in found:
        day = datetime.datetime.fromtimestamp(each.changed, datetime.UTC).date()
        table.add_row(each.name, f"{len(each.entries):,}", f"{each.bytes / 1e6:,.1f}", str(day))
    console.print(table)
    if lake.strays:
        console.print(f"{len(lake.strays)} files of intermediate belong to no run and stay, such as {lake.strays[0]}.")
    if kept := live & lake.runs.keys():
        console.print(f"{len(kept)} runs stay because they created published products.")
    deleted = [each for each in track(found, "deleting", console=console) if delete(root, each)] if apply else found
    runs = sum(each.kind == "run" for each in deleted)
    size = sum(each.bytes for each in deleted) / 1e6
    rest = "".join(f", {count} {name}" for kind, name in KINDS.items() if (count := count_kind(deleted, kind)))
    console.print(
        f"{runs} of {len(lake.runs)} runs of {root}{rest} ({size:,.1f} MB) "
        + ("deleted." if apply else "would be deleted by APPLY=1.")
    )


def count_kind(found: list[Garbage], kind: str) -> int:
    return sum(each.kind == kind for each in found)


def delete(root: str, each: Garbage) -> bool:
    """Delete a folder unless it is needed by now; True if it was deleted."""
    if not each.unneeded():
        return False
    storage.delete(f"{root}/{each.name}")
    return True


def live_runs(name: str, root: str, required: bool) -> set[str]:
    """Return the runs, as <pipeline>/<run>, that created the published versions of an environment's products.

    TaskError if they are required but not known. A laptop's DynamoDB stops with its Airflow.
    """
    local = needs_local_server(name)
    try:
        if local:
            use_local_server(name)
        uris = set(published(name))
    except TaskError as error:
        if required and not local:
            raise TaskError(
                f"{error} So the runs of published products are not known, and nothing is deleted."
            ) from None
        if not local:
            console.print(f"The runs of published products are not known: {error}", soft_wrap=True)
        return set()
    prefix = f"{root}/intermediate/"
    return {"/".join(uri.removeprefix(prefix).split("/")[:2]) for uri in uris if uri.startswith(prefix)}


def published(name: str) -> Iterator[str]:
    """Yield the manifest of each version of each product that does not expire."""
    section = delivery(name)
    for product in products():
        store = open_product(section, product)
        with store.explained():
            if store.exists():
                for version in store.versions().values():
                    if "expires" not in version.values:
                        yield version.values["manifest"]


if __name__ == "__main__":
    main()

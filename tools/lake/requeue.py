"""Let the next run ingest a source's files with quarantined records again, after the source's mapping was mended.

It removes the files from the ledger of their dataset. Usable records of these files that were ingested before are
duplicates then, and change nothing.
"""

import argparse
import datetime

from rich.console import Console

from common import protocol, sources
from common.errors import ArgumentError, InputError
from common.handover import storage
from common.ingestion import ledger
from common.protocol import LedgerEntry
from common.sources import source
from tools import environment
from tools.command_line import exit_on_task_error


@exit_on_task_error()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", required=True, choices=sorted(source.COLUMNS), help="of deliveries")
    parser.add_argument("--source", required=True, metavar="NAME", help="a folder of sources/ that delivers the kind")
    day = datetime.date.fromisoformat
    parser.add_argument(
        "--since", type=day, metavar="YYYY-MM-DD", help="first arrival day; all earlier ones too if absent"
    )
    parser.add_argument(
        "--until", type=day, metavar="YYYY-MM-DD", help="day after the last arrival day; all later ones too if absent"
    )
    environment.add_options(parser)
    arguments = parser.parse_args()
    root = environment.resolve_lake(environment.load(arguments.environment), arguments.lake)
    folder = deliveries_of(arguments.kind, arguments.source)
    removed = requeue(root, arguments.kind, folder, arguments.since, arguments.until)
    Console(highlight=False).print(sentence(arguments, folder, removed), soft_wrap=True)


def deliveries_of(kind: str, name: str) -> str:
    """Return the folder of a source's deliveries; ArgumentError if there is no such source."""
    known = {each.name: each.deliveries for each in source.load(kind)}
    if name not in known:
        raise ArgumentError(
            f"No source '{name}' delivers {kind}{protocol.nearest(name, sorted(known))}; {sources.folder()} has them."
        )
    return known[name]


def requeue(
    root: str, kind: str, folder: str, since: datetime.date | None, until: datetime.date | None
) -> dict[str, LedgerEntry]:
    """Remove a source's files with quarantined records from the ledger, by arrival day; return their entries."""
    documents = storage.files(protocol.ledger_folder(root, kind))
    if not documents:
        raise InputError(
            f"{protocol.ledger_folder(root, kind)} has no ledger, so the next run of ingest_{kind} takes all files."
        )
    removed = {}
    for file in documents:
        for path, entry in ledger.read(file.uri)[0].items():
            day = protocol.arrival_day(path)
            inside = day and (not since or day >= str(since)) and (not until or day < str(until))
            if entry["unusable"] and path.startswith(f"{folder}/arrival=") and inside:
                removed[path] = entry
    ledger.update(root, kind, {}, removed)
    return removed


def sentence(arguments: argparse.Namespace, folder: str, removed: dict[str, LedgerEntry]) -> str:
    """Describe the result."""
    if not removed:
        return f"No file in {folder} with quarantined records was ingested on these arrival days; nothing was changed."
    records = sum(entry["unusable"] for entry in removed.values())
    return (
        f"The next run of ingest_{arguments.kind} takes {len(removed):,} files of {arguments.source} with {records:,} "
        "quarantined records again."
    )


if __name__ == "__main__":
    main()

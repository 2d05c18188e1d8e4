"""Show what the ingestion runs quarantined of a source: reasons, files and examples, and how its files are taken again.

By default of the newest run that quarantined records of the source; with --run of that run; with --day of all files of
an arrival day, each as the newest run left it. Runs of the intermediate level keep the records as long as they stay.
"""

import argparse
import datetime
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from common import protocol
from common.engines import arrow
from common.errors import ArgumentError, InputError
from common.handover import manifest, storage
from common.handover.manifest import Manifest
from common.ingestion import ledger
from common.sources import source
from tools import environment
from tools.command_line import exit_on_task_error
from tools.lake.requeue import deliveries_of

PROBED = 3  # newest runs of a pipeline, of which one has a task that ingests, or none has
AT_ONCE, BATCH = 32, 16_384  # manifests; rows
EXAMPLES = 3  # of a reason
MAX_CONTENT = 160  # characters of an example
MAX_FILES = 20
COLUMNS = ["file", "line", "reason", "content"]


class Example(NamedTuple):
    """A quarantined record, or a whole file if it has no line."""

    file: str
    line: int | None
    content: str | None


@dataclass
class Quarantine:
    """The records of a source that a run quarantined: their number by reason and file, and a few of each reason."""

    run: Manifest
    records: Counter[tuple[str, str]] = field(default_factory=Counter)  # by file, as its path in the lake, and reason
    examples: dict[str, list[Example]] = field(default_factory=lambda: defaultdict(list))

    def add(self, file: str, row: dict[str, Any]) -> None:
        self.records[file, row["reason"]] += 1
        if len(self.examples[row["reason"]]) < EXAMPLES:
            self.examples[row["reason"]].append(Example(file, row["line"], row["content"]))


@exit_on_task_error()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", default="events", choices=sorted(source.COLUMNS), help="of deliveries")
    parser.add_argument("--source", required=True, metavar="NAME", help="a folder of sources/ that delivers the kind")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--day", type=datetime.date.fromisoformat, metavar="YYYY-MM-DD", help="an arrival day")
    which.add_argument("--run", metavar="ID", help="a run of a pipeline that ingests")
    environment.add_options(parser)
    arguments = parser.parse_args()
    root = environment.resolve_lake(environment.load(arguments.environment), arguments.lake)
    folder = deliveries_of(arguments.kind, arguments.source)
    found = quarantines(root, arguments.kind, folder, arguments.day, arguments.run)
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    if found:
        show(console, found, arguments)
    else:
        period = f" of the arrival day {arguments.day}" if arguments.day else " in any run that is kept"
        period = f" in the run {arguments.run}" if arguments.run else period
        console.print(f"No record of {arguments.source}{period} was quarantined.")


def quarantines(root: str, kind: str, folder: str, day: datetime.date | None, run: str | None) -> list[Quarantine]:
    """Return the quarantine of a source in the newest run that has any, in a run, or by run for an arrival day."""
    others = [each.deliveries for each in source.load(kind) if each.deliveries != folder]
    found: list[Quarantine] = []
    taken = mended(root, kind) if day else set()  # files that a newer run has read
    for each in ingestions(root, kind, run):
        quarantine = read(each, folder, others, day, taken)
        taken |= {file for file, _ in quarantine.records}
        if quarantine.records:
            found.append(quarantine)
            if not day:
                break
    return found


def mended(root: str, kind: str) -> set[str]:
    """Return the files that were ingested last without a quarantined record."""
    documents = [ledger.read(file.uri)[0] for file in storage.files(protocol.ledger_folder(root, kind))]
    return {path for entries in documents for path, entry in entries.items() if not entry["unusable"]}


def ingestions(root: str, kind: str, run: str | None) -> Iterator[Manifest]:
    """Yield the manifests of tasks that ingest a kind of deliveries, newest first; InputError if there is none."""
    job = f"ingest_{kind}"
    keys = [key for dag in storage.folders(f"{root}/intermediate") for key in task_folders(root, dag, job)]
    if not keys:
        raise InputError(f"{root}/intermediate has no run of {job}; run its pipeline first, or name another lake.")
    if run:
        named = [key for key in keys if key.split("/")[-2] == protocol.encode(run)]
        if not named:
            newest = [key.split("/")[-2] for key in keys[-5:]]
            raise ArgumentError(f"No run '{run}' of {job} is kept in {root}{protocol.nearest(run, newest)}.")
        keys = named
    uris = [protocol.manifest_uri(key) for key in sorted(keys, key=due, reverse=True)]
    for begin in range(0, len(uris), AT_ONCE):
        manifests = storage.in_parallel(manifest.load_or_none, uris[begin : begin + AT_ONCE])
        yield from (each for each in manifests if each and each.document["job"] == job)


def task_folders(root: str, dag: str, job: str) -> list[str]:
    """Return the folders of the tasks of a pipeline that run a job, one per run; a run may have failed before it."""
    runs = sorted(storage.folders(f"{root}/intermediate/{dag}"), key=due)
    tasks = set()
    for run in runs[-PROBED:]:
        for task in storage.folders(f"{root}/intermediate/{dag}/{run}"):
            found = manifest.load_or_none(protocol.manifest_uri(f"{root}/intermediate/{dag}/{run}/{task}"))
            if found and found.document["job"] == job:
                tasks.add(task)
    return [f"{root}/intermediate/{dag}/{run}/{task}" for run in runs for task in sorted(tasks)]


def due(path: str) -> str:
    """Return the time in the name of a run, by which runs are sorted."""
    times = re.findall(r"\d{4}-\d{2}-\d{2}T[0-9~a-f:-]+", path)
    return str(times[-1]).replace("~3a", "-") if times else ""


def read(run: Manifest, folder: str, others: list[str], day: datetime.date | None, taken: set[str]) -> Quarantine:
    """Return the quarantined records of a source's files, without files that were taken."""
    result = Quarantine(run)
    output = run.document["outputs"]["quarantine"]
    for file in manifest.files_of({"outputs": {"quarantine": output}}):
        uri = f"{run.uri.rpartition('/')[0]}/{file['path']}"
        for batch in arrow.batches_of(uri, COLUMNS, BATCH):
            for row in batch.to_pylist():
                name = path_of(row["file"], folder, others)
                if name and name not in taken and (not day or protocol.arrival_day(name) == str(day)):
                    result.add(name, row)
    return result


def path_of(uri: str, folder: str, others: list[str]) -> str | None:
    """Return the path in the lake of a source's file; None if the file is of another source."""
    _, found, rest = uri.rpartition(f"/{folder}/")
    name = f"{folder}/{rest}"
    inner = [other for other in others if other.startswith(f"{folder}/") and name.startswith(f"{other}/")]
    return name if found and not inner else None


def show(console: Console, found: list[Quarantine], arguments: argparse.Namespace) -> None:
    """Print the quarantine of a source."""
    records = Counter[tuple[str, str]]()
    for each in found:
        console.print(head(each, arguments.source))
        records.update(each.records)
    table = Table("reason", "records", "files")
    for reason, count in by(records, 1).most_common():
        with_reason = sum(reason == other for _, other in records)
        table.add_row(printable(reason), f"{count:,}", f"{with_reason:,}")
    console.print(table)
    files = by(records, 0)
    for file, count in files.most_common(MAX_FILES):
        console.print(f"{count:>9,}  {printable(file)}")
    if len(files) > MAX_FILES:
        console.print(f"           and {len(files) - MAX_FILES:,} more files")
    for reason in by(records, 1):
        console.print(f"\n{printable(reason)}:")
        examples = [example for each in found for example in each.examples[reason]]
        for example in examples[:EXAMPLES]:
            line = f":{example.line}" if example.line else ""
            console.print(f"  {printable(example.file)}{line}  {shortened(example.content or '')}")
    console.print(f"\n{remedy(files, arguments)}")


def head(each: Quarantine, name: str) -> str:
    """Return the sentence about a run."""
    task, count, lines = each.run.document["task"], each.records.total(), each.run.document["metrics"].get("lines", 0)
    share = f", {count / lines:.1%} of the {lines:,} records that it read" if lines >= count else ""
    ended = each.run.document["ended"][:19].replace("T", " ")
    return f"Run {task['run_id']} of {task['dag_id']} ({ended} UTC) quarantined {count:,} records of {name}{share}."


def by(records: Counter[tuple[str, str]], position: int) -> Counter[str]:
    """Return the number of records by file (0) or reason (1)."""
    result = Counter[str]()
    for key, count in records.items():
        result[key[position]] += count
    return result


def remedy(files: Counter[str], arguments: argparse.Namespace) -> str:
    """Return the sentence about the command that lets the next run take the files again."""
    days = sorted({day for file in files if (day := protocol.arrival_day(file))})
    if not days:
        return "Move the files into folders arrival=YYYY-MM-DD of the source; the next run takes them."
    until = datetime.date.fromisoformat(days[-1]) + datetime.timedelta(days=1)
    lake = f" LAKE={arguments.lake}" if arguments.lake else ""
    lake = lake if arguments.environment == "laptop" else f"{lake} ENV={arguments.environment}"
    return (
        "After you mended the source or the files, let the next run take them again: make requeue "
        f"KIND={arguments.kind} SOURCE={arguments.source} SINCE={days[0]} UNTIL={until}{lake}"
    )


def shortened(text: str) -> str:
    """Return the beginning of a text in one line."""
    return printable(text[:MAX_CONTENT]) + ("…" if len(text) > MAX_CONTENT else "")


def printable(text: str) -> str:
    """Return a text whose characters all show, and leave the terminal as it is."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape", "surrogatepass").decode()
        for character in text
    )


if __name__ == "__main__":
    main()

"""Adopt a file of events as a source: propose the mapping, run it on the file, report. See docs/adopt.md."""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from common.errors import TaskError
from common.sources import tracking_plan
from common.sources.source import Source
from tools.adopt import dry_run, findings, layout, mapping, page, plan, report, source_file, terminal
from tools.adopt.dry_run import Run
from tools.adopt.findings import Finding
from tools.adopt.layout import Layout, Sample
from tools.adopt.mapping import Proposal
from tools.adopt.report import Report
from tools.command_line import exit_on_task_error

ROOT = Path(__file__).parents[2]
PAGES = ROOT / ".tandem" / "adopt"


@dataclass
class Adopted:
    """A source with the files that it was made from, by kind, and the report of its events."""

    name: str
    samples: dict[str, Sample]
    report: Report


def adopt(files: dict[str, Path], name: str, console: Console, force: bool = False) -> Adopted:
    """Write the files of a source unless they exist, run the mapping on the files, add types to the plan, report."""
    source_file.check_name(name)
    samples = {kind: layout.look(path) for kind, path in files.items()}
    why, notes = _write_events(samples["events"], name, console, force)
    events = source_file.load(name, "events")
    run = _run(events, samples["events"], console)
    console.print(_add_types(run), highlight=False)
    made = report.make(run, name, files["events"], layout_of(events, samples["events"].layout), why)
    made.found += [Finding(findings.PROBLEM if note == mapping.NO_TIMES else findings.CHECK, note) for note in notes]
    for kind in ("items", "users"):
        if kind in samples:
            _adopt_other(kind, samples[kind], name, run, made, console, force)
    made.found = findings.ordered(made.found)
    return Adopted(name, samples, made)


def _write_events(sample: Sample, name: str, console: Console, force: bool) -> tuple[dict[str, str], list[str]]:
    """Write events.toml unless it exists; return the reasons of a new mapping, and its notes."""
    if _is_kept(name, "events", console, force):
        return {}, []
    proposal = mapping.propose_events(sample)
    _write(proposal, name, console)
    return {column: guess.why for column, guess in proposal.columns.items()}, proposal.notes


def _is_kept(name: str, kind: str, console: Console, force: bool) -> bool:
    """Return True, and say so, if a file exists and is not to be replaced."""
    if force or not source_file.path_of(name, kind).exists():
        return False
    console.print(f"sources/{name}/{kind}.toml exists and stays as it is; FORCE=1 replaces it.", highlight=False)
    return True


def _write(proposal: Proposal, name: str, console: Console) -> None:
    source_file.write(proposal, name)
    console.print(f"[green]written[/]  sources/{name}/{proposal.kind}.toml", highlight=False)


def layout_of(source: Source, detected: Layout) -> Layout:
    """Return the layout that a source gives a file, whose compression was detected."""
    return replace(detected, format=source.format, encoding=source.encoding, delimiter=source.delimiter,
                   quote=source.quote, header=source.header)  # fmt: skip


def _run(source: Source, sample: Sample, console: Console) -> Run:
    if (source.format == "parquet") != (sample.layout.format == "parquet"):
        raise TaskError(
            f"{sample.path} is {sample.layout.format}, but format of {source.file} is {source.format}; name a file of "
            "that format, another NAME, or FORCE=1."
        )
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(f"reading {escape(sample.path.name)}", total=None)
        return dry_run.execute(
            sample.path,
            source,
            report=lambda records: progress.update(
                task, description=f"reading {escape(sample.path.name)}: {records:,} records"
            ),
        )


def _add_types(run: Run) -> str:
    """Append the types that the tracking plan lacks; return a line about it."""
    known = tracking_plan.load()
    counts = dict(run.query("SELECT type, count(*) FROM mapped GROUP BY 1 ORDER BY 2 DESC"))
    values = {kind: (low, high) for kind, low, high in run.query(
        "SELECT type, min(value), max(value) FROM mapped WHERE value IS NOT NULL GROUP BY 1")}  # fmt: skip
    added = plan.additions(counts, known.types, known.targets, values)
    source_file.add_to_plan(added)
    if not added:
        return "sources/tracking_plan.toml has all types of the file."
    return "[green]added[/]    to sources/tracking_plan.toml: " + escape(", ".join(each.name for each in added))


def _adopt_other(kind: str, sample: Sample, name: str, run: Run, made: Report, console: Console, force: bool) -> None:
    """Write items.toml or users.toml unless it exists, and run it on its file."""
    items = {row[0] for row in run.query("SELECT DISTINCT item_id FROM mapped WHERE item_id IS NOT NULL")}
    if not _is_kept(name, kind, console, force):
        proposal = mapping.propose_items(sample, items) if kind == "items" else mapping.propose_users(sample)
        _write(proposal, name, console)
        made.found += [Finding(findings.CHECK, note) for note in proposal.notes]
    other = _run(source_file.load(name, kind), sample, console)
    made.others[kind] = other.records, other.reasons
    if kind == "items":
        known = {row[0] for row in other.query("SELECT DISTINCT item_id FROM mapped")}
        made.found += findings.compare_items(run, known)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that name files."""
    parser.add_argument("--file", type=Path, required=True, help="events: JSON lines, CSV, TSV or Parquet")
    parser.add_argument("--items", type=Path, help="the catalogue")
    parser.add_argument("--users", type=Path, help="changes of users' plans")
    parser.add_argument("--force", action="store_true", help="replace the files of an existing source")


def files_of(arguments: argparse.Namespace) -> dict[str, Path]:
    """Return the named files by kind."""
    named = {"events": arguments.file, "items": arguments.items, "users": arguments.users}
    return {kind: path for kind, path in named.items() if path is not None}


@exit_on_task_error()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--name", required=True, help="of the source: its folder in sources, its dataset")
    arguments = parser.parse_args()
    console = Console(width=None if Console().is_terminal else 110)
    adopted = adopt(files_of(arguments), arguments.name, console, arguments.force)
    terminal.show(adopted.report, console)
    path = PAGES / f"{arguments.name}.html"
    page.write(adopted.report, path)
    console.print(
        f"\nRead the report with plots: {path}\nCorrect sources/{arguments.name}/ and run this again; then: make try "
        f"FILE={arguments.file} NAME={arguments.name}",
        highlight=False,
    )


if __name__ == "__main__":
    main()

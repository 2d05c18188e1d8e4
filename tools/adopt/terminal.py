"""The report in the terminal."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tools.adopt.findings import CHECK, PROBLEM
from tools.adopt.report import Report

COLOURS = {PROBLEM: "red", CHECK: "yellow"}


def layout_text(report: Report) -> str:
    """Return the file's format in words."""
    layout = report.layout
    if layout.format == "parquet":
        return "Parquet"
    packed = "" if layout.compression == "none" else f", {layout.compression}"
    if layout.format == "json":
        return f"JSON lines{packed}"
    delimiter = {",": "comma", "\t": "tab", ";": "semicolon", "|": "bar"}.get(layout.delimiter, repr(layout.delimiter))
    return (
        f"CSV{packed}, {layout.encoding}, separated by {delimiter}, {'with' if layout.quote else 'without'} quotes, "
        f"{'with' if layout.header else 'without'} a header"
    )


def show(report: Report, console: Console) -> None:
    """Print the report: format, mapping, counts, types, records that are not mapped, findings."""
    console.print(f"\n[bold]{escape(str(report.path))}[/]: {escape(layout_text(report))}", highlight=False)
    _print(console, f"sources/{report.name}/events.toml", ("column", "expression", "why"),
           [(column, text, report.why.get(column, "")) for column, text in report.mapping.items()])  # fmt: skip
    part = "" if report.is_whole else " (the first ones of the file)"
    kept = f", {report.not_kept:,} not kept" if report.not_kept else ""
    span = f", from {report.first:%Y-%m-%d} to {report.last:%Y-%m-%d}" if report.first and report.last else ""
    console.print(
        f"{report.records:,} records{part}: {report.events:,} events{span}, {report.left_out:,} not mapped{kept}.\n"
        f"{report.users:,} users, of whom {report.returning:,} have events on a second day; {report.items:,} items. "
        f"{report.with_user:.1%} of the events have a user, {report.with_item:.1%} an item.",
        highlight=False,
    )
    _print(console, "Types of events", ("type", "events", "users", "items", "weight", "target"), type_rows(report),
           numbers=(1, 2, 3))  # fmt: skip
    for column, name in (("user_id", "users"), ("item_id", "items")):
        filled = [(label, f"{count:,}") for label, count in report.activity[column] if count]
        console.print(f"{name} by their events: " + ", ".join(f"{label}: {count}" for label, count in filled) + ".",
                      highlight=False)  # fmt: skip
    if report.reasons:
        _print(console, "Records that are not mapped", ("reason", "records", "line", "for example"),
               [(reason, f"{count:,}", str(line), content[:80]) for reason, count, examples in report.reasons
                for line, content in examples[:1]], numbers=(1, 2))  # fmt: skip
    for kind, (records, reasons) in report.others.items():
        left_out = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())
        console.print(f"{kind}: {records:,} records" + (f", not mapped: {escape(left_out)}" if left_out else "") + ".")
    for finding in report.found:
        colour = COLOURS.get(finding.level, "dim")
        console.print(f"[{colour}]{finding.level}[/]  {escape(finding.sentence)}", highlight=False)


def type_rows(report: Report) -> list[tuple[str, ...]]:
    """Return the event types of the file with their weights and targets, for a table."""
    rows: list[tuple[str, ...]] = []
    for row in report.types[:30]:
        planned = row.planned
        weight = "not in the plan: 0" if planned is None else (
            f"reverses {planned.reverses}" if planned.reverses else f"{planned.weight}")  # fmt: skip
        target = "" if planned is None or planned.target is False else (
            "yes" if planned.target is True else str(planned.target))  # fmt: skip
        rows.append((row.name, f"{row.events:,}", f"{row.users:,}", f"{row.items:,}", weight, target))
    return rows


def _print(
    console: Console, title: str, headings: tuple[str, ...], rows: list[tuple[str, ...]], numbers: tuple[int, ...] = ()
) -> None:
    table = Table(title=escape(title), title_justify="left")
    for position, heading in enumerate(headings):
        table.add_column(heading, justify="right" if position in numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)

"""A dry run: a source's expressions over a file's records, read and refused as the ingestion does it."""

import datetime
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from common.engines import duck
from common.errors import TaskError
from common.handover.storage import File
from common.ingestion import records
from common.ingestion.arrow.mapping import NUMBERS, TIMES, Mapped, Mapping
from common.ingestion.deliveries import Unreadable
from common.sources.source import COLUMNS, Source

LIMIT = 1_000_000  # records of a dry run
EXAMPLES = 3  # of each reason
SHOWN = 300  # characters of an example


@dataclass
class Run:
    """The results: a table `mapped` in a database, and the records that are not in it, by reason with examples."""

    source: Source
    database: duckdb.DuckDBPyConnection
    records: int = 0
    not_kept: int = 0
    is_whole: bool = True
    reasons: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[tuple[int, str]]] = field(default_factory=dict)  # line and content

    def query(self, sql: str, *arguments: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a query over `mapped`."""
        return self.database.execute(sql, list(arguments)).fetchall()


def execute(
    path: Path, source: Source, limit: int = LIMIT, report: Callable[[int], None] = lambda records: None
) -> Run:
    """Map the first records of a file, about `limit`; `report` takes the number of records so far.

    TaskError if the file cannot be read as the source describes it.
    """
    run = Run(source, duck.connect())
    columns = ", ".join(f"{name} {sql_type(name)}" for name in COLUMNS[source.kind])
    run.database.execute(f"CREATE TABLE mapped (line BIGINT, {columns})")
    file = File(f"file://{path.resolve()}", path.stat().st_size)
    try:
        for batch in Mapping(source).read(file, datetime.datetime.now(datetime.UTC).date()):
            add(run, batch)
            report(run.records)
            if run.records >= limit:
                run.is_whole = False
                break
    except Unreadable as error:
        raise TaskError(f"{path} cannot be read as {source.file} describes it: {error}; correct one of them.") from None
    return run


def sql_type(column: str) -> str:
    return "TIMESTAMPTZ" if column in TIMES else "DOUBLE" if column in NUMBERS else "VARCHAR"


def add(run: Run, batch: Mapped) -> None:
    """Put the usable rows of a batch into `mapped`, and count the others."""
    rows, start = batch.rows, run.records
    run.records += len(batch.batch.reasons)
    kept = rows.filter(rows["_kept"])
    run.not_kept += rows.num_rows - kept.num_rows
    reasons = pc.coalesce(kept["_reason"], kept["_broken"])
    unusable = kept.select(["__position"]).append_column("reason", reasons).filter(pc.is_valid(reasons))
    for row in unusable.to_pylist():
        refuse(run, row["reason"], batch, row["__position"])
    usable = kept.filter(pc.is_null(reasons))
    usable = usable.append_column("line", pc.add(usable["__position"], pa.scalar(start, pa.int64())))
    with run.database.cursor() as database:
        database.register("batch", usable)
        names = [name for name in COLUMNS[run.source.kind] if name in usable.column_names]
        listed = ", ".join(["line", *map(duck.quoted, names)])
        database.execute(f"INSERT INTO mapped ({listed}) SELECT {listed} FROM batch")


def refuse(run: Run, reason: str, batch: Mapped, position: int) -> None:
    """Count a record that is not mapped, and keep the first ones."""
    run.reasons[reason] = run.reasons.get(reason, 0) + 1
    if run.reasons[reason] <= EXAMPLES:
        line = batch.batch.line(position)
        content = records.escape(line.content[:SHOWN].rstrip(b"\r")) or ""
        run.examples.setdefault(reason, []).append((line.number, content))

"""A dry run: a source's expressions over a file's records by DuckDB, with the rules of the ingestion."""

import datetime
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from common.contracts import CONTROL, MAX_BYTES
from common.engines import duck
from common.ingestion import records
from common.sources.source import COLUMNS, ENTRY, Source
from tools.adopt.read_records import Batch, read_batches, shown

LIMIT = 1_000_000  # records of a dry run
EXAMPLES = 3  # of each reason
NUMBERS = {"value": "DOUBLE", "quantity": "BIGINT", "unit_price": "DOUBLE", "position": "BIGINT"}
NUMBERS |= {"preference": "DOUBLE"}
TIMES = ("time", "available_from", "available_until")


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

    def refuse(self, reason: str, line: int, content: Any) -> None:
        """Count a record that is not mapped, and keep the first ones."""
        self.reasons[reason] = self.reasons.get(reason, 0) + 1
        if self.reasons[reason] <= EXAMPLES:
            self.examples.setdefault(reason, []).append((line, shown(content)))

    def query(self, sql: str, *arguments: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a query over `mapped`."""
        return self.database.execute(sql, list(arguments)).fetchall()


def execute(
    path: Path,
    source: Source,
    limit: int = LIMIT,
    report: Callable[[int], None] = lambda records: None,
) -> Run:
    """Map the first records of a file; `report` takes the number of records so far."""
    run = Run(source, duck.connect())
    columns = ", ".join(f"{name} {sql_type(name)}" for name in COLUMNS[source.kind])
    run.database.execute(f"CREATE TABLE mapped (line BIGINT, {columns})")
    for batch in read_batches(path, source, limit):
        run.records += len(batch.lines) + len(batch.unreadable)
        for line, reason, content in batch.unreadable:
            run.refuse(reason, line, content)
        _map(run, batch)
        report(run.records)
    run.is_whole = run.records < limit
    return run


def sql_type(column: str) -> str:
    return "TIMESTAMPTZ" if column in TIMES else NUMBERS.get(column, "VARCHAR")


def _map(run: Run, batch: Batch) -> None:
    """Map a batch's records, and put the good ones into `mapped`."""
    source = run.source
    table = batch.fields.append_column("_row", pa.array(range(len(batch.lines)), pa.int64()))
    if source.keep is not None:
        kept = duck.evaluate(table, {"kept": source.keep})["kept"].combine_chunks()
        run.not_kept += len(kept) - (kept.true_count if len(kept) else 0)
        table = table.filter(kept)
    if source.each:
        table = _entries(table, source)
    expressions = {"_row": "_row", **source.columns}
    expressions |= {f"_rule_{number}": text for number, text in enumerate(source.rules.values())}
    mapped = duck.evaluate(table, expressions)
    with run.database.cursor() as database:
        database.register("raw", mapped)
        database.execute("CREATE OR REPLACE TEMP TABLE typed AS SELECT _row, " + _typed(mapped, source) + " FROM raw")
        rows = database.execute("SELECT _row, reason FROM typed WHERE reason IS NOT NULL ORDER BY _row").fetchall()
        for row, reason in rows:
            run.refuse(reason, batch.lines[row], batch.contents[row])
        database.register("lines", pa.table({"_row": pa.array(range(len(batch.lines)), pa.int64()),
                                             "line": pa.array(batch.lines, pa.int64())}))  # fmt: skip
        names = ", ".join(COLUMNS[source.kind])
        database.execute(
            f"INSERT INTO mapped SELECT line, {names} FROM typed JOIN lines USING (_row) WHERE reason IS NULL "
            "ORDER BY line"
        )


def _entries(table: pa.Table, source: Source) -> pa.Table:
    """Make a row of each entry of the array that the source names."""
    with duck.connect() as database:
        database.register("records", table)
        path = ".".join(duck.quoted(step.strip("`")) for step in (source.each or "").split("."))
        array = f"CASE WHEN len({path}) > 0 THEN {path} ELSE [NULL] END" if source.each_optional else path
        return database.sql(f"SELECT *, unnest({array}) AS {ENTRY} FROM records").to_arrow_table()


def _typed(mapped: pa.Table, source: Source) -> str:
    """Return SQL that gives the mapped columns their types, and the first reason why a row is not usable."""
    selected, reasons = [], []
    latest = datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=2)
    for name, required in COLUMNS[source.kind].items():
        if name not in mapped.column_names:
            selected.append(f"NULL::{sql_type(name)} AS {name}")
            continue
        kind = mapped.schema.field(name).type
        if name in TIMES:
            if pa.types.is_string(kind):
                sql = f"CASE WHEN regexp_full_match({name}, '{records.TIME}') THEN TRY_CAST({name} AS TIMESTAMPTZ) END"
            else:
                sql = f"TRY_CAST({name} AS TIMESTAMPTZ)"
            if name == "time" and required:
                reasons.append(f"WHEN coalesce({sql} < '1970-01-01', true) THEN '{records.BAD_TIME}'")
                reasons.append(f"WHEN {sql} >= '{latest}' THEN '{records.AFTER_ARRIVAL}'")
            selected.append(f"{sql} AS {name}")
        elif name in NUMBERS:
            sql = f"TRY_CAST({name} AS {NUMBERS[name]})"
            reasons.append(f"WHEN {name} IS NOT NULL AND {sql} IS NULL THEN '{records.bad(name)}'")
            selected.append(f"{sql} AS {name}")
        else:
            sql = f"nullif(CAST({name} AS VARCHAR), '')"
            control = CONTROL.replace("'", "''")
            if required:
                reasons.append(f"WHEN {sql} IS NULL THEN '{records.missing(name)}'")
            reasons.append(
                f"WHEN strlen({sql}) > {MAX_BYTES} OR regexp_matches({sql}, '{control}') THEN '{records.bad(name)}'"
            )
            selected.append(f"{sql} AS {name}")
    for number, reason in enumerate(source.rules):
        escaped = reason.replace("'", "''")
        reasons.append(f"WHEN NOT coalesce(_rule_{number}, false) THEN '{escaped}'")
    case = f"CASE {' '.join(reasons)} END" if reasons else "NULL::VARCHAR"
    return ", ".join([*selected, f"{case} AS reason"])

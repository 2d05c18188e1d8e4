"""Read a file's records as its source describes them, in tables; records that cannot be read have a reason."""

import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from common.engines import duck
from common.errors import TaskError
from common.handover.storage import File
from common.ingestion import csv_rows, deliveries, records
from common.ingestion.csv_rows import Dialect
from common.ingestion.deliveries import Line, Unreadable
from common.ingestion.records import Unusable
from common.sources.source import Source

Row = tuple[int, Any, str | list[Any]]  # number of its line, content, and values, or the reason why it has none
BATCH = 50_000  # records


@dataclass
class Batch:
    """Records with the fields of a source, their line numbers, and the unreadable ones of the same part of the file."""

    fields: pa.Table
    lines: list[int] = field(default_factory=list)
    contents: list[Any] = field(default_factory=list)
    unreadable: list[tuple[int, str, Any]] = field(default_factory=list)  # line, reason, content


def read_batches(path: Path, source: Source, limit: int) -> Iterator[Batch]:
    """Yield the first `limit` records of a file in batches."""
    if source.format == "parquet":
        yield from _parquet(path, source, limit)
        return
    rows = itertools.islice(_rows(path, source), limit)
    while part := list(itertools.islice(rows, BATCH)):
        yield _batch(part, source)


def schema_of(source: Source, as_text: bool = False) -> pa.Schema:
    """Return the Arrow schema of a source's fields."""
    return pa.schema(
        [(name, pa.string() if as_text else duck.arrow_type(kind)) for name, kind in source.fields.items()]
    )


def _batch(part: list[Row], source: Source) -> Batch:
    """Make a batch of rows: line, content, and the values of the fields or the reason of a row that has none."""
    good = [row for row in part if not isinstance(row[2], str)]
    bad = [(line, values, content) for line, content, values in part if isinstance(values, str)]
    columns: Iterable[Any] = zip(*[row[2] for row in good], strict=True) if good else [[] for _ in source.fields]
    as_text = source.format == "csv"
    schema = schema_of(source, as_text)
    table = pa.table([pa.array(values, kind) for values, kind in zip(columns, schema.types, strict=True)], schema)
    batch = Batch(table, [row[0] for row in good], [row[1] for row in good], bad)
    return _cast(batch, source) if as_text else batch


def _cast(batch: Batch, source: Source) -> Batch:
    """Give fields of text their types; a value that cannot be cast makes its record unreadable."""
    expressions = {
        name: f"try_cast(nullif(trim({_tick(name)}), '') as {kind})" if kind.lower() != "string" else _tick(name)
        for name, kind in source.fields.items()
    }
    typed = duck.evaluate(batch.fields, expressions)
    keep = list(range(len(batch.lines)))
    for name, kind in source.fields.items():
        if kind.lower() == "string" or typed[name].null_count == 0:
            continue
        texts, values = batch.fields[name].to_pylist(), typed[name].to_pylist()
        wrong = {row for row in keep if values[row] is None and texts[row].strip()}
        batch.unreadable += [(batch.lines[row], records.bad(name), batch.contents[row]) for row in sorted(wrong)]
        keep = [row for row in keep if row not in wrong]
    return Batch(
        typed.take(keep), [batch.lines[row] for row in keep], [batch.contents[row] for row in keep], batch.unreadable
    )


def _tick(name: str) -> str:
    return f"`{name.replace('`', '``')}`"


def _rows(path: Path, source: Source) -> Iterator[Row]:
    """Yield the rows of CSV or JSON lines, read and refused as the ingestion does it; TaskError for a whole file."""
    file = File(path.resolve().as_uri(), path.stat().st_size)
    try:
        lines = deliveries.lines(file, source.encoding)
        yield from _csv_rows(lines, source) if source.format == "csv" else _json_rows(lines, source)
    except Unreadable as error:
        raise TaskError(f"{path} cannot be read as {source.file} describes it: {error}; correct one of them.") from None


def _csv_rows(lines: Iterator[Line], source: Source) -> Iterator[Row]:
    dialect = Dialect(source.delimiter, source.quote, source.header, source.encoding)
    for line, row in csv_rows.rows(lines, list(source.fields), dialect):
        yield line.number, line.content, row


def _json_rows(lines: Iterator[Line], source: Source) -> Iterator[Row]:
    schema = schema_of(source)
    for line in lines:
        if not line.content.strip():
            continue
        try:
            if line.too_long:
                raise Unusable(records.TOO_LONG)
            record = records.json_object(line.content)
            yield line.number, line.content, [_field(record, each) for each in schema]
        except Unusable as error:
            yield line.number, line.content, str(error)


def _field(record: dict[str, Any], field_: pa.Field) -> Any:
    try:
        return _coerced(record.get(field_.name), field_.type)
    except (ValueError, TypeError, OverflowError):
        raise Unusable(records.bad(field_.name)) from None


def _coerced(value: Any, kind: pa.DataType) -> Any:
    """Return a JSON value in a field's type; ValueError if it is another."""
    if value is None:
        return None
    if pa.types.is_struct(kind):
        if not isinstance(value, dict):
            raise ValueError
        return {each.name: _coerced(value.get(each.name), each.type) for each in kind}
    if pa.types.is_list(kind):
        if not isinstance(value, list):
            raise ValueError
        return [_coerced(entry, kind.value_type) for entry in value]
    if pa.types.is_string(kind):
        return value if isinstance(value, str) else json.dumps(value)
    if pa.types.is_boolean(kind):
        if not isinstance(value, bool):
            raise ValueError
        return value
    if isinstance(value, bool | dict | list):
        raise ValueError
    if pa.types.is_integer(kind):
        if float(value) % 1:
            raise ValueError
        return int(value)
    return float(value) if pa.types.is_floating(kind) else value


def _parquet(path: Path, source: Source, limit: int) -> Iterator[Batch]:
    file = pq.ParquetFile(path)
    if lacking := [name for name in source.fields if name not in file.schema_arrow.names]:
        raise TaskError(
            f"{path} has no column '{lacking[0]}', expected the fields of {source.file}; correct [fields] there, or "
            "name another file."
        )
    start, schema = 1, schema_of(source)
    for batch in file.iter_batches(BATCH, columns=list(source.fields)):
        table = pa.Table.from_batches([batch]).slice(0, limit + 1 - start).select(list(source.fields)).cast(schema)
        if not table.num_rows:
            return
        numbers = list(range(start, start + table.num_rows))
        yield Batch(table, numbers, table.to_pylist())
        start += table.num_rows


def shown(content: Any) -> str:
    """Return a record for people, its first 300 characters."""
    if not isinstance(content, bytes):
        content = json.dumps(content, default=str, ensure_ascii=False).encode()
    return (records.escape(content[:300].rstrip(b"\r")) or "").strip()

"""Records of deliveries as Arrow tables, with the fields of their source, and the reason if a record has none."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from common.engines import arrow, duck
from common.handover.storage import File
from common.ingestion import csv_rows, deliveries, records
from common.ingestion.deliveries import Line, Unreadable
from common.ingestion.records import Unusable
from common.sources.source import Source

BATCH = 64 * 1024  # records
MAX_BATCH = 16 << 20  # bytes of the records of a batch
Record = tuple[Line, list[Any] | str]
Converter = Callable[[Any], Any]


@dataclass
class Batch:
    """Some records of a file: a row of `fields` each, and the reason why a record has no fields, or None."""

    fields: pa.Table
    reasons: list[str | None]
    lines: list[Line] | None  # None for Parquet
    first: int = 0  # number of rows before those of a Parquet file

    def line(self, position: int) -> Line:
        """Return a record as it was delivered; a row of Parquet as JSON."""
        if self.lines is not None:
            return self.lines[position]
        (row,) = self.fields.slice(position, 1).to_pylist()
        content = json.dumps(row, default=str, ensure_ascii=False).encode(errors="replace")
        return Line(self.first + position + 1, len(content), content)


def fields_of(source: Source) -> pa.Schema:
    """Return the fields of a source's records with their types; ArgumentError names a wrong type."""
    return schema_of(source.fields)


def schema_of(fields: dict[str, str]) -> pa.Schema:
    """Return fields, given with their Spark SQL types, as a schema."""
    return pa.schema([(name, duck.arrow_type(kind)) for name, kind in fields.items()])


def raw_fields(source: Source) -> pa.Schema:
    """Return the fields with the types in which files of text have them."""
    if source.format == "csv":
        return pa.schema([(name, pa.string()) for name in source.fields])
    return pa.schema([(each.name, json_type(each.type)) for each in fields_of(source)])


def json_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of a field of JSON, which has times, dates and decimals as text."""
    if pa.types.is_struct(kind):
        return pa.struct([(each.name, json_type(each.type)) for each in kind])
    if pa.types.is_list(kind):
        return pa.list_(json_type(kind.value_type))
    if pa.types.is_map(kind):
        return pa.map_(pa.string(), json_type(kind.item_type))
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_decimal(kind):
        return pa.string()
    return kind


def batches(source: Source, file: File) -> Iterator[Batch]:
    """Yield the records of a file; Unreadable if it is corrupt, or not of the source's format."""
    if source.format == "parquet":
        yield from parquet_batches(source, file)
        return
    if source.compression != "none":
        deliveries.survey(file)  # quickly detects a corrupt or too large file, before its records are parsed
    if source.format == "csv":
        deliveries.refuse_utf8(file, source.encoding)
    yield from text_batches(source, deliveries.lines(file, source.encoding))


def text_batches(source: Source, content: Iterator[Line]) -> Iterator[Batch]:
    """Yield the records in lines of JSON or CSV; Unreadable if a CSV's header lacks a field."""
    schema = raw_fields(source)
    found = json_records(content, schema) if source.format == "json" else csv_records(source, content)
    while batch := next_batch(found, schema):
        yield batch


def next_batch(found: Iterator[Record], schema: pa.Schema) -> Batch | None:
    """Return some records as a batch; None after the last one. A list per column costs half of one per row."""
    lines: list[Line] = []
    reasons: list[str | None] = []
    columns: list[list[Any]] = [[] for _ in schema]
    size = 0
    for line, row in found:
        bad = isinstance(row, str)
        for position, values in enumerate(columns):
            values.append(None if bad else row[position])
        lines.append(line)
        reasons.append(row if isinstance(row, str) else None)
        size += len(line.content)
        if len(lines) == BATCH or size > MAX_BATCH:
            break
    arrays = [pa.array(values, kind) for values, kind in zip(columns, schema.types, strict=True)]
    return Batch(pa.Table.from_arrays(arrays, schema=schema), reasons, lines) if lines else None


def csv_records(source: Source, lines: Iterator[Line]) -> Iterator[Record]:
    """Yield the rows of a CSV file, each with the texts of the fields; empty text is null."""
    dialect = csv_rows.Dialect(source.delimiter, source.quote, source.header, source.encoding)
    for line, row in csv_rows.rows(lines, list(source.fields), dialect):
        yield line, row if isinstance(row, str) else [value or None for value in row]


def json_records(lines: Iterator[Line], schema: pa.Schema) -> Iterator[Record]:
    """Yield the lines of a file, each with the values of the fields."""
    converters = [(each.name, converter(each.name, each.type)) for each in schema]
    for line in lines:
        try:
            if line.too_long:
                raise Unusable(records.TOO_LONG)
            row = records.json_object(line.content)
            yield line, [convert(row.get(name)) for name, convert in converters]
        except Unusable as error:
            yield line, str(error)


def converter(field: str, kind: pa.DataType) -> Converter:
    """Return a function that returns a value of JSON if it is of a type, else raises Unusable."""
    if pa.types.is_struct(kind):
        parts = [(each.name, converter(each.name, each.type)) for each in kind]
        return of_kind(field, dict, lambda value: {name: convert(value.get(name)) for name, convert in parts})
    if pa.types.is_list(kind):
        entry = converter(field, kind.value_type)
        return of_kind(field, list, lambda value: [entry(each) for each in value])
    if pa.types.is_map(kind):
        item = converter(field, kind.item_type)
        return of_kind(field, dict, lambda value: [(key, item(each)) for key, each in value.items()])
    if pa.types.is_boolean(kind):
        return of_kind(field, bool, bool)
    if pa.types.is_floating(kind):
        return of_kind(field, (int, float), float)
    if pa.types.is_integer(kind):
        limit = 1 << (kind.bit_width - 1)
        return of_kind(field, int, lambda value: value if -limit <= value < limit else misfit(field))
    return of_kind(field, (str, int), str)


def of_kind(field: str, kinds: type | tuple[type, ...], convert: Converter) -> Converter:
    """Return a converter of values of some Python types; true is not a number."""
    boolean = kinds is bool

    def checked(value: Any) -> Any:
        if value is None:
            return None
        if not isinstance(value, kinds) or (not boolean and isinstance(value, bool)):
            misfit(field)
        try:
            return convert(value)
        except OverflowError:
            misfit(field)

    return checked


def misfit(field: str) -> Any:
    raise Unusable(records.bad(records.label(field)))


def parquet_batches(source: Source, file: File) -> Iterator[Batch]:
    """Yield the rows of a Parquet file with the fields in the file's types; Unreadable if it lacks one."""
    if not file.bytes:
        raise Unreadable("empty, not Parquet")
    with arrow.filesystem(file.uri).open_input_file(arrow.path(file.uri)) as content:
        yield from row_batches(source, content)


def row_batches(source: Source, content: Any) -> Iterator[Batch]:
    """Yield the rows of an open Parquet file like `parquet_batches`."""
    try:
        with pq.ParquetFile(content, pre_buffer=False) as opened:
            names = opened.schema_arrow.names
            if missing := [name for name in source.fields if name not in names]:
                raise Unreadable(f"it lacks the columns {', '.join(missing)}; it has {', '.join(names)}")
            first = 0
            for batch in opened.iter_batches(BATCH, columns=list(source.fields), use_threads=False):
                table = pa.Table.from_batches([batch]).select(list(source.fields))
                yield Batch(table, [None] * table.num_rows, None, first)
                first += table.num_rows
    except (pa.ArrowInvalid, OSError) as error:
        raise Unreadable(f"not Parquet ({str(error).splitlines()[0]})") from None

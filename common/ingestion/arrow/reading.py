"""Records of deliveries as Arrow tables, with the fields of their source, and the reason if a record has none."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from common.engines import arrow, duck
from common.handover.storage import File
from common.ingestion import csv_rows, deliveries
from common.ingestion.arrow import json_lines
from common.ingestion.arrow.blocks import Block, blocks
from common.ingestion.arrow.json_lines import Record
from common.ingestion.deliveries import Line, Unreadable
from common.ingestion.records import Kind, castable, repeated, words_of
from common.sources.expressions import alike
from common.sources.source import Source

BATCH = 64 * 1024  # records
MAX_BATCH = 16 << 20  # bytes of the records of a batch


@dataclass
class Batch:
    """Some records of a file: a row of `fields` each.

    `reasons` says why a record has no fields, `misfits` that a value has another type than its field; or they are None.
    """

    fields: pa.Table
    reasons: list[str | None]
    misfits: list[str | None]
    lines: Sequence[Line] | Block | None  # None for Parquet
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
    return json_reader(source).schema


def json_reader(source: Source) -> json_lines.Reader:
    """Return the reader of a source's lines of JSON."""
    fields = fields_of(source)
    texts = {each.name for each in fields if pa.types.is_string(each.type)}
    return json_lines.Reader(fields, source.searched & texts)


def batches(source: Source, file: File, reader: json_lines.Reader) -> Iterator[Batch]:
    """Yield the records of a file; Unreadable if it is corrupt, or not of the source's format."""
    if source.format == "parquet":
        yield from parquet_batches(source, file)
    elif source.format == "csv":
        if source.compression != "none":
            deliveries.survey(file)  # quickly detects a corrupt or too large file, before its records are parsed
        deliveries.refuse_utf8(file, source.encoding)
        yield from text_batches(source, deliveries.lines(file, source.encoding))
    else:
        for block in blocks(file):
            yield block_batch(reader, block)


def block_batch(reader: json_lines.Reader, block: Block) -> Batch:
    """Return the records in a block of JSON lines."""
    parsed = reader.parse(block)
    exact = exact_batch(reader, [block[position] for position in parsed.others])
    reasons, misfits = [list[str | None]([None] * len(block)) for _ in range(2)]
    if not len(parsed.others):
        return Batch(parsed.fields, reasons, misfits, block)
    for position, reason, misfit in zip(parsed.others, exact.reasons, exact.misfits, strict=True):
        reasons[position], misfits[position] = reason, misfit
    order = np.argsort(np.concatenate([parsed.positions, parsed.others]))
    return Batch(pa.concat_tables([parsed.fields, exact.fields]).take(order), reasons, misfits, block)


def exact_batch(reader: json_lines.Reader, lines: Sequence[Line]) -> Batch:
    """Return the records in lines of JSON, parsed by Python."""
    return batch_of(lines, map(reader.record, lines), reader.schema)


def text_batches(source: Source, content: Iterator[Line]) -> Iterator[Batch]:
    """Yield the records in lines of JSON or CSV; Unreadable if a CSV's header lacks a field."""
    reader = json_reader(source)
    json = ((line, reader.record(line)) for line in content)
    found = csv_records(source, content) if source.format == "csv" else json
    while records := next_records(found):
        lines, values = zip(*records, strict=True)
        yield batch_of(lines, values, raw_fields(source))


def next_records(found: Iterator[tuple[Line, Record]]) -> list[tuple[Line, Record]]:
    """Return the records of one batch; none after the last one."""
    taken: list[tuple[Line, Record]] = []
    size = 0
    for each in found:
        taken.append(each)
        size += len(each[0].content)
        if len(taken) == BATCH or size > MAX_BATCH:
            break
    return taken


def batch_of(lines: Sequence[Line], found: Iterable[Record], schema: pa.Schema) -> Batch:
    """Return records as a batch. A list per column costs half of one per row."""
    reasons: list[str | None] = []
    misfits: list[str | None] = []
    columns: list[list[Any]] = [[] for _ in schema]
    for row, misfit in found:
        bad = isinstance(row, str)
        for position, values in enumerate(columns):
            values.append(None if bad else row[position])
        reasons.append(row if isinstance(row, str) else None)
        misfits.append(misfit)
    arrays = [pa.array(values, kind) for values, kind in zip(columns, schema.types, strict=True)]
    return Batch(pa.Table.from_arrays(arrays, schema=schema), reasons, misfits, lines)


def csv_records(source: Source, lines: Iterator[Line]) -> Iterator[tuple[Line, Record]]:
    """Yield the rows of a CSV file, each with the texts of the fields; empty text is null."""
    dialect = csv_rows.Dialect(source.delimiter, source.quote, source.header, source.encoding)
    for line, row in csv_rows.rows(lines, list(source.fields), dialect):
        yield line, (row if isinstance(row, str) else [value or None for value in row], None)


def kind_of(kind: pa.DataType) -> Kind:
    """Return a type of a column of Parquet as Spark names it."""
    if pa.types.is_dictionary(kind):
        return kind_of(kind.value_type)
    if pa.types.is_struct(kind):
        return {each.name: kind_of(each.type) for each in kind}
    if pa.types.is_map(kind):
        return kind_of(kind.key_type), kind_of(kind.item_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return (kind_of(kind.value_type),)
    if pa.types.is_integer(kind):
        bits = kind.bit_width * (2 if pa.types.is_unsigned_integer(kind) else 1)
        return {8: "tinyint", 16: "smallint", 32: "int", 64: "bigint"}.get(bits, "decimal(20,0)")
    if pa.types.is_timestamp(kind):
        return "timestamp" if kind.tz else "timestamp_ntz"
    if pa.types.is_decimal(kind):
        return f"decimal({kind.precision},{kind.scale})"
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "string"
    words = {
        pa.bool_(): "boolean",
        pa.date32(): "date",
        pa.float32(): "float",
        pa.float64(): "double",
        pa.null(): "void",
    }
    return words.get(kind, str(kind))


def repeated_name(fields: Iterable[pa.Field]) -> str | None:
    """Return the name of a column, or of a part of one, that another has, too, apart from its case."""
    fields = list(fields)
    if pair := alike(each.name for each in fields):
        return pair[0]
    within = (repeated_name(map(each.type.field, range(each.type.num_fields))) for each in fields)
    return next((name for name in within if name is not None), None)


def plain(table: pa.Table, fields: pa.Schema) -> pa.Table:
    """Return a table with one type of text, and its structs, arrays and maps in the types of the fields."""

    def of_column(found: pa.Field, wanted: pa.Field) -> pa.Field:
        if pa.types.is_nested(wanted.type):
            return wanted  # a part that is lacking is null
        return found.with_type(pa.string()) if kind_of(found.type) == "string" else found

    return table.cast(pa.schema(list(map(of_column, table.schema, fields))))


def parquet_batches(source: Source, file: File) -> Iterator[Batch]:
    """Yield the rows of a Parquet file with the fields in the file's types; Unreadable if it lacks one."""
    if not file.bytes:
        raise Unreadable("empty, not Parquet")
    with arrow.filesystem(file.uri).open_input_file(arrow.path(file.uri)) as content:
        yield from row_batches(source, content)


def row_batches(source: Source, content: Any) -> Iterator[Batch]:
    """Yield the rows of an open Parquet file like `parquet_batches`."""
    fields = fields_of(source)
    try:
        with pq.ParquetFile(content, pre_buffer=False) as opened:
            names = opened.schema_arrow.names
            if (name := repeated_name(opened.schema_arrow)) is not None:
                raise Unreadable(repeated(name))
            if missing := [name for name in source.fields if name not in names]:
                raise Unreadable(f"it lacks the columns {', '.join(missing)}; it has {', '.join(names)}")
            for wanted in fields:
                found = kind_of(opened.schema_arrow.field(wanted.name).type)
                if not castable(found, kind_of(wanted.type)):
                    expected = source.fields[wanted.name]
                    raise Unreadable(f"its column '{wanted.name}' is {words_of(found)}, expected {expected}")
            first = 0
            for batch in opened.iter_batches(BATCH, columns=list(source.fields), use_threads=False):
                table = plain(pa.Table.from_batches([batch]).select(list(source.fields)), fields)
                yield Batch(table, [None] * table.num_rows, [None] * table.num_rows, None, first)
                first += table.num_rows
    except (pa.ArrowInvalid, OSError):
        raise Unreadable("not Parquet") from None

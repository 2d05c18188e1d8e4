"""Events of deliveries on the light engine: each file is read once, and its records become rows of one table."""

import itertools
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
from duckdb import DuckDBPyConnection
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from common.contracts import MAX_BYTES
from common.engines.light.completion import sql_of, table_of, view_from
from common.engines.light.files import table_from
from common.engines.light.functions import call
from common.handover import storage
from common.handover.task import Task
from common.ingestion.arrow import reading
from common.ingestion.arrow.blocks import Block, Chunk, blocks
from common.ingestion.arrow.mapping import numbered
from common.ingestion.arrow.reading import Batch
from common.ingestion.deliveries import Line, Quarantined, Unreadable
from common.ingestion.events import Delivered, Parsed
from common.ingestion.light.mapping import TABLE, EventMapping, Texts
from common.ingestion.light.texts import MACROS, json_of
from common.sources.source import Source

NUMBERS = itertools.count(1)
CONTROLS = (b"\\", b"\x7f", b"\xc2")  # a text without them has no control character
EXACT = Texts("__size, __text", "__text", "__size")
LINE = "encode(rtrim(__line, chr(10)))"  # which ends with its line feed
LINES = Texts("__line", LINE, "strlen(__line) - 1")
CHUNK = 4 << 20  # bytes of lines that are inserted at once
Part = tuple[int, date, Block]
MAX_UNSURE = 20_000  # lines that wait for Python, which takes those of several blocks at once
TRANSACTION = 250_000  # rows; of fewer than a row group, 122,880, the commit makes another copy


def check(session: SparkSession, source: Source) -> EventMapping:
    """Return the checked expressions of a source; ArgumentError names one of a wrong type."""
    return EventMapping(source)


def expression_errors(files: Any) -> AbstractContextManager[None]:
    """Expressions give null for a value that they cannot compute."""
    return nullcontext()


@contextmanager
def parse(
    session: SparkSession,
    task: Task,
    files: dict[int, Delivered],
    checked: Mapping[str, EventMapping],
    usable: str | None = None,
    change: Callable[[DataFrame], DataFrame] | None = None,
) -> Iterator[Parsed]:
    """Yield the events of files, changed, while they are kept; `usable` is the reason of those that could be used."""
    connection, table = session._conn, f"events_{next(NUMBERS)}"
    named = {name for each in files.values() for name in checked[each.source.name].named}
    columns = ", ".join(f"{name} {kind}" for name, kind in TABLE.items() if name in (named or TABLE))
    connection.execute(f"CREATE TABLE {table} ({columns})")
    try:
        unreadable = fill(connection, table, task, files, checked, usable)
        frame = table_of(session, table)
        yield Parsed(
            change(frame).persist() if change else frame,
            {number: None for number in files if number not in unreadable},
            [Quarantined(files[number].file, reason) for number, reason in sorted(unreadable.items())],
        )
    finally:
        connection.execute(f"DROP TABLE {table}")


def fill(
    connection: DuckDBPyConnection,
    table: str,
    task: Task,
    files: dict[int, Delivered],
    checked: Mapping[str, EventMapping],
    usable: str | None,
) -> dict[int, str]:
    """Put the events of files into a table, some chunks at a time; return why files cannot be read, by number."""
    own, pending, unreadable = threading.local(), deque[Future[None]](), dict[int, str]()
    lock = threading.Lock()
    begun: list[DuckDBPyConnection] = []  # of the threads
    waiting: defaultdict[str, list[Part]] = defaultdict(list)  # blocks by source, to be one chunk
    held = Counter[str]()  # their bytes
    unsure: defaultdict[str, list[tuple[int, date, Line]]] = defaultdict(list)  # lines by source
    ((threads,),) = connection.sql("SELECT current_setting('threads')").fetchall()

    def begin() -> None:
        own.connection, own.rows = connection.cursor(), 0
        own.connection.execute(f"SET TimeZone = 'UTC'; {MACROS}; BEGIN")
        begun.append(own.connection)

    def insert(source: str, raw: pa.Schema, relation: str, texts: Texts, **values: int) -> None:
        mapping = checked[source]
        sql = mapping.events_sql(raw, relation, texts, usable)
        inserted = own.connection.execute(f"INSERT INTO {table} ({', '.join(mapping.named)}) {sql}", values)
        own.rows += inserted.fetchall()[0][0]
        if own.rows >= TRANSACTION:
            own.connection.execute("COMMIT; BEGIN")
            own.rows = 0

    def insert_exact(source: str, lines: list[tuple[int, date, Line]]) -> None:
        numbers, arrivals, contents = zip(*lines, strict=True)
        batch = reading.exact_batch(checked[source].reader, contents)
        own.connection.register("__exact", with_texts(batch, numbers, arrivals))
        insert(source, batch.fields.schema, "SELECT * FROM __exact", EXACT)

    def insert_batch(source: str, arrival: date, number: int, batch: Batch) -> None:
        rows = batch.fields.num_rows
        own.connection.register("__exact", with_texts(batch, [number] * rows, [arrival] * rows))
        if batch.lines is not None:
            insert(source, batch.fields.schema, "SELECT * FROM __exact", EXACT)
        else:
            relation = parquet_sql(checked[source], batch.fields.schema)
            insert(source, batch.fields.schema, relation, EXACT, first=batch.first + 1)

    def insert_chunk(source: str, parts: list[Part]) -> None:
        reader, chunk = checked[source].reader, Chunk(parts)
        parsed = reader.parse(chunk.block)
        if rows := len(parsed.positions):
            table = parsed.fields.append_column("__line", parsed.texts)
            nothing = dict.fromkeys(("__problem", "__misfit"), pa.nulls(rows, pa.string()))
            for name, values in (chunk.of_lines(parsed.positions) | nothing).items():
                table = table.append_column(name, pa.array(values))
            own.connection.register("_lines", table.append_column("__position", pa.array(parsed.positions)))
            insert(source, reader.schema, "SELECT * FROM _lines", LINES._replace(plain=is_plain(chunk.block)))
        with lock:
            unsure[source] += map(chunk.line, parsed.others)
            lines = unsure.pop(source) if len(unsure[source]) > MAX_UNSURE else []
        if lines:
            insert_exact(source, lines)

    with ThreadPoolExecutor(threads, initializer=begin) as pool:

        def submit(function: Callable[..., None], *arguments: Any) -> None:
            pending.append(pool.submit(function, *arguments))
            while len(pending) > threads:
                pending.popleft().result()

        for position, (number, each) in enumerate(files.items()):
            task.progress("deliveries read", position, len(files))
            source = each.source
            try:
                if source.format == "json":
                    for block in blocks(each.file):
                        part = (number, each.arrival, block)
                        if block.size:  # a line that is too long is a chunk of its own
                            submit(insert_chunk, source.name, [part])
                            continue
                        waiting[source.name].append(part)
                        held[source.name] += len(block.content)
                        if held[source.name] > CHUNK:
                            held[source.name] = 0
                            submit(insert_chunk, source.name, waiting.pop(source.name))
                else:
                    for batch in reading.batches(source, each.file, checked[source.name].reader):
                        submit(insert_batch, source.name, each.arrival, number, batch)
            except Unreadable as error:
                unreadable[number] = str(error)
        for name, parts in waiting.items():
            submit(insert_chunk, name, parts)
        for future in pending:
            future.result()
        for name, lines in unsure.items():
            if lines:
                pool.submit(insert_exact, name, lines).result()
    for connected in begun:
        connected.execute("COMMIT")
    if unreadable:
        connection.execute(f"DELETE FROM {table} WHERE file IN ({', '.join(map(str, unreadable))})")
    return unreadable


def is_plain(block: Block) -> bool:
    """Return True for lines whose texts have neither control characters nor more bytes than a text may have."""
    return not any(each in block.content for each in CONTROLS) and np.diff(block.offsets).max() <= MAX_BYTES


def with_texts(batch: Batch, files: Sequence[int], arrivals: Sequence[date]) -> pa.Table:
    """Return a batch as `mapping.numbered` does, with the file, arrival, number, and bytes of each record."""
    table = numbered(batch).append_column("__file", pa.array(files, pa.int64()))
    table = table.append_column("__arrival", pa.array(arrivals, pa.date32()))
    if batch.lines is None:
        return table
    lines = [batch.line(position) for position in range(table.num_rows)]
    table = table.append_column("__number", pa.array([line.number for line in lines], pa.int64()))
    table = table.append_column("__size", pa.array([line.size for line in lines], pa.int64()))
    return table.append_column("__text", pa.array([line.content for line in lines], pa.binary()))


def parquet_sql(mapping: EventMapping, raw: pa.Schema) -> str:
    """Return SQL of the rows of Parquet of some types, with the JSON of their fields as the text."""
    kinds = [
        (each.name, wanted.type if pa.types.is_nested(wanted.type) else each.type)
        for each, wanted in zip(raw, mapping.fields, strict=True)
    ]
    text = json_of("__exact", pa.struct(kinds)).replace("__exact IS NOT NULL", "true")
    return (
        "SELECT *, octet_length(__text) AS __size FROM "
        f"(SELECT *, $first + __position AS __number, encode({text}) AS __text FROM __exact)"
    )


def lines_of(session: SparkSession, uri: str, name: str) -> DataFrame:
    """Return the lines of a small text as a frame with one column."""
    return table_from(pa.table({name: pa.array(storage.read(uri)[0].decode().splitlines(), pa.string())}))


def by_python(session: SparkSession, function: Callable[[bytes], Any], column: str, kind: str) -> Column:
    """Return the results of a Python function for a column of bytes; null for null."""
    name = f"python_{next(NUMBERS)}"

    def of_bytes(content: bytes | None) -> Any:
        return None if content is None else function(content)

    connection: Any = session._conn
    kinds = {"STRING": "VARCHAR"}
    connection.create_function(name, of_bytes, ["BLOB"], kinds.get(kind, kind), null_handling="special")
    return call(name, column)


def line_number() -> Column:
    """Return the number of a line in its file; here it is its position."""
    return F.col("line_position")


def first_arrivals(both: DataFrame, rows: dict[Any, int], new: int) -> DataFrame:
    """Return each event of a date and a source once: the first to arrive.

    Only events whose hash is not unique are sorted, so that the others are not copied.
    """
    session, number = both.session, next(NUMBERS)
    session._conn.execute(f"CREATE TEMP VIEW both_{number} AS {sql_of(both)}")
    digest = "hash(date, source, event_id)"
    session._conn.execute(
        f"CREATE TEMP TABLE repeated_{number} AS "
        f"SELECT {digest} AS digest FROM both_{number} GROUP BY ALL HAVING count(*) > 1"
    )
    session._conn.execute(f"""
        CREATE TEMP TABLE first_{number} AS
        SELECT * FROM both_{number} WHERE {digest} IN (FROM repeated_{number})
        QUALIFY row_number() OVER (
            PARTITION BY date, source, event_id ORDER BY arrival NULLS FIRST, file, line_position, entry
        ) = 1
    """)
    return view_from(
        session,
        f"SELECT * FROM both_{number} WHERE {digest} NOT IN (FROM repeated_{number}) UNION ALL FROM first_{number}",
    )

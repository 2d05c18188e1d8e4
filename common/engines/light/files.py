"""Files of frames on the light engine: DuckDB reads Parquet, Arrow writes it, with counts made in the same pass."""

import itertools
import re
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame

from common.contracts import CONTROL, Column, Contract
from common.engines import arrow, duck
from common.engines.light.completion import sql_of, table_of, view_from
from common.engines.light.session import BROKEN, active_session
from common.engines.schemas import PLACE
from common.errors import InputError
from common.handover import storage

ROW_GROUP = 500_000  # rows
SORTED = 1_000_000  # rows of several days that are sorted at once, in memory
WRITERS = 2  # files that are encoded at the same time
NUMBERS = itertools.count(1)
POSSIBLE = np.array([octet < 32 or octet in (0x7F, 0xC2) for octet in range(256)])  # octets of control characters
DUCK_TYPES = {
    "string": "VARCHAR",
    "int64": "BIGINT",
    "float64": "DOUBLE",
    "float32": "FLOAT",
    "boolean": "BOOLEAN",
    "date": "DATE",
    "timestamp": "TIMESTAMPTZ",
    "map": "MAP(VARCHAR, VARCHAR)",
}


def scan(uris: Sequence[str], contract: Contract) -> DataFrame:
    """Return the rows of files with the columns of a contract; those that a file lacks are null."""
    return view_of(uris, contract)


def scan_checked(uris: Sequence[str], contract: Contract) -> DataFrame:
    """Return the rows of files; a column that breaks the contract raises an error, if used, as `explained` puts it."""
    found = storage.in_parallel(lambda uri: check_footer(uri, contract), uris)
    return view_of(uris, contract, broken=dict(itertools.chain.from_iterable(each.items() for each in found)))


def scan_dated(dataset: str, uris: Sequence[str], contract: Contract) -> DataFrame:
    """Return the rows of files of a dataset, with the `date` of their partition."""
    return view_of(uris, contract, ", CAST(regexp_extract(filename, '/date=([0-9-]{10})/', 1) AS DATE) AS date")


def check_footer(uri: str, contract: Contract) -> dict[str, str]:
    """Return, for each column that a file may break, SQL of the sentence for a null or for any value."""
    try:
        with arrow.filesystem(uri).open_input_file(arrow.path(uri)) as source:
            footer = pq.read_metadata(source)
    except (pa.ArrowInvalid, FileNotFoundError) as error:
        raise InputError(unreadable(uri, str(error))) from None
    schema = footer.schema.to_arrow_schema()
    positions = {footer.schema.column(each).path: each for each in range(footer.num_columns)}
    broken = {}
    for name, column in contract.columns.items():
        position = schema.get_field_index(name)
        found = None if position < 0 else arrow.contract_type(schema.field(position).type)
        groups = (footer.row_group(each).column(positions[name]).statistics for each in range(footer.num_row_groups))
        if found not in (None, arrow.TYPES[column.type]):
            broken[name] = duck.literal(unreadable(uri, f"column [{name}] is {found}, expected {column.type}"))
        elif not column.nullable and (found is None or any(each is None or each.null_count for each in groups)):
            wrong = f" breaks {contract.name}: column '{name}' is missing or null; rerun the task that wrote it."
            broken.setdefault(name, f"if(filename[1] = '/', 'file://', '') || filename || {duck.literal(wrong)}")
    return broken


def unreadable(uri: str, reason: str) -> str:
    return f"{uri} can't be read by its contract ({reason.splitlines()[0]}); run the two jobs at versions that agree."


def view_of(
    uris: Sequence[str], contract: Contract, more: str = "", broken: Mapping[str, str] | None = None
) -> DataFrame:
    """Return the rows of files as a view with the columns of a contract, and more SQL."""
    session = active_session()
    if not uris:
        return table_from(arrow.schema_of(contract.name).empty_table())
    files = ", ".join(duck.literal(uri.removeprefix("file://")) for uri in uris)
    source = f"read_parquet([{files}], union_by_name = true, hive_partitioning = false)"
    held = set(session._conn.sql(f"SELECT * FROM {source} LIMIT 0").columns)
    columns = [checked(each, column, held, (broken or {}).get(each)) for each, column in contract.columns.items()]
    return view_from(session, f"SELECT {', '.join(columns)}{more} FROM {source}")


def checked(name: str, column: Column, held: Collection[str], sentence: str | None) -> str:
    """Return SQL of a column of files that hold some columns; with a sentence it raises an error for a null.

    A value of another type raises it, too: its text is no value of the contract.
    """
    kind = DUCK_TYPES[column.type]
    value = duck.quoted(name) if name in held else f"CAST(NULL AS {kind})"
    if sentence:
        wrong = f"CAST(error('{BROKEN}' || {sentence}) AS {kind})"
        value = wrong if sentence.startswith("'") else f"coalesce({value}, {wrong})"
    return f"{value} AS {duck.quoted(name)}"


def table_from(rows: pa.Table) -> DataFrame:
    """Return an Arrow table as a frame: copied, as DuckDB knows no progress of a query with Arrow's own."""
    session, name = active_session(), f"table_{next(NUMBERS)}"
    session._conn.register("_rows", rows)
    session._conn.execute(f"CREATE TEMP TABLE {name} AS SELECT * FROM _rows")
    session._conn.unregister("_rows")
    return table_of(session, name)


def small_table(session: Any, columns: dict[str, str], rows: Iterable[tuple[Any, ...]]) -> DataFrame:
    """Return a few rows as a frame, with SQL types by column."""
    values = list(zip(*rows, strict=True)) or [()] * len(columns)
    kinds = {name: duck.arrow_type(kind) for name, kind in columns.items()}
    arrays = [pa.array(each, kind) for each, kind in zip(values, kinds.values(), strict=True)]
    return table_from(pa.table(arrays, schema=pa.schema(kinds)))


def types_of(frame: DataFrame) -> dict[str, str]:
    """Return the types of a frame's columns, in Spark's SQL."""
    relation = frame.session._conn.sql(sql_of(frame))
    kinds = [str(kind).replace("HUGEINT", "BIGINT") for kind in relation.types]  # of sums of integers
    spark = [duck.spark_type(kind).replace(", ", ",") for kind in kinds]
    return dict(zip(relation.columns, spark, strict=True))


def kept(frame: DataFrame) -> DataFrame:
    """Return the frame, evaluated once into a table."""
    return frame.persist()


def save(frame: DataFrame, folder: str, counts: Sequence[SparkColumn]) -> dict[str, Any]:
    """Write a frame as a file of a folder; return the counts, aggregates of its rows, by name."""
    frame = with_whole_numbers(frame)
    counter = Counter(frame, counts)
    write_file(f"{folder}/part-00000.parquet", counter.counted(batches(frame)))
    return counter.totals


def save_buckets(
    frame: DataFrame, keys: Sequence[str], buckets: int, folder: str, counts: Sequence[SparkColumn]
) -> dict[str, Any]:
    """Write a frame that is `in_buckets` as one file per bucket, its rows sorted by the keys; return the counts.

    Columns that begin with _ are counted, but not written.
    """
    frame = with_whole_numbers(frame)
    counter = Counter(frame, counts)
    rows = counter.counted(batches(frame, [PLACE, *keys]))
    write_files(runs_of(rows, PLACE), lambda place: f"{folder}/part-{place:05}.parquet")
    return counter.totals


def save_by_date(
    frame: DataFrame, dataset: str, version: str, counts: Sequence[SparkColumn], columns: Sequence[str], most: int
) -> tuple[dict[str, Any], list[str]]:
    """Write rows to folders of a version in the partitions of their `date`; return the counts.

    Also returns those of some columns that have more than `most` values. Evaluates the frame once for its dates, then
    for each range of them.
    """
    frame = with_whole_numbers(frame)
    counter, values = Counter(frame, counts), {column: set[Any]() for column in columns}

    def seen(rows: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in rows:
            for column, found in values.items():
                if len(found) <= most:
                    found.update(pc.unique(batch.column(column)).drop_null().to_pylist())
            yield batch

    rows = runs_of(seen(counter.counted(batches_by_date(frame))), "date")
    write_files(rows, lambda day: f"{dataset}/date={day}/{version}/part-00000.parquet", ["date"])
    return counter.totals, [column for column, found in values.items() if len(found) > most]


def batches_by_date(frame: DataFrame) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a frame sorted by `date`: some days at a time, because a larger sort would spill."""
    days = frame.groupBy("date").count().orderBy("date").collect()
    totals = itertools.accumulate(day["count"] for day in days)
    for _, some in itertools.groupby(zip(days, totals, strict=True), key=lambda pair: pair[1] // SORTED):
        dates = [day["date"] for day, _ in some]
        of_range = frame.where(f"date BETWEEN DATE '{dates[0]}' AND DATE '{dates[-1]}'")
        yield from batches(of_range, ["date"] if len(dates) > 1 else [])


def batches(frame: DataFrame, order: Sequence[str] = ()) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a frame, evaluated as a stream, in an order."""
    sorted_by = f" ORDER BY {', '.join(map(duck.quoted, order))}" if order else ""
    yield from frame.session._conn.sql(f"{sql_of(frame)}{sorted_by}").to_arrow_reader(ROW_GROUP)


def with_whole_numbers(frame: DataFrame) -> DataFrame:
    """Return a frame as a view, with whole numbers of at most 64 bits."""
    relation = frame.session._conn.sql(sql := sql_of(frame))
    wide = [name for name, kind in zip(relation.columns, relation.types, strict=True) if str(kind) == "HUGEINT"]
    casts = ", ".join(f"CAST({duck.quoted(name)} AS BIGINT) AS {duck.quoted(name)}" for name in wide)
    return view_from(frame.session, f"SELECT *{f' REPLACE ({casts})' if casts else ''} FROM ({sql})")


class Counter:
    """Aggregates of a frame's rows that pass by in batches: numbers are added, of texts the least is kept.

    Most batches have no control character, which their bytes show at a fraction of the cost of a regular expression for
    each text.
    """

    def __init__(self, frame: DataFrame, columns: Sequence[SparkColumn]) -> None:
        self.name = f"table_{next(NUMBERS)}"
        empty = frame.session._conn.sql(f"{sql_of(frame)} LIMIT 0").to_arrow_table()
        frame.session._conn.register(self.name, empty)
        self.sql = sql_of(table_of(frame.session, self.name).agg(*columns))
        searched = f"REGEXP_MATCHES\\([^()]*, {re.escape(duck.literal(CONTROL))}\\)"
        self.sql_without_control = re.sub(searched, "false", self.sql)
        self.cursor = frame.session._conn.cursor()
        self.totals: dict[str, Any] = {}
        self.add(empty)

    def add(self, rows: pa.Table) -> None:
        """Count further rows."""
        self.cursor.register(self.name, rows)
        found = self.cursor.execute(self.sql if has_control(rows) else self.sql_without_control)
        names = [each[0] for each in found.description]
        (values,) = found.fetchall()
        for name, value in zip(names, values, strict=True):
            self.totals[name] = merged(self.totals.get(name), value)

    def counted(self, rows: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield the same batches once they are counted."""
        for batch in rows:
            self.add(pa.Table.from_batches([batch]))
            yield batch


def has_control(rows: pa.Table) -> bool:
    """Return False if the bytes of all texts show that none has a control character."""
    chunks = [chunk for column in rows.columns if pa.types.is_string(column.type) for chunk in column.chunks]
    for chunk in chunks:
        _, offsets, content = chunk.buffers()
        if content is not None:
            start, end = np.frombuffer(offsets, np.int32)[[chunk.offset, chunk.offset + len(chunk)]]
            octets = np.frombuffer(content, np.uint8)[start:end]
            if POSSIBLE[octets].any():
                return True
    return False


def merged(one: Any, other: Any) -> Any:
    """Return the sum of two numbers, or the least of two texts; None is no value."""
    if one is None or other is None:
        return other if one is None else one
    return min(one, other, key=str.encode) if isinstance(one, str) else one + other


def runs_of(rows: Iterator[pa.RecordBatch], column: str) -> Iterator[tuple[Any, Iterator[pa.Table]]]:
    """Yield each value of a column by which rows are sorted, with its rows as tables of at most ROW_GROUP rows."""

    def pieces() -> Iterator[tuple[Any, pa.Table]]:
        for batch in rows:
            values = batch.column(column)
            ends = pc.run_end_encode(values).run_ends.to_pylist()
            for start, end in itertools.pairwise([0, *ends]):
                yield values[start].as_py(), pa.Table.from_batches([batch.slice(start, end - start)])

    for value, of_value in itertools.groupby(pieces(), key=lambda piece: piece[0]):
        yield value, row_groups(table for _, table in of_value)


def row_groups(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Yield the rows of tables as tables of about ROW_GROUP rows."""
    held: list[pa.Table] = []
    for table in tables:
        if held and sum(each.num_rows for each in held) + table.num_rows > ROW_GROUP:
            yield pa.concat_tables(held)
            held = []
        held.append(table)
    if held:
        yield pa.concat_tables(held)


def write_files(
    runs: Iterator[tuple[Any, Iterator[pa.Table]]], uri_of: Callable[[Any], str], without: Sequence[str] = ()
) -> None:
    """Write each run as a file, some at a time; one with several row groups as they come."""
    pending: deque[Future[None]] = deque()
    with ThreadPoolExecutor(WRITERS) as pool:
        for value, groups in runs:
            first, second = next(groups), next(groups, None)
            if second is None:
                pending.append(pool.submit(write_file, uri_of(value), [first], without))
            else:
                write_file(uri_of(value), itertools.chain([first, second], groups), without)
            while len(pending) > WRITERS:
                pending.popleft().result()
        for each in pending:
            each.result()


def write_file(uri: str, tables: Iterable[pa.Table | pa.RecordBatch], without: Sequence[str] = ()) -> None:
    """Write tables as a Parquet file, a row group each, without columns that begin with _; nothing without tables."""
    tables = iter(tables)
    if (first := next(tables, None)) is None:
        return
    names = [name for name in first.schema.names if not name.startswith("_") and name not in without]
    schema = pa.schema([first.schema.field(name) for name in names])
    texts = [each.name for each in schema if pa.types.is_string(each.type)]  # dictionaries of numbers only cost time
    with (
        storage.stream(uri) as file,
        pa.PythonFile(file, mode="w") as stream,
        pq.ParquetWriter(stream, schema, compression="zstd", use_dictionary=texts) as writer,
    ):
        for table in itertools.chain([first], tables):
            writer.write(table.select(names))

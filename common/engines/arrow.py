"""Reading and writing Arrow tables in Python jobs, checked by their contracts."""

import datetime
import functools
import itertools
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs
import pyarrow.parquet as pq

from common import contracts
from common.contracts import Column, Contract
from common.engines.arrow_checks import Checks
from common.errors import GateRefused, InputError
from common.handover import manifest, storage
from common.handover.buckets import buckets_for
from common.handover.inputs import Input
from common.handover.storage import File
from common.handover.stores import gs, s3
from common.handover.task import Task
from common.protocol import S3_ATTEMPTS

TYPES = {
    "string": pa.string(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "float32": pa.float32(),
    "boolean": pa.bool_(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us", tz="UTC"),
    "map": pa.map_(pa.string(), pa.string()),
}
BATCH = 64 * 1024  # rows; a thread decodes few at a time compared with those that are kept
MAX_OPEN_FILES = 4
Rows = TypeVar("Rows", pa.Table, pa.RecordBatch)


def read(task: Task, role: str, columns: list[str] | None = None) -> pa.Table:
    """Return an input as one table, of all or the named columns; InputError if a file breaks the contract."""
    source = task.input(role)
    names = columns or list(contract_of(source).columns)
    schema = arrow_schema(contract_of(source), names)

    def read_file(file: File) -> pa.Table:
        with open_checked(source, file) as parquet:
            rows = parquet.read(held(source, file, with_arrival(source, names)), use_threads=False)
        return with_finite_numbers(with_added_columns(known_before(rows, source.until), schema).cast(schema), file)

    return pa.concat_tables([schema.empty_table(), *storage.in_parallel(read_file, source.files, MAX_OPEN_FILES)])


def batches(task: Task, role: str, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Yield an input's rows, file after file, in batches of at most 65,536 rows."""
    source = task.input(role)
    names = columns or list(contract_of(source).columns)
    schema = arrow_schema(contract_of(source), names)
    for file in source.files:
        with open_checked(source, file) as parquet:
            columns = held(source, file, with_arrival(source, names))
            for batch in parquet.iter_batches(BATCH, columns=columns, use_threads=False):
                known = known_before(batch, source.until)
                yield with_finite_numbers(with_added_columns(known, schema).cast(schema), file)


def held(source: Input, file: File, names: list[str]) -> list[str]:
    """Return those of the named columns that a file has: one of an older version lacks the columns added since."""
    return [name for name in names if name in contract_of_file(source, file).columns]


def with_arrival(source: Input, names: list[str]) -> list[str]:
    """Return the columns to read for some columns: also `arrival`, by which rows count in a window with a set end."""
    by_arrival = source.until and "arrival" in contract_of(source).columns
    return list(dict.fromkeys([*names, "arrival"])) if by_arrival else names


def known_before(rows: Rows, day: datetime.date | None) -> Rows:
    """Return the rows that had arrived before a day; those of unknown arrival, too. All without a day."""
    if day is None or "arrival" not in rows.schema.names:
        return rows
    return rows.filter(pc.fill_null(pc.less(rows["arrival"], pa.scalar(day)), True))


def with_added_columns(rows: Rows, schema: pa.Schema) -> Rows:
    """Return the rows with the columns of a schema in their order; those that they lack are null."""
    for column in schema:
        if column.name not in rows.schema.names:
            rows = rows.append_column(column, pa.nulls(rows.num_rows, column.type))
    return rows.select(schema.names)


def with_finite_numbers(rows: Rows, file: File) -> Rows:
    """Return the rows unchanged; InputError if a number in them is NaN or infinite."""
    for name in rows.column_names:
        if not all_finite(rows[name]):
            raise InputError(f"{file.uri} has a NaN or infinite number in '{name}'; rerun the task that wrote it.")
    return rows


def all_finite(values: pa.Array | pa.ChunkedArray) -> bool:
    """Return True if no value is NaN or infinite, which no contract allows."""
    return not pa.types.is_floating(values.type) or pc.all(pc.is_finite(values)).as_py() is not False


def contract_of(source: Input) -> Contract:
    if source.contract is None:
        raise InputError(f"Input '{source.role}' is raw and has no contract; read its files instead.")
    return source.contract


def contract_of_output(task: Task, role: str) -> Contract:
    return contracts.load(task.job.outputs[role].contract or "")


def contract_of_file(source: Input, file: File) -> Contract:
    return source.older.get(file.uri) or contract_of(source)


def open_checked(source: Input, file: File, dictionaries: list[str] | None = None) -> pq.ParquetFile:
    """Open a file of an input, its columns checked against the contract; InputError names the file and the column."""
    try:
        parquet = pq.ParquetFile(
            filesystem(file.uri).open_input_file(path(file.uri)), read_dictionary=dictionaries, pre_buffer=False
        )
    except pa.ArrowInvalid as error:
        raise InputError(f"{file.uri} is not a Parquet file ({error}); rerun the task that wrote it.") from None
    schema = parquet.schema_arrow
    contract = contract_of_file(source, file)
    for name, column in contract.columns.items():
        position = schema.get_field_index(name)
        found = contract_type(schema.field(position).type) if position >= 0 else None
        if found != TYPES[column.type]:
            parquet.close()
            raise InputError(
                f"{file.uri} breaks {contract.name}: column '{name}' is {found or 'missing'}, expected "
                f"{column.type}; run the two jobs at versions that agree."
            )
    return parquet


def contract_type(kind: pa.DataType) -> pa.DataType:
    """Return the equivalent type of contracts: Arrow has three types of string, and several names of UTC."""
    if pa.types.is_dictionary(kind):
        return contract_type(kind.value_type)
    if pa.types.is_large_string(kind):
        return pa.string()
    if pa.types.is_map(kind):  # writers differ in the names of a map's fields
        return pa.map_(contract_type(kind.key_type), contract_type(kind.item_type))
    return TYPES["timestamp"] if pa.types.is_timestamp(kind) and kind.tz else kind


def schema_of(contract: str) -> pa.Schema:
    """Return all columns of a contract, by its name and version."""
    loaded = contracts.load(contract)
    return arrow_schema(loaded, list(loaded.columns))


def arrow_schema(contract: Contract, names: list[str]) -> pa.Schema:
    return pa.schema([pa.field(name, TYPES[contract.columns[name].type]) for name in names])


def write(task: Task, role: str, content: pa.Table | Iterable[pa.Table], new: pa.Table | None = None) -> None:
    """Write an output as one Parquet file, one row group per table, and check its contract.

    If the output is a dataset, it replaces its only partition, `all`. Raises GateRefused if a column is missing, of
    another type, or has a value that the contract forbids, or if a check of the contract that refuses is broken. Values
    that were published before need no second check: give the other rows as `new`.
    """
    folder, publish = destination(task, role)
    checks = Checks(task, role, contract_of_output(task, role))
    rows = write_file(task, role, f"{folder}/part-00000.parquet", content, checks, new)
    checks.report()
    publish(rows)


def write_buckets(task: Task, role: str, rows: pa.Table, key: str) -> None:
    """Write a hand-over in buckets of a key, one file per bucket, rows in their order; raises the errors of `write`.

    Rows without a key are in the first bucket.
    """
    buckets = buckets_for(rows.num_rows)
    of_rows = bucket_of(rows[key].combine_chunks(), buckets)
    order = np.argsort(of_rows, kind="stable")
    checks = Checks(task, role, contract_of_output(task, role))
    for bucket in np.unique(of_rows):
        first, after = np.searchsorted(of_rows, [bucket, bucket + 1], sorter=order)
        piece = rows.take(pa.array(order[first:after]))
        write_file(task, role, f"{task.folder(role)}/part-{bucket:05}.parquet", piece, checks)
    checks.report()
    task.record_output(role, rows.num_rows, buckets)


def bucket_of(keys: pa.Array, buckets: int) -> np.ndarray:
    """Return the bucket of each key: the CRC-32 of its UTF-8, equal in every process, modulo the number of buckets."""
    hashes = (0 if key is None else zlib.crc32(key.encode()) for key in keys.to_pylist())
    return np.fromiter(hashes, np.int64, len(keys)) % buckets


def write_file(
    task: Task,
    role: str,
    uri: str,
    content: pa.Table | Iterable[pa.Table],
    checks: Checks,
    new: pa.Table | None = None,
) -> int:
    """Write tables as one file of an output, checked by its contract; return the number of rows.

    With `new`, only the values of these rows are checked. The caller reports the checks.
    """
    contract = contract_of_output(task, role)
    schema = arrow_schema(contract, list(contract.columns))
    rows = 0
    if new is not None:
        checks.add_values(checked_table(new, contract, schema, role))
    with (
        storage.stream(uri) as file,
        pa.PythonFile(file, mode="w") as stream,
        pq.ParquetWriter(stream, schema, compression="zstd") as writer,
    ):
        for piece in [content] if isinstance(content, pa.Table) else content:
            fitting = checked_table(piece, contract, schema, role) if new is None else piece.cast(schema)
            if new is None:
                checks.add_values(fitting)
            checks.add_keys(fitting)
            writer.write_table(fitting)
            rows += piece.num_rows
            task.progress(f"writing {role}, rows", rows, rows)
    return rows


def write_rows(task: Task, role: str, rows: Iterable[tuple[Any, ...]]) -> None:
    """Write rows, tuples in the order of the contract's columns, as an output, in batches."""
    write(task, role, batched(rows, schema_of(task.job.outputs[role].contract or "")))


def batched(rows: Iterable[tuple[Any, ...]], schema: pa.Schema) -> Iterator[pa.Table]:
    """Yield rows, tuples in the order of a schema's columns, as tables of at most BATCH rows."""
    rows = iter(rows)
    while batch := list(itertools.islice(rows, BATCH)):
        columns = [pa.array(values, kind) for values, kind in zip(zip(*batch, strict=True), schema.types, strict=True)]
        yield pa.Table.from_arrays(columns, schema=schema)


def former(task: Task, role: str) -> pa.Table | None:
    """Return the rows of a dataset that this task replaces; None if it has none, or ones of another contract.

    All texts but the first column are dictionaries, which takes a fifth of the time.
    """
    seen, contract = task.replaced[role], task.job.outputs[role].contract or ""
    if seen is None or any(output["contract"] != contract for output in seen.document["outputs"].values()):
        return None
    schema = schema_of(contract)
    texts = [each.name for each in schema if pa.types.is_string(each.type)]
    tables = []
    for file in manifest.partition_files(seen):
        source = filesystem(file.uri).open_input_file(path(file.uri))
        with pq.ParquetFile(source, read_dictionary=texts[1:], pre_buffer=False) as parquet:
            tables.append(parquet.read(schema.names, use_threads=False))
    return pa.concat_tables(tables)


def append(task: Task, role: str, rows: pa.Table) -> None:
    """Write rows as a further file of the dataset that this task found; its former files stay."""
    folder, seen = destination(task, role)[0], task.replaced[role]
    checks = Checks(task, role, contract_of_output(task, role))
    keys = sorted({name for check in checks.unique for name in check.unique})
    for file in manifest.partition_files(seen) if keys else ():
        checks.add_keys(read_columns(file.uri, keys))
    count = manifest.partition_rows(seen) + write_file(task, role, f"{folder}/part-00000.parquet", rows, checks)
    checks.report()
    task.replace_dataset(role, count, [*manifest.partition_files(seen), *storage.files(folder)])


def refuse_lost_keys(task: Task, role: str, name: str, keys: pa.ChunkedArray, max_drop: float) -> None:
    """Raise GateRefused if a dataset would get no keys, or lose more than this share of the published ones.

    `keys` are the values of its column `name`, with repetitions.
    """
    now = pc.unique(keys)
    partition, seen = task.partition(role, "all")
    if not len(now):
        raise GateRefused(
            f"The deliveries leave no row for {partition}, so nothing is published; check the reasons in quarantine."
        )
    if seen is None:
        return
    files = [f"{partition}/{file['path']}" for file in seen.document["outputs"][role]["files"]]
    chunks = []
    for uri in files:
        chunks += read_columns(uri, [name])[name].cast(pa.string()).chunks
    before = pc.unique(pa.chunked_array(chunks, pa.string()))
    lost = len(before) - pc.sum(pc.is_in(before, value_set=now)).as_py() if len(before) else 0
    task.metrics["key_drop"] = round(lost / max(len(before), 1), 5)
    if lost > max_drop * len(before):
        raise GateRefused(
            f"{lost:,} of the {len(before):,} values of {name} in {partition} are missing from the deliveries, which "
            f"have {len(now):,}; max_key_drop allows {max_drop:.0%}: deliver the missing ones, or raise max_key_drop."
        )


def batches_of(uri: str, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
    """Yield columns of a file, at most so many rows at a time; KeyError if it lacks one."""
    with pq.ParquetFile(filesystem(uri).open_input_file(path(uri)), pre_buffer=False) as parquet:
        for batch in parquet.iter_batches(rows, columns=list(columns), use_threads=False):
            yield batch.select(list(columns))


def read_columns(uri: str, names: list[str]) -> pa.Table:
    """Return columns of a file that a manifest names."""
    with pq.ParquetFile(filesystem(uri).open_input_file(path(uri))) as parquet:
        return parquet.read(names)


def destination(task: Task, role: str) -> tuple[str, Callable[[int], None]]:
    """Return the folder for the files of an output, and a function of their row count that publishes them.

    For a dataset it publishes its only partition, `all`, if that has not changed since the task started.
    """
    if not task.job.outputs[role].dataset:
        return task.folder(role), lambda rows: task.record_output(role, rows)
    folder = f"{task.lake}/{task.job.outputs[role].dataset}/all/{task.version}"
    return folder, lambda rows: task.replace_dataset(role, rows, storage.files(folder))


def checked_table(table: pa.Table, contract: Contract, schema: pa.Schema, role: str) -> pa.Table:
    """Return the table with the contract's columns in their order; GateRefused names the first violation."""
    if missing := [name for name in schema.names if name not in table.column_names]:
        raise GateRefused(f"Output '{role}' lacks column '{missing[0]}' of {contract.name}; write it.")
    try:
        fitting = table.select(schema.names).cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise GateRefused(f"Output '{role}' does not fit {contract.name}: {error}; fix the job.") from None
    for name, column in contract.columns.items():
        values = fitting[name]
        if not column.nullable and values.null_count:
            raise GateRefused(
                f"Output '{role}' has {values.null_count} nulls in '{name}', {contract.name} allows none."
            )
        if not all_finite(values):
            raise GateRefused(f"Output '{role}' has NaN or infinite numbers in '{name}', {contract.name} allows none.")
        if column.type == "string":
            check_strings(values, name, column, contract, role)
        if column.minimum is None and column.maximum is None:
            continue
        least, most = (bound.as_py() for bound in pc.min_max(values).values())
        low, high = column.minimum, column.maximum
        if least is not None and ((low is not None and least < low) or (high is not None and most > high)):
            raise GateRefused(
                f"Output '{role}' has values from {least} to {most} in '{name}', {contract.name} allows "
                f"{'any' if low is None else low} to {'any' if high is None else high}."
            )
    return fitting


def check_strings(values: pa.ChunkedArray, name: str, column: Column, contract: Contract, role: str) -> None:
    """Raise GateRefused if a string is empty, too long, or has a control character."""
    sizes = pc.binary_length(values)
    least, most = (bound.as_py() for bound in pc.min_max(sizes).values())
    if least is None:
        return
    if least == 0 or most > column.max_bytes:
        raise GateRefused(
            f"Output '{role}' has strings of {least:,} to {most:,} bytes in '{name}', {contract.name} allows 1 to "
            f"{column.max_bytes:,}; fix the job."
        )
    if pc.any(pc.match_substring_regex(values, contracts.CONTROL)).as_py():
        raise GateRefused(
            f"Output '{role}' has control characters in '{name}', {contract.name} allows none; fix the job."
        )


def path(uri: str) -> str:
    """Return the path of a URI within its file system."""
    return uri.partition("://")[2]


def filesystem(uri: str) -> pa.fs.FileSystem:
    """Return the file system of a URI, for reading: Arrow's clients do not support KMS keys."""
    return object_store(uri.partition("://")[0]) if storage.is_remote(uri) else pa.fs.LocalFileSystem()


@functools.cache
def object_store(scheme: str) -> pa.fs.FileSystem:
    """Return Arrow's client of a kind of store, on the server that the environment names for our own client."""
    if scheme == "gs":
        server = urlsplit(gs.endpoint() or "")
        return pa.fs.GcsFileSystem(
            anonymous=bool(server.netloc),
            scheme=server.scheme or "https",
            endpoint_override=server.netloc or None,
            retry_time_limit=datetime.timedelta(seconds=gs.RETRY_SECONDS),
        )
    return pa.fs.S3FileSystem(
        endpoint_override=s3.endpoint(),
        region=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
        retry_strategy=pa.fs.AwsStandardS3RetryStrategy(max_attempts=S3_ATTEMPTS),
    )

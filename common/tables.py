"""Arrow tables, arrays and interactions of Python jobs, read from and written to the lake."""

import functools
import io
import itertools
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs
import pyarrow.parquet as pq

from common import contracts, s3, storage
from common.contracts import Column, Contract
from common.failures import InputError, Refused
from common.inputs import Input
from common.storage import File
from common.task import Task

TYPES = {
    "string": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "small_number": pa.float32(),
    "boolean": pa.bool_(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us", tz="UTC"),
}
BATCH = 64 * 1024  # rows; what a thread decodes at once is small beside what is kept
FILES_AT_ONCE = 4
ARRAYS_FORMAT = 1
Rows = TypeVar("Rows", pa.Table, pa.RecordBatch)


def read(task: Task, role: str, columns: list[str] | None = None) -> pa.Table:
    """An input as one table, of all or the named columns; InputError if a file breaks the contract."""
    source = task.input(role)
    names = columns or list(contract_of(source).columns)
    schema = arrow_schema(contract_of(source), names)

    def read_file(file: File) -> pa.Table:
        with opened(source, file) as parquet:
            rows = parquet.read(names, use_threads=False).cast(schema)
        return with_finite_numbers(rows, file)

    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        return pa.concat_tables([schema.empty_table(), *pool.map(read_file, source.files)])


def batches(task: Task, role: str, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """An input's rows, file after file, in batches of 65,536 rows or fewer."""
    source = task.input(role)
    names = columns or list(contract_of(source).columns)
    schema = arrow_schema(contract_of(source), names)
    for file in source.files:
        with opened(source, file) as parquet:
            for batch in parquet.iter_batches(BATCH, columns=names, use_threads=False):
                yield with_finite_numbers(batch.cast(schema), file)


def with_finite_numbers(rows: Rows, file: File) -> Rows:
    """The rows as they are; InputError if a number in them is NaN or infinite."""
    for name in rows.column_names:
        if not all_finite(rows[name]):
            raise InputError(f"{file.uri} has a NaN or infinite number in '{name}'; run the task that wrote it again.")
    return rows


def all_finite(values: pa.Array | pa.ChunkedArray) -> bool:
    """Whether no value is NaN or infinite, which no contract allows."""
    return not pa.types.is_floating(values.type) or pc.all(pc.is_finite(values)).as_py() is not False


def contract_of(source: Input) -> Contract:
    if source.contract is None:
        raise InputError(f"Input '{source.role}' is raw, it has no contract by which it could be read as a table.")
    return source.contract


def opened(source: Input, file: File, dictionaries: list[str] | None = None) -> pq.ParquetFile:
    """A file of an input, its columns checked against the contract; InputError names the file and the column."""
    try:
        parquet = pq.ParquetFile(
            filesystem(file.uri).open_input_file(path(file.uri)), read_dictionary=dictionaries, pre_buffer=False
        )
    except pa.ArrowInvalid as error:
        raise InputError(f"{file.uri} is no Parquet file ({error}); run the task that wrote it again.") from None
    there = parquet.schema_arrow
    for name, column in contract_of(source).columns.items():
        position = there.get_field_index(name)
        found = normal(there.field(position).type) if position >= 0 else None
        if found != TYPES[column.type]:
            parquet.close()
            raise InputError(
                f"{file.uri} breaks {contract_of(source).name}: column '{name}' is {found or 'missing'}, expected "
                f"{column.type}; run the two jobs at versions that agree."
            )
    return parquet


def normal(kind: pa.DataType) -> pa.DataType:
    """The type under which a contract knows it: Arrow has three types of string, and UTC has several names."""
    if pa.types.is_dictionary(kind):
        return normal(kind.value_type)
    if pa.types.is_large_string(kind):
        return pa.string()
    return TYPES["timestamp"] if pa.types.is_timestamp(kind) and kind.tz else kind


def arrow_schema(contract: Contract, names: list[str]) -> pa.Schema:
    return pa.schema([pa.field(name, TYPES[contract.columns[name].type]) for name in names])


def write(task: Task, role: str, content: pa.Table | Iterable[pa.Table]) -> None:
    """Write an output as one Parquet file, a row group a table, and check the contract on the way.

    An output that is a dataset becomes its one partition, `all`. Raises Refused if a column is missing, of another
    type, or has a value that the contract forbids.
    """
    table = task.job.outputs[role]
    contract = contracts.load(table.contract or "")
    schema = arrow_schema(contract, list(contract.columns))
    folder, publish = destination(task, role)
    uri = f"{folder}/part-00000.parquet"
    rows = 0
    with (
        storage.stream(uri) as file,
        pa.PythonFile(file, mode="w") as stream,
        pq.ParquetWriter(stream, schema, compression="zstd") as writer,
    ):
        for piece in [content] if isinstance(content, pa.Table) else content:
            writer.write_table(conform(piece, contract, schema, role))
            rows += piece.num_rows
            task.progress(f"writing {role}, rows", rows, rows)
    publish(rows)


def write_rows(task: Task, role: str, rows: Iterable[tuple[Any, ...]]) -> None:
    """Write rows with the values of the contract's columns as an output, in batches."""
    contract = contracts.load(task.job.outputs[role].contract or "")
    write(task, role, batched(rows, arrow_schema(contract, list(contract.columns))))


def batched(rows: Iterable[tuple[Any, ...]], schema: pa.Schema) -> Iterator[pa.Table]:
    """Rows with the values of a schema's columns, as tables of at most BATCH rows."""
    rows = iter(rows)
    while batch := list(itertools.islice(rows, BATCH)):
        columns = [pa.array(values, kind) for values, kind in zip(zip(*batch, strict=True), schema.types, strict=True)]
        yield pa.Table.from_arrays(columns, schema=schema)


def refuse_lost_keys(task: Task, role: str, name: str, keys: pa.ChunkedArray, max_drop: float) -> None:
    """Refused if a dataset would get no keys, or lose more than this share of those that are published.

    `keys` are the values of its column `name`, each as often as it comes.
    """
    now = pc.unique(keys)
    partition, seen = task.partition(role, "all")
    if not len(now):
        raise Refused(f"The deliveries leave no row for {partition}, so nothing is published; look at their reasons.")
    if seen is None:
        return
    files = [f"{partition}/{file['path']}" for file in seen.document["outputs"][role]["files"]]
    chunks = []
    for uri in files:
        with pq.ParquetFile(filesystem(uri).open_input_file(path(uri))) as parquet:
            chunks += parquet.read([name])[name].cast(pa.string()).chunks
    before = pc.unique(pa.chunked_array(chunks, pa.string()))
    lost = len(before) - pc.sum(pc.is_in(before, value_set=now)).as_py() if len(before) else 0
    if lost > max_drop * len(before):
        raise Refused(
            f"{lost:,} of the {len(before):,} values of {name} in {partition} are missing from the deliveries, which "
            f"have {len(now):,}; max_key_drop allows {max_drop:.0%}: deliver what is missing, or raise max_key_drop."
        )


def destination(task: Task, role: str) -> tuple[str, Callable[[int], None]]:
    """The folder for the files of an output, and what publishes them, given their rows.

    That of a dataset publishes its one partition, `all`, if it still holds what it held before anything was read.
    """
    if not task.job.outputs[role].dataset:
        return task.folder(role), lambda rows: task.written(role, rows)
    folder = f"{task.lake}/{task.job.outputs[role].dataset}/all/{task.version}"
    return folder, lambda rows: task.replace_dataset(role, rows, storage.files(folder))


def conform(table: pa.Table, contract: Contract, schema: pa.Schema, role: str) -> pa.Table:
    """The table with the contract's columns in their order; Refused says what does not fit."""
    if missing := [name for name in schema.names if name not in table.column_names]:
        raise Refused(f"Output '{role}' lacks column '{missing[0]}' of {contract.name}; write it.")
    try:
        fitting = table.select(schema.names).cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise Refused(f"Output '{role}' does not fit {contract.name}: {error}; mend the job.") from None
    for name, column in contract.columns.items():
        values = fitting[name]
        if not column.nullable and values.null_count:
            raise Refused(f"Output '{role}' has {values.null_count} nulls in '{name}', {contract.name} allows none.")
        if not all_finite(values):
            raise Refused(f"Output '{role}' has NaN or infinite numbers in '{name}', {contract.name} allows none.")
        if column.type == "string":
            check_strings(values, name, column, contract, role)
        if column.minimum is None and column.maximum is None:
            continue
        least, most = (bound.as_py() for bound in pc.min_max(values).values())
        low, high = column.minimum, column.maximum
        if least is not None and ((low is not None and least < low) or (high is not None and most > high)):
            raise Refused(
                f"Output '{role}' has values from {least} to {most} in '{name}', {contract.name} allows "
                f"{'any' if low is None else low} to {'any' if high is None else high}."
            )
    return fitting


def check_strings(values: pa.ChunkedArray, name: str, column: Column, contract: Contract, role: str) -> None:
    """Refused if a string is empty, too long, or has a control character."""
    sizes = pc.binary_length(values)
    least, most = (bound.as_py() for bound in pc.min_max(sizes).values())
    if least is None:
        return
    if least == 0 or most > column.max_bytes:
        raise Refused(
            f"Output '{role}' has strings of {least:,} to {most:,} bytes in '{name}', {contract.name} allows 1 to "
            f"{column.max_bytes:,}; mend the job."
        )
    if pc.any(pc.match_substring_regex(values, contracts.CONTROL)).as_py():
        raise Refused(f"Output '{role}' has control characters in '{name}', {contract.name} allows none; mend the job.")


def write_arrays(task: Task, role: str, arrays: dict[str, np.ndarray], document: dict[str, Any]) -> None:
    """Write arrays, a `.npy` file each, and a JSON document that lists them: no pickle, readable by anything.

    An output that is a dataset becomes its one partition, `all`. Raises Refused for an array with NaN in it.
    """
    folder, publish = destination(task, role)
    for name, array in arrays.items():
        if array.dtype.kind == "f" and array.size and np.isnan(array.min()):
            raise Refused(f"Array '{name}' of output '{role}' has NaN in it, by which nothing can be ranked.")
        with storage.stream(f"{folder}/{name}.npy") as file, pa.PythonFile(file, mode="w") as stream:
            np.save(stream, array, allow_pickle=False)
    described = {"format": ARRAYS_FORMAT, "arrays": sorted(arrays), "document": document}
    storage.write(f"{folder}/document.json", json.dumps(described, indent=1, sort_keys=True).encode())
    publish(sum(len(array) if array.ndim else 1 for array in arrays.values()))


def read_arrays(task: Task, role: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays by name, and their document; InputError for another format version."""
    files = {file.uri.rpartition("/")[2]: file.uri for file in task.input(role).files}
    described = json.loads(storage.read(files["document.json"])[0])
    if described["format"] != ARRAYS_FORMAT:
        raise InputError(
            f"{files['document.json']} has format {described['format']}, expected {ARRAYS_FORMAT}; "
            "run the task that wrote it at this version."
        )

    def load(name: str) -> Any:
        uri = files[f"{name}.npy"]
        if not storage.is_s3(uri):
            return np.load(storage.local(uri), mmap_mode="r", allow_pickle=False)  # pages come in as they are touched
        with filesystem(uri).open_input_stream(path(uri)) as stream:
            return np.load(io.BytesIO(stream.read_buffer()), allow_pickle=False)

    return {name: load(name) for name in described["arrays"]}, described["document"]


def string_arrays(name: str, strings: pa.Array) -> dict[str, np.ndarray]:
    """Strings as arrays to be written: their UTF-8 one after the other, and the offset at which each begins.

    NumPy's own arrays of strings take the room of the longest for each, and lose NULs at the end.
    """
    encoded = [string.encode() for string in strings.to_pylist()]
    offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    return {name: np.frombuffer(b"".join(encoded), np.uint8), f"{name}_offsets": offsets}


def strings_of(name: str, arrays: dict[str, np.ndarray]) -> pa.Array:
    """The strings of which `string_arrays` made arrays."""
    offsets = np.array(arrays[f"{name}_offsets"], np.int64)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(np.array(arrays[name], np.uint8))]
    return pa.Array.from_buffers(pa.large_string(), len(offsets) - 1, buffers).cast(pa.string())


def shard_of(users: pa.Array, shards: int) -> np.ndarray:
    """The shard of each user ID: a hash of its UTF-8 that is the same in every process, modulo the number of shards."""
    hashes = np.fromiter((zlib.crc32(user.encode()) for user in users.to_pylist()), np.int64, len(users))
    return hashes % shards


class Interactions(NamedTuple):
    """Users x items as a CSR matrix whose row and column positions stand for `users` and `items`.

    `users` and `items` are string arrays; `indptr` (int64) and `indices` (int32, sorted within a row if the files
    are sorted by user and item) are shared by all `values`, arrays by column name.
    """

    users: pa.Array
    items: pa.Array
    indptr: np.ndarray
    indices: np.ndarray
    values: dict[str, np.ndarray]


@dataclass
class Part:
    """One file's rows, decoded into its slice of the shared arrays."""

    users: pa.Array
    lengths: np.ndarray
    items: pa.Array


def read_interactions(task: Task, role: str, values: list[str]) -> Interactions:
    """An input of columns user_id, item_id and the named numbers and times (UTC, NaT for null) as a CSR matrix.

    Users come in the order of the files, items in the order of their bytes. Files that hold each user's rows together,
    no user in two files, are decoded straight into the arrays of the result, several at once: the peak is the result
    itself and a few batches. Where that does not hold, the rows are sorted afterwards, at about three times that.
    InputError for a number that is null, NaN or infinite.
    """
    source = task.input(role)
    rows = source.rows
    indices = np.empty(rows, np.int32)
    numbers = {name: np.empty(rows, column_dtype(source, name)) for name in values}
    counts = list(at_once(lambda file: count_rows(source, file), source.files))
    if sum(counts) != rows:
        raise InputError(f"Input '{role}' has {sum(counts)} rows, its manifests say {rows}; run its task again.")
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    def decode(position: int) -> Part:
        part = slice(starts[position], starts[position + 1])
        views = {name: array[part] for name, array in numbers.items()}
        return decode_file(source, source.files[position], indices[part], views)

    parts = list(at_once(decode, range(len(source.files))))
    items = unify_items([part.items for part in parts], indices, starts)
    users = pa.concat_arrays([pa.array([], pa.string()), *(part.users for part in parts)])
    lengths = np.concatenate([np.zeros(0, np.int64), *(part.lengths for part in parts)])
    del parts
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    if repeated(users):  # a user's rows stand in more than one place
        task.log("unsorted", role=role, note="'rows are not grouped by user, sorting them costs time and memory'")
        users, indptr, indices, numbers = grouped_by_user(users, lengths, indices, numbers, len(items))
    return Interactions(users, items, indptr, indices, numbers)


def at_once(function: Any, arguments: Iterable[Any]) -> Iterable[Any]:
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        return pool.map(function, arguments)


def column_dtype(source: Input, name: str) -> Any:
    kind = contract_of(source).columns[name].type
    return "datetime64[us]" if kind == "timestamp" else TYPES[kind].to_pandas_dtype()


def count_rows(source: Input, file: File) -> int:
    with opened(source, file) as parquet:
        count: int = parquet.metadata.num_rows
        return count


def decode_file(source: Input, file: File, indices: np.ndarray, values: dict[str, np.ndarray]) -> Part:
    """Fill one file's slices (positions among its own items, values); returns its users and the rows of each."""
    users: list[pa.Array] = []
    lengths: list[np.ndarray] = []
    items = pa.array([], pa.string())
    last_user = None
    done = 0
    with opened(source, file, ["user_id", "item_id"]) as parquet:
        for batch in parquet.iter_batches(BATCH, columns=["user_id", "item_id", *values], use_threads=False):
            here = slice(done, done + batch.num_rows)
            done += batch.num_rows
            user_column, item_column = batch.column("user_id"), batch.column("item_id")
            if user_column.null_count or item_column.null_count:
                raise InputError(f"{file.uri} has a row without user or item; run the task that wrote it again.")
            items, indices[here] = positions(items, item_column)
            for name, array in values.items():
                array[here] = finite(batch.column(name), name, file)
            pa.default_memory_pool().release_unused()  # kept, it would add half the matrix again
            codes = user_column.indices.to_numpy(zero_copy_only=False)
            starts = np.concatenate([[0], np.flatnonzero(codes[1:] != codes[:-1]) + 1])
            names = user_column.dictionary.cast(pa.string()).take(pa.array(codes[starts]))
            runs = np.diff(np.append(starts, len(codes)))
            if last_user is not None and names[0].as_py() == last_user:
                lengths[-1][-1] += runs[0]
                names, runs = names[1:], runs[1:]
            if len(names):
                last_user = names[-1].as_py()
                users.append(names)
                lengths.append(runs)
    return Part(
        pa.concat_arrays([pa.array([], pa.string()), *users]),
        np.concatenate([np.zeros(0, np.int64), *lengths]),
        items,
    )


def positions(known: pa.Array, column: pa.DictionaryArray) -> tuple[pa.Array, np.ndarray]:
    """Positions of a column's strings among the known ones, which grow by the unknown ones."""
    dictionary = column.dictionary.cast(pa.string())
    found = pc.index_in(dictionary, value_set=known)
    new = dictionary.filter(found.is_null())
    if len(new):
        known = pa.concat_arrays([known, new])
        found = pc.index_in(dictionary, value_set=known)
    places = found.to_numpy(zero_copy_only=False).astype(np.int32, copy=False)
    return known, places[column.indices.to_numpy(zero_copy_only=False)]


def finite(column: pa.Array, name: str, file: File) -> np.ndarray:
    if pa.types.is_timestamp(column.type):
        moments: np.ndarray = column.cast(pa.timestamp("us")).to_numpy(zero_copy_only=False)  # null becomes NaT
        return moments
    numbers: np.ndarray = column.to_numpy(zero_copy_only=False)
    if column.null_count or not all_finite(column):
        raise InputError(
            f"{file.uri} has a null, NaN or infinite number in '{name}'; run the task that wrote it again."
        )
    return numbers


def unify_items(items: list[pa.Array], indices: np.ndarray, starts: np.ndarray) -> pa.Array:
    """All items in the order of their bytes; each file's positions are changed in place to positions among these."""
    everything = pc.unique(pa.concat_arrays([pa.array([], pa.string()), *items]))
    everything = everything.take(pc.sort_indices(everything))
    for position, own in enumerate(items):
        places = pc.index_in(own, value_set=everything).to_numpy(zero_copy_only=False).astype(np.int32, copy=False)
        for start in range(starts[position], starts[position + 1], BATCH):  # a whole gather would double the memory
            part = slice(start, min(start + BATCH, starts[position + 1]))
            indices[part] = places[indices[part]]
    return everything


def repeated(names: pa.StringArray) -> bool:
    """Whether a name stands twice; told for the names of one last byte at a time, whose table of hashes is small."""
    ends = np.frombuffer(names.buffers()[1], np.int32)[names.offset : names.offset + len(names) + 1]
    last = np.frombuffer(names.buffers()[2] or b"\0", np.uint8)[np.maximum(ends[1:], 1) - 1]
    for byte in np.unique(last):
        alike = names.filter(pa.array(last == byte))
        if pc.count_distinct(alike).as_py() < len(alike):
            return True
        pa.default_memory_pool().release_unused()
    return False


def grouped_by_user(
    users: pa.Array, lengths: np.ndarray, indices: np.ndarray, values: dict[str, np.ndarray], items: int
) -> tuple[pa.Array, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """The same entries with the rows of each user together, users in the order of their bytes."""
    distinct = pc.unique(users)
    distinct = distinct.take(pc.sort_indices(distinct))
    rows = np.repeat(pc.index_in(users, value_set=distinct).to_numpy(zero_copy_only=False), lengths).astype(np.int32)
    order = np.lexsort((indices, rows))
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(distinct)))]).astype(np.int64)
    return distinct, indptr, indices[order], {name: array[order] for name, array in values.items()}


def path(uri: str) -> str:
    """The path of a URI within its file system."""
    return uri.removeprefix("s3://").removeprefix("file://")


def filesystem(uri: str) -> pa.fs.FileSystem:
    return s3_filesystem() if storage.is_s3(uri) else pa.fs.LocalFileSystem()


@functools.cache
def s3_filesystem() -> pa.fs.FileSystem:
    """Arrow's S3 client, for reading: it knows no key of encryption. It ignores AWS_ENDPOINT_URL unless told."""
    return pa.fs.S3FileSystem(
        endpoint_override=s3.endpoint(),
        region=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
        retry_strategy=pa.fs.AwsStandardS3RetryStrategy(max_attempts=s3.ATTEMPTS),
    )

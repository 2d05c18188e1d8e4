"""Interactions of users and items, read from an input into a CSR matrix."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs

from common.engines.arrow import (
    BATCH,
    MAX_OPEN_FILES,
    TYPES,
    all_finite,
    arrow_schema,
    contract_of,
    held,
    open_checked,
    with_added_columns,
)
from common.errors import InputError
from common.handover.inputs import Input
from common.handover.job_toml import Job
from common.handover.storage import File, in_parallel
from common.handover.task import Task
from common.protocol import quantity

BYTES_PER_PAIR = 128  # in training: the columns of a pair, and its entries in the matrices made of them


class Interactions(NamedTuple):
    """Users x items as a CSR matrix whose rows and columns are in the order of `users` and `items`.

    `users` and `items` are string arrays; `indptr` (int64) and `indices` (int32, sorted within a row if the files
    are sorted by user and item) are shared by all `values`, arrays by column name.
    """

    users: pa.Array
    items: pa.Array
    indptr: np.ndarray
    indices: np.ndarray
    values: dict[str, np.ndarray]


@dataclass
class DecodedFile:
    """Users, items and row counts of a file whose values were decoded into its slice of the shared arrays."""

    users: pa.Array
    lengths: np.ndarray
    items: pa.Array


def read_interactions(task: Task, role: str, values: list[str]) -> Interactions:
    """Read an input of user_id, item_id and the named numbers and times (UTC, NaT for null) as a CSR matrix.

    Users are in the order of the files, items in the order of their bytes. Files with consecutive rows per user, and
    no user in two files, are decoded directly into the arrays of the result, several concurrently: the peak is the
    result and a few batches. Otherwise the rows are sorted afterwards, at a peak of about three times that.
    InputError for a number that is null, NaN or infinite.
    """
    source = task.input(role)
    counts = rows_of_files(source)
    rows = sum(counts)
    if rows != source.rows and not source.partial:
        raise InputError(f"Input '{role}' has {rows} rows, its manifests list {source.rows}; rerun its task.")
    indices = np.empty(rows, np.int32)
    numbers = {name: np.empty(rows, column_dtype(source, name)) for name in values}
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    def decode(position: int) -> DecodedFile:
        span = slice(starts[position], starts[position + 1])
        views = {name: array[span] for name, array in numbers.items()}
        return decode_file(source, source.files[position], indices[span], views)

    decoded = in_parallel(decode, range(len(source.files)), MAX_OPEN_FILES)
    items = unify_items([file.items for file in decoded], indices, starts)
    users = pa.concat_arrays([pa.array([], pa.string()), *(file.users for file in decoded)])
    lengths = np.concatenate([np.zeros(0, np.int64), *(file.lengths for file in decoded)])
    del decoded
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    if has_duplicates(users):  # the rows of a user are not consecutive
        task.log("unsorted", role=role, note="'rows are not grouped by user, sorting them costs time and memory'")
        users, indptr, indices, numbers = grouped_by_user(users, lengths, indices, numbers, len(items))
    return Interactions(users, items, indptr, indices, numbers)


def max_pairs(task: Task) -> int:
    """Return the number of pairs to read at most: `max_training_pairs`, or as many as fit into half of the memory."""
    limit: int = task.parameters["max_training_pairs"]
    return limit or memory_of(task.job) // (2 * BYTES_PER_PAIR)


def memory_of(job: Job) -> int:
    """Return the limit in `[resources]` of `job.toml` in bytes."""
    return int(quantity(job.resources["memory"]))


def take_files(task: Task, role: str, max_rows: int) -> dict[str, int]:
    """Leave an input only its first files of together at most `max_rows` rows, at least one; return their numbers.

    A file holds all rows of its users, in buckets of a hash of their IDs: the first ones are a sample of the users.
    """
    source = task.input(role)
    taken, rows = len(source.files), source.rows
    if rows > max_rows:
        totals = np.cumsum(rows_of_files(source))
        taken = max(1, int(np.searchsorted(totals, max_rows, "right")))
        rows = int(totals[taken - 1])
    sample = {"rows": rows, "of_rows": source.rows, "files": taken, "of_files": len(source.files)}
    source.partial |= taken < len(source.files)
    source.files = source.files[:taken]
    task.log("sample", role=role, **sample)
    return sample


def rows_of_files(source: Input) -> list[int]:
    """Return the number of rows of each file of an input."""
    return in_parallel(lambda file: count_rows(source, file), source.files, MAX_OPEN_FILES)


def target_events(task: Task, role: str) -> dict[str, int]:
    """Return the number of target events by type that became the interactions of an input, as their task counted."""
    (made,) = task.input(role).manifests
    counts: dict[str, int] = made.document.get("metrics", {}).get("target_events", {})
    return counts


def column_dtype(source: Input, name: str) -> Any:
    kind = contract_of(source).columns[name].type
    return "datetime64[us]" if kind == "timestamp" else TYPES[kind].to_pandas_dtype()


def count_rows(source: Input, file: File) -> int:
    with open_checked(source, file) as parquet:
        count: int = parquet.metadata.num_rows
        return count


def decode_file(source: Input, file: File, indices: np.ndarray, values: dict[str, np.ndarray]) -> DecodedFile:
    """Fill one file's slices (positions among its items, values); return its users and the rows of each."""
    users: list[pa.Array] = []
    lengths: list[np.ndarray] = []
    items = pa.array([], pa.string())
    last_user = None
    done = 0
    schema = arrow_schema(contract_of(source), ["user_id", "item_id", *values])
    names = held(source, file, schema.names)
    with open_checked(source, file, ["user_id", "item_id"]) as parquet:
        for batch in parquet.iter_batches(BATCH, columns=names, use_threads=False):
            batch = with_added_columns(batch, schema)
            span = slice(done, done + batch.num_rows)
            done += batch.num_rows
            user_column, item_column = batch.column("user_id"), batch.column("item_id")
            if user_column.null_count or item_column.null_count:
                raise InputError(f"{file.uri} has a row without user or item; rerun the task that wrote it.")
            items, indices[span] = positions(items, item_column)
            for name, array in values.items():
                array[span] = finite(batch.column(name), name, file)
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
    return DecodedFile(
        pa.concat_arrays([pa.array([], pa.string()), *users]),
        np.concatenate([np.zeros(0, np.int64), *lengths]),
        items,
    )


def positions(known: pa.Array, column: pa.DictionaryArray) -> tuple[pa.Array, np.ndarray]:
    """Return the known strings, extended by a column's new ones, and the positions of the column's among them."""
    dictionary = column.dictionary.cast(pa.string())
    found = pc.index_in(dictionary, value_set=known)
    new = dictionary.filter(found.is_null())
    if len(new):
        known = pa.concat_arrays([known, new])
        found = pc.index_in(dictionary, value_set=known)
    codes = found.to_numpy(zero_copy_only=False).astype(np.int32, copy=False)
    return known, codes[column.indices.to_numpy(zero_copy_only=False)]


def finite(column: pa.Array, name: str, file: File) -> np.ndarray:
    if pa.types.is_timestamp(column.type):
        moments: np.ndarray = column.cast(pa.timestamp("us")).to_numpy(zero_copy_only=False)  # null becomes NaT
        return moments
    numbers: np.ndarray = column.to_numpy(zero_copy_only=False)
    if column.null_count or not all_finite(column):
        raise InputError(f"{file.uri} has a null, NaN or infinite number in '{name}'; rerun the task that wrote it.")
    return numbers


def unify_items(items: list[pa.Array], indices: np.ndarray, starts: np.ndarray) -> pa.Array:
    """Return all items in the order of their bytes; change each file's positions in place to positions among these."""
    distinct = pc.unique(pa.concat_arrays([pa.array([], pa.string()), *items]))
    distinct = distinct.take(pc.sort_indices(distinct))
    for position, of_file in enumerate(items):
        codes = pc.index_in(of_file, value_set=distinct).to_numpy(zero_copy_only=False).astype(np.int32, copy=False)
        for start in range(starts[position], starts[position + 1], BATCH):  # one gather for all would double the memory
            span = slice(start, min(start + BATCH, starts[position + 1]))
            indices[span] = codes[indices[span]]
    return distinct


def has_duplicates(names: pa.StringArray) -> bool:
    """Return True if a name occurs twice; checked by last byte, so that each hash table is small."""
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
    """Return the same entries with the rows of each user together, users in the order of their bytes."""
    distinct = pc.unique(users)
    distinct = distinct.take(pc.sort_indices(distinct))
    rows = np.repeat(pc.index_in(users, value_set=distinct).to_numpy(zero_copy_only=False), lengths).astype(np.int32)
    order = np.lexsort((indices, rows))
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(distinct)))]).astype(np.int64)
    return distinct, indptr, indices[order], {name: array[order] for name, array in values.items()}

"""Session of a task on the light engine: one DuckDB database with limits of memory and threads."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import duckdb
from duckdb import DuckDBPyConnection
from fsspec.implementations.arrow import ArrowFSWrapper
from pyspark.sql import SparkSession

from common.engines import arrow, duck
from common.errors import InputError
from common.handover import storage
from common.handover.heartbeat import repeatedly
from common.handover.task import Task
from common.protocol import quantity

BROKEN = "broken input: "  # prefix of an error that a row raises, to find it in the text of DuckDB's error
SHARE = 0.6  # of a task's memory for DuckDB; the rest is for Python, Arrow and what DuckDB does not count


class S3(ArrowFSWrapper):  # type: ignore[misc]
    """S3 as a file system of fsspec, under its protocol."""

    protocol = "s3"


class GS(ArrowFSWrapper):  # type: ignore[misc]
    """Google's storage as a file system of fsspec, under its protocol."""

    protocol = "gs"


@contextlib.contextmanager
def session(task: Task) -> Iterator[SparkSession]:
    """Open the session of a task, within the memory of its job.toml; DuckDB spills the rest to the scratch folder."""
    with contextlib.ExitStack() as stack:
        if not started():
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="tandem-"))
            stack.callback(start(scratch, task.job.resources.get("memory")).stop)
        if storage.is_remote(task.lake):
            use_object_store(active_session()._conn, task.lake)
        with repeatedly(progress_reporter(active_session()._conn, task), 5), explained():
            yield active_session()


def start(scratch: str, memory: str | None = None) -> Any:
    """Start the session of this process; `memory` is the limit of the task, as in 3Gi."""
    connection = duck.connect()
    connection.execute("SET preserve_insertion_order = false; SET parquet_metadata_cache = true")
    connection.execute("SET enable_progress_bar = true; SET enable_progress_bar_print = false")
    connection.execute(f"SET temp_directory = {duck.literal(scratch)}")
    connection.execute(f"SET threads = {int(os.environ.get('OMP_NUM_THREADS', 0)) or os.cpu_count()}")
    if memory:
        connection.execute(f"SET memory_limit = '{int(quantity(memory) * SHARE)}B'")
    return SparkSession(connection)


def use_object_store(connection: DuckDBPyConnection, lake: str) -> None:
    """Let DuckDB read from the store of a lake as Arrow does, with its credentials and retries."""
    kind = {each.protocol: each for each in (S3, GS)}[lake.partition("://")[0]]
    if kind.protocol not in connection.list_filesystems():
        connection.register_filesystem(kind(arrow.filesystem(lake)))


def progress_reporter(connection: DuckDBPyConnection, task: Task) -> Callable[[], None]:
    """Return a function that sets the task's progress to that of the running query."""

    def report() -> None:
        if (percent := connection.query_progress()) >= 0:  # -1 between two queries
            task.progress("DuckDB, percent of the running query", int(percent), 100)

    return report


def started() -> bool:
    """Return True if this process has a session."""
    return SparkSession._instance is not None


def active_session() -> SparkSession:
    """Return the session of this process."""
    return SparkSession()


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Replace DuckDB's errors about memory and files by those of tasks."""
    try:
        yield
    except duckdb.OutOfMemoryException as error:
        raise MemoryError(str(error)) from error
    except duckdb.InvalidInputException as error:
        _, broken, sentence = str(error).partition(BROKEN)
        if not broken:
            raise
        raise InputError(sentence.splitlines()[0]) from None

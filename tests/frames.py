"""Frames of this process's engine, with the columns of a contract."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession

from common import contracts
from common.engines import arrow
from common.engines.light.activate import active


def table(contract: str, rows: Iterable[dict[str, Any]]) -> pa.Table:
    """Return rows as a table; a column that a row lacks is null, also one that the contract needs."""
    schema = arrow.arrow_schema(contracts.load(contract), list(contracts.load(contract).columns))
    return pa.Table.from_pylist(list(rows), pa.schema([field.with_nullable(True) for field in schema]))


def frame(session: SparkSession, contract: str, rows: Iterable[dict[str, Any]]) -> DataFrame:
    """Return rows as a frame; a column that a row lacks is null."""
    return framed(session, table(contract, rows))


def framed(session: SparkSession, rows: pa.Table) -> DataFrame:
    """Return a table as a frame."""
    if active():
        from common.engines.light.files import table_from

        return table_from(rows)
    return session.createDataFrame(rows)


def put_file(folder: Path, rows: pa.Table) -> None:
    """Write a table as another file of a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows, folder / f"part-{len(list(folder.iterdir()))}.parquet")


def event_rows(columns: str, values: Iterable[tuple]) -> list[dict[str, Any]]:
    """Return rows of events@3 from tuples of the named columns; the rest are a purchase of one cup by ann."""
    usual = {"source": "shop", "user_id": "ann", "item_id": "cup", "type": "purchase", "quantity": 1, "unit_price": 1.0}
    return [
        {**usual, "event_id": f"e{number}", **dict(zip(columns.split(), each, strict=True))}
        for number, each in enumerate(values)
    ]

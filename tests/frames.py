"""Frames of Spark with the columns of a contract."""

from collections.abc import Iterable
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from common import contracts
from common.engines import spark


def frame(session: SparkSession, contract: str, rows: Iterable[dict[str, Any]]) -> DataFrame:
    """Return rows as a frame; a column that a row lacks is null."""
    schema = spark.schema(contracts.load(contract))
    return session.createDataFrame([tuple(row.get(name) for name in schema.names) for row in rows], schema)


def event_rows(columns: str, values: Iterable[tuple]) -> list[dict[str, Any]]:
    """Return rows of events@3 from tuples of the named columns; the rest are a purchase of one cup by ann."""
    usual = {"source": "shop", "user_id": "ann", "item_id": "cup", "type": "purchase", "quantity": 1, "unit_price": 1.0}
    return [
        {**usual, "event_id": f"e{number}", **dict(zip(columns.split(), each, strict=True))}
        for number, each in enumerate(values)
    ]

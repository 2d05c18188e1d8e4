"""Spark SQL over the columns of events on Spark."""

from pyspark.sql import Column
from pyspark.sql import functions as F


def of_events(text: str) -> Column:
    """Return a Spark SQL expression over the columns of `events@3`, as those of the tracking plan."""
    return F.expr(text)

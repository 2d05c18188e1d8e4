"""Sums of fractions that do not depend on the order of rows, so that running a day again gives the same bytes."""

from pyspark.sql import Column
from pyspark.sql import functions as F


def rounded(number: Column, quantum: float) -> Column:
    """Return a double rounded to a multiple of a quantum, which is a power of two, to be summed.

    A float64 holds each multiple below 2^53 quanta, so sums up to there are exact in any order. A larger sum depends on
    the order by one part in 10^16, which a float32 of it does not show; 64-bit integers would end the job there.
    """
    return F.rint(number * (1 / quantum)) * quantum

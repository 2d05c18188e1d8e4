"""Make `pyspark` mean sqlframe on DuckDB in this process, completed by the functions that jobs use."""

import sys


def activate() -> None:
    """Replace pyspark by the light engine; call it before anything imports pyspark."""
    if "pyspark" in sys.modules:
        raise RuntimeError("pyspark was imported before the light engine; activate it first.")
    import sqlframe  # here, so that `active` needs nothing

    sqlframe.activate("duckdb")
    from common.engines.light import completion  # after it, for it completes these modules

    completion.complete()


def active() -> bool:
    """Return True in a process whose pyspark is the light engine."""
    return "sqlframe.duckdb" in sys.modules and sys.modules.get("pyspark.sql") is sys.modules["sqlframe.duckdb"]

"""The light engine: DuckDB behind pyspark's interface, for Spark jobs on one machine without Java."""

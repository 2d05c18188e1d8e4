"""Ingestion of events on the light engine: files are read by Arrow, mapped by DuckDB, and kept in one table."""

"""Runtimes of one machine: processes, spark-submit, Docker."""

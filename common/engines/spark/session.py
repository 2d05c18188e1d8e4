"""Spark session of a task: settings, progress, the last line under spark-submit."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

from pyspark import SparkConf, SparkContext
from pyspark.java_gateway import launch_gateway
from pyspark.sql import SparkSession

from common.engines.spark.files import input_errors
from common.engines.spark.object_stores import use_object_store
from common.handover import storage
from common.handover.failure_report import LAST_LINE_SINKS
from common.handover.heartbeat import repeatedly
from common.handover.task import Task

SETTINGS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    "spark.sql.parquet.compression.codec": "zstd",
    "spark.sql.files.openCostInBytes": str(256 * 1024),  # a lake has many small files, most of them of one day each
    "spark.sql.inMemoryColumnarStorage.compressed": "false",  # cached data is read back once or twice, from local disk
    # Without rows Spark would drop the part of a plan that is observed, and wait for its counts forever.
    "spark.sql.adaptive.optimizer.excludedRules": "org.apache.spark.sql.execution.adaptive.AQEPropagateEmptyRelation",
    # PySpark would ask the JVM for each function of a column, to name its line in errors; the traceback names it, too.
    "spark.python.sql.dataFrameDebugging.enabled": "false",
    "spark.sql.variant.allowDuplicateKeys": "true",  # try_parse_json then accepts what from_json does
    "spark.log.level": "ERROR",
}
LOCAL_SETTINGS = {
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.sql.shuffle.partitions": "4",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.sql.ui.explainMode": "simple",  # of each plan, for the UI that is off
    "spark.sql.sources.parallelPartitionDiscovery.threshold": "100000",  # a Spark job to list files costs more
}
# Hadoop starts a process, chmod, for the checksum file that it writes next to each data file.
WITHOUT_CHECKSUMS = {"spark.hadoop.fs.file.impl": "org.apache.hadoop.fs.RawLocalFileSystem"}


@contextlib.contextmanager
def session(task: Task) -> Iterator[SparkSession]:
    """Open the Spark session of a task: on the cluster of spark-submit, else in this process and on all its cores.

    Sets the task's progress to the finished Spark tasks of the running stages.
    """
    settings = dict(SETTINGS)
    if "PYSPARK_GATEWAY_PORT" not in os.environ:  # not under spark-submit
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        settings |= {"spark.master": "local[*]"} | job_settings(task)
    if (settings.get("spark.master") or submitted_master()).startswith("local"):
        settings |= LOCAL_SETTINGS
        if not storage.is_remote(task.lake):
            settings |= WITHOUT_CHECKSUMS
    former = SparkSession.getActiveSession()
    spark = SparkSession.builder.appName(task.task_id).config(map=settings).getOrCreate()
    task.application = spark.sparkContext.applicationId
    keep_classes(spark)
    use_object_store(spark, task.lake)
    with repeatedly(progress_reporter(spark, task), 5), input_errors():
        yield spark
    if former is None:
        spark.stop()


def active_session() -> SparkSession:
    """Return the session of this process."""
    return SparkSession.active()


def keep_classes(spark: SparkSession) -> None:
    """Keep the Java classes that PySpark looks up at each use: a look-up searches all jars, for several packages.

    For each observation of a frame py4j's class is looked up more than a dozen times.
    """
    java: Any = spark._jvm
    if "py4j" not in vars(java):
        for name in ("functions", "PythonSQLUtils", "PythonUtils"):
            setattr(java, name, getattr(java, name))
        java.py4j = SimpleNamespace(reflection=SimpleNamespace(TypeUtil=java.py4j.reflection.TypeUtil))


def print_on_launcher(sentence: str) -> None:
    """Print a line on the stderr of spark-submit, which redirects the stderr of a Python driver to its stdout."""
    if "PYSPARK_GATEWAY_PORT" in os.environ:
        gateway: Any = SparkContext._gateway or launch_gateway()
        gateway.jvm.java.lang.System.err.println(sentence)
        log4j = gateway.jvm.org.apache.logging.log4j  # without a session it would log its shutdown after the line
        log4j.core.config.Configurator.setRootLevel(log4j.Level.ERROR)


def submitted_master() -> str:
    """Return the master from the arguments of spark-submit, before there is a session."""
    SparkContext._ensure_initialized()
    return SparkConf().get("spark.master", "") or ""


def job_settings(task: Task) -> dict[str, str]:
    """Return the settings in `[spark]` of `job.toml` that apply to a single process."""
    settings: dict[str, str] = dict(task.job.spark.get("conf", {}))
    if memory := task.job.spark.get("driver_memory"):
        settings["spark.driver.memory"] = memory
    return settings


def progress_reporter(spark: SparkSession, task: Task) -> Callable[[], None]:
    """Return a function that sets the task's progress to that of Spark's running stages."""
    tracker = spark.sparkContext.statusTracker()

    def report() -> None:
        with contextlib.suppress(Exception):  # a progress line must not fail the job
            stages = [tracker.getStageInfo(stage) for stage in tracker.getActiveStageIds()]
            if running := [stage for stage in stages if stage]:
                name = running[0].name.split(" at ")[0]
                done, total = (
                    sum(getattr(stage, field) for stage in running) for field in ("numCompletedTasks", "numTasks")
                )
                task.progress(f"Spark tasks of '{name}'", done, total)

    return report


LAST_LINE_SINKS.append(print_on_launcher)

"""Spark session of a task: settings, S3, progress, the last line under spark-submit."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from pyspark import SparkConf, SparkContext
from pyspark.java_gateway import launch_gateway
from pyspark.sql import SparkSession

from common.engines.spark.io import input_errors
from common.handover import s3, storage
from common.handover.failure_report import LAST_LINE_SINKS
from common.handover.heartbeat import repeatedly
from common.handover.task import Task

SETTINGS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    "spark.sql.parquet.compression.codec": "zstd",
    "spark.sql.files.openCostInBytes": str(256 * 1024),  # a lake has many small files, most of them of one day each
    "spark.sql.inMemoryColumnarStorage.compressed": "false",  # what is kept is read back once or twice, from local disk
    "spark.log.level": "ERROR",
}
LOCAL_SETTINGS = {
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.sql.shuffle.partitions": "4",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.sql.sources.parallelPartitionDiscovery.threshold": "100000",  # a Spark job to look at files costs more
}
# Hadoop starts a process, chmod, for each file of a checksum that it lays beside a file of data.
WITHOUT_CHECKSUMS = {"spark.hadoop.fs.file.impl": "org.apache.hadoop.fs.RawLocalFileSystem"}
AWS_SDK = "software.amazon.awssdk"
COMMIT_PROTOCOL = "org.apache.spark.internal.io.cloud.PathOutputCommitProtocol"


@contextlib.contextmanager
def session(task: Task) -> Iterator[SparkSession]:
    """The Spark session of a task: on the cluster that spark-submit named, else in this process and on all its cores.

    Tells the task's alive line how many Spark tasks of the running stages are done.
    """
    settings = dict(SETTINGS)
    if "PYSPARK_GATEWAY_PORT" not in os.environ:  # not under spark-submit
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        settings |= {"spark.master": "local[*]"} | own_settings(task)
    if (settings.get("spark.master") or submitted_to()).startswith("local"):
        settings |= LOCAL_SETTINGS
        if not storage.is_s3(task.lake):
            settings |= WITHOUT_CHECKSUMS
    former = SparkSession.getActiveSession()
    spark = SparkSession.builder.appName(task.task_id).config(map=settings).getOrCreate()
    use_s3(spark, task.lake)
    with repeatedly(progress_of(spark, task), 5), input_errors():
        yield spark
    if former is None:
        spark.stop()


def tell_launcher(sentence: str) -> None:
    """Print a line on the stderr of spark-submit, which sends what a driver in Python prints there to its stdout."""
    if "PYSPARK_GATEWAY_PORT" in os.environ:
        gateway: Any = SparkContext._gateway or launch_gateway()
        gateway.jvm.java.lang.System.err.println(sentence)
        log4j = gateway.jvm.org.apache.logging.log4j  # before there is a session it would log its own end behind that
        log4j.core.config.Configurator.setRootLevel(log4j.Level.ERROR)


def submitted_to() -> str:
    """The master that spark-submit was told, before there is a session."""
    SparkContext._ensure_initialized()
    return SparkConf().get("spark.master", "") or ""


def own_settings(task: Task) -> dict[str, str]:
    """What `[spark]` of `job.toml` asks for, as far as it applies to a single process."""
    wanted: dict[str, str] = dict(task.job.spark.get("conf", {}))
    if memory := task.job.spark.get("driver_memory"):
        wanted["spark.driver.memory"] = memory
    return wanted


def use_s3(spark: SparkSession, lake: str) -> None:
    """Reach a lake on S3 where the environment names its server; Amazon's own clusters know their way.

    Files are uploaded to where they belong and appear when the job commits, which needs two classes that plain Spark
    lacks. Pending uploads below the folder may be another task's, so a commit leaves them alone.
    """
    endpoint = s3.endpoint()
    if not (storage.is_s3(lake) and endpoint):
        return
    java: Any = spark._jvm
    hadoop = spark.sparkContext._jsc.hadoopConfiguration()
    settings = {
        "fs.s3.impl": "org.apache.hadoop.fs.s3a.S3AFileSystem",
        "fs.s3a.endpoint": endpoint,
        "fs.s3a.endpoint.region": os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1",
        "fs.s3a.path.style.access": "true",
        "fs.s3a.connection.ssl.enabled": str(endpoint.startswith("https:")).lower(),
        "fs.s3a.aws.credentials.provider": f"{AWS_SDK}.auth.credentials.EnvironmentVariableCredentialsProvider",
        "fs.s3a.committer.name": "magic",
        "fs.s3a.committer.abort.pending.uploads": "false",
        # Each attempt has a folder of its own, so nothing has to be looked up before a file or a folder is made.
        "fs.s3a.performance.flags": "create,mkdir",
        "mapreduce.outputcommitter.factory.scheme.s3": "org.apache.hadoop.fs.s3a.commit.S3ACommitterFactory",
        "mapreduce.outputcommitter.factory.scheme.s3a": "org.apache.hadoop.fs.s3a.commit.S3ACommitterFactory",
    }
    if key := s3.encryption_key():
        settings |= {"fs.s3a.encryption.algorithm": "SSE-KMS", "fs.s3a.encryption.key": key}
    for name, value in settings.items():
        hadoop.set(name, value)
    with contextlib.suppress(Exception):  # without them Spark renames what it wrote, which is slower and right as well
        java.java.lang.Class.forName(COMMIT_PROTOCOL)
        spark.conf.set("spark.sql.sources.commitProtocolClass", COMMIT_PROTOCOL)
        spark.conf.set(
            "spark.sql.parquet.output.committer.class",
            "org.apache.spark.internal.io.cloud.BindingParquetOutputCommitter",
        )


def progress_of(spark: SparkSession, task: Task) -> Callable[[], None]:
    """A function that tells the task how far Spark's running stages are."""
    tracker = spark.sparkContext.statusTracker()

    def look() -> None:
        with contextlib.suppress(Exception):  # a line about progress must not end the work
            stages = [tracker.getStageInfo(stage) for stage in tracker.getActiveStageIds()]
            if running := [stage for stage in stages if stage]:
                name = running[0].name.split(" at ")[0]
                done, total = (
                    sum(getattr(stage, field) for stage in running) for field in ("numCompletedTasks", "numTasks")
                )
                task.progress(f"Spark tasks of '{name}'", done, total)

    return look


LAST_LINE_SINKS.append(tell_launcher)

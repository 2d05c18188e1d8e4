"""Settings of Spark for a lake in an object store."""

import contextlib
import os
from typing import Any

from pyspark.sql import SparkSession

from common.errors import ArgumentError
from common.handover.stores import gs, s3

AWS_SDK = "software.amazon.awssdk"
MANIFEST_COMMITTER = "org.apache.hadoop.mapreduce.lib.output.committer.manifest"
COMMIT_PROTOCOL = "org.apache.spark.internal.io.cloud.PathOutputCommitProtocol"


def use_object_store(spark: SparkSession, lake: str) -> None:
    """Configure the store of a lake, if it is in one."""
    if lake.startswith("s3://"):
        use_s3(spark)
    elif lake.startswith("gs://"):
        use_gs(spark)


def use_s3(spark: SparkSession) -> None:
    """Configure S3 if the environment names a server; Amazon's clusters are configured already.

    Files are uploaded to their final keys and appear when the job commits, which needs two classes that plain Spark
    lacks. Pending uploads below the folder may belong to another task, so a commit does not abort them.
    """
    endpoint = s3.endpoint()
    if not endpoint:
        return
    settings = {
        "fs.s3.impl": "org.apache.hadoop.fs.s3a.S3AFileSystem",
        "fs.s3a.endpoint": endpoint,
        "fs.s3a.endpoint.region": os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1",
        "fs.s3a.path.style.access": "true",
        "fs.s3a.connection.ssl.enabled": str(endpoint.startswith("https:")).lower(),
        "fs.s3a.aws.credentials.provider": f"{AWS_SDK}.auth.credentials.EnvironmentVariableCredentialsProvider",
        "fs.s3a.committer.name": "magic",
        "fs.s3a.committer.abort.pending.uploads": "false",
        # Each attempt has its own folder, so nothing has to be looked up before a file or a folder is created.
        "fs.s3a.performance.flags": "create,mkdir",
        "mapreduce.outputcommitter.factory.scheme.s3": "org.apache.hadoop.fs.s3a.commit.S3ACommitterFactory",
        "mapreduce.outputcommitter.factory.scheme.s3a": "org.apache.hadoop.fs.s3a.commit.S3ACommitterFactory",
    }
    if key := s3.encryption_key():
        settings |= {"fs.s3a.encryption.algorithm": "SSE-KMS", "fs.s3a.encryption.key": key}
    configure(spark, settings)
    use_committers(spark)


def use_gs(spark: SparkSession) -> None:
    """Configure Google's connector, which Dataproc has, too; ArgumentError if the environment names a KMS key.

    Objects cannot be renamed, so a commit copies them, and folders cannot be renamed at once. Hadoop's manifest
    committer needs neither: a task commits by one list of its files, and the driver copies the listed files to their
    names, once and in parallel. Spark's default way would copy each file twice.
    """
    if key := gs.encryption_key():
        raise ArgumentError(
            f"Spark can't write to Google's storage with a key of its own, and TANDEM_GS_KMS_KEY is {key}; make it the "
            "default key of the bucket and unset the variable."
        )
    settings = {
        "fs.gs.impl": "com.google.cloud.hadoop.fs.gcs.GoogleHadoopFileSystem",
        "mapreduce.outputcommitter.factory.scheme.gs": f"{MANIFEST_COMMITTER}.ManifestCommitterFactory",
        # Each attempt has its own folder, so nothing has to be looked up before a file or a folder is created.
        "fs.gs.create.items.conflict.check.enable": "false",
        "fs.gs.implicit.dir.repair.enable": "false",  # no objects that stand for folders
    }
    if endpoint := gs.endpoint():
        settings |= {
            "fs.gs.storage.root.url": endpoint,
            "fs.gs.auth.service.account.enable": "false",
            "fs.gs.auth.null.enable": "true",
        }
    configure(spark, settings)
    use_committers(spark)


def use_committers(spark: SparkSession) -> None:
    """Let Spark commit files as Hadoop's settings say; without these two classes it copies them, slower but right."""
    java: Any = spark._jvm
    with contextlib.suppress(Exception):
        java.java.lang.Class.forName(COMMIT_PROTOCOL)
        spark.conf.set("spark.sql.sources.commitProtocolClass", COMMIT_PROTOCOL)
        spark.conf.set(
            "spark.sql.parquet.output.committer.class",
            "org.apache.spark.internal.io.cloud.BindingParquetOutputCommitter",
        )


def configure(spark: SparkSession, settings: dict[str, str]) -> None:
    """Set properties of Hadoop in a session."""
    hadoop: Any = spark.sparkContext._jsc.hadoopConfiguration()
    for name, value in settings.items():
        hadoop.set(name, value)

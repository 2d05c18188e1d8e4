"""Bring the libraries by which Spark reads and writes S3 into this environment's Spark (10 MB)."""

import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import files
from pathlib import Path

import pyspark

HADOOP = "3.4.1"  # the version that pyspark bundles
AWS = "2.25.53"  # older ones lack the transfer manager; the bundle that hadoop-aws asks for is 558 MB
PACKAGES = [
    f"org.apache.hadoop:hadoop-aws:{HADOOP}",
    f"org.apache.spark:spark-hadoop-cloud_2.13:{pyspark.__version__}",
    f"software.amazon.awssdk:s3:{AWS}",
    f"software.amazon.awssdk:s3-transfer-manager:{AWS}",
    f"software.amazon.awssdk:sts:{AWS}",
]
EXCLUDED = [
    "software.amazon.awssdk:bundle",
    "software.amazon.awssdk:netty-nio-client",
    "org.wildfly.openssl:wildfly-openssl",
    "org.slf4j:slf4j-api",
    "org.apache.hadoop:hadoop-client-runtime",
    "org.apache.hadoop:hadoop-client-api",
    "org.apache.hadoop:hadoop-azure",
    "org.apache.hadoop:hadoop-cloud-storage",
    "com.google.cloud.bigdataoss:gcs-connector",
    "io.netty:netty-common",
    "org.apache.spark:spark-core_2.13",
]


def main() -> None:
    jars = Path(pyspark.__file__).parent / "jars"
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "nothing.py"
        program.write_text("")
        command = [
            str(Path(pyspark.__file__).parent / "bin/spark-submit"),
            *("--master", "local[1]", "--conf", f"spark.jars.ivy={folder}/ivy"),
            *("--packages", ",".join(PACKAGES), "--exclude-packages", ",".join(EXCLUDED), str(program)),
        ]
        process = subprocess.run(command, capture_output=True, text=True)
        found = list(Path(folder).glob("ivy/jars/*.jar"))
        if process.returncode or not found:
            print(process.stderr[-4000:], file=sys.stderr)
            raise SystemExit("The libraries for S3 could not be fetched, expected a reachable Maven repository.")
        named = {jar.name.split("_", 1)[1]: jar for jar in found}  # Ivy puts the organisation before the name
        missing = {name: jar for name, jar in named.items() if not (jars / name).exists()}
        for name, jar in missing.items():
            shutil.copy(jar, jars / name)
    print(f"Spark can use S3: {len(missing)} libraries added.")


def added_jars() -> list[Path]:
    """The libraries in this environment's Spark that did not come with it."""
    own = {Path(file).name for file in files("pyspark") or []}
    return [jar for jar in sorted((Path(pyspark.__file__).parent / "jars").glob("*.jar")) if jar.name not in own]


if __name__ == "__main__":
    main()

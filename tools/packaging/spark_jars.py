"""Install the libraries with which this environment's Spark reads and writes S3 (10 MB) and Google's storage (39 MB).

requirements/spark-jars.sha256 pins each; run `python -m tools.packaging.spark_jars --pin` after a change of PACKAGES.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import distribution
from pathlib import Path

from common.errors import TaskError

SPARK = distribution("pyspark")  # unlike an import of it, this takes no time
JARS = Path(str(SPARK.locate_file("pyspark/jars")))
PINNED = Path(__file__).parents[2] / "requirements" / "spark-jars.sha256"
HADOOP = "3.4.1"  # the version that pyspark bundles
AWS = "2.25.53"  # older ones lack the transfer manager; the bundle that hadoop-aws depends on is 558 MB
# The last one whose library with all its parts, and whose parent, are published.
GCS = "com.google.cloud.bigdataoss:gcs-connector:hadoop3-2.2.28:shaded"
PACKAGES = [
    f"org.apache.hadoop:hadoop-aws:{HADOOP}",
    f"org.apache.spark:spark-hadoop-cloud_2.13:{SPARK.version}",
    f"software.amazon.awssdk:s3:{AWS}",
    f"software.amazon.awssdk:s3-transfer-manager:{AWS}",
    f"software.amazon.awssdk:sts:{AWS}",
    GCS,
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
    with tempfile.TemporaryDirectory() as folder:
        fetched = fetch(Path(folder))
        if "--pin" in sys.argv[1:]:
            PINNED.write_text("".join(f"{digest(jar)}  {name}\n" for name, jar in sorted(fetched.items())))
        check(fetched, pinned())
        missing = {name: jar for name, jar in fetched.items() if not same(JARS / name, jar)}
        for name, jar in missing.items():
            shutil.copy(jar, JARS / name)
    print(f"Spark can use S3 and Google's storage: {len(missing)} libraries added.")


def fetch(folder: Path) -> dict[str, Path]:
    """Fetch the libraries from a Maven repository by the Ivy of Spark; return their files by name."""
    (folder / "ivy.xml").write_text(description())
    program = [str(SPARK.locate_file("pyspark/bin/spark-class")), "org.apache.ivy.Main"]
    options = ["-ivy", f"{folder}/ivy.xml", "-cache", f"{folder}/ivy"]
    target = ["-retrieve", f"{folder}/jars/[artifact]-[revision](-[classifier]).[ext]"]
    process = subprocess.run([*program, *options, *target], capture_output=True, text=True)
    jars = {jar.name: jar for jar in folder.glob("jars/*.jar")}
    if process.returncode or not jars:
        print(process.stdout[-4000:], process.stderr[-4000:], file=sys.stderr)
        raise SystemExit("Spark's libraries could not be fetched, expected a reachable Maven repository.")
    bundled = {Path(file).name for file in SPARK.files or []}
    return {name: jar for name, jar in jars.items() if name not in bundled}


def description() -> str:
    """Return Ivy's description of the libraries: a package with its parts brings no other library."""
    organisations = [package.split(":") for package in EXCLUDED]
    excluded = "".join(f'<exclude org="{organisation}" module="{name}"/>' for organisation, name in organisations)
    dependencies = []
    for package in PACKAGES:
        organisation, name, revision, *classifier = package.split(":")
        artifact = f'<artifact name="{name}" type="jar" ext="jar" m:classifier="{"".join(classifier)}"/>'
        rest = f' transitive="false">{artifact}' if classifier else f">{excluded}"
        start = f'<dependency org="{organisation}" name="{name}" rev="{revision}" conf="default->default"'
        dependencies.append(f"{start}{rest}</dependency>")
    return (
        '<ivy-module version="2.0" xmlns:m="http://ant.apache.org/ivy/maven">'
        '<info organisation="tandem" module="jars"/>'
        f'<configurations><conf name="default"/></configurations><dependencies>{"".join(dependencies)}</dependencies>'
        "</ivy-module>"
    )


def pinned() -> dict[str, str]:
    """Return the SHA-256 of each library by its name."""
    return {name: expected for expected, name in (line.split() for line in PINNED.read_text().splitlines())}


def check(fetched: dict[str, Path], expected: dict[str, str]) -> None:
    """Exit for the first library that is missing, unexpected, or differs from its pin."""
    for name in sorted(fetched.keys() | expected.keys()):
        actual = digest(fetched[name]) if name in fetched else "missing"
        if actual != expected.get(name):
            wanted = expected.get(name, "no such library")
            raise SystemExit(
                f"{name} is {actual}, expected {wanted} as {PINNED.name} pins it; nothing was "
                "added. If PACKAGES changed, pin the new libraries: python -m tools.packaging.spark_jars --pin."
            )


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def same(installed: Path, jar: Path) -> bool:
    return installed.is_file() and digest(installed) == digest(jar)


def added_jars() -> list[Path]:
    """Return the libraries added to this environment's Spark; TaskError if one differs from its pin."""
    for name, expected in pinned().items():
        if not (JARS / name).is_file() or digest(JARS / name) != expected:
            raise TaskError(
                f"{JARS / name} differs from the library that {PINNED.name} pins; remove .venv, then run make setup."
            )
    return [JARS / name for name in sorted(pinned())]


if __name__ == "__main__":
    main()

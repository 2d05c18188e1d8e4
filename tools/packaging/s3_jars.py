"""Install the S3 libraries of this environment's Spark (10 MB).

requirements/s3-jars.sha256 pins each; run `python -m tools.packaging.s3_jars --pin` after a change of PACKAGES.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import files
from pathlib import Path

import pyspark

from common.errors import TaskError

PINNED = Path(__file__).parents[2] / "requirements" / "s3-jars.sha256"
HADOOP = "3.4.1"  # the version that pyspark bundles
AWS = "2.25.53"  # older ones lack the transfer manager; the bundle that hadoop-aws depends on is 558 MB
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
        fetched = fetch(Path(folder))
        if "--pin" in sys.argv[1:]:
            PINNED.write_text("".join(f"{digest(jar)}  {name}\n" for name, jar in sorted(fetched.items())))
        check(fetched, pinned())
        missing = {name: jar for name, jar in fetched.items() if not same(jars / name, jar)}
        for name, jar in missing.items():
            shutil.copy(jar, jars / name)
    print(f"Spark can use S3: {len(missing)} libraries added.")


def fetch(folder: Path) -> dict[str, Path]:
    """Fetch the libraries from a Maven repository; return their files by name."""
    program = folder / "nothing.py"
    program.write_text("")
    command = [
        str(Path(pyspark.__file__).parent / "bin/spark-submit"),
        *("--master", "local[1]", "--conf", f"spark.jars.ivy={folder}/ivy"),
        *("--packages", ",".join(PACKAGES), "--exclude-packages", ",".join(EXCLUDED), str(program)),
    ]
    process = subprocess.run(command, capture_output=True, text=True)
    jars = list(folder.glob("ivy/jars/*.jar"))
    if process.returncode or not jars:
        print(process.stderr[-4000:], file=sys.stderr)
        raise SystemExit("The libraries for S3 could not be fetched, expected a reachable Maven repository.")
    by_name = {jar.name.split("_", 1)[1]: jar for jar in jars}  # Ivy puts the organisation before the name
    bundled = {Path(file).name for file in files("pyspark") or []}
    return {name: jar for name, jar in by_name.items() if name not in bundled}


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
                "added. If PACKAGES changed, pin the new libraries: python -m tools.packaging.s3_jars --pin."
            )


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def same(installed: Path, jar: Path) -> bool:
    return installed.is_file() and digest(installed) == digest(jar)


def added_jars() -> list[Path]:
    """Return the libraries added to this environment's Spark; TaskError if one differs from its pin."""
    jars = Path(pyspark.__file__).parent / "jars"
    for name, expected in pinned().items():
        if not (jars / name).is_file() or digest(jars / name) != expected:
            raise TaskError(
                f"{jars / name} differs from the library that {PINNED.name} pins; remove .venv, then run make setup."
            )
    return [jars / name for name in sorted(pinned())]


if __name__ == "__main__":
    main()

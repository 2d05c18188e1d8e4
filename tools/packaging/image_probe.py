"""Measure the start time and the imported files of a job's image; runs inside it, from its standard input."""

import json
import os
import subprocess
import sys
from collections import Counter
from importlib.metadata import PackagePath, distributions
from pathlib import Path

PACKAGES = Path("/packages")
MAIN = "/app/job/main.py"
LIGHT = (PACKAGES / "sqlframe").exists()  # a Spark job's image without Spark
START = ["-m", "common.engines.light.submit", MAIN] if LIGHT else [MAIN]
LOAD = f"""
import runpy
from common.handover.stores import s3
{"from common.engines.light.activate import activate; activate()" if LIGHT else ""}
runpy.run_path({MAIN!r})
s3.client()
"""
TIMED = f"{LOAD}import sys, time; print(round(time.process_time(), 3), len(sys.modules))"


def main() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"  # a waiting second thread of BLAS spins, which would count as import time
    imports = [subprocess.check_output([sys.executable, "-c", TIMED]).split() for _ in range(5)]
    report = {
        "python_seconds": seconds("-c", "pass"),
        "help_seconds": seconds(*START, "--help"),
        "import_seconds": min(float(taken) for taken, _ in imports),
        "modules": int(imports[0][1]),
    }
    used = used_files()
    packages: dict[str, dict[str, int]] = {}
    unused: Counter[str] = Counter()
    for distribution in distributions(path=[str(PACKAGES)]):
        package = packages[distribution.name] = {"bytes": 0, "unused": 0}
        for file in files(distribution.files or []):
            size = os.path.getsize(file)
            package["bytes"] += size
            if str(file) not in used:
                package["unused"] += size
                unused["/".join(file.relative_to(PACKAGES).parts[:2])] += size
    print(json.dumps(report | {"packages": packages, "unused": dict(unused.most_common(15))}))


def seconds(*arguments: str) -> float:
    """Return the processor time of a Python process, the minimum of five: load affects it less than wall time."""
    times = []
    for _ in range(5):
        before = os.times()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        after = os.times()
        times.append(after.children_user + after.children_system - before.children_user - before.children_system)
    return round(min(times), 3)


def used_files() -> set[str]:
    """Return the files that are read or mapped when the job does its imports and creates its S3 client."""
    opened = set()
    sys.addaudithook(lambda event, arguments: opened.add(str(arguments[0])) if event == "open" else None)
    exec(LOAD, {})
    sources = {str(getattr(module, "__file__", "")) for module in sys.modules.values()}
    mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
    return {os.path.realpath(file) for file in opened | sources | mapped}


def files(listed: list[PackagePath]) -> list[Path]:
    """Return the existing files of a package, compiled modules instead of their sources."""
    installed = [PACKAGES / str(file) for file in listed]
    compiled = [file.with_suffix(".pyc") for file in installed if file.suffix == ".py"]
    return [file for file in [*installed, *compiled] if file.is_file() and not file.is_symlink()]


main()

"""A Spark job on one of its engines, in a process of its own: `python -m benchmarks.engines --engine light …`.

It prints the folder of its output, the seconds of work without the start, and metrics of Spark. It imports little: its
own start is part of the measured time.
"""

import argparse
import itertools
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks import job
from common.handover.job_toml import load

ENGINES = {"light": "ours, light", "spark": "ours, Spark"}  # with their names in tables


def command(engine: str, lake: Path, name: str) -> list[str]:
    """Return the command of this file that runs a job on an engine."""
    return [sys.executable, "-m", "benchmarks.engines", "--engine", engine, "--lake", str(lake), "--job", name]


def run_light(program: list[str], output: Path) -> dict[str, Any]:
    """Run a job on DuckDB; return its seconds without Python's start and imports."""
    run([sys.executable, "-m", "common.engines.light.submit", *program])
    return {"work": json.loads((output / "manifest.json").read_bytes())["seconds"]}


def run_spark(program: list[str], output: Path) -> dict[str, Any]:
    """Run a job by spark-submit, with the driver's memory of its job.toml; return Spark's metrics."""
    with tempfile.TemporaryDirectory() as events:
        settings = {
            "spark.driver.memory": load(job.ROOT / "jobs" / output.name).spark["driver_memory"],
            "spark.eventLog.enabled": "true",
            "spark.eventLog.compress": "false",
            "spark.eventLog.dir": f"file://{events}",
        }
        options = [
            "--master",
            f"local[{os.environ.get('OMP_NUM_THREADS', '*')}]",
        ]  # as many threads as the other engine
        options += itertools.chain(*[("--conf", f"{name}={value}") for name, value in settings.items()])
        run([str(Path(sys.executable).with_name("spark-submit")), *options, *program])
        return spark_metrics(Path(events))


def run(command: list[str]) -> None:
    subprocess.run(command, cwd=job.ROOT, env=job.environment(), check=True, stdout=sys.stderr)


def spark_metrics(events: Path) -> dict[str, float]:
    """Return seconds from the first query to the end of the application, bytes spilled and number of shuffles."""
    found: Counter[str] = Counter()
    began, ended = math.inf, 0.0
    shuffles = set()
    for line in itertools.chain.from_iterable(file.open() for file in events.rglob("events*") if file.is_file()):
        event = json.loads(line)
        if event["Event"].endswith("SQLExecutionStart"):
            began = min(began, event["time"])
        elif event["Event"] == "SparkListenerApplicationEnd":
            ended = event["Timestamp"]
        elif event["Event"] == "SparkListenerTaskEnd" and (metrics := event.get("Task Metrics")):
            found["spilled"] += metrics["Memory Bytes Spilled"] + metrics["Disk Bytes Spilled"]
            written = metrics["Shuffle Write Metrics"]["Shuffle Bytes Written"]
            found["shuffled"] += written
            if written:
                shuffles.add(event["Stage ID"])
    return {**found, "shuffles": len(shuffles), "work": (ended - began) / 1000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--engine", choices=ENGINES, required=True)
    parser.add_argument("--lake", type=Path, required=True, help="folder of a lake with the job's input")
    parser.add_argument("--job", required=True)
    arguments = parser.parse_args()
    lake, name = arguments.lake.resolve(), arguments.job
    if name == "ingest_events":
        shutil.rmtree(lake / "curated", ignore_errors=True)  # else all events would be known
    run_id = f"{arguments.engine}-{uuid.uuid4().hex[:8]}"
    program = job.command(lake, name, run_id=run_id)[1:]
    output = lake / "intermediate" / "benchmark" / run_id / name
    figures = (run_light if arguments.engine == "light" else run_spark)(program, output)
    print(json.dumps({"output": str(output), **figures}))


if __name__ == "__main__":
    main()

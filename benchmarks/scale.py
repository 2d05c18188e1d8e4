"""Cost of each stage as events grow: wall and CPU seconds and memory by size, a log-log plot, the exponent of each.

Every stage is the job itself, as a process on this machine, on generated curated events; `build_interactions` runs on
the light engine. Its output is the next one's input. `benchmarks.preprocessing` measures ingestion, and Spark.
"""

import argparse
import itertools
import math
import os
import shutil
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.measure import Measurement
from benchmarks.preprocessing import ROOT, shop
from common.handover.job_toml import load
from common.reporting.charts import svg

PLOT = ROOT / "docs" / "images" / "scale.svg"
SHARDS = 8  # the hand-over of the smallest size has no more buckets
KNEE = 1.2  # the exponent between two sizes from which a stage grows clearly faster than its events
REDUCED: dict[str, Callable[[list[Any]], Any]] = {"wall": sum, "cpu": sum, "peak": max}  # of the shards of a stage
STAGES: dict[str, list[str]] = {
    "build_interactions": [],
    "train_recommender": ["--from", "interactions=build_interactions"],
    "predict_recommendations": ["--from", "interactions=build_interactions", "--from", "model=train_recommender"],
    "select_recommendations": ["--from", "predictions=predict_recommendations", "--from", "model=train_recommender"],
}


def commands_of(lake: Path, run: str, stage: str) -> list[list[str]]:
    """Return the command of a stage; of a mapped one that of each shard."""
    job = load(ROOT / "jobs" / stage)
    identity = ["--lake", f"file://{lake}", "--dag-id", "scale", "--run-id", run, "--task-id", stage, "--attempt", "1"]
    shards = [["--map-index", str(number), "--set", f"{job.mapped_by}={SHARDS}"] for number in range(SHARDS)]
    launcher = [sys.executable]
    if job.engine == "spark":
        launcher += ["-m", "common.engines.light.submit"]
    command = [*launcher, f"jobs/{stage}/main.py", *identity, *STAGES[stage]]
    return [[*command, *shard] for shard in shards] if job.mapped_by else [command]


def measured(events: int) -> dict[str, Measurement]:
    """Run all stages on this many events."""
    lake, run = shop(events, "curated"), f"scale-{uuid.uuid4().hex[:8]}"
    found = {}
    for stage in STAGES:
        print(f"  {events:,} events, {stage} …", end="", file=sys.stderr, flush=True)
        environment = {"PYTHONPATH": str(ROOT), "PYSPARK_PYTHON": sys.executable}
        many = [measure.run(command, environment) for command in commands_of(lake, run, stage)]
        wall, cpu, peak = (reduce([getattr(each, name) for each in many]) for name, reduce in REDUCED.items())
        one = found[stage] = Measurement(wall, cpu, peak, {})
        print(f" {one.wall:.1f} s, CPU {one.cpu:.1f} s, {one.peak >> 20:,} MiB", file=sys.stderr, flush=True)
    shutil.rmtree(lake / "intermediate" / "scale" / run)
    return found


def exponents(found: dict[int, dict[str, Measurement]], stage: str) -> list[float]:
    """Return the slope of a stage's CPU seconds in the log-log plot, between each two neighbouring sizes."""
    return [
        math.log(found[larger][stage].cpu / found[smaller][stage].cpu) / math.log(larger / smaller)
        for smaller, larger in itertools.pairwise(sorted(found))
    ]


def knee(found: dict[int, dict[str, Measurement]], stage: str) -> str:
    """Name the size from which a stage grows faster than its events, by KNEE."""
    for size, exponent in zip(sorted(found), exponents(found, stage), strict=False):
        if exponent > KNEE:
            return f"above {size:,} events"
    return "none up to here"


def table(found: dict[int, dict[str, Measurement]]) -> str:
    """Return Markdown: seconds and memory by size and stage, the last exponent and the knee."""
    sizes = sorted(found)
    head = " | ".join(f"{size:,} events" for size in sizes)
    lines = [f"| wall s / CPU s / peak MiB | {head} | exponent | knee |", "|---|" + "---|" * (len(sizes) + 2)]
    for stage in STAGES:
        cells = [
            f"{one.wall:.1f} / {one.cpu:.1f} / {one.peak >> 20:,}" for one in (found[size][stage] for size in sizes)
        ]
        slopes = exponents(found, stage)
        last = f"{slopes[-1]:.2f}" if slopes else ""
        shown = f"{stage}, {SHARDS} shards" if load(ROOT / "jobs" / stage).mapped_by else stage
        lines.append(f"| {shown} | {' | '.join(cells)} | {last} | {knee(found, stage)} |")
    return "\n".join(lines)


def plot(found: dict[int, dict[str, Measurement]]) -> str:
    """Return an SVG: CPU seconds by events, one line per stage, both axes logarithmic."""
    values = [
        {"events": size, "CPU seconds": one.cpu, "stage": stage}
        for size, stages in found.items()
        for stage, one in stages.items()
    ]
    logarithmic: dict[str, Any] = {"scale": {"type": "log"}, "type": "quantitative"}
    specification = {
        "data": {"values": values},
        "mark": {"type": "line", "point": True},
        "width": 520,
        "height": 320,
        "encoding": {
            "x": {"field": "events", **logarithmic, "axis": {"format": "~s"}},
            "y": {"field": "CPU seconds", **logarithmic},
            "color": {"field": "stage", "type": "nominal", "sort": list(STAGES)},
        },
    }
    return svg(specification)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--events", type=int, nargs="+", default=[1_000_000, 3_000_000, 10_000_000])
    arguments = parser.parse_args()
    os.chdir(ROOT)
    found = {events: measured(events) for events in sorted(arguments.events)}
    PLOT.write_text(plot(found))
    command = " ".join(["python -m benchmarks.scale", *sys.argv[1:]])
    body = f"{table(found)}\n\n{measure.versions('duckdb', 'pyarrow', 'scikit-learn')}"
    measure.record(f"growth from {min(found):,} to {max(found):,} events", command, body)


if __name__ == "__main__":
    main()

"""Cost of each stage as events grow: wall and CPU seconds and memory by size, a log-log plot, the exponent of each.

Every stage is the job itself, as a process on this machine, on generated curated events. Its output is the next one's
input. Ingestion is measured by `benchmarks.preprocessing`.
"""

import argparse
import itertools
import json
import math
import os
import shutil
import sys
import uuid
from pathlib import Path
from typing import Any

import vl_convert

from benchmarks import measure
from benchmarks.measure import Measurement
from benchmarks.preprocessing import ROOT, shop
from common.handover.job_toml import load

PLOT = ROOT / "docs" / "images" / "scale.svg"
SHARDS = 32
KNEE = 1.2  # the exponent between two sizes from which a stage grows clearly faster than its events
STAGES: dict[str, list[str]] = {
    "build_interactions": [],
    "train_recommender": ["--from", "interactions=build_interactions"],
    "predict_recommendations": ["--from", "interactions=build_interactions", "--from", "model=train_recommender"],
    "select_recommendations": ["--from", "predictions=predict_recommendations", "--from", "model=train_recommender"],
}


def command_of(lake: Path, run: str, stage: str) -> list[str]:
    """Return the command of a stage; of a mapped one its first shard."""
    job = load(ROOT / "jobs" / stage)
    identity = ["--lake", f"file://{lake}", "--dag-id", "scale", "--run-id", run, "--task-id", stage, "--attempt", "1"]
    mapped = ["--map-index", "0", "--set", f"{job.mapped_by}={SHARDS}"] if job.mapped_by else []
    launcher = [sys.executable]
    if job.engine == "spark":
        launcher = [str(Path(sys.executable).with_name("spark-submit"))]
        launcher += ["--conf", f"spark.driver.memory={job.spark['driver_memory']}"]
    return [*launcher, f"jobs/{stage}/main.py", *identity, *mapped, *STAGES[stage]]


def measured(events: int) -> dict[str, Measurement]:
    """Run all stages on this many events."""
    lake, run = shop(events, "curated"), f"scale-{uuid.uuid4().hex[:8]}"
    found = {}
    for stage in STAGES:
        print(f"  {events:,} events, {stage} …", end="", file=sys.stderr, flush=True)
        environment = {"PYTHONPATH": str(ROOT), "PYSPARK_PYTHON": sys.executable}
        one = found[stage] = measure.run(command_of(lake, run, stage), environment)
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
        shown = f"{stage}, 1 of {SHARDS} shards" if load(ROOT / "jobs" / stage).mapped_by else stage
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
    svg: str = vl_convert.vegalite_to_svg(json.dumps(specification))
    return svg


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--events", type=int, nargs="+", default=[1_000_000, 3_000_000, 10_000_000])
    arguments = parser.parse_args()
    os.chdir(ROOT)
    found = {events: measured(events) for events in sorted(arguments.events)}
    PLOT.write_text(plot(found))
    command = " ".join(["python -m benchmarks.scale", *sys.argv[1:]])
    body = f"{table(found)}\n\n{measure.versions('pyspark', 'pyarrow')}"
    measure.record(f"growth from {min(found):,} to {max(found):,} events", command, body)


if __name__ == "__main__":
    main()

"""A job as a process on a lake of files, for benchmarks that run several in a row."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def run(lake: Path, job: str, *arguments: str, run_id: str = "run", code: Path = ROOT) -> dict[str, Any]:
    """Run a job, of a folder with code, as the task of its name; return its metrics.

    SystemExit with its last line if it fails.
    """
    identity = ["--lake", f"file://{lake}", "--dag-id", "benchmark", "--run-id", run_id, "--attempt", "1"]
    command = [sys.executable, f"jobs/{job}/main.py", *identity, "--task-id", job, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(code), "PYSPARK_PYTHON": sys.executable}
    done = subprocess.run(command, cwd=code, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{job} failed: {done.stderr.strip().splitlines()[-1]}")
    mapped = "map-0/" if "--map-index" in arguments else ""
    manifest = lake / "intermediate" / "benchmark" / run_id / job / f"{mapped}manifest.json"
    metrics: dict[str, Any] = json.loads(manifest.read_text())["metrics"]
    return metrics

"""A job as a process on a lake of files, for benchmarks that run several in a row."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def command(lake: Path, job: str, *arguments: str, run_id: str = "run") -> list[str]:
    """Return the command of a job as the task of its name."""
    identity = ["--lake", f"file://{lake}", "--dag-id", "benchmark", "--run-id", run_id, "--attempt", "1"]
    return [sys.executable, f"jobs/{job}/main.py", *identity, "--task-id", job, *arguments]


def environment(code: Path = ROOT) -> dict[str, str]:
    """Return the environment of a job's process."""
    return {**os.environ, "PYTHONPATH": str(code), "PYSPARK_PYTHON": sys.executable}


def run(lake: Path, job: str, *arguments: str, run_id: str = "run", code: Path = ROOT) -> dict[str, Any]:
    """Run a job, of a folder with code, as the task of its name; return its metrics.

    SystemExit with its last line if it fails.
    """
    line = command(lake, job, *arguments, run_id=run_id)
    done = subprocess.run(line, cwd=code, env=environment(code), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{job} failed: {done.stderr.strip().splitlines()[-1]}")
    mapped = "map-0/" if "--map-index" in arguments else ""
    manifest = lake / "intermediate" / "benchmark" / run_id / job / f"{mapped}manifest.json"
    metrics: dict[str, Any] = json.loads(manifest.read_text())["metrics"]
    return metrics

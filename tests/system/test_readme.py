"""The commands in the README and in docs/ do what they say."""

import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "airflow_dags").rglob("README.md")]


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def test_every_target_of_make_that_is_named_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        target for page in PAGES for target in re.findall(r"(?:`|^)make ([a-z][a-z-]+)", page.read_text(), re.MULTILINE)
    }
    assert {"demo", "test"} <= named
    assert named <= targets


def test_a_job_runs_by_hand_as_the_readme_says(tmp_path):
    """All commands of that section, in one shell, with the lake elsewhere."""
    by_hand = [block for block in blocks(ROOT / "README.md") if "jobs/" in block]
    assert len(by_hand) == 1
    commands = by_hand[0].replace("make sample\n", f"make sample LAKE=file://{tmp_path}\n")
    commands = commands.replace("file://$PWD/.tandem/lake", f"file://{tmp_path}").replace(
        ".tandem/lake/", f"{tmp_path}/"
    )
    process = subprocess.run(["bash", "-euc", commands], cwd=ROOT, capture_output=True, text=True, env=dict(os.environ))
    assert process.returncode == 0, process.stderr[-3000:]
    assert '"job": "train_recommender"' in process.stdout
    assert "--set NAME=VALUE" in process.stdout

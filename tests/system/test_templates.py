"""Jobs and pipelines from the templates, as documented: in a copy of the repository, with lint, tests and Airflow."""

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from documents import blocks

from tools.airflow_api import Airflow

ROOT = Path(__file__).parents[2]
INSTALLED = (".venv", ".venv-airflow", ".tandem/uv", ".tandem/java")
OTHERS = {"only_spark": "spark", "only_container": "container"}  # docs/new_pipeline.md creates the hybrid one


class Copy:
    """A copy of the repository's files, with the installed environments."""

    def __init__(self, root: Path) -> None:
        self.root = root
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        )
        for name in listed.stdout.rstrip("\0").split("\0"):
            if (ROOT / name).exists():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, root / name)  # with its time, so that make does not reinstall
        (root / ".tandem").mkdir()
        for name in INSTALLED:
            if (ROOT / name).exists():
                (root / name).symlink_to(ROOT / name)

    def start(self, commands: str, **options) -> subprocess.Popen:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
        environment = {**inherited, "PYTHONPATH": str(self.root), "MYPY_CACHE_DIR": str(ROOT / ".mypy_cache")}
        return subprocess.Popen(
            ["bash", "-euc", commands],
            cwd=self.root,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            **options,
        )

    def run(self, commands: str) -> tuple[int, str]:
        process = self.start(commands)
        output, _ = process.communicate()
        return process.returncode, output


def run_successfully(copy: Copy, commands: str) -> str:
    code, output = copy.run(commands)
    assert code == 0, output[-5000:]
    return output


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    return Copy(tmp_path_factory.mktemp("copy") / "tandem")


@pytest.fixture(scope="module")
def new_jobs(copy: Copy) -> str:
    """Output of the commands of docs/new_job.md, run in one shell."""
    return run_successfully(copy, "".join(blocks(copy.root / "docs" / "new_job.md")))


@pytest.fixture(scope="module")
def new_pipelines(copy: Copy, new_jobs: str) -> str:
    """Output of the commands of docs/new_pipeline.md, run after pipelines of the other patterns were created."""
    others = "".join(f"make new-pipeline NAME={name} PATTERN={pattern}\n" for name, pattern in OTHERS.items())
    tests = " ".join(f"tests/airflow_dags/test_{name}.py" for name in OTHERS)
    tested = f'make test TESTS="{tests}"\n'
    return run_successfully(copy, others + tested + "".join(blocks(copy.root / "docs" / "new_pipeline.md")))


def test_new_jobs_pass_lint_and_tests_run_and_build(copy: Copy, new_jobs: str) -> None:
    assert re.search(r"\b6 passed", new_jobs)
    assert "min_users" in new_jobs, "--help explains the job"
    assert '"contract": "popular_items@1"' in new_jobs
    assert (copy.root / "dist" / "popular_items").is_dir()


def test_new_jobs_run_in_their_images(docker_engine: None, copy: Copy, new_jobs: str) -> None:
    output = run_successfully(copy, "".join(blocks(copy.root / "docs" / "new_job.md", "docker")))
    assert re.search(r"popular_items done seconds=", output)
    assert re.search(r"popular_goods done seconds=", output)


def test_new_pipelines_of_all_patterns_run_through_airflow(copy: Copy, new_pipelines: str) -> None:
    (block,) = blocks(copy.root / "docs" / "new_pipeline.md", "airflow")
    process = copy.start(block, start_new_session=True)
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if found := re.search(r"Airflow is at (http://\S+)", line):
                break
        else:
            pytest.fail("".join(lines))
        airflow = Airflow(found[1], Airflow(found[1], "").call("/auth/token")["access_token"])
        pipelines = ("weekly_items", *OTHERS)
        runs = {name: airflow.trigger(name) for name in pipelines}
        assert {name: airflow.wait(name, run) for name, run in runs.items()} == dict.fromkeys(runs, "success")
        tasks = {name: {each.task_id for each in airflow.instances(name, run)} for name, run in runs.items()}
        assert tasks["weekly_items"] > {"popular_items", "popular_goods"}
        shown = airflow.call("/api/v2/dags/weekly_items/details")
        assert shown["doc_md"].startswith("# weekly_items\n")
        assert shown["description"].startswith("Predictions for every user")
        assert shown["owners"] == ["personalization"]
    finally:
        os.killpg(process.pid, signal.SIGTERM)  # make gets the signal, too, and forwards it
        process.communicate()
    listed = subprocess.run(["ps", "-A", "-o", "args="], capture_output=True, text=True, check=True).stdout
    assert f"{copy.root}/.venv-airflow/bin/airflow" not in listed


def test_replay_and_retention_work_as_documented(copy: Copy, new_jobs: str) -> None:
    output = run_successfully(copy, "".join(blocks(copy.root / "docs" / "failures.md")))
    assert "attempt 1 of popular published its result" in output
    assert re.search(r"items\s*│ (\d+)\s*│ \1\s*│", output)
    assert re.search(r"0 of \d+ runs", output)


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("new-job NAME=ingest_events ENGINE=spark", "jobs/ingest_events exists already"),
        ("new-job NAME=fresh ENGINE=pyton", "There is no template 'pyton' of a job; did you mean 'python'"),
        ("new-job NAME=Fresh-Job ENGINE=python", "'Fresh-Job' is not a valid name of a job"),
        ("new-pipeline NAME=tandem PATTERN=spark", "airflow_dags/tandem exists already"),
        ("new-pipeline NAME=fresh PATTERN=", "expected one of container, hybrid, spark"),
    ],
)
def test_invalid_request_is_reported_and_leaves_no_file(copy: Copy, command: str, sentence: str) -> None:
    code, output = copy.run(f"make {command}")
    assert code != 0
    assert sentence in output
    assert not list(copy.root.rglob("*fresh*"))

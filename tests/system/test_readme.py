"""The commands in the README and in docs/ work as described."""

import json
import os
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import botocore.session
from botocore import xform_name
from documents import blocks

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "airflow_dags").rglob("README.md")]


def test_every_named_target_of_make_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        target for page in PAGES for target in re.findall(r"(?:`|^)make ([a-z][a-z-]+)", page.read_text(), re.MULTILINE)
    }
    assert {"demo", "test"} <= named
    assert named <= targets


def test_job_runs_manually_as_documented(tmp_path):
    """Run all commands of that section in one shell, with another lake."""
    by_hand = [block for block in blocks(ROOT / "docs" / "run_a_job.md") if "jobs/" in block]
    assert len(by_hand) == 1
    commands = by_hand[0].replace("make sample\n", f"make sample LAKE=file://{tmp_path}\n")
    commands = commands.replace("file://$PWD/.tandem/lake", f"file://{tmp_path}").replace(
        ".tandem/lake/", f"{tmp_path}/"
    )
    process = subprocess.run(["bash", "-euc", commands], cwd=ROOT, capture_output=True, text=True, env=dict(os.environ))
    assert process.returncode == 0, process.stderr[-3000:]
    assert '"job": "train_recommender"' in process.stdout
    assert "--set NAME=VALUE" in process.stdout


def test_every_command_of_the_aws_cli_exists_with_its_options():
    """Check against botocore's models, from which the CLI is generated; its additional options are skipped."""
    session = botocore.session.get_session()
    own = {("ecr", "get-login-password"), ("ssm", "start-session")}
    checked = 0
    for line in "".join(blocks(ROOT / "docs" / "aws.md", "aws")).splitlines():
        for command in re.findall(r"(?:^|[;|] |do )aws ([^;|]*)", line):
            service, operation, *rest = shlex.split(command)
            if (service, operation) in own:
                continue
            model = session.get_service_model({"s3api": "s3"}.get(service, service))
            shapes = {xform_name(name, "-"): model.operation_model(name) for name in model.operation_names}
            assert operation in shapes, command
            members = shapes[operation].input_shape.members
            options = {part[2:] for part in rest if part.startswith("--")}
            assert options <= {xform_name(name, "-") for name in members}, command
            for policy in (part for part in rest if part.startswith("{")):
                json.loads(policy)
            checked += 1
    assert checked > 15


def test_commands_for_aws_are_valid_shell():
    for page in PAGES:
        for block in blocks(page, "aws"):
            assert subprocess.run(["bash", "-n"], input=block, text=True, capture_output=True).returncode == 0, block


def test_commands_for_dataproc_print_the_request_of_the_job():
    commands = "".join(blocks(ROOT / "docs" / "dataproc.md"))
    ran = subprocess.run(["bash", "-euc", commands], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
    sent, end = json.JSONDecoder().raw_decode(ran.stdout)
    bundle = sent["job"]["pyspark_job"]["main_python_file_uri"]
    assert re.fullmatch(r"s3://tandem-dev/code/build_interactions/\w+/main.py", bundle)
    assert re.search(r"spark.dataproc.project +│ tandem-123456 +│ shared.toml", ran.stdout[end:])


def test_every_key_on_the_dataproc_page_exists():
    (table,) = blocks(ROOT / "docs" / "dataproc.md", "toml")
    section = tomllib.loads(table)["spark"]
    shared = tomllib.loads((ROOT / "airflow_dags/environments/shared.toml").read_text())["spark"]["dataproc"]
    assert section["runtime"] == "dataproc"
    assert section["dataproc"].keys() <= shared.keys()

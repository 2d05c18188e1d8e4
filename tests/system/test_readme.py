"""The commands in the README and in docs/ work as described."""

import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import botocore.session
import pytest
from botocore import xform_name
from documents import blocks

ROOT = Path(__file__).parents[2]
PYTHON_OF_AIRFLOW = ROOT / ".venv-airflow" / "bin" / "python"
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


LOAD_PLUGINS = """
import sys
from airflow import plugins_manager
from airflow.dag_processing.bundles.manager import DagBundlesManager
plugins_manager.ensure_plugins_loaded()
assert not plugins_manager.get_import_errors()
assert "tandem_card" in {plugin["name"] for plugin in plugins_manager.get_plugin_info()}
assert [type(bundle).__name__ for bundle in DagBundlesManager().get_all_dag_bundles()] == ["VersionedDags"]
assert "tandem" not in sys.modules, "a worker would have this library instead of its version's"
import tandem_triggers
tandem_triggers.EndOfJob
print(sys.modules["tandem"].__file__)
"""


def test_plugins_of_a_managed_airflow_load_with_the_library_beside_them(tmp_path):
    """Make the archive as documented, and load it as each process of Airflow does."""
    page = ROOT / "docs" / "managed_airflow.md"
    (settings,) = (block for block in blocks(page) if "BUNDLE_CONFIG_LIST" in block)
    (commands,) = (block for block in blocks(page) if "plugins.zip" in block)
    (tmp_path / "airflow_dags").symlink_to(ROOT / "airflow_dags")
    plugins = tmp_path / "unpacked"
    program = tmp_path / "load.py"
    program.write_text(LOAD_PLUGINS)
    own = f"AIRFLOW__CORE__PLUGINS_FOLDER={plugins} AIRFLOW_HOME={tmp_path} AIRFLOW__CORE__LOAD_EXAMPLES=False"
    unpack = f"{sys.executable} -m zipfile --extract dist/plugins.zip {plugins}\n"
    script = f"set -a\n{settings}\n{own}\n{commands}\n{unpack}{PYTHON_OF_AIRFLOW} {program}\n"
    ran = subprocess.run(["bash", "-euc", script], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert ran.stdout.splitlines()[-1] == f"{plugins}/library/tandem/__init__.py"


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


@pytest.mark.skipif(not shutil.which("gcloud"), reason="there is no gcloud CLI, which describes its own commands")
def test_every_command_of_gcloud_exists_with_its_options():
    data = Path(shutil.which("gcloud")).resolve().parents[1] / "data" / "cli" / "gcloud_completions.py"
    root = runpy.run_path(str(data))["STATIC_COMPLETION_CLI_TREE"]
    checked = 0
    for line in "".join(blocks(ROOT / "docs" / "gcp.md", "gcloud")).splitlines():
        for command in re.findall(r"(?:^|[;|] |do )gcloud ((?:'[^']*'|\"[^\"]*\"|[^;|])*)", line):
            node, flags = root, set(root["flags"])
            words = shlex.split(command.partition(" -- ")[0])
            while words and words[0] in node["commands"]:
                node = node["commands"][words.pop(0)]
                flags |= set(node["flags"])
            assert not node["commands"], command
            assert {word.partition("=")[0] for word in words if word.startswith("--")} <= flags, command
            checked += 1
    assert checked > 25


@pytest.mark.parametrize("language", ["aws", "gcloud"])
def test_commands_for_clouds_are_valid_shell(language):
    found = [block for page in PAGES for block in blocks(page, language)]
    assert found
    for block in found:
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

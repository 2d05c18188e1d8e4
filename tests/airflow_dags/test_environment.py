"""Environments: files merged over the shared one, what is wrong in them named with file and nearest name."""

import shutil
from pathlib import Path

import pytest
from tandem import environment, settings
from tandem.dag_errors import PipelineError

ROOT = Path(__file__).parents[2]

FOLDER = ROOT / "airflow_dags" / "environments"
NAMES = settings.names(FOLDER)


@pytest.fixture
def folder(tmp_path):
    copy = tmp_path / "environments"
    shutil.copytree(FOLDER, copy)
    return copy


def changed(folder, name, old, new):
    file = folder / f"{name}.toml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))


def test_there_are_five_environments_and_what_they_share_is_none():
    assert NAMES == ["dev", "laptop", "preprod", "prod", "staging"]


@pytest.mark.parametrize("name", NAMES)
def test_every_environment_is_whole_and_its_pipelines_import(name, monkeypatch):
    from airflow.dag_processing.dagbag import DagBag

    monkeypatch.setenv("TANDEM_ENVIRONMENT", name)
    assert environment.load(FOLDER).lake.startswith("{{" if name == "laptop" else f"s3://tandem-{name}")
    bag = DagBag(str(FOLDER.parent))
    assert not bag.import_errors
    assert len(bag.dags) >= 4


def test_an_environments_own_values_go_over_the_shared_ones_at_any_depth(folder):
    label = 'ReleaseLabel = "emr-spark-8.0.0"'
    changed(folder, "shared", label, f'{label}\nInstances.Ec2KeyName = "key"')
    said = settings.load(folder, "prod", "a test")
    cluster = said["spark"]["emr"]["cluster"]
    assert cluster["Instances"] == {"Ec2KeyName": "key", "InstanceGroups": {"core": {"InstanceCount": 4}}}
    assert cluster["ReleaseLabel"] == "emr-spark-8.0.0"
    assert said["keep_intermediate_days"] == 60
    assert said.sources["keep_intermediate_days",] == "prod.toml"
    assert said.sources["spark", "emr", "cluster", "ReleaseLabel"] == "shared.toml"
    assert set(said.sources) == {path for path, _ in settings.leaves(said.table)}


@pytest.mark.parametrize(
    ("file", "old", "new", "sentence"),
    [
        (
            "shared",
            "retries =",
            "retrys =",
            "shared.toml names the key 'retrys', which does not exist; did you mean 'r",
        ),
        ("dev", "tables =", "table =", "[delivery] of dev.toml names the key 'table', which does not exist; did you"),
        ("dev", "lake =", "# lake =", "lake is set neither in dev.toml nor in shared.toml; add it to one of them."),
        ("shared", "billing =", "# ", "billing is set neither in [delivery] of dev.toml nor in shared.toml"),
        (
            "shared",
            "max_active_runs = 1",
            "max_active_runs = true",
            "shared.toml sets max_active_runs = True, expected a number.",
        ),
        (
            "shared",
            'runtime = "kubernetes_pod"',
            'runtime = "kubernets_pod"',
            "[container] of dev.toml names the runtime 'kubernets_pod', which does not exist; did you mean 'kubernetes",
        ),
        ("shared", "deploy_mode =", "deploy_mod =", "[spark.emr] of dev.toml names the key 'deploy_mod', which does"),
        ("dev", "lake =", "lake", "dev.toml is not valid TOML: "),
    ],
)
def test_what_is_wrong_is_named_with_its_file_and_the_nearest_name(folder, monkeypatch, file, old, new, sentence):
    changed(folder, file, old, new)
    monkeypatch.setenv("TANDEM_ENVIRONMENT", "dev")
    with pytest.raises(PipelineError) as error:
        environment.load(folder)
    assert sentence in str(error.value)


def test_what_a_runtime_needs_and_no_file_says_is_named(folder):
    changed(folder, "laptop", 'master = "local[2]"', "")
    with pytest.raises(
        PipelineError, match=r"master is set neither in \[spark.spark_submit\] of laptop.toml nor in shared"
    ):
        environment.load(folder)


def test_what_all_share_is_no_environment(folder, monkeypatch):
    monkeypatch.setenv("TANDEM_ENVIRONMENT", "shared")
    with pytest.raises(PipelineError, match="TANDEM_ENVIRONMENT names the environment 'shared', which does not exist"):
        environment.load(folder)

"""Environments: files merged over the shared one, errors in them name file and nearest name."""

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


def test_six_environments_without_shared_file():
    assert NAMES == ["dev", "gcp-dev", "laptop", "preprod", "prod", "staging"]


@pytest.mark.parametrize("name", NAMES)
def test_every_environment_is_complete_and_imports_pipelines(name, monkeypatch):
    from airflow.dag_processing.dagbag import DagBag

    monkeypatch.setenv("TANDEM_ENVIRONMENT", name)
    scheme = "gs" if name.startswith("gcp-") else "s3"
    assert environment.load(FOLDER).lake.startswith("{{" if name == "laptop" else f"{scheme}://tandem-{name}")
    bag = DagBag(str(FOLDER.parent))
    assert not bag.import_errors
    assert len(bag.dags) >= 4
    tasks = bag.dags["daily_recommendations"].get_task("report_run").tasks
    if name == "laptop":
        assert not any(task["rates"] for task in tasks.values())
    else:  # the two kinds of machines of cluster.json, and the reserved CPU and memory of a pod
        assert [len(tasks[task]["rates"]) for task in ("open_cluster", "build_interactions", "train_recommender")] == [
            2,
            0,
            2,
        ]


def test_own_values_override_shared_ones_at_any_depth(folder):
    label = 'ReleaseLabel = "emr-spark-8.0.0"'
    changed(folder, "shared", label, f'{label}\nInstances.Ec2KeyName = "key"')
    loaded = settings.load(folder, "prod", "a test")
    cluster = loaded["spark"]["emr"]["cluster"]
    assert cluster["Instances"] == {"Ec2KeyName": "key", "InstanceGroups": {"core": {"InstanceCount": 4}}}
    assert cluster["ReleaseLabel"] == "emr-spark-8.0.0"
    assert loaded["keep_intermediate_days"] == 60
    assert loaded.sources["keep_intermediate_days",] == "prod.toml"
    assert loaded.sources["spark", "emr", "cluster", "ReleaseLabel"] == "shared.toml"
    assert set(loaded.sources) == {path for path, _ in settings.leaves(loaded.table)}


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
        ("shared", "success = false", "success = 1", "[failures] of shared.toml sets success = 1, expected true or fa"),
        ("shared", "vcpu_hour =", "cpu_hour =", "[prices] of shared.toml names the key 'cpu_hour', which does not exi"),
        ("dev", "lake =", "lake", "dev.toml is not valid TOML: "),
    ],
)
def test_error_names_file_and_nearest_name(folder, monkeypatch, file, old, new, sentence):
    changed(folder, file, old, new)
    monkeypatch.setenv("TANDEM_ENVIRONMENT", "dev")
    with pytest.raises(PipelineError) as error:
        environment.load(folder)
    assert sentence in str(error.value)


def test_missing_setting_of_runtime_is_named(folder):
    changed(folder, "laptop", 'master = "local[2]"', "")
    with pytest.raises(
        PipelineError, match=r"master is set neither in \[spark.spark_submit\] of laptop.toml nor in shared"
    ):
        environment.load(folder)


def test_shared_file_is_not_an_environment(folder, monkeypatch):
    monkeypatch.setenv("TANDEM_ENVIRONMENT", "shared")
    with pytest.raises(PipelineError, match="TANDEM_ENVIRONMENT names the environment 'shared', which does not exist"):
        environment.load(folder)

"""Airflow's bundle of deployed DAGs, read from where the deployment writes them."""

import importlib.util
from pathlib import Path

import pytest
from airflow.dag_processing.bundles import base

from common.handover import storage
from tools.airflow_api import poll
from tools.deploy import dag_versions, deploy_dags
from tools.packaging.archive import zip_archive
from tools.sandbox import local_airflow

ROOT = Path(__file__).parents[2]
GREETINGS = """
import pathlib, time
from airflow.sdk import DAG, task
from words import WORD

def say():
    while not pathlib.Path("{go}").exists():
        time.sleep(0.1)
    return [WORD, (pathlib.Path(__file__).parent / "word.txt").read_text()]

with DAG("greetings"):
    task(say, task_id="first")() >> task(say, task_id="{second}")()
"""
FILE = ROOT / "airflow_dags" / "plugins" / "tandem_bundle.py"


@pytest.fixture
def bundle(any_lake, tmp_path, monkeypatch):
    """Make the bundle of a lake as a process of Airflow does, newest or of a version."""
    monkeypatch.setattr(base, "get_bundle_storage_root_path", lambda: tmp_path / "bundles")
    specification = importlib.util.spec_from_file_location("tandem_bundle", FILE)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return lambda version=None: module.VersionedDags(name="tandem", version=version, uri=f"{any_lake}/dags")


def deploy(lake, files):
    archive = zip_archive({path: text.encode() for path, text in files.items()})
    return dag_versions.publish(lake, archive, dag_versions.current(lake))


def text_of(bundle):
    bundle.initialize()
    return (bundle.path / "one" / "dag.py").read_text()


def test_newest_version_is_read_and_given_ones_stay(bundle, any_lake):
    with pytest.raises(FileNotFoundError, match=r"No DAGs are deployed at .*/dags; deploy them: make deploy-dags\."):
        bundle().initialize()
    first = deploy(any_lake, {"one/dag.py": "one"})
    processor = bundle()
    assert processor.get_current_version() is None
    assert text_of(processor) == "one"
    second = deploy(any_lake, {"one/dag.py": "two"})
    assert processor.get_current_version().version == first, "Airflow sees a version only as a whole"
    processor.refresh()
    assert processor.get_current_version().version == second
    assert text_of(processor) == "two"
    pinned = bundle(first)
    assert (text_of(pinned), pinned.get_current_version().version) == ("one", first)


def test_version_on_this_machine_is_read_without_the_lake(bundle, any_lake):
    first = deploy(any_lake, {"one/dag.py": "one"})
    bundle().initialize()
    storage.delete(f"{any_lake}/dags")
    assert text_of(bundle(first)) == "one"


def test_changed_or_deleted_archive_is_refused(bundle, any_lake):
    first = deploy(any_lake, {"one/dag.py": "one"})
    storage.write(f"{any_lake}/dags/{first}.zip", zip_archive({"one/dag.py": b"import os"}))
    with pytest.raises(ValueError, match="is not what was deployed; deploy these DAGs again"):
        bundle(first).initialize()
    assert not bundle(first).path.exists()
    storage.delete_files([f"{any_lake}/dags/{first}.zip"])
    with pytest.raises(FileNotFoundError, match=f"Version {first} of the DAGs is no longer at .*clear the run"):
        bundle(first).initialize()


def test_run_keeps_its_dag_code_when_other_dags_are_deployed(home, lake, tmp_path):
    """The tasks that start after the deployment have the code, the modules and the files of the run's own version."""
    (tmp_path / "dags" / "greetings").mkdir(parents=True)
    (tmp_path / "dags" / "greetings" / "dag.py").touch()  # the pipeline to wait for
    (tmp_path / "dags" / "plugins").symlink_to(FILE.parent)
    one = deploy(lake, greetings(tmp_path, "one"))
    with local_airflow.start(
        home=home, dags=tmp_path / "dags", options=local_airflow.deployed(f"{lake}/dags")
    ) as airflow:
        run = airflow.trigger("greetings")
        for _ in poll(60, "The first task does not run"):
            if any(each.state == "running" for each in airflow.instances("greetings", run)):
                break
        two = deploy(lake, greetings(tmp_path, "two"))
        for _ in poll(60, "Airflow does not read the second version"):
            if airflow.call("/api/v2/dags/greetings")["bundle_version"] == two:
                break
        assert deploy_dags.versions_in_use(airflow) == {one}
        (tmp_path / "go").touch()
        assert said(airflow, run) == {"first": ["one", "one"], "second": ["one", "one"]}
        assert said(airflow, airflow.trigger("greetings")) == {"first": ["two", "two"], "then": ["two", "two"]}


def greetings(folder, word):
    """A pipeline with a module and a file of its version; its first task waits for the file `go`."""
    second = {"one": "second", "two": "then"}[word]
    text = GREETINGS.format(go=folder / "go", second=second)
    return {"greetings/dag.py": text, "words.py": f"WORD = '{word}'", "greetings/word.txt": word}


def said(airflow, run):
    """Wait for the end of a run and return the words of its tasks."""
    assert airflow.wait("greetings", run, 120) == "success"
    instances = airflow.instances("greetings", run)
    return {each.task_id: airflow.xcom("greetings", run, each) for each in instances}

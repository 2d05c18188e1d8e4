"""The pipelines of this repository: they import quickly, read nothing outside the DAGs, and keep their promises."""

import argparse
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.definitions.mappedoperator import MappedOperator
from airflow.sdk.exceptions import AirflowSkipException
from tandem import render, settings
from tandem.environment import SPARK_RUNTIMES
from tandem.operator import JobOperator

ROOT = Path(__file__).parents[2]
DAGS = ROOT / "airflow_dags"
CATALOGUE = json.loads((DAGS / "job_catalogue.json").read_text())
FOLDERS = sorted(file.parent.name for file in DAGS.glob("*/dag.py"))


@pytest.fixture(scope="module")
def parsed():
    command = [sys.executable, "-m", "tests.programs.parse_twice", str(DAGS), *FOLDERS]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(process.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def bag():
    return DagBag(str(DAGS))


def test_every_folder_is_one_pipeline_of_its_name(bag):
    assert bag.import_errors == {}
    assert len(FOLDERS) > 0
    assert sorted(bag.dags) == FOLDERS


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_folder_has_documentation_and_teardowns(bag, folder):
    dag = bag.dags[folder]
    assert dag.doc_md.startswith(f"# {folder}\n")
    assert dag.description and dag.description in " ".join(dag.doc_md.split())
    assert dag.tags
    assert "airflow" not in {task.owner for task in dag.tasks}, "nobody is named whom to ask"
    assert (DAGS / folder / "cluster.json").exists() == any(task.choice for task in jobs(dag))  # of an engine
    for setup in (task for task in dag.tasks if task.is_setup):
        assert any(task.is_teardown for task in setup.downstream_list)


def jobs(dag):
    tasks = [task.unmap({"shard": 0}) if isinstance(task, MappedOperator) else task for task in dag.tasks]
    return [task for task in tasks if isinstance(task, JobOperator)]


@pytest.mark.parametrize("environment", settings.names(DAGS / "environments"))
def test_every_task_renders_in_every_environment(monkeypatch, environment):
    monkeypatch.setenv("TANDEM_ENVIRONMENT", environment)
    monkeypatch.setenv("AIRFLOW_VAR_RELEASE", json.dumps(dict.fromkeys(CATALOGUE, "0123456789abcdef")))
    bag = DagBag(str(DAGS))
    assert bag.import_errors == {}
    monkeypatch.setattr(render, "load", bag.dags.__getitem__)
    for dag in bag.dags.values():
        for task in jobs(dag):
            names = {"dag": dag.dag_id, "task": task.task_id, "run": "RUN", "attempt": 1, "map_index": 0}
            payload = json.dumps(render.payload(argparse.Namespace(**names)))
            assert "--task-id" in payload and "{{" not in payload


@pytest.mark.parametrize("runtime", [name for name in SPARK_RUNTIMES if name != "spark_submit"])
def test_spark_runtime_changes_operators_but_no_folder(bag, monkeypatch, runtime):
    """Operators of clusters are added around the same tasks, in the same order, with the same settings."""
    monkeypatch.setenv("TANDEM_SPARK", runtime)
    other = DagBag(str(DAGS))
    assert other.import_errors == {}
    around = 0
    for folder in FOLDERS:
        default, changed = bag.dags[folder], other.dags[folder]
        added = set(changed.task_dict) - set(default.task_dict)
        assert added <= {each for each in added if each.startswith(("open_", "await_", "close_"))} | {
            "watcher",
            "pin_release",
        }
        around += len(added)
        for task in jobs(default):
            same = next(each for each in jobs(changed) if each.task_id == task.task_id)
            first = {"look_for_input"}
            assert same.upstream_task_ids - added - first == task.upstream_task_ids - first
            assert same.downstream_task_ids - added == task.downstream_task_ids
            assert (same.job, same.lake, same.predecessors, same.parameters) == (
                task.job,
                task.lake,
                task.predecessors,
                task.parameters,
            )
    assert around >= 3


@pytest.mark.parametrize("folder", FOLDERS)
def test_parsing_reads_only_dag_files_within_a_second(parsed, folder):
    seen, seconds = parsed[folder]
    own = [
        DAGS / folder / "dag.py",
        DAGS / folder / "README.md",
        *(DAGS / folder).glob("*.json"),
        *(DAGS / "environments").glob("*.toml"),
    ]
    assert {path for event, path in seen} <= {str(file) for file in [*own, DAGS / "job_catalogue.json"]}
    assert {event for event, path in seen} == {"open"}
    assert seconds < 1


def test_daily_recommendations_is_short_and_in_order(bag):
    daily = bag.dags["daily_recommendations"]
    assert len((DAGS / "daily_recommendations" / "dag.py").read_text().splitlines()) <= 35
    assert daily.get_task("predict_recommendations").upstream_task_ids == {"build_interactions", "train_recommender"}
    assert daily.get_task("select_recommendations").upstream_task_ids == {
        "predict_recommendations",
        "train_recommender",
    }


def test_assets_are_deliveries_datasets_and_products(bag):
    def assets(dag, task):
        read, written = bag.dags[dag].get_task(task).inlets, bag.dags[dag].get_task(task).outlets
        return [asset.name for asset in read], [asset.name for asset in written]

    assert assets("ingest_events", "ingest_events") == (["raw/events"], ["curated/events"])
    assert assets("daily_recommendations", "build_interactions") == (["curated/events"], [])
    assert assets("daily_recommendations", "publish_product") == ([], ["products/recommendations"])
    assert assets("daily_recommendations", "publish_similar_items") == ([], ["products/similar_items"])
    assert assets("daily_recommendations", "write_product") == ([], [])  # not live yet
    assert assets("user_characteristics", "publish_product") == ([], ["products/characteristics"])


def test_ingestion_runs_each_quarter_of_an_hour_and_products_daily_one_after_another(bag):
    products = [name for name, dag in bag.dags.items() if "publish_product" in dag.task_ids]
    assert {*products} >= {"daily_recommendations", "user_characteristics", "trending_items"}
    at = {}
    for name, dag in bag.dags.items():
        assert not dag.catchup
        if not dag.schedule:  # a new pipeline
            continue
        minute, hour, *days = dag.schedule.split()
        if name.startswith("ingest_"):
            assert (minute, hour, days) == ("*/15", "*", ["*"] * 3)
        elif name in products:
            assert (minute, days) == ("0", ["*"] * 3)
            at[name] = int(hour)
    assert len(set(at.values())) == len(at) >= 3
    assert min(at, key=at.__getitem__) == "daily_recommendations"


def test_every_pipeline_looks_for_its_input_first(bag):
    look = {name: dag.get_task("look_for_input") for name, dag in bag.dags.items() if jobs(dag)}
    for name in look:
        assert [task.task_id for task in bag.dags[name].tasks if not task.upstream_task_ids] == ["look_for_input"]
    for kind in ("events", "items", "users"):
        assert look[f"ingest_{kind}"].raw == [f"raw/{kind}"]
    characteristics = look["user_characteristics"]
    assert characteristics.datasets == ["curated/events", "curated/items", "curated/users"], "not the model it writes"
    assert "train_churn" in characteristics.products
    assert all(look[name].as_of_day for name, dag in bag.dags.items() if "publish_product" in dag.task_ids)
    assert look["trending_items"].settings != look["daily_recommendations"].settings


@pytest.mark.parametrize(
    ("run_type", "until", "publishes"),
    [("scheduled", "2011-06-02", "True"), ("backfill", "2011-06-02", "False"), ("manual", "", "True")],
)
def test_scheduled_runs_read_the_days_before_theirs_and_backfills_do_not_publish(bag, run_type, until, publishes):
    moment = datetime(2011, 6, 2, 2, tzinfo=UTC)
    run = SimpleNamespace(run_type=run_type, logical_date=moment, conf={}, run_id="r", start_date=None)
    takes_until = 0
    for dag in bag.dags.values():
        for task in jobs(dag):
            environment = task.get_template_env(dag)
            assert task.render_template("{{ publishes() }}", {"dag_run": run}, environment) == publishes
            if "until" in task.parameters:
                takes_until += 1
                assert task.render_template(task.parameters["until"], {"dag_run": run}, environment) == until
            assert ("until" in task.parameters) == (
                "until" in task.declarations and not dag.dag_id.startswith("ingest")
            )
            assert task.publishes == (task.job in ("write_product", "publish_product"))
            if run_type == "backfill" and task.publishes:
                pushed = {}
                with pytest.raises(AirflowSkipException, match="A backfill publishes nothing"):
                    task.execute({"ti": SimpleNamespace(xcom_push=pushed.__setitem__), "dag_run": run})
                assert "skipped" in pushed
    churn = bag.dags["user_characteristics"]
    placed = churn.get_task("train_churn").parameters["place_model"]
    assert churn.get_task("train_churn").render_template(placed, {"dag_run": run}, environment) == publishes
    assert takes_until >= 4


def test_catalogue_matches_job_toml():
    checked = subprocess.run(
        [sys.executable, "-m", "tools.packaging.catalogue", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stderr

"""The first task of pipelines: it skips scheduled runs without new input, and no other runs."""

import datetime
import json
import os
from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import AirflowSkipException
from tandem.look_for_input import LookForInput

TODAY = datetime.datetime.now(datetime.UTC).date()


class Runs:
    """The runs of a pipeline one after another, each with a first task; the newest success is remembered."""

    def __init__(self, lake, **options):
        self.lake = lake
        given = {"raw": [], "datasets": [], "products": ["count"], "settings": "digest", "as_of_day": False}
        self.options = {**given, **options}
        self.states, self.succeeded = {}, None

    def skipped(self, run_type="scheduled", after_days=0, max_tries=0, fails=False, **options):
        """Run the task; return the reason why the rest of the run is skipped, None if it runs."""
        run_id, pushed = f"run-{len(self.states)}", {}
        self.states[run_id] = pushed
        instance = SimpleNamespace(
            max_tries=max_tries,
            xcom_push=pushed.__setitem__,
            xcom_pull=lambda task_ids, key, run_id: self.states[run_id].get(key),
            get_previous_dagrun=lambda state: {"success": self.succeeded}[state],
        )
        day = datetime.datetime.combine(TODAY, datetime.time(2), datetime.UTC) + datetime.timedelta(days=after_days)
        task = LookForInput(
            task_id="look_for_input", retries=0, lake=f"file://{self.lake}", **{**self.options, **options}
        )
        try:
            run = SimpleNamespace(run_type=run_type, logical_date=day, conf={})
            task.execute({"ti": instance, "dag_run": run, "dag": SimpleNamespace(tasks=[], params={})})
            reason = None
        except AirflowSkipException as skipped:
            reason = str(skipped)
            assert pushed["skipped"] == reason
        if not fails:
            self.succeeded = SimpleNamespace(run_id=run_id)
        return reason


@pytest.fixture(autouse=True)
def release(monkeypatch):
    monkeypatch.setenv("AIRFLOW_VAR_RELEASE", '{"count": "f1", "other": "f1"}')


def deliver(lake, path, content="a line"):
    file = lake / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    return file


def ingest(lake, *paths, document=None):
    """Write the ledger of all deliveries, as the job does."""
    files = {
        path: {"bytes": (lake / path).stat().st_size, "tag": str((lake / path).stat().st_mtime_ns)} for path in paths
    }
    files = {path: {**entry, "unusable": 0} for path, entry in files.items()}
    deliver(lake, "curated/events/ingested/2011-06.json", document or json.dumps({"format": 1, "files": files}))


def test_ingestion_runs_for_new_and_changed_deliveries_only(tmp_path):
    runs = Runs(tmp_path, raw=["raw/events"])
    first, second = "raw/events/shop/arrival=2011-06-01/a.json", "raw/events/shop/arrival=2011-06-02/b.json"
    assert runs.skipped() == "There is nothing to ingest: raw/events is empty."
    delivered = deliver(tmp_path, first)
    assert runs.skipped() is None
    assert runs.skipped() is None, "a run that did not reach the ledger ingested nothing"
    ingest(tmp_path, first)
    assert runs.skipped() == "There is nothing to ingest: raw/events has 1 files, and the ledger has them all."
    assert runs.skipped("manual") is runs.skipped("backfill") is None
    assert runs.skipped(max_tries=1) is None, "a person cleared the run"

    deliver(tmp_path, second)
    assert runs.skipped() is None
    ingest(tmp_path, first, second)
    assert "2 files" in runs.skipped()
    delivered.write_text("another line, under the same name")
    assert runs.skipped() is None
    ingest(tmp_path, first, second)
    deliver(tmp_path, f"raw/events/shop/arrival={TODAY + datetime.timedelta(days=2)}/c.json")
    deliver(tmp_path, "raw/events/shop/arrival=2011-06-02/.d.json.part")
    deliver(tmp_path, "raw/items/shop/arrival=2011-06-02/items.json")
    assert "2 files" in runs.skipped(), "neither its day has come, nor is it complete, nor are its items events"
    ingest(tmp_path, document='{"format": 1, "fil')
    assert runs.skipped() is None, "without a readable ledger, everything is new"


def test_product_runs_when_datasets_release_or_settings_changed_since_success(tmp_path):
    runs = Runs(tmp_path, datasets=["curated/events", "curated/items"])
    day = deliver(tmp_path, "curated/events/date=2011-06-01/manifest.json", "{}")
    deliver(tmp_path, "curated/events/date=2011-06-01/version/part-0.parquet")
    assert runs.skipped() is None, "nothing succeeded before"
    reason = runs.skipped()
    assert reason == (
        "Nothing that this pipeline reads has changed since run-0: curated/events, curated/items, the release and the "
        "settings are the same."
    )
    assert "since run-1" in runs.skipped(), "a skipped run is a success, and its state is the same"
    assert runs.skipped("manual") is None
    assert runs.skipped() is None, "a run that a person started does not count: its parameters may differ"

    day.write_text("{} ")
    assert runs.skipped(fails=True) is None
    assert runs.skipped() is None, "the failed run does not count"
    deliver(tmp_path, "curated/items/all/manifest.json", "{}")
    assert runs.skipped() is None
    assert runs.skipped(settings="other") is None
    assert runs.skipped(settings="other")
    os.environ["AIRFLOW_VAR_RELEASE"] = '{"count": "f1", "other": "f2"}'
    assert runs.skipped(settings="other"), "the pipeline does not have the job `other`"
    os.environ["AIRFLOW_VAR_RELEASE"] = '{"count": "f2"}'
    assert runs.skipped(settings="other") is None


def test_run_as_of_a_day_follows_until_all_data_is_older(tmp_path):
    """Data that is ingested today, before the run, may have arrived today or be of tomorrow, so it is left out."""
    runs = Runs(tmp_path, datasets=["curated/events"], as_of_day=True)
    deliver(tmp_path, "curated/events/date=2011-06-01/manifest.json", "{}")
    reasons = [runs.skipped(after_days=days) for days in range(5)]
    assert reasons[:3] == [None] * 3
    assert all(reasons[3:])


def test_pipeline_without_datasets_always_runs(tmp_path):
    runs = Runs(tmp_path)
    assert runs.skipped() is runs.skipped() is None

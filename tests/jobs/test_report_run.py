"""Reports on small runs: their record, their card and the index."""

from pathlib import Path

import pytest
import records
from recommending_lake import Lake

from common.handover.runner import exit_code
from common.reporting import examples, index, record
from common.reporting.record import Record, Warning
from common.reporting.summary import summarize
from jobs.ingest_items import main as ingest_items
from jobs.report_run import main as job

HEADER = "item_id,description,seen\n"
ITEM = "85123A,WHITE HOLDER,2011-01-01T00:00:00Z\n"
NO_CODE = "POST,POSTAGE FEE <b>,2011-01-01T00:00:00Z\n"


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path)


def reports(lake: Lake, kind: str) -> list[Path]:
    return sorted((lake.folder / "lake/products/reports" / kind).rglob("*.*"))


def the_record(lake: Lake) -> Record:
    (file,) = reports(lake, "records")
    return record.decode(file.read_bytes())


def test_run_has_one_record_one_card_and_an_entry_in_the_index(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    lake.raw_items("2011-02-01", HEADER + ITEM + NO_CODE)
    assert lake.run("ingest_items") == 0
    with monkeypatch.context() as patch:
        patch.setattr(job, "render_card", lambda *_: 1 / 0)
        assert lake.run("report_run") == 1  # as if it was killed between record and card
    assert len(reports(lake, "records")) == 1 and not reports(lake, "cards")

    def lost(*_) -> None:
        raise OSError("the disk is on fire")

    monkeypatch.setattr(examples, "user_examples", lost)
    assert lake.run("report_run") == 0
    metrics = lake.manifest("report_run")["metrics"]
    found, (card,) = the_record(lake), reports(lake, "cards")
    assert (found.state, [task.task for task in found.tasks]) == ("succeeded", ["ingest_items"])
    assert [(step.name, step.count) for step in found.funnel] == [("lines delivered", 2), ("items in the catalogue", 1)]
    (reason,) = found.funnel[1].out
    (example,) = reason.examples
    assert (reason.reason, reason.records) == ("no stock code: five digits at the beginning", 1)
    assert (example.line, example.content, example.file) == (
        3,
        NO_CODE.strip(),
        "raw/items/arrival=2011-02-01/items.csv",
    )
    assert lake.root in f"file://{card}" and metrics["card"] == str(card.relative_to(lake.folder / "lake"))
    text = card.read_text("utf-8")
    assert "POSTAGE FEE &lt;b&gt;" in text and "<b>" not in text.replace("POSTAGE FEE &lt;b&gt;", "")
    assert metrics["left_out"] == {"users": "OSError: the disk is on fire"}
    assert metrics["summary"] == "lines delivered: 2; items in the catalogue: 1."
    entries = index.read(lake.root)[0] or []
    assert [(entry.dag, f"products/reports/{entry.card}") for entry in entries] == [("dag", metrics["card"])]
    assert lake.run("report_run") == 5  # fenced: that attempt has reported


def test_refused_run_is_reported_and_a_second_report_replaces_the_first(lake: Lake) -> None:
    lake.raw_items("2011-02-01", HEADER + ITEM + 3 * NO_CODE)
    assert lake.run("ingest_items") == 4
    assert lake.run("report_run") == 0
    found = the_record(lake)
    assert found.state == "failed" and found.failure
    assert (found.failure.task, found.failure.exit_code, found.failure.attempt) == ("ingest_items", 4, 1)
    assert "max_dropped_share" in found.failure.sentence
    assert lake.manifest("report_run")["metrics"]["summary"] == f"ingest_items failed: {found.failure.sentence}"
    assert found.failure.sentence in reports(lake, "cards")[0].read_text("utf-8").replace("&#39;", "'")
    retry = [*lake.identity("ingest_items")[:-1], "2", "--set", "max_dropped_share=1"]
    assert exit_code(ingest_items.main, Path(ingest_items.__file__).parent, retry) == 0
    again = [*lake.identity("report_run")[:-1], "2"]
    assert exit_code(job.main, Path(job.__file__).parent, again) == 0
    assert the_record(lake).state == "succeeded" and len(reports(lake, "cards")) == 1
    assert [entry.state for entry in index.read(lake.root)[0] or []] == ["succeeded"]


def test_run_without_news_does_not_say_that_the_catalogue_is_empty(lake: Lake) -> None:
    lake.raw_items("2011-02-01", HEADER + ITEM)
    for attempt in ("1", "2"):
        ingestion = [*lake.identity("ingest_items")[:-1], attempt]
        assert exit_code(ingest_items.main, Path(ingest_items.__file__).parent, ingestion) == 0
    assert lake.run("report_run") == 0
    assert [(step.name, step.count) for step in the_record(lake).funnel] == [("lines delivered", 0)]


def test_summary_names_products_models_warnings_and_costs() -> None:
    run = records.good_run()
    run.warnings.append(Warning("write_product", "Few."))
    assert summarize(run) == (
        "recommendations: 5,942 keys, 98% of users by own rows; similar_items: 3,665 keys; "
        "blend ships for repeat with ndcg 0.2076; ease ships for new with ndcg 0.0787; 2 warnings; about 0.086 USD."
    )

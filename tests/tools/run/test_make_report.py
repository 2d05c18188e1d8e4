"""`make report` and `make models`: a page and a table from the records of runs."""

import json
import sys

import jsonschema
import pytest
import records

from common import protocol
from common.handover import storage
from common.reporting import index, record
from common.reporting.record import Record
from tools.packaging.fingerprint import ROOT
from tools.run import models, report


def write(lake: str, run: Record) -> str:
    """Write a record and a card as the job does; return their name."""
    name = protocol.report_name(run.run_after, run.run)
    storage.write(protocol.record_uri(lake, run.dag, name), record.encode(run))
    storage.write(protocol.card_uri(lake, run.dag, name), f"card of {run.run}".encode())
    return name


def call(main, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["tool", *arguments])
    main()


def test_page_is_made_from_records_and_a_remote_lake_is_fetched(any_lake, monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.setattr(report.environment, "ROOT", tmp_path)
    monkeypatch.setattr(report, "FETCHED", 2)
    with pytest.raises(SystemExit, match="has no record of a run; run a pipeline first"):
        call(report.main, monkeypatch, "--lake", any_lake)
    runs = records.days(3)
    names = [write(any_lake, run) for run in runs]
    storage.delete_files([protocol.card_uri(any_lake, records.DAG, names[1])])  # expired
    call(report.main, monkeypatch, "--lake", any_lake)
    folder = tmp_path / ".tandem" / "reports" / any_lake.partition("://")[2]
    page = folder / "index.html" if storage.is_remote(any_lake) else storage.local(index.page_uri(any_lake))
    assert f"3 runs: {page}" in capsys.readouterr().out
    assert all(name in page.read_text("utf-8") for name in names)
    if storage.is_remote(any_lake):
        cards = [file.relative_to(folder).as_posix() for file in folder.rglob("cards/**/*.html")]
        assert cards == [f"cards/{records.DAG}/{names[0]}.html"]


def test_models_are_listed_with_quality_run_and_card(lake, monkeypatch, capsys) -> None:
    with pytest.raises(SystemExit, match="no record of a run that shipped a model"):
        call(models.main, monkeypatch, "--lake", lake)
    name = write(lake, records.good_run())
    monkeypatch.setattr(models.console, "_width", 400)
    call(models.main, monkeypatch, "--lake", lake)
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if "│ repeat" in line]
    cells = [cell.strip() for cell in line.strip("│").split("│")]
    assert cells[1:6] == [records.DAG, "repeat", "blend", "ndcg 0.2076 (0.2016 to 0.2136)", "yes"]
    assert cells[7] == f"cards/{records.DAG}/{name}.html"


def test_records_follow_their_schema() -> None:
    schema = json.loads((ROOT / "schemas/run_record.schema.json").read_text())
    check = jsonschema.Draft202012Validator(schema)
    for run in (records.good_run(), records.failed_run(), records.large_run(20)):
        check.validate(json.loads(record.encode(run)))
    assert not check.is_valid({"format": 1, "dag": "a"})

"""Records of earlier runs, the models that they shipped, and the index of all pipelines."""

from pathlib import Path

import pytest
import records

from common import protocol
from common.handover import storage
from common.reporting import history, index, page, record
from common.reporting.index_entry import entry_of
from common.reporting.record import Record


def write(lake: str, run: Record) -> str:
    """Write a record as the job does; return its name."""
    name = protocol.report_name(run.run_after, run.run)
    storage.write(protocol.record_uri(lake, run.dag, name), record.encode(run))
    return name


def card(lake: str, run: Record) -> str:
    uri = protocol.card_uri(lake, run.dag, protocol.report_name(run.run_after, run.run))
    return history.card_path(uri)


def test_newest_records_are_read_from_as_few_months_as_possible(lake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = records.days(70)  # newest first, from 2026-11-25 back to September
    names = [write(lake, run) for run in runs]
    storage.write(f"{history.records_folder(lake)}/{records.DAG}/2026-11/2026-11-24T050000Z_cut.json", b'{"format": 1')
    other = records.good_run(5)
    other.format, other.run = 2, "of a later version"
    write(lake, other)
    listed: list[str] = []
    files = storage.files
    monkeypatch.setattr(storage, "files", lambda folder: (listed.append(folder), files(folder))[1])
    assert [run.run for run in history.read(lake, records.DAG, 10)] == [run.run for run in runs[:8]]  # two unreadable
    assert [folder[-7:] for folder in listed] == ["2026-11"]
    assert history.read(lake, records.DAG, 40, before=names[30])[0] == runs[31]
    assert [folder[-7:] for folder in listed[1:]] == ["2026-10", "2026-09"]  # none of the months after it
    assert history.read(lake, "unknown", 10) == []


def test_history_of_models_names_run_quality_and_card(lake: str) -> None:
    good, failed, older = records.good_run(), records.failed_run(), records.good_run(1)
    failed.run = "failed"
    older.published[0].version = None
    for run in (older, good, failed):
        write(lake, run)
    found = history.models(lake, 10)
    assert [(each.run, each.style, each.model, each.published) for each in found] == [
        (good.run, "repeat", "blend", True),
        (good.run, "new", "ease", True),
        (older.run, "repeat", "blend", False),
        (older.run, "new", "ease", False),
    ]
    chosen = good.comparisons[0].models[0]
    assert (found[0].value, found[0].low, found[0].high) == (chosen.figures["ndcg"], chosen.low, chosen.high)
    assert found[0].card == card(lake, good)


def test_index_gets_each_run_once_the_newest_of_each_pipeline(lake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "KEPT", 3)
    runs = [*records.days(4), records.failed_run()]
    for run in runs[:4]:
        write(lake, run)
    index.add(lake, entry_of(runs[0], card(lake, runs[0])))  # the others are found by their records
    for run in (runs[4], runs[4]):
        index.add(lake, entry_of(run, card(lake, run)))
    entries = index.read(lake)[0]
    assert entries is not None
    assert [entry.run for entry in entries] == [runs[4].run, runs[0].run, runs[1].run]
    assert entries[0].state == "failed"
    text = Path(index.page_uri(lake).removeprefix("file://")).read_text("utf-8")
    assert text == page.render_index(entries)
    storage.write(index.entries_uri(lake), b"cut off")
    assert index.rebuild(lake) == 3 and [entry.run for entry in index.read(lake)[0] or []] == [
        run.run for run in runs[:3]
    ]


def test_two_reports_at_once_are_both_in_the_index(lake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = records.good_run(1), records.good_run()
    newest = index.newest

    def meanwhile(entries: list, limit: int) -> list:
        monkeypatch.setattr(index, "newest", newest)
        index.add(lake, entry_of(second, "cards/second.html"))
        return newest(entries, limit)

    monkeypatch.setattr(index, "newest", meanwhile)
    index.add(lake, entry_of(first, "cards/first.html"))
    assert [entry.card for entry in index.read(lake)[0] or []] == ["cards/second.html", "cards/first.html"]
    text = Path(index.page_uri(lake).removeprefix("file://")).read_text("utf-8")
    assert "cards/first.html" in text and "cards/second.html" in text

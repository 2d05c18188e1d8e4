"""Quarantined records of a source are shown by reason, with files and examples, from the runs that left them."""

import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common import protocol
from common.engines import arrow
from common.handover import manifest, storage
from common.ingestion import ledger
from tools.lake import quarantine

SOURCE = """
description = "A source."
format = "json"
[fields]
type = "string"
time = "string"
[columns]
event_id = "type"
type = "type"
time = "time"
"""
SOURCES = {"shop/events.toml": 'deliveries = "raw/events"\n' + SOURCE, "web/events.toml": SOURCE}
SCHEMA = arrow.schema_of("quarantine@2")


class Runs:
    """A lake with runs of ingestions, and the tool."""

    def __init__(self, lake: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
        self.lake, self.monkeypatch, self.capsys = lake, monkeypatch, capsys

    def add(self, hour: int, rows: list[tuple], job: str = "ingest_events") -> None:
        """Add a run at an hour of a day with rows of quarantine: file, line, reason, content."""
        run = f"scheduled__2011-01-06T{hour:02}:00:00+00:00"
        key = protocol.task_key(self.lake, job, run, job)
        values = [(f"{self.lake}/{file}", line, reason, 9, content) for file, line, reason, content in rows]
        table = pa.Table.from_pylist([dict(zip(SCHEMA.names, row, strict=True)) for row in values], SCHEMA)
        with storage.stream(f"{key}/attempt-1/part-0.parquet") as file:
            pq.write_table(table, file)
        document = {"job": job, "ended": f"2011-01-06T{hour:02}:00:07+00:00", "metrics": {"lines": 40}}
        document |= {"task": {"dag_id": job, "run_id": run}}
        document["outputs"] = {"quarantine": {"files": [{"path": "attempt-1/part-0.parquet", "bytes": 1}]}}
        storage.write(protocol.manifest_uri(key), manifest.to_json(document))

    def show(self, *more: str, name: str = "shop") -> str:
        self.monkeypatch.setattr(sys, "argv", ["quarantine", f"--source={name}", f"--lake={self.lake}", *more])
        self.monkeypatch.setenv("COLUMNS", "200")
        quarantine.main()
        return self.capsys.readouterr().out


@pytest.fixture
def runs(lake, make_sources, monkeypatch, capsys) -> Runs:
    make_sources(SOURCES)
    made = Runs(lake, monkeypatch, capsys)
    made.add(3, [], "ingest_items")
    return made


FIRST, SECOND = "raw/events/arrival=2011-01-05/a.jsonl", "raw/events/arrival=2011-01-06/b.jsonl"


def test_newest_run_with_records_of_the_source_is_shown(runs):
    of_web = ("raw/events/web/arrival=2011-01-05/w.jsonl", 1, "bad time", "{}")
    runs.add(1, [(FIRST, 1, "no type", "older")])
    runs.add(
        2, [of_web, *[(FIRST, line, "bad time", f"[bold]{line}\\x1b\u202e:cat:" + "x" * 300) for line in range(5, 9)]]
    )
    runs.add(3, [of_web])
    text = runs.show()
    assert "quarantined 4 records of shop, 10.0% of the 40 records that it read." in text
    assert "Run scheduled__2011-01-06T02:00:00+00:00 of ingest_events (2011-01-06 02:00:07 UTC)" in text
    assert [line.split() for line in text.splitlines() if "│ 4" in line] == [
        ["│", "bad", "time", "│", "4", "│", "1", "│"]
    ]
    assert f"        4  {FIRST}\n" in text
    examples = [line for line in text.splitlines() if line.startswith(f"  {FIRST}:")]
    assert [line.split()[0] for line in examples] == [f"{FIRST}:{line}" for line in (5, 6, 7)]
    assert examples[0].endswith("  [bold]5\\x1b\\u202e:cat:" + "x" * 143 + "…")
    assert "make requeue KIND=events SOURCE=shop SINCE=2011-01-05 UNTIL=2011-01-06 LAKE=" in text
    assert "older" not in text
    assert "w.jsonl" in runs.show(name="web")
    assert f"  {FIRST}:1  older" in runs.show("--run=scheduled__2011-01-06T01:00:00+00:00")


def test_files_of_an_arrival_day_are_shown_as_the_newest_run_left_them(runs):
    fixed = "raw/events/arrival=2011-01-05/fixed.jsonl"
    runs.add(1, [(FIRST, 1, "no type", "first"), (fixed, 1, "no type", "fixed"), (SECOND, 1, "no type", "next day")])
    runs.add(2, [(FIRST, 1, "bad time", "second")])
    runs.add(4, [("raw/events/arrival=2011-01-05/c.jsonl", None, "cut off", None)])
    ledger.update(runs.lake, "events", {fixed: protocol.LedgerEntry(bytes=1, tag="t", unusable=0)}, {})
    text = runs.show("--day=2011-01-05")
    assert [line.split()[1] for line in text.splitlines() if line.startswith("Run ")] == [
        f"scheduled__2011-01-06T0{hour}:00:00+00:00" for hour in (4, 2)
    ]
    assert "second" in text and "c.jsonl  \n" in text
    assert not any(word in text for word in ("first", "fixed", "next day"))
    assert runs.show("--day=2011-01-04") == "No record of shop of the arrival day 2011-01-04 was quarantined.\n"


def test_unknown_names_and_an_empty_lake_are_one_sentence(runs):
    with pytest.raises(SystemExit, match="intermediate has no run of ingest_events; run its pipeline first"):
        runs.show()
    runs.add(1, [])
    assert runs.show() == "No record of shop in any run that is kept was quarantined.\n"
    with pytest.raises(SystemExit, match="No source 'shup' delivers events; did you mean 'shop'"):
        runs.show(name="shup")
    with pytest.raises(SystemExit, match="No run 'scheduled' of ingest_events is kept in file:"):
        runs.show("--run=scheduled")

"""Requeued deliveries: those of a source and of some days with quarantined records leave the ledger, no others."""

import sys

import pytest

from common import protocol
from common.handover import storage
from common.ingestion import ledger
from tools.lake import requeue

SHOP = {"shop/events.toml": """
description = "A shop."
format = "json"
compression = "gzip"
deliveries = "raw/events"
[fields]
type = "string"
time = "string"
[columns]
event_id = "type"
type = "type"
time = "time"
"""}  # fmt: skip


def run(monkeypatch: pytest.MonkeyPatch, lake: str, *more: str, name: str = "shop") -> None:
    monkeypatch.setattr(sys, "argv", ["requeue", "--kind=events", f"--source={name}", f"--lake={lake}", *more])
    requeue.main()


def left(lake: str) -> set[str]:
    files = storage.files(protocol.ledger_folder(lake, "events"))
    return {path.removeprefix("raw/events/") for file in files for path in ledger.read(file.uri)[0]}


def test_files_with_quarantined_records_leave_the_ledger(lake, make_sources, monkeypatch, capsys):
    make_sources(SHOP)
    with pytest.raises(SystemExit, match="has no ledger, so the next run of ingest_events takes all files"):
        run(monkeypatch, lake)
    counts = {"arrival=2011-01-31/a": 3, "arrival=2011-02-01/b": 1, "arrival=2011-02-01/good": 0}
    counts |= {"web/arrival=2011-02-01/of-another-source": 4, "latest/stray": 1}
    entries = {
        f"raw/events/{path}": protocol.LedgerEntry(bytes=1, tag="t", unusable=count) for path, count in counts.items()
    }
    ledger.update(lake, "events", entries, {})
    run(monkeypatch, lake, "--since=2011-02-01", "--until=2011-02-02")
    assert capsys.readouterr().out == (
        "The next run of ingest_events takes 1 files of shop with 1 quarantined records again.\n"
    )
    assert left(lake) == counts.keys() - {"arrival=2011-02-01/b"}
    run(monkeypatch, lake)
    assert left(lake) == counts.keys() - {"arrival=2011-02-01/b", "arrival=2011-01-31/a"}
    capsys.readouterr()
    run(monkeypatch, lake)
    assert "nothing was changed" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="No source 'shup' delivers events; did you mean 'shop'"):
        run(monkeypatch, lake, name="shup")

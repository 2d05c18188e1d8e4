"""The ledger of deliveries: files that are new, changed, deleted or waiting, and ledgers that are lost or raced for."""

import datetime
import json
from pathlib import Path

import pytest

from common import protocol
from common.handover import Task, runner, storage
from common.ingestion import ledger
from common.ingestion.ledger import Ledger

JOB = """
[job]
description = "Takes new deliveries."
engine = "python"
[inputs.deliveries]
raw = "raw/events"
dates = ["since", "until"]
[parameters.since]
type = "date"
default = ""
help = "first"
[parameters.until]
type = "date"
default = ""
help = "after"
"""
TODAY = datetime.datetime.now(datetime.UTC).date()


class Takes:
    """A job that takes new deliveries; each run returns the paths that it took, and keeps its metrics."""

    def __init__(self, lake: str, folder: Path) -> None:
        self.lake, self.folder = lake, folder
        (folder / "job.toml").write_text(JOB)
        self.taken: list[str] = []
        self.metrics: dict = {}
        self.runs = 0

    def main(self, task: Task) -> None:
        known = Ledger.load(task, "events")
        (found,) = known.select(task, "deliveries", [task.input("deliveries")])
        files = [*found.files, *(file for file, _ in found.left_out)]
        self.taken = sorted(file.uri.removeprefix(f"{self.lake}/raw/events/") for file in files)
        self.metrics = task.metrics
        self.before_record()
        known.record(task, dict.fromkeys(files, 0))

    def before_record(self) -> None:
        """Do nothing; a test puts here an event while the job runs."""

    def run(self, *more: str) -> list[str]:
        self.runs += 1
        names = f"--lake={self.lake} --dag-id=dag --run-id=run-{self.runs} --task-id=task --attempt=1"
        assert runner.exit_code(self.main, self.folder, [*names.split(), *more]) == 0
        return self.taken

    def deliver(self, path: str, content: bytes = b"x") -> None:
        storage.write(f"{self.lake}/raw/events/{path}", content)

    def documents(self) -> dict[str, dict]:
        files = storage.files(protocol.ledger_folder(self.lake, "events"))
        return {file.uri.rpartition("/")[2]: json.loads(storage.read(file.uri)[0])["files"] for file in files}


@pytest.fixture
def takes(any_lake: str, tmp_path: Path) -> Takes:
    job = Takes(any_lake, tmp_path)
    job.deliver("arrival=2011-01-31/a.gz")
    return job


def test_new_and_changed_files_are_taken_and_deleted_ones_reported(takes):
    takes.deliver("arrival=2011-02-01/b.gz")
    takes.deliver("latest/stray.gz")
    assert takes.run() == ["arrival=2011-01-31/a.gz", "arrival=2011-02-01/b.gz", "latest/stray.gz"]
    assert {name: len(files) for name, files in takes.documents().items()} == {
        "2011-01.json": 1,
        "2011-02.json": 1,
        "other.json": 1,
    }
    assert takes.run() == []
    assert takes.metrics == {"files_new": 0, "files_changed": 0, "files_waiting": 0, "files_deleted": 0}
    takes.deliver("arrival=2011-01-31/a.gz", b"y")  # of the same size
    takes.deliver("arrival=2011-01-31/c.gz")
    storage.delete_files([f"{takes.lake}/raw/events/{name}" for name in ("arrival=2011-02-01/b.gz", "latest/stray.gz")])
    assert takes.run() == ["arrival=2011-01-31/a.gz", "arrival=2011-01-31/c.gz"]
    assert takes.metrics == {
        "files_new": 1,
        "files_changed": 1,
        "files_waiting": 0,
        "files_deleted": 2,
        "changed_files": ["raw/events/arrival=2011-01-31/a.gz"],
    }
    assert {name: len(files) for name, files in takes.documents().items()} == {
        "2011-01.json": 2,
        "2011-02.json": 0,
        "other.json": 0,
    }
    takes.deliver("arrival=2011-02-01/b.gz")
    assert takes.run() == ["arrival=2011-02-01/b.gz"]


def test_window_takes_its_ingested_files_again_and_spares_other_days(takes):
    takes.deliver("arrival=2011-02-01/b.gz")
    takes.run()
    storage.delete_files([f"{takes.lake}/raw/events/arrival=2011-01-31/a.gz"])
    assert takes.run("--set=since=2011-02-01") == ["arrival=2011-02-01/b.gz"]
    assert (takes.metrics["files_new"], takes.metrics["files_deleted"]) == (0, 0)
    assert takes.run("--set=until=2011-02-01") == []
    assert takes.metrics["files_deleted"] == 1


def test_file_of_a_future_day_waits_until_its_day_has_come(takes, monkeypatch):
    early = f"arrival={TODAY + datetime.timedelta(days=3)}/a.gz"
    takes.deliver(early)
    for _ in range(2):
        assert early not in takes.run()
        assert takes.metrics["files_waiting"] == 1
    monkeypatch.setattr("common.handover.inputs.today", lambda: TODAY + datetime.timedelta(days=2))
    assert takes.run() == [early]
    monkeypatch.undo()  # the clock jumps back: the file waits again, and is not taken for a deleted one
    assert takes.run() == []
    assert takes.metrics["files_deleted"] == 0
    monkeypatch.setattr("common.handover.inputs.today", lambda: TODAY + datetime.timedelta(days=3))
    assert takes.run() == []


def test_delivery_that_arrives_during_a_run_belongs_to_the_next(takes):
    takes.before_record = lambda: takes.deliver("arrival=2011-01-31/late.gz")
    assert takes.run() == ["arrival=2011-01-31/a.gz"]
    assert takes.run() == ["arrival=2011-01-31/late.gz"]


@pytest.mark.parametrize("content", [None, b"", b'{"format": 1, "files": {"raw', b"[]", b'{"format": 2, "files": {}}'])
def test_lost_or_unreadable_ledger_takes_its_files_again(takes, content):
    takes.deliver("arrival=2011-02-01/b.gz")
    takes.run()
    uri = protocol.ledger_uri(takes.lake, "events", "raw/events/arrival=2011-01-31/a.gz")
    storage.delete_files([uri]) if content is None else storage.write(uri, content)
    assert takes.run() == ["arrival=2011-01-31/a.gz"]
    assert takes.run() == []


def test_runs_at_once_keep_the_entries_of_each_other(takes):
    def other_run() -> None:
        other = {f"raw/events/arrival=2011-01-31/{name}.gz": protocol.LedgerEntry(bytes=1, tag="t", unusable=2)
                 for name in "az"}  # fmt: skip
        ledger.update(takes.lake, "events", other, {})

    takes.before_record = other_run
    takes.run()
    found = takes.documents()["2011-01.json"]
    assert found["raw/events/arrival=2011-01-31/z.gz"]["unusable"] == 2
    assert found["raw/events/arrival=2011-01-31/a.gz"]["tag"] != "t"


def test_conflict_on_the_ledger_is_merged(takes, monkeypatch):
    replace = storage.replace

    def beaten(uri: str, content: bytes, expected: str | None) -> None:
        monkeypatch.setattr(storage, "replace", replace)
        entry = protocol.LedgerEntry(bytes=1, tag="t", unusable=0)
        ledger.update(takes.lake, "events", {"raw/events/arrival=2011-01-31/z.gz": entry}, {})
        replace(uri, content, expected)

    def beat_ledger() -> None:
        original = monkeypatch
        original.setattr(
            storage, "replace", lambda uri, *rest: (beaten if "/ingested/" in uri else replace)(uri, *rest)
        )

    takes.before_record = beat_ledger
    takes.run()
    assert sorted(path[-4:] for path in takes.documents()["2011-01.json"]) == ["a.gz", "z.gz"]


def test_ledger_that_cannot_be_written_fails_no_run(takes, monkeypatch, capsys):
    monkeypatch.setattr(ledger, "update", lambda *_: 1 / 0)
    takes.run()
    assert "failed after publishing" in capsys.readouterr().out
    monkeypatch.undo()
    assert takes.run() == ["arrival=2011-01-31/a.gz"]

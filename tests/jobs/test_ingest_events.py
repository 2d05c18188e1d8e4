"""Ingestion of events: rows kept, dropped, quarantined and refused, and partitions left unchanged."""

import datetime
import gzip
import json
import sys
from pathlib import Path

import pytest
from events import event
from pyspark.sql import SparkSession

from common.engines.light.activate import active
from common.handover import partitions, runner, storage, task
from jobs.ingest_events import main as job

FOLDER = Path(job.__file__).parent
NOTHING_LEFT_OUT = {"files_quarantined": 0, "files_left_out": 0, "suppressed": 0, "not_kept": {}}
FILES = {"files_new": 0, "files_changed": 0, "files_waiting": 0, "files_deleted": 0}


class Shop:
    """Lake with deliveries, and runs of the job on it."""

    def __init__(self, session: SparkSession, lake: str) -> None:
        self.session = session
        self.lake = lake
        self.root = Path(lake.removeprefix("file://"))

    def deliver(self, arrival: str, lines: list, name: str = "events") -> None:
        folder = self.root / "raw" / "events" / f"arrival={arrival}"
        folder.mkdir(parents=True, exist_ok=True)
        text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
        (folder / f"{name}.jsonl.gz").write_bytes(gzip.compress(text.encode()))

    def ingest(self, run: str, *more: str, attempt: int = 1) -> int:
        identity = ["--dag-id", "d", "--run-id", run, "--task-id", "ingest", "--attempt", str(attempt)]
        return runner.exit_code(job.main, FOLDER, ["--lake", self.lake, *identity, *more])

    def manifests(self) -> dict[str, bytes]:
        """Return the bytes of the published manifests by partition."""
        found = (self.root / "curated" / "events").glob("*/manifest.json")
        return {file.parent.name: file.read_bytes() for file in found}

    def curated(self) -> dict[str, list]:
        """Return the rows that the manifests name, by partition, sorted by ID."""
        result = {}
        for partition, content in self.manifests().items():
            output = json.loads(content)["outputs"]["events"]
            files = [f"{self.lake}/curated/events/{partition}/{file['path']}" for file in output["files"]]
            rows = sorted(self.session.read.parquet(*files).collect(), key=lambda row: row.event_id)
            assert len(rows) == output["rows"]
            result[partition] = rows
        return result

    def arrivals(self, partition: str) -> dict[str, int]:
        """Return the rows of a partition by day of arrival, as its manifest has them."""
        return json.loads(self.manifests()[partition])["outputs"]["events"]["arrivals"]

    def task_manifest(self, run: str) -> dict:
        return json.loads((self.root / "intermediate" / "d" / run / "ingest" / "manifest.json").read_bytes())

    def files(self, run: str) -> dict:
        """Return the numbers of files by the ledger."""
        metrics = self.task_manifest(run)["metrics"]
        return {name: metrics[name] for name in FILES}

    def quarantine(self, run: str) -> list:
        files = self.task_manifest(run)["outputs"]["quarantine"]["files"]
        uris = [f"{self.lake}/intermediate/d/{run}/ingest/{file['path']}" for file in files]
        return self.session.read.parquet(*uris).collect()


@pytest.fixture
def shop(session: SparkSession, lake: str) -> Shop:
    return Shop(session, lake)


def test_events_are_typed_deduplicated_and_partitioned_by_day(shop: Shop) -> None:
    late = event(4, "2011-01-03", user_id=None)
    first = event(1, quantity=7)
    shop.deliver("2011-01-05", [first, event(2), event(2), event(3, user_id="")])
    shop.deliver("2011-01-06", [event(1, quantity=8), late, event(5, "2011-01-06", type="cancellation", extra=1)])
    assert shop.ingest("one") == 0
    curated = shop.curated()
    assert {partition: [row.event_id for row in rows] for partition, rows in curated.items()} == {
        "date=2011-01-03": ["e4"],
        "date=2011-01-05": ["e1", "e2", "e3"],
        "date=2011-01-06": ["e5"],
    }
    assert curated["date=2011-01-05"][0].quantity == 7  # the first arrival wins
    assert [row.user_id for row in curated["date=2011-01-05"]] == ["ann", "ann", None]
    assert curated["date=2011-01-03"][0].user_id is None
    assert [str(row.arrival) for row in curated["date=2011-01-05"]] == ["2011-01-05"] * 3
    assert shop.arrivals("date=2011-01-03") == {"2011-01-06": 1}
    row = curated["date=2011-01-06"][0]
    assert row.type == "cancellation"
    assert row.time.astimezone(datetime.UTC) == datetime.datetime(2011, 1, 6, 10, tzinfo=datetime.UTC)
    metrics = shop.task_manifest("one")["metrics"]
    assert metrics == {"lines": 7, "unusable": 0, "reasons": {}, **NOTHING_LEFT_OUT, "events": 5, "duplicates": 2} | {
        "events_by_type": {"purchase": 6, "cancellation": 1},
        "unknown_types": {},
        **FILES,
        "files_new": 2,
    }


def test_unusual_volume_of_a_day_is_a_warning(shop: Shop) -> None:
    former = {"rows": 100, "files": []}  # eight weeks before, and none since
    storage.write(
        f"{shop.lake}/curated/events/date=2010-11-10/manifest.json",
        json.dumps({"outputs": {"events": former}}).encode(),
    )
    shop.deliver("2011-01-05", [event(number, country=None) for number in range(61)])
    assert shop.ingest("one") == 0
    assert shop.task_manifest("one")["warnings"] == [
        "curated/events has 61 rows on Wednesday 2011-01-05, usually 0 to 0 on that weekday; events@3 expects 0 to 60: "
        "check the deliveries."
    ]
    counts = json.loads(shop.manifests()["date=2011-01-05"])["outputs"]["events"]["counts"]
    assert counts == {
        "source": {"online_retail_ii": 61},
        "type": {"purchase": 61},
        "country": {"": 61},
        "platform": {"": 61},
    }


def test_run_takes_new_deliveries_and_changes_their_days_only(shop: Shop) -> None:
    shop.deliver("2011-01-05", [event(1), event(2, "2011-01-04"), event(3)])
    assert shop.ingest("one") == 0
    before = shop.manifests()
    assert len(before) == 2
    assert shop.ingest("two") == 0
    assert shop.manifests() == before
    assert shop.files("two") == FILES
    assert shop.task_manifest("two")["metrics"]["lines"] == shop.task_manifest("two")["metrics"]["events"] == 0
    assert "events" not in shop.task_manifest("two")["outputs"]

    shop.deliver("2011-01-06", [event(1, quantity=9), event(4, "2011-01-04")])
    assert shop.ingest("three") == 0
    after = shop.manifests()
    assert after["date=2011-01-05"] == before["date=2011-01-05"]
    assert [row.event_id for row in shop.curated()["date=2011-01-04"]] == ["e2", "e4"]
    assert [row.quantity for row in shop.curated()["date=2011-01-05"]] == [1, 1]
    assert shop.files("three") == {**FILES, "files_new": 1}
    assert shop.task_manifest("three")["metrics"]["lines"] == 2
    assert shop.ingest("window", "--set", "since=2011-01-06") == 0
    assert shop.task_manifest("window")["metrics"]["duplicates"] == 2
    assert shop.manifests() == after


def test_changed_copied_and_deleted_deliveries_add_no_event_twice(shop: Shop) -> None:
    lines = [event(1), event(2), "no"]
    shop.deliver("2011-01-05", lines)
    assert shop.ingest("one") == 0
    shop.deliver("2011-01-05", lines, "copy")
    shop.deliver("2011-01-05", [*lines, event(3)])
    assert shop.ingest("two") == 0
    assert shop.files("two") == {**FILES, "files_new": 1, "files_changed": 1}
    metrics = shop.task_manifest("two")["metrics"]
    assert metrics["changed_files"] == ["raw/events/arrival=2011-01-05/events.jsonl.gz"]
    assert (metrics["events"], metrics["duplicates"]) == (1, 4)
    entries = json.loads((shop.root / "curated/events/ingested/2011-01.json").read_text())["files"]
    assert {path[-15:]: entry["unusable"] for path, entry in entries.items()} == {
        "events.jsonl.gz": 1,
        "5/copy.jsonl.gz": 1,
    }
    (shop.root / "raw/events/arrival=2011-01-05/copy.jsonl.gz").unlink()
    before = shop.manifests()
    assert shop.ingest("three") == 0
    assert shop.files("three") == {**FILES, "files_deleted": 1}
    assert shop.manifests() == before


def test_unreadable_or_empty_deliveries_alone_fail_no_later_run(shop: Shop) -> None:
    shop.deliver("2011-01-05", [event(1)])
    assert shop.ingest("one") == 0
    shop.deliver("2011-01-06", [], "empty")
    assert shop.ingest("two") == 0
    (shop.root / "raw/events/arrival=2011-01-06/cut.jsonl.gz").write_bytes(gzip.compress(b"{}")[:-4])
    (shop.root / "raw/events/latest").mkdir()
    (shop.root / "raw/events/latest/stray.jsonl.gz").write_bytes(b"x")
    assert shop.ingest("three") == 0
    assert {row.file.rpartition("/")[2] for row in shop.quarantine("three")} == {"cut.jsonl.gz", "stray.jsonl.gz"}
    assert shop.task_manifest("three")["metrics"]["files_quarantined"] == 2
    assert shop.ingest("four") == 0
    assert shop.files("four") == FILES
    shop.deliver("2011-01-07", ["no"] * 10)
    assert [shop.ingest("five"), shop.ingest("six")] == [4, 4]  # until a record of any file can be used


def test_of_two_runs_at_once_one_retries_and_adds_nothing(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.deliver("2011-01-05", [event(1), event(2, "2011-01-04")])
    publish = task.Task.publish_partition

    def after_another_run(self: task.Task, *arguments: object) -> None:
        monkeypatch.undo()
        assert shop.ingest("other") == 0
        publish(self, *arguments)

    monkeypatch.setattr(task.Task, "publish_partition", after_another_run)
    assert shop.ingest("one") == 1
    assert shop.ingest("one", attempt=2) == 0
    assert shop.files("one") == FILES
    assert {partition: len(rows) for partition, rows in shop.curated().items()} == {
        "date=2011-01-04": 1,
        "date=2011-01-05": 1,
    }


def test_unusable_lines_are_quarantined_with_file_line_and_reason(shop: Shop) -> None:
    good = [event(number) for number in range(300)]
    bad = {
        3: ('{"event_id": "e1", "user_id": "an', "not a JSON object"),
        5: ("", "not a JSON object"),
        17: (event(900, event_id=None), "no event ID"),
        40: (event(901, item_id=""), "no item ID"),
        41: (event(902, type=""), "no type"),
        77: (event(903, time="yesterday"), "bad time"),
        90: (event(904, "2031-01-01"), "time after the arrival"),
        150: (event(905, quantity=0), "quantity not a positive whole number"),
        151: (event(906, quantity="many"), "bad quantity"),
        204: (event(907, unit_price=-1), "unit price not a number from 0"),
    }
    lines: list = list(good)
    for number, (line, _) in sorted(bad.items()):
        lines.insert(number - 1, line)
    shop.deliver("2011-01-05", lines, "second")
    shop.deliver("2011-01-05", [event(1000), "[]", event(1001), event(1002)], "first")
    assert shop.ingest("one") == 0
    rows = shop.quarantine("one")
    found = {(row.file.rpartition("/")[2], row.line): row.reason for row in rows}
    assert found == {("second.jsonl.gz", number): reason for number, (_, reason) in bad.items()} | {
        ("first.jsonl.gz", 2): "not a JSON object"
    }
    contents = {row.line: row.content for row in rows if row.file.endswith("second.jsonl.gz")}
    assert contents[3] == '{"event_id": "e1", "user_id": "an'
    assert json.loads(contents[41])["event_id"] == "e902"
    manifest = shop.task_manifest("one")
    assert manifest["outputs"]["quarantine"]["rows"] == manifest["metrics"]["unusable"] == 11
    assert manifest["metrics"]["events"] == 303


def test_unknown_types_are_kept_and_reported(shop: Shop) -> None:
    refund = event(2, type="refund", quantity=0, unit_price=None)  # the shop's rules are about the types that it knows
    shop.deliver("2011-01-05", [event(1), refund, event(3, type="cancellation", quantity=0)])
    assert shop.ingest("one") == 0
    assert [(row.event_id, row.type, row.quantity) for row in shop.curated()["date=2011-01-05"]] == [
        ("e1", "purchase", 1),
        ("e2", "refund", 0),
    ]
    metrics = shop.task_manifest("one")["metrics"]
    assert metrics["unknown_types"] == {"refund": 1}
    assert metrics["events_by_type"] == {"purchase": 1}
    assert metrics["reasons"] == {"quantity not a positive whole number": 1}


def test_too_many_unusable_lines_refuse_the_delivery(shop: Shop, capsys: pytest.CaptureFixture) -> None:
    good = [event(number) for number in range(90)]
    bad = ["no"] * 4 + [event(900, type=None)] * 3 + [event(901, time="x")] * 2 + [event(902, quantity=0)]
    shop.deliver("2011-01-05", good + bad)
    assert shop.ingest("one") == 4
    last = capsys.readouterr().err.splitlines()[-1]
    assert "10 of 100 records" in last
    assert "not a JSON object (4), no type (3), bad time (2)" in last
    assert "quantity" not in last
    assert shop.manifests() == {}
    assert shop.ingest("two", "--set", "max_quarantined_share=0.1") == 0  # exactly the allowed share
    assert len(shop.quarantine("two")) == 10


def test_retry_after_death_before_publishing_repeats_nothing(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.deliver("2011-01-05", [event(1), event(2, "2011-01-04"), event(3, "2011-01-03")])
    publish = task.Task.publish_partition

    def dies_after_one(self: task.Task, *arguments: object) -> None:
        publish(self, *arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(task.Task, "publish_partition", dies_after_one)
    assert shop.ingest("one") == 1
    monkeypatch.undo()
    assert len(shop.manifests()) == 1
    assert not (shop.root / "curated" / "events" / "ingested").exists()  # so that the next run takes the file again
    assert shop.ingest("one") == 0  # the same attempt, rerun manually: its remains must not be counted twice
    assert {partition: len(rows) for partition, rows in shop.curated().items()} == {
        "date=2011-01-03": 1,
        "date=2011-01-04": 1,
        "date=2011-01-05": 1,
    }


def test_days_of_a_lost_index_stay_when_a_new_day_comes(shop: Shop) -> None:
    shop.deliver("2011-01-05", [event(1), event(2, "2011-01-04")])
    assert shop.ingest("one") == 0
    (shop.root / "curated" / "events" / "days.json").unlink()
    shop.deliver("2011-01-06", [event(3, "2011-01-06")])
    assert shop.ingest("two", "--set", "since=2011-01-06") == 0
    assert partitions.registered(f"file://{shop.root}/curated/events") == ["2011-01-04", "2011-01-05", "2011-01-06"]


def test_files_of_concurrent_writers_stay(shop: Shop) -> None:
    others = shop.root / "curated" / "events" / "_temporary" / "0" / "task" / "part-0.parquet"
    others.parent.mkdir(parents=True)
    others.write_bytes(b"half")
    shop.deliver("2011-01-05", [event(1)])
    assert shop.ingest("one") == 0
    assert others.read_bytes() == b"half"
    assert [path.name for path in (shop.root / "curated" / "events" / "_temporary").iterdir()] == ["0"]


def test_no_delivery_and_a_plain_file_are_input_errors(shop: Shop, capsys: pytest.CaptureFixture) -> None:
    shop.deliver("2011-01-05", [event(1)])
    assert shop.ingest("one", "--set", "since=2011-01-06") == 3
    assert capsys.readouterr().err.splitlines()[-1].startswith("No delivery for these arrival days")
    (shop.root / "raw" / "events" / "arrival=2011-01-05" / "plain.jsonl").write_text("{}\n")
    (shop.root / "raw" / "events" / "arrival=2011-01-05" / "events.jsonl.gz").write_text("{}\n")
    assert shop.ingest("two") == 3
    last = capsys.readouterr().err.splitlines()[-1]
    assert "plain.jsonl: not a file *.gz" in last and "events.jsonl.gz: not gzip" in last


def test_large_dates_are_split_without_losing_the_key(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    if not active():
        monkeypatch.setattr("common.ingestion.spark.parsing.ROWS_PER_PARTITION", 20)
    lines = [event(number, quantity=1 + number) for number in range(100)]
    shop.deliver("2011-01-05", lines + lines[:50])
    shop.deliver("2011-01-06", [event(number, quantity=500) for number in range(100)] + [event(7, "2011-01-06")])
    assert shop.ingest("one") == 0
    rows = shop.curated()["date=2011-01-05"]
    assert {row.event_id: row.quantity for row in rows} == {f"e{number}": 1 + number for number in range(100)}
    assert len(rows) == 100
    manifest = json.loads(shop.manifests()["date=2011-01-05"])
    assert len(manifest["outputs"]["events"]["files"]) > 2 or active()  # DuckDB writes one at a time
    assert len(json.loads(shop.manifests()["date=2011-01-06"])["outputs"]["events"]["files"]) == 1
    shop.deliver("2011-01-07", [event(number) for number in range(100, 106)])
    assert shop.ingest("late") == 0
    late = json.loads(shop.manifests()["date=2011-01-05"])["outputs"]["events"]
    assert (len(late["files"]), late["rows"]) == (2, 106)  # the former ones as one, and the new one


def test_date_in_many_small_files_is_compacted_without_loss(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["common.engines.frames.append"], "MANY_FILES", 2)  # not the function of that name
    day = "date=2011-01-05"

    def files() -> list[str]:
        return [file["path"] for file in json.loads(shop.manifests()[day])["outputs"]["events"]["files"]]

    for number in range(2):
        shop.deliver(f"2011-01-0{5 + number}", [event(number, quantity=1 + number)])
        assert shop.ingest(f"run-{number}", "--set", f"since=2011-01-0{5 + number}") == 0
    small = files()
    assert len(small) == 2
    assert shop.arrivals(day) == {"2011-01-05": 1, "2011-01-06": 1}
    shop.deliver("2011-01-07", [event(2, quantity=3), event(0, quantity=9), event(3, "2011-01-06")])
    assert shop.ingest("run-2", "--set", "since=2011-01-07") == 0
    assert not set(files()) & set(small)
    assert len(files()) <= 2
    assert {row.event_id: row.quantity for row in shop.curated()[day]} == {"e0": 1, "e1": 2, "e2": 3}
    assert [str(row.arrival) for row in shop.curated()[day]] == ["2011-01-05", "2011-01-06", "2011-01-07"]
    assert shop.arrivals(day) == {"2011-01-05": 1, "2011-01-06": 1, "2011-01-07": 1}
    assert shop.task_manifest("run-2")["metrics"]["events"] == 2
    for path in small:  # readers of the previous manifest still find its files
        assert (shop.root / "curated" / "events" / day / path).exists()

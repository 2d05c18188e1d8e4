"""Tables in and out of Spark jobs: broken contracts are named, rows are counted by the write."""

import argparse
import datetime
import importlib
import itertools
import json
import math
import zlib
from collections import Counter, defaultdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from common import contracts
from common.engines import frames, volume
from common.engines.frames.io import forbidden_counts
from common.engines.light.activate import active
from common.errors import GateRefused, InputError, TaskError
from common.handover import job_toml, storage, task
from tests.frames import frame, framed, put_file, table

appending = importlib.import_module("common.engines.frames.append")  # the package has a function of its name
TIME = datetime.datetime(2011, 1, 5, 10, tzinfo=datetime.UTC)


@pytest.fixture
def toy(lake: str) -> task.Task:
    """A task that reads events and writes events, as a hand-over and to a dataset."""
    table = job_toml.Table(contract="events@3")
    dataset = job_toml.Table(contract="events@3", dataset="curated/events")
    toy = job_toml.Job("toy", "A toy.", "spark", inputs={"events": table}, outputs={"out": table, "events": dataset})
    names = {"dag_id": "d", "run_id": "r", "task_id": "t", "attempt": 1, "map_index": None, "run_started": None}
    arguments = argparse.Namespace(lake=lake, predecessors=[("events", "before")], settings=[], **names)
    return task.Task(toy, Path(__file__).parent, arguments)


def event(number: int, **changes: object) -> dict:
    """Return a row of events@3, null where nothing is said."""
    whole = {"source": "shop", "event_id": f"e{number}", "item_id": "cup", "type": "purchase", "time": TIME}
    return {**whole, "quantity": 1, "position": 1, **changes}


def dated(session: SparkSession, events: list[dict]) -> DataFrame:
    """Return events of a day with the date of their partition."""
    return frame(session, "events@3", events).withColumn("date", F.lit(TIME.date()))


def set_input(toy: task.Task, folder: Path) -> None:
    """Make the files of a folder the task's input."""
    toy.inputs["events"] = task.Input("events", contracts.load("events@3"), storage.files(f"file://{folder}"))


def test_only_listed_files_are_read(session: SparkSession, toy: task.Task, tmp_path: Path) -> None:
    put_file(tmp_path / "in", table("events@3", [event(1), event(2)]))
    set_input(toy, tmp_path / "in")
    put_file(tmp_path / "in", table("events@3", [event(3)]))
    found = frames.read(toy, "events")
    assert sorted(row.event_id for row in found.collect()) == ["e1", "e2"]
    assert found.columns == list(contracts.load("events@3").columns)


@pytest.mark.parametrize(
    ("column", "values", "sentence"),
    [
        ("quantity", pa.array(["1"]), r"can't be read by its contract \(.*column \[quantity\]"),
        ("time", pa.array(["now"]), r"can't be read by its contract \(.*column \[time\]"),
        ("event_id", None, "breaks events@3: column 'event_id' is missing or null"),
        ("event_id", pa.array([None], pa.string()), "breaks events@3: column 'event_id' is missing or null"),
    ],
)
def test_file_of_another_contract_is_named(
    session: SparkSession, toy: task.Task, tmp_path: Path, column: str, values: pa.Array | None, sentence: str
) -> None:
    good = table("events@3", [event(1)])
    bad = good.drop_columns(column)
    put_file(tmp_path / "in" / "a", good)
    put_file(tmp_path / "in" / "b", bad if values is None else bad.append_column(column, values))
    set_input(toy, tmp_path / "in")
    with pytest.raises(InputError, match=rf"in/b/part-\S+ {sentence}"), frames.session(toy):
        frames.read(toy, "events").collect()
    with frames.session(toy):  # an unused column is not checked
        assert frames.read(toy, "events").select("country").count() == 2


def test_file_that_is_not_parquet_is_named(session: SparkSession, toy: task.Task, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "part-0.parquet").write_text("event_id,user_id\n")
    set_input(toy, tmp_path / "in")
    with pytest.raises(InputError, match=r"in/part-0\.parquet can't be read"), frames.session(toy):
        frames.read(toy, "events").collect()


def test_output_is_counted_and_has_no_marker(session: SparkSession, toy: task.Task) -> None:
    frames.write(toy, "out", frame(session, "events@3", map(event, range(7))).repartition(3))
    output = toy.outputs["out"]
    assert output["rows"] == 7
    assert output["bytes"] == sum(file["bytes"] for file in output["files"]) > 0
    names = [path.name for path in storage.local(toy.folder("out")).iterdir()]
    assert "_SUCCESS" not in names
    assert len([name for name in names if name.endswith(".parquet")]) == len(output["files"]) > 0


def test_buckets_are_files_with_their_own_sorted_keys(session: SparkSession, toy: task.Task) -> None:
    rows = [event(number, user_id=f"ü{number % 70}") for number in reversed(range(300))]
    frames.write_buckets(toy, "out", frame(session, "events@3", rows), ["user_id", "event_id"], 17_000_000)
    output = toy.outputs["out"]
    assert (output["rows"], output["buckets"]) == (300, 64)
    buckets = [file["bucket"] for file in output["files"]]
    assert buckets == sorted(set(buckets))
    users = {}
    for file in output["files"]:
        content = pq.read_table(storage.local(f"{toy.key}/{file['path']}"), columns=["user_id", "event_id"])
        pairs = list(zip(*content.to_pydict().values(), strict=True))
        assert pairs == sorted(pairs)
        users |= {user: file["bucket"] for user, _ in pairs}
    assert users == {f"ü{number}": zlib.crc32(f"ü{number}".encode()) % 64 for number in range(70)}


FORBIDDEN = [
    ({"event_id": None}, "event_id"),
    ({"time": None}, "time"),
    ({"unit_price": math.nan}, "unit_price"),
    ({"unit_price": math.inf}, "unit_price"),
    ({"event_id": ""}, "event_id"),
    ({"user_id": ""}, "user_id"),
    ({"country": "\u00e9" * 512 + "x"}, "country"),
    ({"item_id": "cup\0"}, "item_id"),
    ({"item_id": "a\x9fcup"}, "item_id"),
]


def test_values_that_break_the_contract_are_counted_by_column(session: SparkSession) -> None:
    rows = table("events@3", [event(number, **changes) for number, (changes, _) in enumerate([({}, ""), *FORBIDDEN])])
    numbered = framed(session, rows.append_column("row", [range(len(rows))]))
    counts = numbered.groupBy("row").agg(*forbidden_counts(contracts.load("events@3"))).orderBy("row").collect()
    found = [{name for name, count in row.asDict().items() if name != "row" and count == 1} for row in counts]
    assert found == [set(), *({column} for _, column in FORBIDDEN)]


def test_values_that_break_the_contract_are_refused(session: SparkSession, toy: task.Task) -> None:
    changes, column = FORBIDDEN[0]
    events = [event(1), event(2, **changes)]
    with pytest.raises(GateRefused, match=f"1 values of column '{column}'"):
        frames.write(toy, "out", frame(session, "events@3", events))
    assert "out" not in toy.outputs
    with pytest.raises(GateRefused, match=f"1 values of column '{column}'"):
        frames.append(toy, "events", dated(session, events), {"2011-01-05": None})
    assert not list(storage.local(toy.lake).rglob("manifest.json"))


def test_values_out_of_bounds_are_refused(session: SparkSession, toy: task.Task) -> None:
    toy.job.outputs["out"] = job_toml.Table(contract="quarantine@2")
    rows = frame(session, "quarantine@2", [{"file": "f", "line": 0, "reason": "r", "bytes": 0, "content": "c"}])
    with pytest.raises(GateRefused, match="1 values of column 'line' are null, non-finite or out of range"):
        frames.write(toy, "out", rows)


def test_strings_up_to_the_contracts_bytes_are_written(session: SparkSession, toy: task.Task) -> None:
    strings = ("\u00e9" * 512, "\u2028", " ", "\U0001f600")
    rows = [event(number, country=value) for number, value in enumerate(strings)]
    frames.write(toy, "out", frame(session, "events@3", rows))
    assert toy.outputs["out"]["rows"] == len(strings)


def test_columns_that_break_the_contract_are_refused(session: SparkSession, toy: task.Task) -> None:
    events = frame(session, "events@3", [event(1)])
    with pytest.raises(GateRefused, match="'country' is missing"):
        frames.write(toy, "out", events.drop("country"))
    with pytest.raises(GateRefused, match="'quantity' is int, expected int64"):
        frames.write(toy, "out", events.withColumn("quantity", F.col("quantity").cast("int")))


def test_append_keeps_former_files_and_yields_to_another_writer(session: SparkSession, toy: task.Task) -> None:
    def rows(*numbers: int) -> DataFrame:
        return dated(session, list(map(event, numbers)))

    def published() -> dict:
        return json.loads(storage.read(f"{toy.lake}/curated/events/date=2011-01-05/manifest.json")[0])

    assert frames.append(toy, "events", rows(1, 2), {"2011-01-05": None, "2011-01-06": None}) == 2
    assert not storage.local(f"{toy.lake}/curated/events/date=2011-01-06/manifest.json").exists()
    seen = toy.partition("events", "date=2011-01-05")[1]
    toy.attempt, toy.outputs = 2, {}
    assert frames.append(toy, "events", rows(3), {"2011-01-05": seen}) == 1
    output = published()["outputs"]["events"]
    assert output["rows"] == 3
    assert output["counts"] == {"country": {"": 3}, "platform": {"": 3}, "source": {"shop": 3}, "type": {"purchase": 3}}
    folder = storage.local(f"{toy.lake}/curated/events/date=2011-01-05")
    ids = [pq.read_table(folder / file["path"], partitioning=None)["event_id"].to_pylist() for file in output["files"]]
    assert sorted(itertools.chain(*ids)) == ["e1", "e2", "e3"]

    toy.task_id, toy.outputs = "other", {}
    with pytest.raises(TaskError, match="changed while this task worked on it"):
        frames.append(toy, "events", rows(4), {"2011-01-05": seen})
    assert published()["outputs"]["events"] == output


def test_rows_of_many_days_are_written_to_their_dates(
    session: SparkSession, toy: task.Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    if active():
        monkeypatch.setattr("common.engines.light.files.SORTED", 4)  # rows of days that are sorted at once
    of_days = [3, 1, 1, 4, 9, 1, 1, 1, 1, 2]
    numbers = itertools.count()
    times = [TIME + datetime.timedelta(day) for day, rows in enumerate(of_days) for _ in range(rows)]
    events = [event(next(numbers), time=time) for time in [*times[::2], *times[1::2]]]
    rows = frame(session, "events@3", events).withColumn("date", F.to_date("time"))
    days = [str((TIME + datetime.timedelta(day)).date()) for day in range(len(of_days))]
    assert frames.append(toy, "events", rows, dict.fromkeys(days)) == len(times)
    for day, expected in zip(days, of_days, strict=True):
        output = toy.partition("events", f"date={day}")[1].document["outputs"]["events"]
        folder = storage.local(f"{toy.lake}/curated/events/date={day}")
        found = [time for file in output["files"] for time in pq.read_table(folder / file["path"])["time"].to_pylist()]
        assert {str(time.date()) for time in found} == {day}
        assert len(found) == output["rows"] == expected


def test_columns_that_cannot_be_counted_are_left_out_and_named(
    session: SparkSession, toy: task.Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volume, "MAX_VALUES", 2)
    values = [event(1, country="France"), event(2, country="Spain"), event(3, country="Italy")]
    frames.append(toy, "events", dated(session, values), {"2011-01-05": None})
    partition = toy.partition("events", "date=2011-01-05")[1]
    assert partition.document["outputs"]["events"]["counts"].keys() == {"platform", "source", "type"}
    assert toy.warnings == [
        "'country' of curated/events has more than 2 values, so events@3 can't compare their numbers; "
        "correct the deliveries, or take the column out of the check."
    ]
    rows = {"source": Counter(shop=1), "country": Counter(France=1), "arrival": Counter()}
    after = appending.changed_counts(partition, ["country", "source"], defaultdict(Counter), rows)
    assert after == {"source": Counter(shop=4), "arrival": Counter({"": 3})}  # the former countries are not known


def test_rows_of_another_contract_are_not_appended(session: SparkSession, toy: task.Task) -> None:
    frames.append(toy, "events", dated(session, [event(1)]), {"2011-01-05": None})
    toy.job.outputs["events"] = job_toml.Table(contract="items@2", dataset="curated/events")
    with pytest.raises(InputError, match="date=2011-01-05 has files of events@3, but toy adds rows of items@2"):
        toy.partition("events", "date=2011-01-05")
    assert toy.partition("events", "date=2011-01-06")[1] is None

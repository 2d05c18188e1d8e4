"""Tables in and out of Spark jobs: broken contracts are named, rows are counted by the write."""

import argparse
import datetime
import json
import math
import shutil
import zlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession
from pyspark.sql.types import LongType, StructField, StructType

from common import contracts
from common.engines import spark
from common.engines.spark.io import forbidden_counts, input_errors
from common.errors import GateRefused, InputError, TaskError
from common.handover import job_toml, storage, task

EVENTS = spark.schema(contracts.load("events@3"))
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


def event(number: int, **changes: object) -> tuple:
    """Return a row of events@3, null where nothing is said."""
    whole = dict.fromkeys(EVENTS.names) | {"source": "shop", "event_id": f"e{number}", "item_id": "cup"}
    whole |= {"type": "purchase", "time": TIME, "quantity": 1, "position": 1}
    return tuple({**whole, **changes}.values())


def set_input(toy: task.Task, folder: Path) -> None:
    """Make the files of a folder the task's input."""
    toy.inputs["events"] = task.Input("events", contracts.load("events@3"), storage.files(f"file://{folder}"))


def test_only_listed_files_are_read(session: SparkSession, toy: task.Task, tmp_path: Path) -> None:
    session.createDataFrame([event(1), event(2)], EVENTS).coalesce(1).write.parquet(f"{tmp_path}/in")
    set_input(toy, tmp_path / "in")
    session.createDataFrame([event(3)], EVENTS).coalesce(1).write.mode("append").parquet(f"{tmp_path}/in")
    frame = spark.read(toy, "events")
    assert sorted(row.event_id for row in frame.collect()) == ["e1", "e2"]
    assert frame.columns == EVENTS.names


@pytest.mark.parametrize(
    ("column", "expression", "sentence"),
    [
        ("quantity", "cast(quantity AS STRING)", r"can't be read by its contract \(.*column \[quantity\]"),
        ("time", "cast(time AS STRING)", r"can't be read by its contract \(.*column \[time\]"),
        ("event_id", None, "breaks events@3: column 'event_id' is missing or null"),
        ("event_id", "cast(null AS STRING)", "breaks events@3: column 'event_id' is missing or null"),
    ],
)
def test_file_of_another_contract_is_named(
    session: SparkSession, toy: task.Task, tmp_path: Path, column: str, expression: str | None, sentence: str
) -> None:
    good = session.createDataFrame([event(1)], EVENTS).coalesce(1)
    bad = good.selectExpr(f"* EXCEPT ({column})", f"{expression} AS {column}") if expression else good.drop(column)
    good.write.parquet(f"{tmp_path}/in/a")
    bad.write.parquet(f"{tmp_path}/in/b")
    set_input(toy, tmp_path / "in")
    with pytest.raises(InputError, match=rf"in/b/part-\S+ {sentence}"), input_errors():
        spark.read(toy, "events").collect()
    with input_errors():  # an unused column is not checked
        assert spark.read(toy, "events").select("country").count() == 2


def test_file_that_is_not_parquet_is_named(session: SparkSession, toy: task.Task, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "part-0.parquet").write_text("event_id,user_id\n")
    set_input(toy, tmp_path / "in")
    with pytest.raises(InputError, match=r"in/part-0\.parquet can't be read"), input_errors():
        spark.read(toy, "events").collect()


def test_output_is_counted_and_has_no_marker(session: SparkSession, toy: task.Task) -> None:
    spark.write(toy, "out", session.createDataFrame([event(number) for number in range(7)], EVENTS).repartition(3))
    output = toy.outputs["out"]
    assert output["rows"] == 7
    assert output["bytes"] == sum(file["bytes"] for file in output["files"]) > 0
    names = [path.name for path in storage.local(toy.folder("out")).iterdir()]
    assert "_SUCCESS" not in names
    assert len([name for name in names if name.endswith(".parquet")]) == len(output["files"]) == 3


def test_buckets_are_files_with_their_own_sorted_keys(session: SparkSession, toy: task.Task) -> None:
    rows = [event(number, user_id=f"ü{number % 70}") for number in reversed(range(300))]
    frame = session.createDataFrame(rows, EVENTS)
    with pytest.raises(TaskError, match="'out' into the files of other buckets"):
        spark.write_buckets(toy, "out", frame.repartition(32).selectExpr("*", "1 AS _place"), ["user_id"], 1)
    shutil.rmtree(storage.local(toy.folder("out")))
    spark.write_buckets(toy, "out", frame, ["user_id", "event_id"], 17_000_000)
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
ANYTHING = StructType([StructField(field.name, field.dataType) for field in EVENTS])


def test_values_that_break_the_contract_are_counted_by_column(session: SparkSession) -> None:
    rows = [(number, *event(number, **changes)) for number, (changes, _) in enumerate([({}, ""), *FORBIDDEN])]
    frame = session.createDataFrame(rows, StructType([StructField("row", LongType()), *ANYTHING])).coalesce(1)
    counts = frame.groupBy("row").agg(*forbidden_counts(contracts.load("events@3"))).orderBy("row").collect()
    found = [{name for name, count in row.asDict().items() if name != "row" and count == 1} for row in counts]
    assert found == [set(), *({column} for _, column in FORBIDDEN)]


def test_values_that_break_the_contract_are_refused(session: SparkSession, toy: task.Task) -> None:
    changes, column = FORBIDDEN[0]
    frame = session.createDataFrame([event(1), event(2, **changes)], ANYTHING)
    with pytest.raises(GateRefused, match=f"1 values of column '{column}'"):
        spark.write(toy, "out", frame)
    assert "out" not in toy.outputs
    with pytest.raises(GateRefused, match=f"1 values of column '{column}'"):
        spark.append(toy, "events", frame.selectExpr("*", "DATE '2011-01-05' AS date"), {"2011-01-05": None})
    assert not list(storage.local(toy.lake).rglob("manifest.json"))


def test_values_out_of_bounds_are_refused(session: SparkSession, toy: task.Task) -> None:
    toy.job.outputs["out"] = job_toml.Table(contract="quarantine@2")
    frame = session.sql("SELECT 'f' AS file, 0L AS line, 'r' AS reason, 0L AS bytes, 'c' AS content")
    with pytest.raises(GateRefused, match="1 values of column 'line' are null, non-finite or out of range"):
        spark.write(toy, "out", frame)


def test_strings_up_to_the_contracts_bytes_are_written(session: SparkSession, toy: task.Task) -> None:
    strings = ("\u00e9" * 512, "\u2028", " ", "\U0001f600")
    rows = [event(number, country=value) for number, value in enumerate(strings)]
    spark.write(toy, "out", session.createDataFrame(rows, EVENTS))
    assert toy.outputs["out"]["rows"] == len(strings)


def test_columns_that_break_the_contract_are_refused(session: SparkSession, toy: task.Task) -> None:
    frame = session.createDataFrame([event(1)], EVENTS)
    with pytest.raises(GateRefused, match="'country' is missing"):
        spark.write(toy, "out", frame.drop("country"))
    with pytest.raises(GateRefused, match="'quantity' is int, expected int64"):
        spark.write(toy, "out", frame.withColumn("quantity", frame.quantity.cast("int")))


def test_append_keeps_former_files_and_yields_to_another_writer(session: SparkSession, toy: task.Task) -> None:
    def rows(*numbers: int) -> object:
        frame = session.createDataFrame([event(number) for number in numbers], EVENTS)
        return frame.selectExpr("*", "cast('2011-01-05' AS DATE) AS date")

    def published() -> dict:
        return json.loads(storage.read(f"{toy.lake}/curated/events/date=2011-01-05/manifest.json")[0])

    assert spark.append(toy, "events", rows(1, 2), {"2011-01-05": None, "2011-01-06": None}) == 2
    assert not storage.local(f"{toy.lake}/curated/events/date=2011-01-06/manifest.json").exists()
    seen = toy.partition("events", "date=2011-01-05")[1]
    toy.attempt, toy.outputs = 2, {}
    assert spark.append(toy, "events", rows(3), {"2011-01-05": seen}) == 1
    output = published()["outputs"]["events"]
    assert output["rows"] == 3
    files = [f"{toy.lake}/curated/events/date=2011-01-05/{file['path']}" for file in output["files"]]
    assert sorted(row.event_id for row in session.read.parquet(*files).collect()) == ["e1", "e2", "e3"]

    toy.task_id, toy.outputs = "other", {}
    with pytest.raises(TaskError, match="changed while this task worked on it"):
        spark.append(toy, "events", rows(4), {"2011-01-05": seen})
    assert published()["outputs"]["events"] == output


def test_rows_of_another_contract_are_not_appended(session: SparkSession, toy: task.Task) -> None:
    frame = session.createDataFrame([event(1)], EVENTS).selectExpr("*", "cast('2011-01-05' AS DATE) AS date")
    spark.append(toy, "events", frame, {"2011-01-05": None})
    toy.job.outputs["events"] = job_toml.Table(contract="items@2", dataset="curated/events")
    with pytest.raises(InputError, match="date=2011-01-05 has files of events@3, but toy adds rows of items@2"):
        toy.partition("events", "date=2011-01-05")
    assert toy.partition("events", "date=2011-01-06")[1] is None

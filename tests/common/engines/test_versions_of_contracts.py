"""Versions of a dataset's contract: files of several in one partition are read as one table, with nulls."""

import argparse
import datetime
import importlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from common import contracts
from common.engines import arrow, frames
from common.engines.frames import engine
from common.engines.interactions import read_interactions
from common.errors import GateRefused, InputError
from common.handover import inputs, job_toml, partitions, storage
from common.handover.task import Task
from tests.frames import framed

COLUMNS = [
    '[columns]\nvisit_id = {type = "string"}\nplace = {type = "string", nullable = true}\n'
    'words = {type = "map", nullable = true}\n',
    'referrer = {type = "string", nullable = true}\n',
    'seconds = {type = "float64", nullable = true}\nseen = {type = "timestamp", nullable = true}\n'
    'marks = {type = "map", nullable = true}\n',
]
MOMENT = datetime.datetime(2011, 1, 5, 10, tzinfo=datetime.UTC)
DAYS = ["2011-01-05", "2011-01-06"]
numbers = itertools.count()
appending = importlib.import_module("common.engines.frames.append")  # the package has a function of its name


@pytest.fixture(scope="module", autouse=True)
def visits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Three versions of a contract, each with the columns of the one before."""
    folder = tmp_path_factory.mktemp("contracts")
    for version in range(1, 4):
        text = 'description = "Visits."\n' + "".join(COLUMNS[:version])
        (folder / f"visits@{version}.toml").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contracts, "FOLDER", folder)
        contracts.load.cache_clear()
        yield
    contracts.load.cache_clear()


def table(version: int, oldest: int | None = 1) -> job_toml.Table:
    """Return the dataset as a job of a version takes it."""
    older = f"visits@{oldest}" if oldest and oldest < version else None
    return job_toml.Table(f"visits@{version}", older, dataset="curated/visits", dates=("since", "until"))


def make_task(lake: str, visits: job_toml.Table) -> Task:
    """Return a task that reads the dataset and adds to it."""
    days = {name: job_toml.Parameter("date", "A day.", "") for name in ("since", "until")}
    job = job_toml.Job("toy", "A toy.", "spark", parameters=days, inputs={"visits": visits}, outputs={"visits": visits})
    names = {"dag_id": "d", "run_id": f"r{next(numbers)}", "task_id": "t", "map_index": None, "run_started": None}
    predecessors = [("visits", "before")] if visits.handed_over else []
    arguments = argparse.Namespace(lake=lake, predecessors=predecessors, settings=[], attempt=1, **names)
    return Task(job, Path(__file__).parent, arguments)


def visit(number: int) -> dict[str, Any]:
    """Return a visit with a value, or null, in each column of the newest version."""
    whole = number % 3 > 0
    return {
        "visit_id": f"v{number}",
        "place": "home" if whole else None,
        "words": {"a": "b", "language": "é"} if whole else None,
        "referrer": "search" if whole else None,
        "seconds": number / 2 if whole else None,
        "seen": MOMENT if whole else None,
        "marks": {} if whole else None,
    }


def in_version(row: dict[str, Any], version: int, asked: int = 3) -> dict[str, Any]:
    """Return the visit as a file of a version holds it and a reader of another sees it: the plain reference."""
    written = contracts.load(f"visits@{version}").columns
    return {name: row[name] if name in written else None for name in contracts.load(f"visits@{asked}").columns}


def as_table(rows: list[dict[str, Any]], version: int) -> pa.Table:
    contract = contracts.load(f"visits@{version}")
    return pa.Table.from_pylist(rows, arrow.arrow_schema(contract, list(contract.columns)))


def append_by_arrow(task: Task, version: int, day: str, rows: list[dict[str, Any]]) -> None:
    folder, seen = task.partition("visits", f"date={day}")
    former = [storage.File(f"{folder}/{name}", size) for name, size in files_of(seen)]
    uri = f"{folder}/{task.version}/part-0.parquet"
    with storage.stream(uri) as file:
        pq.write_table(as_table(rows, version), file)
    count = len(rows) + (seen.document["outputs"]["visits"]["rows"] if seen else 0)
    partitions.register(folder.rpartition("/")[0], {day})
    task.publish_partition("visits", folder, seen, count, former + storage.files(uri.rpartition("/")[0]))


def append_frame(task: Task, version: int, day: str, rows: list[dict[str, Any]]) -> None:
    dated = framed(engine.session.active_session(), as_table(rows, version)).withColumn("date", F.lit(day).cast("date"))
    _, seen = task.partition("visits", f"date={day}")
    frames.append(task, "visits", dated.coalesce(1), {day: seen})


def files_of(seen: Any) -> list[tuple[str, int]]:
    return [(file["path"], file["bytes"]) for file in seen.document["outputs"]["visits"]["files"]] if seen else []


def entry_of(lake: str, day: str) -> dict[str, Any]:
    """Return the output in a partition's manifest."""
    return json.loads(storage.read(f"{lake}/curated/visits/date={day}/manifest.json")[0])["outputs"]["visits"]


def set_input(task: Task) -> Task:
    task.inputs["visits"] = inputs.resolve(task, "visits", task.job.inputs["visits"])
    return task


def read_by_arrow(task: Task) -> list[dict[str, Any]]:
    found = arrow.read(task, "visits")
    assert pa.Table.from_batches(arrow.batches(task, "visits"), found.schema).equals(found)
    return plain(found.to_pylist())


def read_frame(task: Task) -> list[dict[str, Any]]:
    return plain([row.asDict(recursive=True) for row in frames.read(task, "visits").collect()])


def plain(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows of an engine sorted by ID, with maps and moments of one form."""
    for row in rows:
        for name in ("words", "marks"):
            if row.get(name) is not None:
                row[name] = dict(row[name])
        if row.get("seen") is not None and row["seen"].tzinfo is None:
            row["seen"] = row["seen"].astimezone(datetime.UTC)
    return sorted(rows, key=lambda row: row["visit_id"])


steps = st.lists(st.tuples(st.integers(1, 3), st.sampled_from(DAYS), st.integers(1, 3)), min_size=1, max_size=5)


def check_sequence(lake: str, sequence: list[tuple[int, str, int]], append: Any, read: list[Any]) -> None:
    """Append rows by jobs of any versions in any order; all readers see the union with nulls."""
    ids = itertools.count()
    expected, newest = [], dict.fromkeys(DAYS, 0)
    for version, day, count in sequence:
        rows = [visit(next(ids)) for _ in range(count)]
        task = make_task(lake, table(version))
        if version < newest[day]:
            with pytest.raises(InputError, match=rf"date={day} has files of visits@\d, but toy adds rows of"):
                append(task, version, day, rows)
            continue
        append(task, version, day, rows)
        newest[day] = version
        expected += [in_version(row, version) for row in rows]
    task = set_input(make_task(lake, table(3)))
    assert task.input("visits").rows == len(expected)
    for each in read:
        assert each(task) == sorted(expected, key=lambda row: row["visit_id"])


@given(steps)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_reading_gives_the_union_with_nulls(lake: str, sequence: list[tuple[int, str, int]]) -> None:
    check_sequence(f"{lake}{next(numbers)}", sequence, append_by_arrow, [read_by_arrow])


@given(steps)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=3)
def test_frames_append_compact_and_read_the_union(
    session: SparkSession, lake: str, sequence: list[tuple[int, str, int]]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(appending, "MANY_FILES", 2)
        check_sequence(f"{lake}{next(numbers)}", sequence, append_frame, [read_by_arrow, read_frame])


def test_manifest_records_older_files_until_they_are_compacted(
    session: SparkSession, lake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    day = DAYS[0]
    for version in (1, 2, 2):
        append_frame(make_task(lake, table(version)), version, day, [visit(version)])
    entry = entry_of(lake, day)
    assert entry["contract"] == "visits@2"
    assert [file.get("contract") for file in entry["files"]] == ["visits@1", None, None]

    rows = read_frame(set_input(make_task(lake, table(3))))
    monkeypatch.setattr(appending, "MANY_FILES", 3)
    append_frame(make_task(lake, table(3)), 3, day, [visit(4)])
    entry = entry_of(lake, day)
    assert (entry["contract"], entry["rows"]) == ("visits@3", 4)
    assert {file.get("contract") for file in entry["files"]} == {None}
    task = set_input(make_task(lake, table(3, oldest=None)))
    assert read_frame(task) == read_by_arrow(task) == plain([*rows, in_version(visit(4), 3)])


def test_job_that_takes_only_the_newest_version_names_partition_and_remedy(lake: str) -> None:
    append_by_arrow(make_task(lake, table(1)), 1, DAYS[0], [visit(1)])
    append_by_arrow(make_task(lake, table(2)), 2, DAYS[0], [visit(2)])
    sentence = (
        r"curated/visits/date=2011-01-05/manifest.json has files of visits@1, but input 'visits' of toy expects "
        r'visits@2; set oldest = "visits@1" in \[inputs.visits\] of its job.toml, or fill a new dataset, see docs/'
    )
    with pytest.raises(InputError, match=sentence):
        set_input(make_task(lake, table(2, oldest=None)))
    with pytest.raises(InputError, match=r'date=2011-01-05 has files of visits@1, .*; set oldest = "visits@1" in'):
        make_task(lake, table(3, oldest=2)).partition("visits", "date=2011-01-05")
    with pytest.raises(InputError, match=r"has files of visits@2, .* expects visits@1; run the two jobs at versions"):
        set_input(make_task(lake, table(1)))


def test_column_that_a_file_of_the_newest_version_lacks_is_not_null(lake: str) -> None:
    append_by_arrow(make_task(lake, table(1)), 1, DAYS[0], [visit(1)])
    file = storage.local(f"{lake}/curated/visits/date={DAYS[0]}/manifest.json")
    file.write_text(file.read_text().replace("visits@1", "visits@2"))
    with pytest.raises(InputError, match=r"breaks visits@2: column 'referrer' is missing"):
        arrow.read(set_input(make_task(lake, table(2))), "visits")


def test_columns_are_read_alone_from_files_that_lack_them(lake: str) -> None:
    append_by_arrow(make_task(lake, table(1)), 1, DAYS[0], [visit(1), visit(2)])
    append_by_arrow(make_task(lake, table(3)), 3, DAYS[0], [visit(4)])
    task = set_input(make_task(lake, table(3)))
    expected = {"seconds": [None, None, 2.0]}
    assert arrow.read(task, "visits", ["seconds"]).to_pydict() == expected
    assert pa.Table.from_batches(arrow.batches(task, "visits", ["seconds"])).to_pydict() == expected


def test_interactions_of_an_older_version_have_no_time_that_was_added(
    lake: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("pairs")
    first = 'description = "Pairs."\n[columns]\nuser_id = {type = "string"}\nitem_id = {type = "string"}\n'
    added = 'last = {type = "timestamp", nullable = true}\nweight = {type = "float32", nullable = true}\n'
    (folder / "visits@1.toml").write_text(first)
    (folder / "visits@2.toml").write_text(first + added)
    monkeypatch.setattr(contracts, "FOLDER", folder)
    contracts.load.cache_clear()
    append_by_arrow(make_task(lake, table(1)), 1, DAYS[0], [{"user_id": "u", "item_id": "a"}])
    append_by_arrow(
        make_task(lake, table(2)), 2, DAYS[0], [{"user_id": "v", "item_id": "b", "last": MOMENT, "weight": 1.0}]
    )
    task = set_input(make_task(lake, table(2)))
    found = read_interactions(task, "visits", ["last"])
    assert found.users.to_pylist() == ["u", "v"]
    assert found.values["last"].tolist() == [None, MOMENT.replace(tzinfo=None)]
    with pytest.raises(InputError, match="has a null, NaN or infinite number in 'weight'"):
        read_interactions(task, "visits", ["weight"])
    contracts.load.cache_clear()


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_replaced_dataset_moves_between_versions(lake: str, before: int, after: int) -> None:
    for version in (before, after):
        whole = job_toml.Table(f"visits@{version}", dataset="curated/visits")
        task = make_task(lake, whole)
        task.load_replaced()
        arrow.write(task, "visits", as_table([visit(1)], version))
    entry = entry_of_all(lake)
    assert entry["contract"] == f"visits@{after}"
    assert [file.get("contract") for file in entry["files"]] == [None]
    reader = job_toml.Table("visits@2", "visits@1", dataset="curated/visits")
    assert read_by_arrow(set_input(make_task(lake, reader))) == [in_version(visit(1), after, 2)]


def entry_of_all(lake: str) -> dict[str, Any]:
    return json.loads(storage.read(f"{lake}/curated/visits/all/manifest.json")[0])["outputs"]["visits"]


def test_maps_are_written_by_frames_and_by_arrow(session: SparkSession, lake: str) -> None:
    handed = job_toml.Table("visits@3")
    rows = [visit(number) for number in range(4)]
    by_frames, by_arrow = make_task(lake, handed), make_task(lake, handed)
    frame = framed(session, as_table(rows, 3))
    frames.write(by_frames, "visits", frame)
    arrow.write(by_arrow, "visits", as_table(rows, 3))
    reader = make_task(lake, handed)
    for writer in (by_frames, by_arrow):
        files = storage.files(writer.folder("visits"))
        reader.inputs["visits"] = inputs.Input("visits", contracts.load("visits@3"), files, 4)
        assert read_by_arrow(reader) == read_frame(reader) == rows
    # A map that Spark builds itself has values that are never null.
    built = frame.withColumn("marks", F.create_map(F.lit("a"), F.lit("b")))
    frames.write(make_task(lake, handed), "visits", built)
    with pytest.raises(GateRefused, match="column 'words' is map<string,bigint>, expected map"):
        wrong = frame.withColumn("words", F.create_map(F.lit("a"), F.lit(1).cast("bigint")))
        frames.write(make_task(lake, handed), "visits", wrong)
    with pytest.raises(GateRefused, match="does not fit visits@3"):
        wrong_table = as_table(rows, 3).set_column(2, "words", pa.array([1] * 4))
        arrow.write(make_task(lake, handed), "visits", wrong_table)

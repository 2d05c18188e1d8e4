"""Windows of a dataset by days: their ends, lengths, and only the rows that had arrived by the end."""

import argparse
import datetime
import itertools
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession
from recommending_lake import table

from common.engines import arrow, frames
from common.errors import ArgumentError, InputError, StaleAttempt
from common.handover import inputs, job_toml, manifest, partitions, storage
from common.handover.task import Task

JOB = """
[job]
description = "Reads a window of events, and replaces a set."
engine = "python"
[inputs.events]
dataset = "curated/events"
contract = "events@3"
dates = ["since", "until"]
window = "window_days"
[outputs.set]
dataset = "curated/set"
contract = "events@3"
when = "place"
[parameters.since]
type = "date"
default = ""
help = "first"
[parameters.until]
type = "date"
default = ""
help = "after"
[parameters.window_days]
type = "integer"
default = 3
help = "length"
[parameters.place]
type = "boolean"
default = true
help = "replace the set"
"""
runs = itertools.count()


class Days:
    """A lake with days of events, each a number of rows by day of arrival ('' where it is not known)."""

    def __init__(self, lake: str, folder: Path) -> None:
        self.lake, self.folder = lake, folder
        (folder / "job.toml").write_text(JOB)

    def put(self, day: str, arrivals: dict[str, int]) -> None:
        rows: list[dict[str, Any]] = []
        for arrival in (arrival for arrival, count in arrivals.items() for _ in range(count)):
            known = datetime.date.fromisoformat(arrival) if arrival else None
            name = f"{day} from {arrival or 'before'} {len(rows)}"
            time = datetime.datetime.fromisoformat(f"{day}T10:00:00+00:00")
            rows.append({"source": "shop", "event_id": name, "type": "purchase", "time": time, "arrival": known})
        folder = f"{self.lake}/curated/events/date={day}"
        with storage.stream(f"{folder}/version=a/part-0.parquet") as file:
            pq.write_table(table("events@3", rows), file)
        files = [{"path": "version=a/part-0.parquet", "bytes": storage.files(folder)[0].bytes}]
        dated = {arrival: count for arrival, count in arrivals.items() if arrival}
        output = {"contract": "events@3", "rows": len(rows), "files": files, "arrivals": dated}
        storage.write(f"{folder}/manifest.json", manifest.to_json({"outputs": {"events": output}, "task": {}}))
        partitions.register(f"{self.lake}/curated/events", {day})

    def task(self, **settings: object) -> Task:
        names = {"dag_id": "d", "run_id": f"r{next(runs)}", "task_id": "t", "map_index": None, "run_started": None}
        pairs = [(name, str(value)) for name, value in settings.items()]
        arguments = argparse.Namespace(lake=self.lake, predecessors=[], settings=pairs, attempt=1, **names)
        return Task(job_toml.load(self.folder), self.folder, arguments)

    def read(self, **settings: object) -> Task:
        """Return a task with its input resolved."""
        task = self.task(**settings)
        task.load_replaced()
        task.inputs["events"] = inputs.resolve(task, "events", task.job.inputs["events"])
        return task


@pytest.fixture
def days(lake: str, tmp_path: Path) -> Days:
    """Days of which some rows came late; the newest two came late entirely, and a registered day is empty."""
    days = Days(lake, tmp_path)
    days.put("2011-01-01", {"": 1})
    days.put("2011-01-03", {"": 2, "2011-01-09": 1})
    days.put("2011-01-04", {"2011-01-04": 1, "2011-01-05": 1, "2011-01-08": 3})
    days.put("2011-01-05", {"2011-01-09": 1})
    days.put("2011-01-06", {"2011-01-09": 2})
    partitions.register(f"{lake}/curated/events", {"2011-01-07"})
    return days


@pytest.mark.parametrize(
    ("settings", "read", "rows", "end"),
    [
        ({}, [4, 5, 6], 8, 7),
        ({"window_days": 100}, [1, 3, 4, 5, 6], 12, 7),
        ({"window_days": 1, "since": "2011-01-03"}, [3, 4, 5, 6], 11, 7),
        ({"until": "2011-01-07"}, [3, 4], 4, 5),
        ({"until": "2011-01-05", "window_days": 2}, [3, 4], 3, 5),
        ({"until": "2011-01-04", "window_days": 2}, [3], 2, 4),
        ({"until": "2030-01-01"}, [4, 5, 6], 8, 7),
    ],
)
def test_window_ends_after_the_newest_day_known_by_then(
    days: Days, settings: dict[str, object], read: list[int], rows: int, end: int
) -> None:
    source = days.read(**settings).input("events")
    assert [inputs.day_of(partition).day for partition in source.manifests] == read
    assert (source.rows, source.end) == (rows, datetime.date(2011, 1, end))


def test_rows_that_arrived_later_are_not_read(days: Days, session: SparkSession) -> None:
    task = days.read(until="2011-01-05")
    expected = ["2011-01-03 from before 0", "2011-01-03 from before 1", "2011-01-04 from 2011-01-04 0"]
    assert sorted(row.event_id for row in frames.read(task, "events").collect()) == expected
    assert arrow.read(task, "events", ["event_id"]).to_pydict() == {"event_id": expected}
    assert [row["event_id"] for batch in arrow.batches(task, "events") for row in batch.to_pylist()] == expected


def test_window_in_which_nothing_had_arrived_is_an_input_error(days: Days) -> None:
    with pytest.raises(InputError, match=r"no published partition in its window with rows .* before 2011-01-01; set a"):
        days.read(until="2011-01-01")


def test_result_as_of_an_old_day_does_not_replace_a_newer_one(days: Days) -> None:
    newer = days.read(until="2011-01-06")
    assert newer.basis == datetime.datetime(2011, 1, 6, tzinfo=datetime.UTC)
    newer.replace_dataset("set", 0, [])
    with pytest.raises(StaleAttempt, match="is fenced"):
        days.read(until="2011-01-05").refuse_stale()
    days.read(until="2011-01-06").refuse_stale()
    days.read().refuse_stale()
    without = days.read(until="2011-01-05", place="false")
    without.refuse_stale()
    assert without.job.outputs == {}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            ('window = "window_days"', 'window = "window_day"'),
            "'window_day', expected .* integer; did you mean 'window_da",
        ),
        (
            ('window = "window_days"', 'window = "since"'),
            "window of .*inputs.events.* names 'since', expected a parameter",
        ),
        (
            ('dates = ["since", "until"]', 'dates = ["since", "untl"]'),
            "dates of .* 'untl', expected .* date; did you mean",
        ),
        (
            ('when = "place"', 'when = "plce"'),
            "when of .*outputs.set.* 'plce', expected .* boolean; did you mean 'place'",
        ),
    ],
)
def test_parameter_that_a_table_names_must_exist(days: Days, change: tuple[str, str], sentence: str) -> None:
    (days.folder / "job.toml").write_text(JOB.replace(*change))
    with pytest.raises(ArgumentError, match=sentence):
        days.task()

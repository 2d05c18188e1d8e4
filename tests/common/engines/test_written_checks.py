"""Checks of contracts on rows that are written: Arrow and frames find the same, and report it in the same sentence."""

import argparse
import datetime
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from common import contracts
from common.engines import arrow, arrow_checks, frames
from common.engines.frames import checks as checks_of_frames
from common.engines.frames import engine, in_buckets
from common.errors import GateRefused
from common.handover import job_toml
from common.handover.task import Task
from tests.frames import framed

COLUMNS = """description = "Rows."
[columns]
user_id = { type = "string", nullable = true }
rank = { type = "int64", nullable = true }
day = { type = "date", nullable = true }
style = { type = "string", nullable = true }
"""
CHECKS = """
[[checks]]
column = "style"
allowed = ["mixed", "new"]
severity = "SEVERITY"
[[checks]]
unique = ["rank", "user_id", "day"]
severity = "SEVERITY"
"""
DAY = datetime.date(2011, 1, 5)
rows = st.tuples(
    st.none() | st.text("aé", min_size=1, max_size=2),
    st.none() | st.integers(-2, 2),
    st.none() | st.dates(DAY, DAY + datetime.timedelta(days=2)),
)


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Contracts of the same rows, whose checks warn or refuse."""
    folder = tmp_path_factory.mktemp("contracts")
    for name, severity in (("lenient", "warn"), ("strict", "refuse")):
        (folder / f"{name}@1.toml").write_text(COLUMNS + CHECKS.replace("SEVERITY", severity))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contracts, "FOLDER", folder)
        contracts.load.cache_clear()
        yield
    contracts.load.cache_clear()


def task(lake: str, contract: str) -> Task:
    """Return a task that writes rows as a hand-over, to a dataset by day, and to a dataset that is replaced."""
    outputs = {"rows": job_toml.Table(contract=contract), "days": job_toml.Table(contract=contract, dataset="days")}
    job = job_toml.Job("toy", "A toy.", "spark", outputs=outputs)
    names = {"dag_id": "d", "run_id": "r", "task_id": "t", "attempt": 1, "map_index": None, "run_started": None}
    made = Task(job, Path(__file__).parent, argparse.Namespace(lake=lake, predecessors=[], settings=[], **names))
    made.load_replaced()
    return made


def table(values: list[tuple]) -> pa.Table:
    columns = list(zip(*values, strict=True)) or [()] * 4
    schema = arrow.schema_of("lenient@1")
    return pa.table([pa.array(each, kind) for each, kind in zip(columns, schema.types, strict=True)], schema=schema)


def frame(session: SparkSession, values: list[tuple]) -> DataFrame:
    return framed(session, table(values))


def repetitions(keys: list[tuple]) -> int:
    """Return the number of keys beyond the first of each: the plain reference."""
    return sum(count - 1 for count in Counter(keys).values())


@given(st.lists(rows, max_size=40), st.integers(1, 5))
def test_repeated_keys_are_counted_across_the_pieces_of_a_table(keys: list[tuple], size: int) -> None:
    whole = table([(*key, None) for key in keys])
    pieces = [whole.slice(begin, size) for begin in range(0, len(keys), size)]
    hashes = [arrow_checks.hashes_of(piece, ("user_id", "rank", "day")) for piece in pieces]
    assert arrow_checks.number_repeated(hashes) == repetitions(keys)


def test_engines_find_the_same_values_and_keys(session: SparkSession, lake: str) -> None:
    draw = random.Random(7)
    styles = [None, "mixed", "new", "old", "Mixed", "é"]
    cases = {
        case: [
            (draw.choice([None, "a", "b", "é"]), draw.choice([None, -1, -2, 1]), draw.choice([None, DAY]), style)
            for style in draw.choices(styles[: draw.randint(2, 6)], k=draw.randint(0, 9))
        ]
        for case in range(60)
    }
    contract = contracts.load("lenient@1")
    rows = table([row for own in cases.values() for row in own])
    every = framed(session, rows.append_column("number", [[case for case, own in cases.items() for _ in own]]))
    marked = checks_of_frames.mark_repeated(in_buckets(every, "user_id", 4), contract, ["user_id", "rank"])
    marked = marked.withColumnRenamed("_repeated1", "in_pass")  # of all cases together
    (of_all,) = marked.agg(F.count_if("in_pass").alias("rows")).collect()
    assert of_all.rows == repetitions([row[:3] for own in cases.values() for row in own])
    counts = {
        row.number: row for row in every.groupBy("number").agg(*checks_of_frames.value_counts(contract)).collect()
    }
    for case, own in cases.items():
        found = arrow_checks.Checks(task(lake, contract.name), "rows", contract)
        found.add_values(table(own))
        values = (counts[case]["_wrong0"], counts[case]["_example0"]) if own else (0, None)
        assert (found.counts.get(contract.checks[0], 0), found.examples.get(contract.checks[0])) == values
    assert checks_of_frames.number_repeated(every, ["number", "user_id", "rank", "day"]) == sum(
        repetitions([row[:3] for row in own]) for own in cases.values()
    )


GOOD = [("a", 1, DAY, "mixed"), ("a", 2, DAY, None), (None, 1, DAY, "new")]
BAD = [*GOOD, ("a", 1, DAY, "old"), (None, 1, DAY, "odd")]
VALUES = "has 2 values in 'style' that lenient@1 does not allow, such as 'odd', expected mixed, new; fix the job"
KEYS = "has 2 rows whose rank, user_id, day a row before them has, lenient@1 allows none; fix the job or the check."


def write_by_arrow(made: Task, values: list[tuple]) -> None:
    arrow.write(made, "rows", [table(values[:2]), table(values[2:])])


def write_buckets_by_arrow(made: Task, values: list[tuple]) -> None:
    arrow.write_buckets(made, "rows", table(values), "style")


def append_by_arrow(made: Task, values: list[tuple]) -> None:
    arrow.write(made, "days", table(values[:2]))
    made.attempt, made.outputs = 2, {}
    made.load_replaced()
    arrow.append(made, "days", table(values[2:]))


def write_frame(made: Task, values: list[tuple]) -> None:
    frames.write(made, "rows", frame(engine.session.active_session(), values))


def write_buckets_of_frame(made: Task, values: list[tuple]) -> None:
    named = [(user or "z", *others) for user, *others in values]  # a row without a user has no bucket
    frames.write_buckets(made, "rows", frame(engine.session.active_session(), named), ["user_id", "rank"], 1)


def append_frame(made: Task, values: list[tuple]) -> None:
    def dated(part: list[tuple]) -> DataFrame:
        return frame(engine.session.active_session(), part).withColumn("date", F.lit(DAY))

    frames.append(made, "days", dated(values[:2]), {str(DAY): None})
    made.attempt, made.outputs = 2, {}
    frames.append(made, "days", dated(values[2:]), {str(DAY): made.partition("days", f"date={DAY}")[1]})


WRITERS: list[Any] = [write_by_arrow, write_buckets_by_arrow, append_by_arrow]
WRITERS += [write_frame, write_buckets_of_frame, append_frame]


@pytest.mark.parametrize("write", WRITERS)
def test_broken_check_warns_or_refuses(session: SparkSession, lake: str, write: Any) -> None:
    lenient, strict = task(lake, "lenient@1"), task(f"{lake}/strict", "strict@1")
    write(lenient, BAD)
    role = "days" if "append" in write.__name__ else "rows"
    assert [warning.partition(VALUES)[0] for warning in lenient.warnings[:1]] == [f"Output '{role}' "]
    assert lenient.warnings[1:] == [f"Output '{role}' {KEYS}"]
    assert lenient.outputs[role]["rows"] > 0
    with pytest.raises(GateRefused, match=f"Output '{role}' has 2 values in 'style' that strict@1 does not allow"):
        write(strict, BAD)
    if "append_frame" not in write.__name__:  # takes two seconds, and refuses as `write_frame` does
        with pytest.raises(GateRefused, match=f"Output '{role}' has 1 rows whose rank, user_id, day a row before them"):
            write(task(f"{lake}/again", "strict@1"), [*GOOD, GOOD[0]])


@pytest.mark.parametrize("write", [write_by_arrow, write_buckets_by_arrow, append_by_arrow, write_frame])
def test_rows_without_a_breach_are_written_silently(session: SparkSession, lake: str, write: Any) -> None:
    made = task(lake, "strict@1")
    write(made, GOOD)
    assert made.warnings == []

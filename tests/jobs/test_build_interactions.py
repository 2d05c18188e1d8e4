"""Interactions against a plain Python reference."""

import datetime
import math
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession

from common import contracts
from common.engines import spark
from common.handover import runner
from jobs.build_interactions import main as job

END = datetime.date(2011, 3, 1)
DAY = datetime.timedelta(days=1)
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)  # to shrink a failure would run Spark a hundred times more
SCHEMA = spark.schema(contracts.load("events@2"))


def midnight(date: datetime.date) -> datetime.datetime:
    return datetime.datetime.combine(date, datetime.time(), datetime.UTC)


event = st.tuples(
    st.sampled_from([None, "ann", "bob", "cid"]),
    st.sampled_from(["cup", "pot"]),
    st.sampled_from(["purchase", "purchase", "cancellation"]),
    st.integers(1, 20),
    st.one_of(st.integers(-80 * 24, 5 * 24), st.sampled_from([0, -240, -480])).map(
        lambda hours: midnight(END) + datetime.timedelta(hours=hours)
    ),
)


def frame(session: SparkSession, events: list) -> DataFrame:
    rows = [
        (f"e{number}", user, item, kind, quantity, 1.0, time, None)
        for number, (user, item, kind, quantity, time) in enumerate(events)
    ]
    return session.createDataFrame(rows, SCHEMA)


def built(session: SparkSession, events: list, partitions: int = 2, half_life: float = 7.0) -> DataFrame:
    return job.build_interactions(frame(session, events), END, 10, 10, half_life, partitions)


def reference(events: list, half_life: float = 7.0) -> dict:
    """Compute interactions@2 by definition, one pair and one moment at a time."""
    pairs = defaultdict(list)
    for user, item, kind, quantity, time in events:
        if user is not None and time < midnight(END):
            pairs[user, item].append((quantity if kind == "purchase" else -quantity, time))
    result = {}
    for pair, changes in pairs.items():
        row = {"first_time": min((time for quantity, time in changes if quantity > 0), default=None)}
        for name, moment in (("", END), ("_before_test", END - 10 * DAY), ("_before_tuning", END - 20 * DAY)):
            before = [(quantity, time) for quantity, time in changes if time < midnight(moment)]
            net = sum(quantity * 2 ** (-((midnight(moment) - time) / DAY) / half_life) for quantity, time in before)
            bought = [time for quantity, time in before if quantity > 0]
            row[f"weight{name}"] = math.log1p(max(0.0, net))
            row[f"events{name}"] = len(bought)
            row[f"last_time{name}"] = max(bought, default=None)
        if max(row["weight"], row["weight_before_test"], row["weight_before_tuning"]) > 1e-9:
            result[pair] = row
    return result


@settings(max_examples=6, phases=PHASES)
@given(events=st.lists(event, max_size=25))
def test_interactions_equal_the_definition(session: SparkSession, events: list) -> None:
    rows = {(row.user_id, row.item_id): row.asDict() for row in built(session, events).collect()}
    rows = {pair: row for pair, row in rows.items() if max(v for k, v in row.items() if k.startswith("weight")) > 1e-9}
    expected = reference(events)
    assert rows.keys() == expected.keys()
    for pair, row in expected.items():
        for name, value in row.items():
            found = rows[pair][name]
            if isinstance(value, float):
                assert found == pytest.approx(value, rel=1e-5, abs=1e-9), (pair, name)
            elif isinstance(value, datetime.datetime):
                assert found.astimezone(datetime.UTC) == value, (pair, name)
            else:
                assert found == value, (pair, name)


@settings(max_examples=6, phases=PHASES)
@given(events=st.lists(event, min_size=1, max_size=20), more=st.lists(event, min_size=1, max_size=20))
def test_events_after_a_cut_change_nothing_before_it(session: SparkSession, events: list, more: list) -> None:
    cut = midnight(END - 10 * DAY)
    before = [event for event in events if event[4] < cut]
    after = [event for event in more if event[4] >= cut]

    def as_of_the_cut(frame: DataFrame) -> set:
        names = [name for name in frame.columns if name.endswith(("_before_test", "_before_tuning"))]
        rows = frame.where("weight_before_test > 0 OR weight_before_tuning > 0")
        return {tuple(row) for row in rows.select("user_id", "item_id", *names).collect()}

    assert as_of_the_cut(built(session, before + after)) == as_of_the_cut(built(session, before))


def test_cancellations_are_subtracted(session: SparkSession) -> None:
    time = midnight(END - 7 * DAY)
    events = [
        ("ann", "cup", "purchase", 12, time),
        ("ann", "cup", "cancellation", 12, time + DAY),
        ("bob", "cup", "purchase", 12, time),
        ("bob", "cup", "cancellation", 6, time),
    ]
    (row,) = built(session, events).collect()
    assert (row.user_id, row.events) == ("bob", 1)
    assert row.weight == pytest.approx(math.log1p(6 / 2))


def test_very_short_half_life_does_not_overflow(session: SparkSession) -> None:
    events = [
        ("ann", "cup", "purchase", 1, midnight(END - 21 * DAY)),
        ("bob", "cup", "purchase", 1, midnight(END - DAY)),
    ]
    rows = {row.user_id: row for row in built(session, events, half_life=0.01).collect()}
    assert set(rows) <= {"ann", "bob"}
    assert all(0 <= row.weight <= math.log1p(1) for row in rows.values())


def test_one_shuffle_and_each_user_sorted_in_one_file(session: SparkSession, tmp_path: Path) -> None:
    times = [midnight(END) - datetime.timedelta(hours=hour) for hour in range(1, 200)]
    events = [(f"u{hour % 23:02}", f"i{hour % 7}", "purchase", 1, time) for hour, time in enumerate(times)]
    frame(session, events).write.parquet(f"{tmp_path}/events")
    interactions = job.build_interactions(session.read.parquet(f"{tmp_path}/events"), END, 10, 10, 7.0, 3)
    interactions.write.parquet(f"{tmp_path}/out")
    interactions.collect()
    plan = interactions._jdf.queryExecution().executedPlan().toString().split("== Initial Plan ==")[0]
    exchanges = [line for line in plan.splitlines() if "Exchange" in line]
    assert len(exchanges) == 1, plan
    assert "hashpartitioning(user_id" in exchanges[0]
    users: list[set[str]] = []
    for file in sorted(Path(f"{tmp_path}/out").glob("*.parquet")):
        pairs = [(row.user_id, row.item_id) for row in session.read.parquet(str(file)).collect()]
        assert pairs == sorted(pairs)
        users.append({user for user, _ in pairs})
    assert len(users) == 3
    assert sum(map(len, users)) == len(set().union(*users)) == 23


def publish_events(session: SparkSession, lake: str, date: str, events: list) -> None:
    """Publish a partition of curated events as ingest_events does."""
    from common.handover import manifest, partitions, storage

    partitions.register(f"{lake}/curated/events", {date})
    folder = f"{lake}/curated/events/date={date}"
    frame(session, events).coalesce(1).write.parquet(f"{folder}/version=a-1")
    files = storage.files(f"{folder}/version=a-1")
    paths = [{"path": file.uri.removeprefix(f"{folder}/"), "bytes": file.bytes} for file in files]
    output = {"contract": "events@2", "rows": len(events), "bytes": 1, "files": paths}
    document = {"outputs": {"events": output}, "task": {}}
    storage.write(f"{folder}/manifest.json", manifest.to_json(document))


def arguments(lake: str, *more: str) -> list[str]:
    return [
        "--lake",
        lake,
        "--dag-id",
        "d",
        "--run-id",
        "r",
        "--task-id",
        "build_interactions",
        "--attempt",
        "1",
        *more,
    ]


FOLDER = Path(job.__file__).parent


def test_window_ends_after_the_newest_partition(session: SparkSession, lake: str) -> None:
    publish_events(session, lake, "2011-01-05", [("ann", "cup", "purchase", 1, midnight(datetime.date(2011, 1, 5)))])
    publish_events(session, lake, "2011-01-31", [("bob", "cup", "purchase", 1, midnight(datetime.date(2011, 1, 31)))])
    assert runner.exit_code(job.main, FOLDER, arguments(lake, "--set", "half_life_days=1")) == 0
    rows = session.read.parquet(f"{lake}/intermediate/d/r/build_interactions/attempt-1/*/interactions").collect()
    bob = next(row for row in rows if row.user_id == "bob")
    assert bob.weight == pytest.approx(math.log1p(0.5))  # a day old when the window ends
    names = list(contracts.load("interactions@2").columns)
    assert bob.__fields__ == names


def test_empty_result_is_an_input_error(session: SparkSession, lake: str, capsys: pytest.CaptureFixture) -> None:
    publish_events(session, lake, "2011-01-05", [(None, "cup", "purchase", 1, midnight(datetime.date(2011, 1, 5)))])
    assert runner.exit_code(job.main, FOLDER, arguments(lake)) == 3
    assert "known user" in capsys.readouterr().err.splitlines()[-1]

"""Interactions against a plain Python reference."""

import datetime
import json
import math
from collections import defaultdict
from pathlib import Path
from random import Random

import pyarrow.parquet as pq
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession

from common import contracts
from common.handover import runner
from common.sources import tracking_plan
from common.sources.tracking_plan import EventType, TrackingPlan
from jobs.build_interactions import main as job
from tests.frames import event_rows, frame, put_file, table

END = datetime.date(2011, 3, 1)
DAY = datetime.timedelta(days=1)
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)  # to shrink a failure would run Spark a hundred times more
CASES = 60  # that one run of Spark computes, as users of their own
COLUMNS = "user_id item_id type quantity value time"
SHOP = tracking_plan.load()


def midnight(date: datetime.date) -> datetime.datetime:
    return datetime.datetime.combine(date, datetime.time(), datetime.UTC)


def plan_with(view: float) -> TrackingPlan:
    """Return a plan of views, purchases and their reversals, ratings (low ones count against), weightless targets."""
    return TrackingPlan(
        {
            "view": EventType("A page.", weight=view),
            "purchase": EventType("An order.", weight="quantity", target=True),
            "cancellation": EventType("Its reversal.", reverses="purchase"),
            "rating": EventType("One to five stars.", weight="value - 3", target="value >= 4"),
            "signed 'up'": EventType("A target without a weight.", weight=0, target=True),
        }
    )


event = st.tuples(
    st.sampled_from([None, "ann", "ann", "ann", "bob"]),
    st.sampled_from([None, "cup", "cup", "cup", "pot"]),
    st.sampled_from(["view", "purchase", "purchase", "cancellation", "rating", "signed 'up'", "zap"]),
    st.none() | st.integers(1, 20),
    st.none() | st.integers(1, 5).map(float),
    st.one_of(st.integers(-80 * 24, 5 * 24), st.sampled_from([0, -240, -480])).map(
        lambda hours: midnight(END) + datetime.timedelta(hours=hours)
    ),
)
case = st.lists(event, max_size=12)


def built(
    session: SparkSession,
    events: list[tuple],
    plan: TrackingPlan = SHOP,
    buckets: int = 2,
    half_life: float = 7.0,
) -> DataFrame:
    rows = frame(session, "events@3", event_rows(COLUMNS, events))
    return job.build_interactions(rows, plan, END, 10, 10, half_life, buckets)


def weight_and_target(kind: str, quantity: int | None, value: float | None, view: float) -> tuple[float, bool]:
    """Return the plan's weight of an event, and whether it is a target, in plain Python."""
    bought = 1.0 if quantity is None else float(quantity)
    stars = 1.0 if value is None else value - 3
    liked = value is not None and value >= 4
    kinds = {"view": (view, False), "purchase": (bought, True), "cancellation": (-bought, False)}
    return {**kinds, "rating": (stars, liked), "signed 'up'": (0.0, True)}[kind]


def reference(events: list[tuple], view: float, half_life: float = 7.0) -> dict[tuple, dict]:
    """Compute interactions@2 by definition, one pair and one moment at a time."""
    pairs = defaultdict(list)
    for user, item, kind, quantity, value, time in events:
        if user is not None and item is not None and kind != "zap" and time < midnight(END):
            pairs[user, item].append((*weight_and_target(kind, quantity, value, view), time, kind))
    result = {}
    for pair, changes in pairs.items():
        row = {"first_time": min((time for weight, _, time, _ in changes if weight > 0), default=None)}
        for name, moment in (("", END), ("_before_test", END - 10 * DAY), ("_before_tuning", END - 20 * DAY)):
            before = [change for change in changes if change[2] < midnight(moment)]
            ages = [(midnight(moment) - time) / DAY for _, _, time, _ in before]
            net = sum(weight * 2 ** (-age / half_life) for (weight, *_), age in zip(before, ages, strict=True))
            row[f"weight{name}"] = math.log1p(max(0.0, net))
            row[f"events{name}"] = sum(target for _, target, _, _ in before)
            row[f"last_time{name}"] = max((time for weight, _, time, _ in before if weight > 0), default=None)
        reversed_ones = any(kind == "cancellation" for *_, kind in changes)
        if heaviest(row) > 1e-9 or (row["events"] and not reversed_ones):
            result[pair] = row
    return result


def heaviest(row: dict) -> float:
    return max(value for name, value in row.items() if name.startswith("weight"))


@settings(max_examples=3, phases=PHASES)
@given(
    cases=st.lists(case, min_size=CASES, max_size=CASES),
    view=st.sampled_from([-0.5, 0.0, 0.125, 1.0]),
    order=st.integers(0, 9),
)
def test_interactions_equal_the_definition(session: SparkSession, cases: list, view: float, order: int) -> None:
    events = [(user and f"{user} {number}", *rest) for number, each in enumerate(cases) for user, *rest in each]
    expected = reference(events, view)
    Random(order).shuffle(events)
    found = [row.asDict() for row in built(session, events, plan_with(view)).collect()]
    rows = {(row["user_id"], row["item_id"]): row for row in found}
    # Rounding may leave a weight of 1e-16 of a purchase and its reversal at the same time.
    rows = {pair: row for pair, row in rows.items() if pair in expected or heaviest(row) > 1e-9}
    assert rows.keys() == expected.keys()
    for pair, row in expected.items():
        for name, value in row.items():
            found_value = rows[pair][name]
            if isinstance(value, float):
                assert found_value == pytest.approx(value, rel=1e-5, abs=1e-9), (pair, name)
            elif isinstance(value, datetime.datetime):
                assert found_value.astimezone(datetime.UTC) == value, (pair, name)
            else:
                assert found_value == value, (pair, name)


@settings(max_examples=3, phases=PHASES)
@given(
    events=st.lists(event, min_size=20, max_size=60),
    more=st.lists(event, min_size=20, max_size=60),
)
def test_events_after_a_cut_change_nothing_before_it(session: SparkSession, events: list, more: list) -> None:
    cut = midnight(END - 10 * DAY)
    before = [event for event in events if event[-1] < cut]
    after = [event for event in more if event[-1] >= cut]

    def as_of_the_cut(frame: DataFrame) -> set:
        names = [name for name in frame.columns if name.endswith(("_before_test", "_before_tuning"))]
        rows = frame.where("weight_before_test > 0 OR weight_before_tuning > 0")
        return {tuple(row) for row in rows.select("user_id", "item_id", *names).collect()}

    plan = plan_with(1.0)
    assert as_of_the_cut(built(session, before + after, plan)) == as_of_the_cut(built(session, before, plan))


def test_cancellations_are_subtracted_before_the_logarithm(session: SparkSession) -> None:
    time = midnight(END - 7 * DAY)
    events = [
        ("ann", "cup", "purchase", 12, None, time),
        ("ann", "cup", "cancellation", 12, None, time + DAY),
        ("bob", "cup", "purchase", 12, None, time),
        ("bob", "cup", "cancellation", 6, None, time),
    ]
    (row,) = built(session, events).collect()
    assert (row.user_id, row.events) == ("bob", 1)
    assert row.weight == pytest.approx(math.log1p(6 / 2))


def test_low_ratings_count_against_an_item(session: SparkSession) -> None:
    time = midnight(END - 7 * DAY)
    events = [
        ("ann", "cup", "rating", None, 5.0, time),
        ("ann", "cup", "rating", None, 4.0, time),
        ("ann", "pot", "rating", None, 1.0, time),
        ("bob", "cup", "view", None, None, time),
        ("bob", "cup", "rating", None, 2.0, time),
        ("bob", "cup", "rating", None, 4.0, time),
    ]
    rows = {(row.user_id, row.item_id): row for row in built(session, events, plan_with(1.0)).collect()}
    assert rows.keys() == {("ann", "cup"), ("bob", "cup")}
    assert (rows["ann", "cup"].events, rows["bob", "cup"].events) == (2, 1)
    assert rows["ann", "cup"].weight == pytest.approx(math.log1p(3 / 2))
    assert rows["bob", "cup"].weight == pytest.approx(math.log1p(1 / 2))


def test_very_short_half_life_does_not_overflow(session: SparkSession) -> None:
    events = [
        ("ann", "cup", "purchase", 1, None, midnight(END - 21 * DAY)),
        ("bob", "cup", "purchase", 1, None, midnight(END - DAY)),
    ]
    rows = {row.user_id: row for row in built(session, events, half_life=0.01).collect()}
    assert set(rows) <= {"ann", "bob"}
    assert all(0 <= row.weight <= math.log1p(1) for row in rows.values())


def publish_events(session: SparkSession, lake: str, date: str, events: list) -> None:
    """Publish a partition of curated events as ingest_events does."""
    from common.handover import manifest, partitions, storage

    partitions.register(f"{lake}/curated/events", {date})
    folder = f"{lake}/curated/events/date={date}"
    put_file(storage.local(f"{folder}/version=a-1"), table("events@3", event_rows(COLUMNS, events)))
    files = storage.files(f"{folder}/version=a-1")
    paths = [{"path": file.uri.removeprefix(f"{folder}/"), "bytes": file.bytes} for file in files]
    output = {"contract": "events@3", "rows": len(events), "bytes": 1, "files": paths}
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


def purchase(user: str | None, day: str, item: str | None = "cup", kind: str = "purchase") -> tuple:
    return (user, item, kind, 1, None, midnight(datetime.date.fromisoformat(day)))


def metrics_of(lake: str) -> dict:
    (file,) = Path(f"{lake}/intermediate/d/r/build_interactions".removeprefix("file://")).glob("manifest.json")
    return json.loads(file.read_text())["metrics"]


def test_window_ends_after_the_newest_partition(session: SparkSession, lake: str) -> None:
    publish_events(session, lake, "2011-01-05", [purchase("ann", "2011-01-05")])
    publish_events(session, lake, "2011-01-31", [purchase("bob", "2011-01-31")])
    assert runner.exit_code(job.main, FOLDER, arguments(lake, "--set", "half_life_days=1")) == 0
    folder = Path(f"{lake}/intermediate/d/r/build_interactions/attempt-1".removeprefix("file://"))
    rows = pq.read_table(*folder.glob("*/interactions"), partitioning=None)
    (bob,) = (row for row in rows.to_pylist() if row["user_id"] == "bob")
    assert bob["weight"] == pytest.approx(math.log1p(0.5))  # a day old when the window ends
    assert rows.column_names == list(contracts.load("interactions@2").columns)


@pytest.mark.parametrize(("first", "days", "expected"), [("2011-01-07", [], 4), ("2011-01-07", [7, 2], 7)])
def test_test_window_is_a_sixth_of_the_events_unless_set(
    session: SparkSession, lake: str, first: str, days: list, expected: int
) -> None:
    publish_events(session, lake, first, [purchase("ann", first)])
    publish_events(session, lake, "2011-01-31", [purchase("ann", "2011-01-31", "pot")])
    set_days = [f"{name}_days={value}" for name, value in zip(("test", "tuning"), days)]
    assert runner.exit_code(job.main, FOLDER, arguments(lake, *(w for each in set_days for w in ("--set", each)))) == 0
    metrics = metrics_of(lake)
    assert (metrics["test_days"], metrics["tuning_days"]) == (expected, days[1] if days else 4)


def test_dropped_events_are_counted_by_reason(session: SparkSession, lake: str) -> None:
    day = "2011-01-05"
    events = [purchase("ann", day), purchase(None, day, None), purchase("bob", day, None, "search")]
    publish_events(session, lake, day, [*events, purchase("cid", day, kind="zap"), purchase("cid", day, kind="zap")])
    assert runner.exit_code(job.main, FOLDER, arguments(lake)) == 0
    metrics = metrics_of(lake)
    assert metrics["dropped"] == {"no user": 1, "no item": 1, "unknown type": 2}
    assert (metrics["events"], metrics["target_events"], metrics["interactions"]) == (5, {"purchase": 1}, 1)


def test_empty_result_is_an_input_error_that_lists_the_types(
    session: SparkSession, lake: str, capsys: pytest.CaptureFixture
) -> None:
    day = "2011-01-05"
    publish_events(session, lake, day, [purchase(None, day), *(purchase("ann", day, kind=kind) for kind in "aab")])
    assert runner.exit_code(job.main, FOLDER, arguments(lake)) == 3
    last = capsys.readouterr().err.splitlines()[-1]
    assert "3 with unknown type, 1 with no user" in last
    assert "the types that occur are a (2), b (1), purchase (1), the tracking plan knows purchase, cancellation" in last

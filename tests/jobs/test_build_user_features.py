"""Features of users against a plain Python reference, and without events after the cut."""

import datetime
import math
from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise
from random import Random

import pytest
from pyspark.sql import SparkSession

from common import contracts
from common.engines import spark
from jobs.build_user_features import main as job

NOW = datetime.date(2011, 6, 1)
DAY = datetime.timedelta(days=1)
SECOND = datetime.timedelta(seconds=1)
CUTS = job.cuts_before(NOW, 30, 2, 30)


def midnight(date: datetime.date) -> datetime.datetime:
    return datetime.datetime.combine(date, datetime.time(), datetime.UTC)


def built(
    session: SparkSession, events: list[tuple], users: list[tuple] = (), churn: str = "inactive", buyer_days: int = 60
) -> dict[tuple, dict]:
    """Return rows by user and cut. Events: user, item, type, quantity, price, time; users: those of users@2."""
    rows = [
        (f"e{number}", user, item, kind, quantity, price, time, "Norway")
        for number, (user, item, kind, quantity, price, time) in enumerate(events)
    ]
    frames = [
        session.createDataFrame(list(part), spark.schema(contracts.load(contract)))
        for part, contract in ((rows, "events@2"), (users, "users@2"))
    ]
    found = [row.asDict() for row in job.build_user_features(*frames, CUTS, churn, 30, buyer_days, 2).collect()]
    assert len({(row["user_id"], row["cut"]) for row in found}) == len(found)
    return {(row["user_id"], row["cut"]): row for row in found}


def some_events(users: int) -> list[tuple]:
    """Return up to twelve events of each user in the 130 days before the end, among them repeats and returns."""
    random = Random(1)
    return [
        (
            f"user {user}",
            random.choice(["cup", "pot", "jar"]),
            random.choice(["purchase", "purchase", "cancellation"]),
            random.randint(1, 5),
            random.choice([0.5, 2.0]),
            midnight(NOW) - datetime.timedelta(hours=random.randint(1, 130 * 24)),
        )
        for user in range(users)
        for _ in range(random.randint(1, 12))
    ]


def mean_of(numbers: Iterable[float]) -> float | None:
    numbers = list(numbers)
    return sum(numbers) / len(numbers) if numbers else None


def reference(events: list[tuple], cut: datetime.date) -> dict[str, dict]:
    """Compute some features by their definition, user by user."""
    of_users = defaultdict(list)
    for user, item, kind, quantity, price, time in events:
        of_users[user].append((time, item, kind, quantity * price))
    found = {}
    for user, events_of_user in of_users.items():
        before = [
            (time, item, amount)
            for time, item, kind, amount in events_of_user
            if kind == "purchase" and time < midnight(cut)
        ]
        if not [time for time, *_ in events_of_user if time < midnight(cut)]:
            continue
        ages = {(cut - time.date()).days for time, *_ in before}
        first = {item: min(time for time, other, _ in before if other == item) for _, item, _ in before}
        days = sorted({time.date() for time, *_ in before})
        gaps = [(late - early) / DAY for early, late in pairwise(days)]
        after = [
            t
            for t, _, kind, _ in events_of_user
            if kind == "purchase" and midnight(cut) <= t < midnight(cut + 30 * DAY)
        ]
        mean = mean_of(gaps)
        found[user] = {
            "recency_days": min(ages, default=None),
            "tenure_days": max((cut - time.date()).days for time, *_ in events_of_user if time < midnight(cut)),
            "gap_days": mean,
            "gap_deviation_days": mean and math.sqrt(mean_of((gap - mean) ** 2 for gap in gaps)),
            "active_days_28": len([age for age in ages if age <= 28]),
            "active_days": len(ages),
            "purchases_7": len([time for time, *_ in before if (cut - time.date()).days <= 7]),
            "amount_90": sum(amount for time, _, amount in before if (cut - time.date()).days <= 90),
            "amount": sum(amount for *_, amount in before),
            "items": len(first),
            "new_items_90": len([time for time in first.values() if (cut - time.date()).days <= 90]),
            "returns": len([0 for time, _, kind, _ in events_of_user if kind != "purchase" and time < midnight(cut)]),
            "weekend_share": mean_of(float(t.weekday() >= 5) for t, *_ in before),
            "hour_sine": mean_of(math.sin(t.hour / 12 * math.pi) for t, *_ in before),
            "at_risk": bool(ages) and min(ages) <= 60,
            "churned": None if cut == NOW or not ages or min(ages) > 60 else not after,
        }
    return found


def test_features_equal_the_definition(session: SparkSession) -> None:
    events = some_events(users=80)
    rows = built(session, events)
    expected = {
        (user, cut): row for cut in CUTS for user, row in reference(events, cut).items() if row["at_risk"] or cut == NOW
    }
    assert rows.keys() == expected.keys()
    for key, row in expected.items():
        for name, value in row.items():
            assert rows[key][name] == (pytest.approx(value, rel=1e-5, abs=1e-6) if value is not None else None), (
                key,
                name,
            )


def test_events_after_the_cut_change_no_feature(session: SparkSession) -> None:
    """One user per planted moment; the last one is a second before the cut."""
    cut = CUTS[1]
    planted = {str(after): midnight(cut) + after for after in (0 * DAY, SECOND, DAY, 29 * DAY, -SECOND)}
    events = [
        (user, item, "purchase", 2, 1.5, midnight(cut) - days * DAY)
        for user in planted
        for item, days in (("cup", 9), ("pot", 4))
    ]
    periods = [(user, midnight(cut) - 9 * DAY, None, "basic", "subscribe", "Norway", "ios") for user in planted]
    later = [
        (user, item, kind, 70, 3.0, time)
        for user, time in planted.items()
        for item, kind in (("jar", "purchase"), ("cup", "purchase"), ("cup", "cancellation"))
    ]
    ended = [(user, time, None, None, "cancel", "Sweden", "web") for user, time in planted.items()]
    without, with_them = built(session, events, periods), built(session, events + later, periods + ended)
    for user, time in planted.items():
        one, other = without[(user, cut)], with_them[(user, cut)]
        assert one.pop("churned") is True
        assert other.pop("churned") is (time < midnight(cut))
        assert (one == other) is (time >= midnight(cut)), user


def test_subscription_and_cancellation_as_of_each_cut(session: SparkSession) -> None:
    old, newer, now = CUTS
    users = [
        ("ann", midnight(old) - 50 * DAY, None, "free", "subscribe", "Norway", "ios"),
        ("ann", midnight(old) - 40 * DAY, None, None, "cancel", "Norway", "ios"),
        ("ann", midnight(old) - 10 * DAY, None, "basic", "subscribe", "Norway", "web"),
        ("ann", midnight(newer) - SECOND, None, "premium", "change", "Norway", "web"),
        ("ann", midnight(newer) + SECOND, None, None, "cancel", "Norway", "web"),
        ("bob", midnight(newer), None, "basic", "subscribe", None, None),
    ]
    rows = built(session, [], users, churn="cancelled")
    assert rows.keys() == {("ann", old), ("ann", newer), ("ann", now), ("bob", now)}
    names = ("plan", "plan_days", "past_cancellations", "tenure_days", "platform", "at_risk", "churned", "purchases")
    assert [rows["ann", old][name] for name in names] == ["basic", 10, 1, 50, "web", True, False, 0]
    assert [rows["ann", newer][name] for name in names] == ["premium", 1, 1, 80, "web", True, True, 0]
    assert [rows["ann", now][name] for name in names] == [None, None, 2, 110, "web", False, None, 0]
    assert [rows["bob", now][name] for name in names] == ["basic", 30, 0, 30, None, True, None, 0]


def test_horizon_of_the_newest_labelled_cut_ends_at_the_end() -> None:
    assert job.cuts_before(datetime.date(2011, 6, 1), 30, 3, 7) == [
        datetime.date(2011, 4, 18),
        datetime.date(2011, 4, 25),
        datetime.date(2011, 5, 2),
        datetime.date(2011, 6, 1),
    ]


def test_events_are_shuffled_once(session: SparkSession, tmp_path) -> None:
    schemas = [spark.schema(contracts.load(contract)) for contract in ("events@2", "users@2")]
    frames = [session.createDataFrame([], schema) for schema in schemas]
    for name, frame in zip(("events", "users"), frames, strict=True):
        frame.write.parquet(f"{tmp_path}/{name}")
    read = [
        session.read.schema(schema).parquet(f"{tmp_path}/{name}")
        for name, schema in zip(("events", "users"), schemas, strict=True)
    ]
    session.conf.set("spark.sql.adaptive.enabled", "false")
    try:
        days = job.by_day(read[0].repartition(3, "user_id"))
        plan = job.as_of_cuts(days, CUTS, 30)._jdf.queryExecution().executedPlan().toString()
    finally:
        session.conf.unset("spark.sql.adaptive.enabled")
    assert plan.count("Exchange") == 1, plan

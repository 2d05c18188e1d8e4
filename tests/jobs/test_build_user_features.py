"""Features of users against a plain Python reference, and without events after the cut."""

import datetime
import math
from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise
from random import Random

import pytest
from pyspark.sql import SparkSession

from common.sources.tracking_plan import EventType, TrackingPlan
from jobs.build_user_features import main as job
from tests.frames import event_rows, frame

NOW = datetime.date(2011, 6, 1)
DAY = datetime.timedelta(days=1)
SECOND = datetime.timedelta(seconds=1)
CUTS = job.cuts_before(NOW, 30, 2, 30)
COLUMNS = "user_id item_id type quantity unit_price value session_id platform time"
USERS = ("user_id", "since", "until", "plan", "change", "country", "platform")
PLAN = TrackingPlan(
    {
        "purchase": EventType("An order.", weight="quantity", target=True),
        "cancellation": EventType("Its reversal.", reverses="purchase"),
        "rating": EventType("Stars.", target="value >= 4"),
    }
)


def midnight(date: datetime.date) -> datetime.datetime:
    return datetime.datetime.combine(date, datetime.time(), datetime.UTC)


def built(
    session: SparkSession, events: list[tuple], users: list[tuple] = (), churn: str = "inactive", active_days: int = 60
) -> dict[tuple, dict]:
    """Return rows by user and cut. Events: COLUMNS; users: USERS."""
    frames = [
        frame(session, "events@3", event_rows(COLUMNS, events)),
        frame(session, "users@2", [dict(zip(USERS, row, strict=True)) for row in users]),
    ]
    rows = job.build_user_features(*frames, PLAN, CUTS, churn, 30, active_days, 2).collect()
    found = [row.asDict() for row in rows]
    assert len({(row["user_id"], row["cut"]) for row in found}) == len(found)
    return {(row["user_id"], row["cut"]): row for row in found}


def purchase(user: str, item: str, time: datetime.datetime, kind: str = "purchase") -> tuple:
    return (user, item, kind, 2, 1.5, None, "s1", "ios", time)


def some_events(users: int) -> list[tuple]:
    """Return up to twelve events of each user in the 130 days before the end, among them repeats and reversals."""
    random = Random(1)
    return [
        (
            f"user {user}",
            random.choice(["cup", "pot", "jar", None]),
            random.choice(["purchase", "purchase", "cancellation", "rating", "rating", "search"]),
            random.choice([None, 1, 5]),
            random.choice([0.5, 2.0]),
            random.choice([None, 3.0, 5.0]),
            random.choice([None, "s1", "s2", "s3"]),
            random.choice([None, "web", "ios"]),
            midnight(NOW) - datetime.timedelta(minutes=random.randint(1, 130 * 24 * 60)),
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
    for user, *rest in events:
        of_users[user].append(rest)
    found = {}
    for user, of_user in of_users.items():
        everything = [row for row in of_user if row[-1] < midnight(cut)]
        if not everything:
            continue
        targets = [row for row in everything if is_target(row)]
        back = [row for row in everything if row[1] == "cancellation"]
        ages = sorted({age_of(row, cut) for row in targets})
        gaps = [late - early for early, late in pairwise(ages)]
        items = {item for item, *_ in targets if item}
        first = {item: max(age_of(row, cut) for row in targets if row[0] == item) for item in items}
        after = [row for row in of_user if is_target(row) and 0 >= age_of(row, cut) > -30]
        at_risk = bool(ages) and ages[0] <= 60
        found[user] = {
            "recency_days": min(ages, default=None),
            "event_recency_days": min(age_of(row, cut) for row in everything),
            "tenure_days": max(age_of(row, cut) for row in everything),
            "gap_days": mean_of(gaps),
            "gap_deviation_days": mean_of(gaps) and math.sqrt(mean_of((gap - mean_of(gaps)) ** 2 for gap in gaps)),
            "target_days_28": sum(age <= 28 for age in ages),
            "target_days": len(ages),
            "targets_7": sum(age_of(row, cut) <= 7 for row in targets),
            "targets": len(targets),
            "value_90": sum(value_of(row) for row in targets if age_of(row, cut) <= 90),
            "value": sum(value_of(row) for row in targets),
            "active_days_90": len({age_of(row, cut) for row in everything if age_of(row, cut) <= 90}),
            "events_28": sum(age_of(row, cut) <= 28 for row in everything),
            "events": len(everything),
            "sessions": sum(
                max(1, len({row[5] for row in everything if age_of(row, cut) == age and row[5]}))
                for age in {age_of(row, cut) for row in everything}
            ),
            "target_share": len(targets) / len(everything),
            "items": len(items),
            "new_items_90": sum(age <= 90 for age in first.values()),
            "reversals": len(back),
            "reversed_value": sum(value_of(row) for row in back),
            "platforms": len({row[6] for row in everything if row[6]}),
            "weekend_share": mean_of(float(row[-1].weekday() >= 5) for row in everything),
            "hour_sine": mean_of(math.sin(row[-1].hour / 12 * math.pi) for row in everything),
            "at_risk": at_risk,
            "churned": None if cut == NOW or not at_risk else not after,
        }
    return found


def is_target(row: list) -> bool:
    return row[1] == "purchase" or (row[1] == "rating" and (row[4] or 0) >= 4)


def value_of(row: list) -> float:
    return row[4] if row[4] is not None else (row[2] or 1) * row[3]


def age_of(row: list, cut: datetime.date) -> int:
    return (cut - row[-1].date()).days


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
        purchase(user, item, midnight(cut) - days * DAY) for user in planted for item, days in (("cup", 9), ("pot", 4))
    ]
    periods = [(user, midnight(cut) - 9 * DAY, None, "basic", "subscribe", "Norway", "ios") for user in planted]
    later = [
        purchase(user, item, time, kind)
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
    names = ("plan", "plan_days", "past_cancellations", "tenure_days", "platform", "at_risk", "churned", "targets")
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

"""Characteristics: one row per predicted user, against habits computed manually."""

import datetime
from pathlib import Path

from pyspark.sql import Observation, SparkSession

from common.sources import tracking_plan
from jobs.join_characteristics import main as job
from tests.frames import event_rows, frame, put_file, table

END = datetime.date(2011, 6, 1)


def at(day: int, hour: int) -> datetime.datetime:
    return datetime.datetime(2011, 5, day, hour, tzinfo=datetime.UTC)


def test_each_predicted_user_has_one_row_with_known_habits(session: SparkSession) -> None:
    users = ("ann", "bob", "cid")
    predictions = [
        {
            "user_id": user,
            "segment": "active",
            "churn_probability": 0.25,
            "top_feature_1": "value",
            "contribution_1": -1.0,
            "model": "blend",
        }
        for user in users
    ]
    bought = [
        ("ann", "10001", 1, 9), ("ann", "10001A", 2, 9), ("ann", "10001A", 3, 20), ("ann", "10002", 4, 20),
        ("ann", "10003", 5, 7), ("ann", "10004", 6, 8), ("ann", "POST", 7, 6), ("bob", "POST", 1, 23),
        ("eve", "10002", 1, 1), (None, "10002", 1, 1),
    ]  # fmt: skip
    later = datetime.datetime(2011, 6, 1, 3, tzinfo=datetime.UTC)
    values = [(user, item, "purchase", "web", at(day, hour)) for user, item, day, hour in bought]
    values += [("ann", "10002", "purchase", "web", later), ("ann", "10002", "cancellation", "web", at(9, 5))]
    values += [("bob", "10002", "search", "ios", at(9, 23)), ("bob", None, "search", "ios", at(9, 23))]
    events = event_rows("user_id item_id type platform time", values)
    goods = ("10001", "10001A", "10002", "10003", "10004")
    items = [{"item_id": item, "name": item, "family": item[:5]} for item in goods]
    items.append({"item_id": "POST", "name": None, "family": None})
    platforms = [("web", 1, "free"), ("ios", 2, "basic"), ("web", 3, "basic"), ("ios", 4, "premium")]
    periods = [
        {"user_id": "ann", "since": at(day, 0), "platform": platform, "plan": plan, "change": "change"}
        for platform, day, plan in platforms
    ] + [{"user_id": "ann", "since": later, "platform": "web", "plan": None, "change": "cancel"}]
    periods.append({"user_id": "cid", "since": at(1, 0), "platform": None, "plan": None, "change": "cancel"})
    frames = [
        frame(session, contract, rows)
        for contract, rows in (
            ("churn_predictions@2", predictions),
            ("events@3", events),
            ("items@2", items),
            ("users@2", periods),
        )
    ]
    counts = Observation()
    found = job.join_characteristics(*frames, tracking_plan.load(), END, 2, counts).collect()
    rows = {row.user_id: row.asDict() for row in found}
    assert sorted(rows) == list(users)
    families = ("family_1", "share_1", "family_2", "share_2", "family_3", "share_3")
    assert [rows["ann"][name] for name in families] == ["10001", 3 / 6, "10002", 1 / 6, "10003", 1 / 6]
    habits = ("preferred_hour", "preferred_platform", "plan", "churn_probability", "top_feature_1")
    assert [rows["ann"][name] for name in habits] == [20, "ios", "premium", 0.25, "value"], "of 9 and 20 h the last"
    assert [rows["bob"][name] for name in (*families, *habits[:3])] == [None] * 6 + [23, "ios", None]
    assert [rows["cid"][name] for name in (*families, *habits[:3])] == [None] * 9
    assert counts.get == {"events": 12, "target_events": 9, "target_events_without_family": 2}


def test_without_a_catalogue_targets_are_without_family(session: SparkSession, tmp_path: Path) -> None:
    rows = {"churn_predictions@2": [], "events@3": event_rows("time", [(at(1, 9),)]), "items@2": [], "users@2": []}
    frames = []
    for contract, some in rows.items():  # Spark leaves out, and never counts, events that it knows to join no row
        put_file(tmp_path / contract, table(contract, some))
        frames.append(session.read.parquet(f"{tmp_path}/{contract}"))
    joined = job.join_characteristics(*frames, tracking_plan.load(), END, 3, counts := Observation())
    assert joined.collect() == []
    assert counts.get == {"events": 1, "target_events": 1, "target_events_without_family": 1}

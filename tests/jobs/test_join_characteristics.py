"""Characteristics: one row per predicted user, against habits computed manually."""

import datetime

from pyspark.sql import SparkSession

from common import contracts
from common.engines import spark
from jobs.join_characteristics import main as job

END = datetime.date(2011, 6, 1)


def frame(session: SparkSession, contract: str, rows: list[dict]):
    schema = spark.schema(contracts.load(contract))
    return session.createDataFrame([tuple(row.get(name) for name in schema.names) for row in rows], schema)


def at(day: int, hour: int) -> datetime.datetime:
    return datetime.datetime(2011, 5, day, hour, tzinfo=datetime.UTC)


def test_each_predicted_user_has_one_row_with_known_habits(session: SparkSession) -> None:
    users = ("ann", "bob", "cid")
    predictions = [
        {
            "user_id": user,
            "segment": "active",
            "churn_probability": 0.25,
            "top_feature_1": "amount",
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
    event = {"type": "purchase", "quantity": 1, "unit_price": 1.0}
    events = [
        {**event, "event_id": f"e{n}", "user_id": user, "item_id": item, "time": at(day, hour)}
        for n, (user, item, day, hour) in enumerate(bought)
    ]
    later = datetime.datetime(2011, 6, 1, 3, tzinfo=datetime.UTC)
    events += [
        {**events[3], "event_id": "later", "time": later},
        {**events[3], "event_id": "back", "type": "cancellation", "time": at(9, 20)},
    ]
    goods = ("10001", "10001A", "10002", "10003", "10004")
    items = [{"item_id": item, "name": item, "family": item[:5]} for item in goods]
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
            ("events@2", events),
            ("items@2", items),
            ("users@2", periods),
        )
    ]
    rows = {row.user_id: row.asDict() for row in job.join_characteristics(*frames, END, 2).collect()}
    assert sorted(rows) == list(users)
    families = ("family_1", "share_1", "family_2", "share_2", "family_3", "share_3")
    assert [rows["ann"][name] for name in families] == ["10001", 3 / 6, "10002", 1 / 6, "10003", 1 / 6]
    habits = ("preferred_hour", "preferred_platform", "plan", "churn_probability", "top_feature_1")
    assert [rows["ann"][name] for name in habits] == [20, "ios", "premium", 0.25, "amount"], "of 9 and 20 h the last"
    assert [rows["bob"][name] for name in (*families, *habits[:3])] == [None] * 6 + [23, None, None]
    assert [rows["cid"][name] for name in (*families, *habits[:3])] == [None] * 9

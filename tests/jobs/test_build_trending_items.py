"""Trending items: more buyers than usual."""

import datetime
import math

import pytest
from pyspark.sql import SparkSession

from common import contracts
from common.engines import spark
from jobs.build_trending_items import main as job

END = datetime.date(2011, 6, 6)  # a Monday
ITEMS = ["10001", "10002", "10003", "10004"]


def trending(session: SparkSession, bought: list[tuple], min_buyers: int = 2, count: int = 10) -> dict:
    """Return rows by country and item. Bought: days before the end (1: the last day), item, user, country, times."""
    midnight = datetime.datetime.combine(END, datetime.time(12), datetime.UTC)
    events = [
        (f"e{n}-{time}", user, item, "purchase", 5, 1.0, midnight - datetime.timedelta(days=days), country)
        for n, (days, item, user, country, times) in enumerate(bought)
        for time in range(times)
    ]
    goods = [(item, f"NAME {item}", item) for item in ITEMS]
    frames = [
        session.createDataFrame(rows, spark.schema(contracts.load(contract)))
        for rows, contract in ((events, "events@2"), (goods, "items@2"))
    ]
    found = job.trending_items(*frames, END, 7, 3.0, 2, min_buyers, count)
    rows = [row.asDict() for row in found.collect()]
    assert all(row["item_name"] == f"NAME {row['item_id']}" for row in rows)
    return {(row["country"], row["item_id"]): row for row in rows}


def test_scores_follow_the_definition_by_country_and_overall(session: SparkSession) -> None:
    """Usual buyers come on Mondays and Tuesdays only; of the last days, Monday (7 days ago) and Tuesday count."""
    usual = [(7 + 7 * week + ago, "10001", f"u{ago}", "Norway", 3) for week in (0, 1) for ago in (7, 6)]
    recent = [
        (7, "10001", "ann", "Norway", 1), (6, "10001", "bob", "Norway", 1), (1, "10001", "cid", "Sweden", 1),
        (1, "10002", "ann", "Norway", 1), (1, "10002", "bob", "Norway", 1), (2, "10002", "ann", "Norway", 1),
        (1, "10003", "ann", "Norway", 5000), (1, "10004", None, "Norway", 5000), (2, "10004", "bob", "Norway", 1),
        (1, "POST", "ann", "Norway", 1), (1, "POST", "bob", "Norway", 1), (22, "10002", "old", "Norway", 9),
    ]  # fmt: skip
    rows = trending(session, usual + recent)
    decay = lambda days: 2 ** (-(days - 1) / 3)  # noqa: E731
    monday_and_tuesday = 7 * (decay(7) + decay(6)) / 2
    expected = 4 / 14 * monday_and_tuesday
    weighted = {
        ("Norway", "10002"): (2 * decay(1) + decay(2), 0, 2),
        ("Norway", "10004"): (decay(1) + decay(2), 0, 2),
        (None, "10002"): (2 * decay(1) + decay(2), 0, 2),
        (None, "10004"): (decay(1) + decay(2), 0, 2),
        (None, "10001"): (decay(7) + decay(6) + decay(1), expected, 3),
    }
    assert rows.keys() == weighted.keys(), (
        "one buyer of thousands is one buyer; postage is no good; usual is not trending"
    )
    for key, (buyers, usually, people) in weighted.items():
        assert rows[key]["weighted_buyers"] == pytest.approx(buyers)
        assert rows[key]["expected_buyers"] == pytest.approx(usually)
        assert rows[key]["score"] == pytest.approx((buyers - usually) / math.sqrt(usually + 1))
        assert rows[key]["buyers"] == people
    assert [rows[None, item]["rank"] for item in ("10002", "10004", "10001")] == [1, 2, 3]
    assert [rows["Norway", item]["rank"] for item in ("10002", "10004")] == [1, 2]


def test_weekdays_of_the_recent_days_are_decayed_by_their_age() -> None:
    found = job.decayed_weekdays(END, 8, 2.0)
    assert found[6] == pytest.approx(1 + 2**-3.5), "two Sundays"
    assert sum(found) == pytest.approx(sum(2 ** (-age / 2) for age in range(8)))

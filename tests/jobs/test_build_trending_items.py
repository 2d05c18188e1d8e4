"""Trending items: more people than usual."""

import datetime
import math
from pathlib import Path

import pytest
from pyspark.sql import SparkSession
from recommending_lake import Lake, table

from common.errors import ArgumentError
from common.sources.tracking_plan import EventType, TrackingPlan
from jobs.build_trending_items import main as job
from tests.frames import event_rows, frame

END = datetime.date(2011, 6, 6)  # a Monday
ITEMS = [{"item_id": item, "name": f"NAME {item}"} for item in ("10001", "10002", "10003", "10004")]
COLUMNS = "item_id user_id country type platform session_id time"
PLAN = TrackingPlan(
    {
        "view": EventType("A page.", weight=0.5),
        "purchase": EventType("An order.", weight="quantity", target=True),
        "cancellation": EventType("Its reversal.", reverses="purchase"),
        "ping": EventType("A sign of life.", weight=0),
    }
)


def at(days: float) -> datetime.datetime:
    """Return a moment some days before the end; 1: noon of the last day."""
    return datetime.datetime.combine(END, datetime.time(12), datetime.UTC) - datetime.timedelta(days=days)


def trending(
    session: SparkSession, events: list[dict], items: list[dict] | None, dimensions: list[str], min_people: int = 2
) -> dict:
    """Return rows by segment and item."""
    rows, catalogue = frame(session, "events@3", events), items and frame(session, "items@2", items)
    visits = job.count_visits(rows, catalogue, PLAN, dimensions, END, 7, 3.0, 14)
    counted = visits.where("listed AND target" if job.totals(visits).targets else "listed")
    found = job.trending_items(counted, catalogue, END, 7, 3.0, 14, min_people, 10).collect()
    return {(row["segment"], row["item_id"]): row for row in found}


def bought(rows: list[tuple]) -> list[dict]:
    """Return purchases: days before the end (1: the last day), item, user, country, times."""
    values = [
        (item, user, country, "purchase", None, None, at(days))
        for days, item, user, country, times in rows
        for _ in range(times)
    ]
    return event_rows(COLUMNS, values)


def chosen(kind: str, item: str, people: str, **more: object) -> list[dict]:
    """Return an event of each person on the last day."""
    values = [(item, person, None, kind, None, None, at(1)) for person in people.split()]
    return [{**row, **more} for row in event_rows(COLUMNS, values)]


def test_scores_follow_the_definition_by_country_and_overall(session: SparkSession) -> None:
    """Usual buyers come on Mondays and Tuesdays only; of the last days, Monday (7 days ago) and Tuesday count."""
    usual = [(7 + 7 * week + ago, "10001", f"u{ago}", "Norway", 3) for week in (0, 1) for ago in (7, 6)]
    recent = [
        (7, "10001", "ann", "Norway", 1), (6, "10001", "bob", "Norway", 1), (1, "10001", "cid", "Sweden", 1),
        (1, "10002", "ann", "Norway", 1), (1, "10002", "bob", "Norway", 1), (2, "10002", "ann", "Norway", 1),
        (1, "10003", "ann", "Norway", 5000), (1, "10004", None, "Norway", 5000), (2, "10004", "bob", "Norway", 1),
        (1, "POST", "ann", "Norway", 1), (1, "POST", "bob", "Norway", 1), (22, "10002", "old", "Norway", 9),
    ]  # fmt: skip
    rows = trending(session, bought(usual + recent), ITEMS, ["country"])
    assert all(row["item_name"] == f"NAME {row['item_id']}" for row in rows.values())
    decay = lambda days: 2 ** (-(days - 1) / 3)  # noqa: E731
    monday_and_tuesday = 7 * (decay(7) + decay(6)) / 2
    expected = 4 / 14 * monday_and_tuesday
    weighted = {
        ("country=Norway", "10002"): (2 * decay(1) + decay(2), 0, 2),
        ("country=Norway", "10004"): (decay(1) + decay(2), 0, 2),
        (None, "10002"): (2 * decay(1) + decay(2), 0, 2),
        (None, "10004"): (decay(1) + decay(2), 0, 2),
        (None, "10001"): (decay(7) + decay(6) + decay(1), expected, 3),
    }
    assert rows.keys() == weighted.keys(), (
        "a user of thousands is one person; postage is no good; usual is not trending"
    )
    for key, (recently, usually, people) in weighted.items():
        assert rows[key]["weighted_people"] == pytest.approx(recently)
        assert rows[key]["expected_people"] == pytest.approx(usually)
        assert rows[key]["score"] == pytest.approx((recently - usually) / math.sqrt(usually + 1))
        assert rows[key]["people"] == people
    assert {row["dimension"]: row["value"] for row in rows.values()} == {None: None, "country": "Norway"}
    assert [rows[None, item]["rank"] for item in ("10002", "10004", "10001")] == [1, 2, 3]
    assert [rows["country=Norway", item]["rank"] for item in ("10002", "10004")] == [1, 2]


def test_weekdays_of_the_recent_days_are_decayed_by_their_age() -> None:
    found = job.decayed_weekdays(END, 8, 2.0)
    assert found[6] == pytest.approx(1 + 2**-3.5), "two Sundays"
    assert sum(found) == pytest.approx(sum(2 ** (-age / 2) for age in range(8)))


def test_segments_are_the_values_of_the_chosen_dimensions(session: SparkSession) -> None:
    items = [{"item_id": "cup", "family": "a=b"}, {"item_id": "pot"}]
    events = chosen("purchase", "cup", "ann bob", platform="web", country="France") + chosen(
        "purchase", "pot", "ann bob"
    )
    rows = trending(session, events, items, ["platform", "family"])
    assert rows.keys() == {(None, "cup"), (None, "pot"), ("platform=web", "cup"), ("family=a=b", "cup")}
    assert (rows["family=a=b", "cup"]["dimension"], rows["family=a=b", "cup"]["value"]) == ("family", "a=b")
    assert rows[None, "pot"]["item_name"] == "pot"


def test_targets_count_and_without_any_all_positive_events(session: SparkSession) -> None:
    views = chosen("view", "cup", "ann bob cid") + chosen("ping", "jar", "ann bob") + chosen("zap", "jar", "ann bob")
    assert trending(session, views, None, []).keys() == {(None, "cup")}
    both = views + chosen("purchase", "pot", "ann bob") + chosen("cancellation", "jar", "ann bob")
    assert trending(session, both, None, []).keys() == {(None, "pot")}


def test_people_without_users_are_sessions(session: SparkSession) -> None:
    events = [*chosen("view", "cup", "ann", session_id="s9"), *chosen("view", "cup", "ann", session_id="s8")]
    for number, event in enumerate(events):
        event["user_id"] = None
        events.append({**event, "event_id": "again"}) if number < 2 else None
    assert trending(session, events, None, [])[None, "cup"]["people"] == 2


def test_items_that_are_not_available_are_left_out(session: SparkSession) -> None:
    dates = {
        "gone": {"available_until": at(0.5)},
        "last": {"available_until": at(0.5) + datetime.timedelta(seconds=1)},
        "now": {"available_from": at(0.5)},
        "soon": {"available_from": at(0.5) + datetime.timedelta(seconds=1)},
    }
    items = [{"item_id": item, "name": item, **columns} for item, columns in dates.items()]
    events = [row for item in dates for row in chosen("view", item, "ann bob")]
    rows = trending(session, events, items, [])
    assert {item: row["rank"] for (_, item), row in rows.items()} == {"last": 1, "now": 2}


def test_too_many_events_of_unlisted_items_are_refused(session: SparkSession, tmp_path: Path, capsys) -> None:
    lake = Lake(tmp_path)
    events = [*chosen("purchase", "cup", "ann bob cid"), *chosen("purchase", "banana", "ann bob cid dan")]
    lake.put_day("events", "events@3", table("events@3", events), "curated/events", at(1).date())
    lake.put("items", "items@2", table("items@2", [{"item_id": "cup"}]), dataset="curated/items")
    assert lake.run("build_trending_items") == 4
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert "4 of 7 events (57%) are with items that curated/items lacks, such as 'banana'" in sentence
    assert lake.run("build_trending_items", "--set", "max_unlisted_share=0.6", "--attempt", "2") == 0
    metrics = lake.manifest("build_trending_items")["metrics"]
    assert metrics["events_without_item_in_catalogue"] == 4


def test_unknown_dimensions_are_named() -> None:
    assert job.read_dimensions("platform, family") == ["platform", "family"]
    with pytest.raises(ArgumentError, match="dimensions has 'city'"):
        job.read_dimensions("city")

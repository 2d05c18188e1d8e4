"""Segment: nested JSON lines of all kinds of calls; orders have an array of products, identify calls a plan."""

import datetime
from typing import Any

from pipeline import Shop
from tastes import ITEMS, PEOPLE, json_lines, numbered, visits

START = datetime.date(2023, 2, 1)
messages = numbered("ajs-next-")


def user(person: int) -> str:
    return f"97980cfea00{person:02d}"


def product(number: int) -> str:
    return f"507f1f77bcf86cd7994390{number:02d}"


def call(time: datetime.datetime, person: int, **more: Any) -> dict[str, Any]:
    """Each fourth person never logs in."""
    ids = {"userId": None if person % 4 == 3 else user(person), "anonymousId": user(person)}
    stamp = f"{time:%Y-%m-%dT%H:%M:%S}.{person:03d}Z"
    context = {"device": {"type": ("ios", "android")[person // 2 % 2]}, "locale": "de-AT"}
    return {"messageId": next(messages), **ids, "timestamp": stamp, "context": context, "type": "track", **more}


def line(number: int, quantity: int) -> dict[str, Any]:
    names = {"product_id": product(number), "name": f"Game №{number}", "category": f"Games {number}"}
    return {**names, "price": 19.5 + number, "quantity": quantity}


def calls() -> list[dict[str, Any]]:
    """Viewed products are of the own taste, added and removed ones of the other; each session ends with an order."""
    found, orders = [], {}
    for visit in visits(START):
        other = {"product_id": product((visit.item + 1) % ITEMS), "quantity": 2}
        found.append(call(visit.time, visit.person, type="page", name="Shop"))
        viewed = {"product_id": product(visit.item), "price": 19.5}
        found.append(call(visit.time, visit.person, event="Product Viewed", properties=viewed))
        if visit.number % 4 == 0:
            found.append(call(visit.time, visit.person, event="Product Added", properties=other))
            later = visit.time + datetime.timedelta(minutes=1)
            found.append(call(later, visit.person, event="Product Removed", properties=other))
            found.append(call(visit.time, visit.person, event="Products Searched", properties={"query": "chess"}))
        orders.setdefault(visit.session, []).append(visit)
    for session, bought in orders.items():
        products = [line(visit.item, 1 + visit.number % 3) for visit in bought]
        order = {"order_id": f"o{session}", "revenue": 61.98, "products": products}
        when = bought[-1].time + datetime.timedelta(minutes=3)
        found.append(call(when, bought[0].person, event="Order Completed", properties=order))
    return found


def identities() -> list[dict[str, Any]]:
    """Everyone subscribes to a plan; each eighth cancels it."""
    begin = datetime.datetime(2023, 2, 1, tzinfo=datetime.UTC)
    plans = ("starter", "pro plus")
    found = [
        call(begin, person, userId=user(person), type="identify", traits={"plan": plans[person % 2], "country": "AT"})
        for person in range(PEOPLE)
    ]
    end = begin + datetime.timedelta(days=60)
    return found + [
        call(end, person, userId=user(person), type="identify", traits={"plan": None}) for person in range(0, PEOPLE, 8)
    ]


def test_segment(shop: Shop) -> None:
    records, begin = calls(), datetime.datetime(2023, 2, 3, tzinfo=datetime.UTC)
    twice = records[-3:]
    dirty = [
        call(begin, 1, event="Product Viewed", properties={"product_id": product(1)}, timestamp="03/02/2023"),
        call(begin, 1, properties={"product_id": product(1)}),
        call(begin, 1, event="Product Viewed", properties={"product_id": product(1), "price": "cheap"}),
        call(begin, 1, event="Product Viewed", properties={"product_id": "line\nfeed"}),
    ]
    reasons = {"bad time": 1, "no type": 1, "bad price": 1, "bad item ID": 1}
    shop.deliver("events/segment", "1675209600.json.gz", json_lines([*records, *identities(), *twice, *dirty]))
    shop.deliver("items/segment", "1675209600.json.gz", json_lines(records))
    shop.deliver("users/segment", "1675209600.json.gz", json_lines(identities()))

    shop.ingest_events(reasons=reasons, duplicates=sum(len(each["properties"]["products"]) for each in twice))
    tracked = [each for each in records if each["type"] == "track"]
    expected = {}
    for each in tracked:
        lines = len(each["properties"].get("products", [None]))
        expected[each["event"]] = expected.get(each["event"], 0) + lines
    assert shop.count_by("type") == expected
    assert {row["context"].get("query") for row in shop.events() if row["type"] == "Products Searched"} == {"chess"}

    assert shop.ingest_items()[product(3)]["name"] == "Game №3"
    users = shop.ingest_users()
    assert {row["plan"] for row in users} == {"starter", "pro plus", None}

    shop.recommend()
    shop.assert_tastes(user, product)
    pairs = shop.weights()
    assert {int(item[-2:]) % 2 for item in pairs[user(2)]} == {0}, "added and removed products have no weight"
    assert {row["plan"] for row in shop.make_others()} == {"starter", "pro plus", None}

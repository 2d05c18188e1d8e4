"""GA4's export: nested JSON with microseconds and 64-bit numbers as text; an order is an array of items."""

import datetime
from typing import Any

from pipeline import Shop
from tastes import ITEMS, PEOPLE, Visit, json_lines, millis, visits

START = datetime.date(2020, 11, 1)
ORDER = {"purchase_revenue": 24.0, "transaction_id": "T1"}


def user(person: int) -> str:
    return f"1026454.{4271112504 + person}"


def item(number: int) -> str:
    return f"GGOEGAAX{number:04d}"


def line_item(number: int, quantity: int = 1) -> dict[str, Any]:
    names = {"item_id": item(number), "item_name": f"Google Tee {number}", "item_category": f"Apparel {number}"}
    return {**names, "item_brand": "(not set)", "price": 12.0 + number, "quantity": str(quantity)}


def event(visit: Visit, name: str, after: int = 0, items: list | None = None, **more: Any) -> dict[str, Any]:
    params = {"ga_session_id": {"int_value": str(visit.session)}, "page_title": {"string_value": "Tees"}}
    return {
        "event_date": f"{visit.time:%Y%m%d}",
        "event_timestamp": str(millis(visit.time) * 1000 + after),
        "event_name": name,
        "event_params": [{"key": key, "value": value} for key, value in params.items()],
        "user_id": None,
        "user_pseudo_id": user(visit.person),
        "device": {"category": "mobile" if visit.person % 4 < 2 else "desktop", "language": "en"},
        "geo": {"country": "Austria", "city": "Vienna"},
        "platform": "WEB",
        "items": items or [],
        **more,
    }


def events() -> list[dict[str, Any]]:
    """The visits of a session become one order of several items; each sixth order is refunded."""
    found, orders = [], {}
    for visit in visits(START):
        found.append(event(visit, "page_view"))
        found.append(event(visit, "view_item", 10, [line_item(visit.item)]))
        orders.setdefault(visit.session, []).append(visit)
    for session, bought in orders.items():
        items = [line_item(visit.item, 1 + visit.number % 2) for visit in bought]
        order = {"ecommerce": {"purchase_revenue": 99.5, "transaction_id": f"T{session}"}, "items": items}
        found += [event(bought[0], "session_start", -5), event(bought[-1], "purchase", 10_000_000, **order)]
        if session % 6 == 0:
            found.append(event(bought[-1], "refund", 20_000_000, **order))
    return found


def test_ga4(shop: Shop) -> None:
    records, visit = events(), visits(START)[0]
    dirty = [
        event(visit, "purchase", items=[line_item(1)]),
        event(visit, "page_view", event_timestamp="1606000000"),
        event(visit, "page_view", event_timestamp=None),
        event(visit, "page_view", items="none"),
    ]
    reasons = {"purchase without an order": 1, "bad time": 1, "bad items": 1, "not a JSON object": 1}
    text = json_lines([*records, *dirty]) + '{"event_date": "2020\n'
    shop.deliver("events/ga4", "events_20201101.json.gz", text)
    shop.deliver("items/ga4", "events_20201101.json.gz", json_lines(records))

    shop.ingest_events(reasons=reasons)
    per_type = {name: [each for each in records if each["event_name"] == name] for name in ("purchase", "refund")}
    lines = {name: sum(len(each["items"]) for each in orders) for name, orders in per_type.items()}
    pages = sum(each["event_name"] == "page_view" for each in records)
    assert shop.count_by("type") == {**lines, "page_view": pages + 1, "view_item": pages}
    bought = next(row for row in shop.events() if row["type"] == "purchase")
    assert bought["platform"] in ("web mobile", "web desktop") and bought["country"] == "Austria"
    assert bought["session_id"].isdigit() and bought["context"]["transaction"].startswith("T")

    items = shop.ingest_items()
    assert items[item(3)]["name"] == "Google Tee 3"

    shop.recommend()
    refunded = next(each for each in records if each["event_name"] == "refund")
    weights = shop.weights()[refunded["user_pseudo_id"]]
    kept = {key: weight for key, weight in weights.items() if weight > 0.3}
    assert not kept.keys() & {each["item_id"] for each in refunded["items"]}, "a refunded item weighs as one seen"
    shop.assert_tastes(user, item)
    assert shop.names() <= {f"Google Tee {number}" for number in range(ITEMS)}
    assert len(shop.make_others()) >= PEOPLE

"""Snowplow's enriched events: 131 columns separated by tabs, JSON in some, and a type that no plan knows."""

import datetime
import itertools
import json
import tomllib
import uuid
from pathlib import Path

from pipeline import Shop
from tastes import ITEMS, PEOPLE, Visit, separated, visits

START = datetime.date(2024, 3, 1)
SOURCE = Path(__file__).parent / "sources" / "snowplow" / "events.toml"
COLUMNS = list(tomllib.loads(SOURCE.read_text())["fields"])
numbers = itertools.count(1)


def user(person: int) -> str:
    return str(uuid.UUID(int=0xBC1 + person))


def sku(number: int) -> str:
    return f"pbz{number:05d}"


def row(visit: Visit, event: str, after: int = 0, **more: object) -> list[object]:
    time = visit.time + datetime.timedelta(seconds=after)
    values = {
        "app_id": "shop",
        "platform": "web",
        "collector_tstamp": f"{time:%Y-%m-%d %H:%M:%S}.885",
        "event": event,
        "event_id": uuid.UUID(int=next(numbers)),
        "domain_userid": user(visit.person),
        "domain_sessionid": uuid.UUID(int=visit.session + 1),
        "geo_country": ("GB", "FR")[visit.person // 2 % 2],
        "page_title": 'The "best" vases',
        "page_urlpath": "/basket",
        "contexts": json.dumps({"schema": "iglu:com.snowplowanalytics/contexts/jsonschema/1-0-0", "data": [1]}),
        "dvce_type": "Computer",
        **more,
    }
    assert values.keys() <= set(COLUMNS)
    return [values.get(name, "") for name in COLUMNS]


def rows() -> list[list[object]]:
    """Pages of both tastes are seen; the own one goes into the basket and is bought, by an ID of the user."""
    found = []
    for visit in visits(START):
        for number in (visit.item, (visit.item + 1) % ITEMS) if visit.number % 3 == 0 else (visit.item,):
            found.append(row(visit, "page_view", page_urlpath=f"/products/{sku(number)}"))
        found.append(row(visit, "page_ping", 10))
        found.append(row(visit, "struct", 20, se_category="shop", se_action="add-to-basket", se_label=sku(visit.item)))
        bought = {"ti_sku": sku(visit.item), "ti_price": 9.99, "ti_quantity": 1 + visit.number % 2}
        found.append(row(visit, "transaction_item", 30, **bought))
        if visit.number % 10 == 0:
            found.append(row(visit, "struct", 25, se_category="shop", se_action="chat"))
    return found


def test_snowplow(shop: Shop) -> None:
    found, first = rows(), visits(START)[0]
    dirty = [
        row(first, "page_view", event_id=""),
        row(first, "page_view", collector_tstamp="2024-03-01 25:00:00.000"),
        row(first, "transaction_item", ti_sku=sku(1), ti_quantity="one"),
        row(first, "page_view")[:-1],
    ]
    reasons = {"no event ID": 1, "bad time": 1, "bad ti quantity": 1, "another number of fields than [fields]": 1}
    shop.deliver("events/snowplow", "run=2024-06-10.tsv.gz", separated([*found, *dirty, *found[:5]], "\t"))
    again = sum(each[COLUMNS.index("event")] != "page_ping" for each in found[:5])
    shop.ingest_events(reasons=reasons, duplicates=again)
    kinds = [each[COLUMNS.index("event")] for each in found]
    assert shop.count_by("type") == {
        "page_view": kinds.count("page_view"),
        "transaction_item": kinds.count("transaction_item"),
        "add-to-basket": kinds.count("transaction_item"),
        "chat": kinds.count("struct") - kinds.count("transaction_item"),
    }
    assert shop.metrics("ingest_events")["unknown_types"] == {"chat": shop.count_by("type")["chat"]}
    assert shop.count_by("country").keys() == {"GB", "FR"}

    shop.recommend()
    shop.assert_tastes(user, sku)
    assert shop.names() <= {sku(number) for number in range(ITEMS)}
    assert len(shop.make_others()) >= PEOPLE

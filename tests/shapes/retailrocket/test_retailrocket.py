"""RetailRocket: views, carts and transactions with times in milliseconds, and a change log of items' properties."""

import datetime
from collections import Counter

from pipeline import Shop
from tastes import ITEMS, PEOPLE, millis, separated, visits

START = datetime.date(2015, 6, 1)
HEADER = ("timestamp", "visitorid", "event", "itemid", "transactionid")


def visitor(person: int) -> int:
    return 257000 + person


def item(number: int) -> int:
    return 355000 + number


def events() -> str:
    """Everyone views one item of the other taste too; of their own they put some into the cart, and buy most."""
    rows = []
    for visit in visits(START):
        who, time = visitor(visit.person), millis(visit.time)
        rows.append((time, who, "view", item(visit.item), ""))
        if visit.number % 3 == 0:
            rows.append((time + 5_000, who, "view", item((visit.item + 1) % ITEMS), ""))
        if visit.number % 3:
            rows.append((time + 9_000, who, "addtocart", item(visit.item), ""))
        if visit.number % 4:
            rows.append((time + 60_000, who, "transaction", item(visit.item), 1000 + visit.session))
    return separated([HEADER, *rows])


DIRTY = {
    "143343x222827,1,view,355000,": "bad timestamp",
    ",1,view,355000,": "bad time",
    "9433221332117,1,view,355000,": "time after the arrival",
    "1433221332117,1,view": "another number of fields than the header",
    "1433221332118,1,transaction,355000,": "transaction without an ID",
    ",".join(HEADER): "header again",
}


def properties() -> str:
    """Items change their name and category; the newest value of each property counts, in whatever order it comes."""
    rows = [("timestamp", "itemid", "property", "value")]
    for number in range(ITEMS):
        begin = millis(datetime.datetime(2015, 5, 3, tzinfo=datetime.UTC))
        rows += [
            (begin + 14 * 86_400_000, item(number), "790", f"n{number}.000 lamp"),
            (begin, item(number), "790", f"n{number}.000 old lamp"),
            (begin, item(number), "categoryid", 1000 + number),
            (begin + 7 * 86_400_000, item(number), "available", 1),
        ]
    return separated(rows)


def test_retailrocket(shop: Shop) -> None:
    text = events()
    shop.deliver("events/retailrocket", "events.csv", text + "\n".join([*DIRTY, *text.splitlines()[1:4]]) + "\n")
    shop.deliver("items/retailrocket", "item_properties.csv", properties())

    shop.ingest_events(reasons=Counter(DIRTY.values()), duplicates=3)
    assert shop.count_by("type") == {kind: text.count(f",{kind},") for kind in ("view", "addtocart", "transaction")}
    assert {row["context"]["transaction"] for row in shop.events() if row["type"] == "transaction"} >= {"1000"}

    items = shop.ingest_items()
    assert (len(items), items["355007"]["name"], items["355007"]["family"]) == (ITEMS, "n7.000 lamp", "1007")
    assert items["355007"]["attributes"] == {"available": "1"}

    shop.recommend()
    mine = shop.weights()[str(visitor(1))]
    own, other = ([mine[key] for key in mine if int(key) % 2 == taste] for taste in (1, 0))
    assert sum(own) / len(own) > 3 * max(other), "carts and transactions weigh more than views"
    shop.assert_tastes(visitor, item)
    assert shop.names() <= {f"n{number}.000 lamp" for number in range(ITEMS)}
    assert len(shop.make_others()) >= PEOPLE

"""REES46: a gzipped CSV of sessions with prices and brands; an item that leaves the cart is taken back."""

import datetime
from collections import Counter

from pipeline import Shop
from tastes import ITEMS, PEOPLE, separated, visits

START = datetime.date(2019, 10, 1)
HEADER = ("event_time", "event_type", "product_id", "category_id", "category_code", "brand", "price", "user_id")
BRANDS = ("runail", "irisk")
KINDS = ("view", "cart", "remove_from_cart", "purchase")


def user(person: int) -> int:
    return 541312000 + person


def product(number: int) -> int:
    return 5802000 + number


def record(time: datetime.datetime, kind: str, number: int, person: int, session: int, price: object) -> tuple:
    category = f"{1487580005092295511 + number % 8}"
    code = "accessories.cosmetic_bag" if number % 4 == 0 else ""
    stamp = f"{time:%Y-%m-%d %H:%M:%S} UTC"
    what = (kind, product(number), category, code, BRANDS[number % 2], price, user(person))
    return (stamp, *what, f"72d76fde-8bb3-4e00-8c23-{session:012d}")


def events() -> str:
    """Carts hold an item of the other taste that is taken out again; most other carts are bought."""
    rows = []
    for visit in visits(START):
        place, price = (visit.person, visit.session), f"{1 + visit.item * 0.37:.2f}"
        for number, (kind, what) in enumerate(
            [
                ("view", visit.item),
                ("cart", visit.item),
                ("cart", (visit.item + 1) % ITEMS),
                ("remove_from_cart", (visit.item + 1) % ITEMS),
                ("purchase", visit.item),
            ]
        ):
            if kind != "purchase" or visit.number % 5:
                later = visit.time + datetime.timedelta(seconds=9 * number)
                rows.append(record(later, kind, what, *place, price))
    return separated([(*HEADER, "user_session"), *rows])


DAY = "2019-10-05 00:00:00 UTC"
DIRTY = {
    "2019-10-05 25:00:00 UTC,view,5802000,1,,,1.00,541312000,s": "bad time",
    "yesterday,view,5802000,1,,,1.00,541312000,s": "bad time",
    f"{DAY},view,5802000,1,,,cheap,541312000,s": "bad price",
    f"{DAY},purchase,5802000,1,,,-7.94,541312000,s": "negative price",
    f"{DAY},view,5802000,1,,,1.00,541312000": "another number of fields than the header",
}


def test_rees46(shop: Shop) -> None:
    text = events()
    shop.deliver("events/rees46", "2019-Oct.csv.gz", text + "\n".join(DIRTY) + "\n")
    shop.deliver("items/rees46", "2019-Oct.csv.gz", text)

    shop.ingest_events(reasons=Counter(DIRTY.values()))
    assert shop.count_by("type") == {kind: text.count(f",{kind},") for kind in KINDS}
    assert {row["unit_price"] for row in shop.events() if row["item_id"] == str(product(10))} >= {4.7}
    assert {row["context"]["brand"] for row in shop.events()} == set(BRANDS)

    items = shop.ingest_items()
    assert items[str(product(4))]["name"] == f"runail cosmetic bag {product(4)}"
    assert items[str(product(5))]["name"] == f"irisk {product(5)}"

    shop.recommend()
    tastes = {(who, int(what) % 2) for who, weights in shop.weights().items() for what in weights}
    assert tastes == {(str(user(person)), person % 2) for person in range(48)}, "a cart that was emptied has no weight"
    shop.assert_tastes(user, product)
    assert len(shop.make_others()) >= PEOPLE

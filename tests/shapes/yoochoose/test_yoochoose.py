"""Yoochoose: clicks and buys in two files, hence two sources, without a header, without users."""

import datetime
from collections import Counter

from pipeline import Shop
from tastes import separated, visits

START = datetime.date(2014, 4, 1)


def stamp(time: datetime.datetime) -> str:
    return f"{time:%Y-%m-%dT%H:%M:%S}.277Z"


def item(number: int) -> int:
    return 214536000 + number


def clicks() -> str:
    return separated(
        (visit.session, stamp(visit.time), item(visit.item), "S" if visit.item % 5 == 0 else 0)
        for visit in visits(START)
    )


def buys() -> str:
    """A price or quantity of 0 means that it is not known."""
    bought = [visit for visit in visits(START) if visit.number % 2]
    return separated(
        (visit.session, stamp(visit.time), item(visit.item), 1046 * (visit.number % 3), visit.number % 4)
        for visit in bought
    )


DIRTY = {
    "1,2014-04-07 10:51:09.277 o'clock,214536000,0": "bad time",
    "1,2014-04-07T10:51:09.277Z,214536000": "another number of fields than [fields]",
}


def test_yoochoose(shop: Shop) -> None:
    shop.deliver("events/yoochoose_clicks", "yoochoose-clicks.dat", clicks() + "\n".join(DIRTY) + "\n")
    shop.deliver("events/yoochoose_buys", "yoochoose-buys.dat", buys())

    shop.ingest_events(reasons=Counter(DIRTY.values()))
    assert shop.count_by("type") == {"click": clicks().count("\n"), "buy": buys().count("\n")}
    assert shop.count_by("source") == {"yoochoose_clicks": clicks().count("\n"), "yoochoose_buys": buys().count("\n")}
    assert all(row["user_id"] == row["session_id"] for row in shop.events()), "a session stands for its user"

    shop.succeed("build_interactions")
    similar = shop.similar_items()
    assert {row["item_id"] for row in similar} == {str(item(number)) for number in range(40)}
    same = [(int(row["item_id"]) - int(row["similar_item_id"])) % 2 == 0 for row in similar if row["score"] > 0]
    assert sum(same) == len(same), "items of one session are similar"
    shop.trending_items()

"""Last.fm HetRec: totals of plays without times, tags with times, and artists of one word, all separated by tabs."""

import datetime
from collections import Counter

from pipeline import Shop
from tastes import ITEMS, millis, separated, visits

START = datetime.date(2010, 11, 1)


def user(person: int) -> int:
    return 2 + person


def artist(number: int) -> int:
    return 51 + number


def plays() -> str:
    rows = [(user(visit.person), artist(visit.item), 11 * (1 + visit.number % 90)) for visit in visits(START)]
    return separated([("userID", "artistID", "weight"), *rows], "\t")


def tags() -> str:
    rows = [
        (user(visit.person), artist(visit.item), 13 + visit.item % 2, millis(visit.time)) for visit in visits(START)
    ]
    return separated([("userID", "artistID", "tagID", "timestamp"), *rows], "\t")


def artists() -> str:
    rows = [(artist(n), f'Mötley"{n}', f"http://www.last.fm/music/{n}", "") for n in range(ITEMS)]
    return separated([("id", "name", "url", "pictureURL"), *rows], "\t")


DIRTY = {
    "2\t52\t13\t-428720400000": "bad time",
    "2\t52\t13\t978307200000": "before Last.fm",
    "2\t52\t13\t2009-04-01": "bad timestamp",
}


def test_lastfm_hetrec(shop: Shop) -> None:
    shop.deliver("events/lastfm_plays", "user_artists.dat", plays())
    shop.deliver("events/lastfm_tags", "user_taggedartists-timestamps.dat", tags() + "\n".join(DIRTY) + "\n")
    shop.deliver("items/lastfm_plays", "artists.dat", artists())

    shop.ingest_events(reasons=Counter(DIRTY.values()))
    assert shop.count_by("type") == {"listen": plays().count("\n") - 1, "tag": tags().count("\n") - 1}
    assert {row["time"].date() for row in shop.events() if row["type"] == "listen"} == {shop.arrival}

    assert shop.ingest_items()["58"]["name"] == 'Mötley"7'

    shop.recommend()
    shop.assert_tastes(user, artist)
    assert shop.names() <= {f'Mötley"{number}' for number in range(ITEMS)}
    shop.make_all_but_churn()

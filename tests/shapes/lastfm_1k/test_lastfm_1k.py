"""Last.fm 1K: plays of artists by MBID, or by name where there is none; quotes are letters like any other."""

import datetime
import uuid

from pipeline import Shop
from tastes import ITEMS, PEOPLE, iso, separated, visits

START = datetime.date(2009, 1, 20)


def user(person: int) -> str:
    return f"user_{person:06d}"


def name(number: int) -> str:
    return f'Artist "{number} & the 7" \'s'


def artist(number: int) -> str:
    """The MBID; each tenth artist has none, so its name stands for it."""
    return str(uuid.UUID(int=number << 64)) if number % 10 else name(number)


def plays() -> str:
    """Each visit plays two tracks."""
    rows = []
    for visit in visits(START):
        mbid = artist(visit.item) if visit.item % 10 else ""
        for track in range(2):
            time = visit.time + datetime.timedelta(minutes=4 * track)
            rows.append((user(visit.person), iso(time), mbid, name(visit.item), "", f"Track {track}"))
    return separated(rows, "\t")


DIRTY = {
    'user_000000\t2009-05-04T23:08:57Z\t\t"Deep Dish\n Fuck Me"\t\tunquoted line feed': None,
    "user_000000\t04.05.2009 23:08\tx\tDeep Dish\t\tTrack": "bad time",
}


def test_lastfm_1k(shop: Shop) -> None:
    torn = {"another number of fields than [fields]": 2, "bad time": 1}
    shop.deliver("events/lastfm_1k", "plays.tsv", plays() + "\n".join(DIRTY) + "\n")
    shop.deliver("items/lastfm_1k", "plays.tsv", plays())

    shop.ingest_events(reasons=torn)
    assert shop.count_by("type") == {"play": plays().count("\n")}

    items = shop.ingest_items()
    assert {key: row["name"] for key, row in items.items()} == {artist(n): name(n) for n in range(ITEMS)}

    shop.recommend()
    shop.assert_tastes(user, artist)
    assert shop.names() <= {name(number) for number in range(ITEMS)}
    assert len(shop.make_others()) >= PEOPLE

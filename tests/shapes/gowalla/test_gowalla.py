"""Gowalla: check-ins with small integers as IDs, 0 among them, at the ISO times of places; no catalogue."""

import datetime
from collections import Counter

from pipeline import Shop
from tastes import ITEMS, PEOPLE, iso, separated, visits

START = datetime.date(2010, 7, 15)


def checkins() -> str:
    """The newest comes first, as in the file."""
    rows = [(visit.person, iso(visit.time), 30.2359091167, -97.7951395833, visit.item) for visit in visits(START)]
    return separated(rows[::-1], "\t")


DIRTY = {
    "0\t2010-10-19T23:55:27Z\t30.2\t-97.7\tcafé": "bad location",
    "0\t2010-10-19T23:55:27Z\t130.2\t-97.7\t7": "nowhere",
    "0\t2010-10-19T23:55\t30.2\t7": "another number of fields than [fields]",
    "0\t1969-10-19T23:55:27Z\t30.2\t-97.7\t7": "bad time",
}


def test_gowalla(shop: Shop) -> None:
    text = checkins()
    shop.deliver("events/gowalla", "loc-gowalla_totalCheckins.txt", text + "\n".join(DIRTY) + "\n" + text[:50])
    shop.ingest_events(reasons=Counter([*DIRTY.values(), "another number of fields than [fields]"]))
    assert shop.count_by("type") == {"checkin": text.count("\n")}
    assert {row["user_id"] for row in shop.events()} >= {"0", "47"}
    assert shop.events()[0]["context"] == {"latitude": "30.235909", "longitude": "-97.795140"}

    shop.recommend()
    shop.assert_tastes(str, str)
    assert shop.names() <= {str(number) for number in range(ITEMS)}, "without a catalogue the IDs are shown"
    assert len(shop.make_others()) >= PEOPLE

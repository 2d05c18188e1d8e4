"""Visits of people with a known taste: even people visit even items, odd people odd ones."""

import datetime
import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

PEOPLE, ITEMS = 48, 40
SESSIONS, LENGTH = 4, 3  # of each person, and visits of each session
DAYS = 100  # from the first to the last


class Visit(NamedTuple):
    """One person's visit of one item. A person never visits an item twice, and only some of those they would like."""

    number: int
    person: int
    item: int
    time: datetime.datetime
    session: int


def visits(start: datetime.date, seed: int = 1) -> list[Visit]:
    """Return the visits of all people, by time; in the first and in the last month everyone has a session."""
    random = np.random.default_rng(seed)
    midnight = datetime.datetime.combine(start, datetime.time(), datetime.UTC)
    found = []
    for person in range(PEOPLE):
        liked = random.permutation(ITEMS // 2) * 2 + person % 2
        days = [0, *(first + int(random.integers(10, 25)) for first in (20, 45, 75))]
        days = [int(random.integers(0, 20)), *days[1:]]
        for session, day in enumerate(days):
            begin = midnight + datetime.timedelta(days=day, hours=int(random.integers(7, 22)))
            for number, item in enumerate(liked[session * LENGTH : (session + 1) * LENGTH]):
                time = begin + datetime.timedelta(minutes=7 * number, seconds=int(random.integers(0, 60)))
                found.append((person, int(item), time, person * SESSIONS + session))
    found.sort(key=lambda visit: visit[2])
    return [Visit(number, *visit) for number, visit in enumerate(found)]


def millis(time: datetime.datetime) -> int:
    """Return a time in milliseconds since 1970."""
    return round(time.timestamp() * 1000)


def iso(time: datetime.datetime) -> str:
    """Return a time as in 2015-06-02T05:02:12Z."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def separated(rows: Iterable[Iterable[object]], delimiter: str = ",") -> str:
    """Return rows as lines of plain text; none of their values has a delimiter."""
    return "".join(delimiter.join(map(str, row)) + "\n" for row in rows)


def json_lines(records: Iterable[dict[str, Any]]) -> str:
    """Return records as JSON lines."""
    return "".join(json.dumps(record) + "\n" for record in records)


def numbered(prefix: str, first: int = 1) -> Iterator[str]:
    """Yield names with ascending numbers."""
    while True:
        yield f"{prefix}{first}"
        first += 1

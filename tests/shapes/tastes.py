"""Visits of people with a known taste: even people visit even items, odd people odd ones; half of them come often."""

import datetime
import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

PEOPLE, ITEMS = 48, 40
DAYS = 100  # from the first visit to the last
OFTEN, SELDOM = 10, 4  # sessions of a person


class Visit(NamedTuple):
    """One person's visit of one item. A person never visits an item twice, and only some of those they would like."""

    number: int
    person: int
    item: int
    time: datetime.datetime
    session: int


def visits(start: datetime.date, seed: int = 1) -> list[Visit]:
    """Return the visits of all people, by time; everyone comes in the first and in the last month."""
    random = np.random.default_rng(seed)
    midnight = datetime.datetime.combine(start, datetime.time(), datetime.UTC)
    found = []
    for person in range(PEOPLE):
        liked = iter(random.permutation(ITEMS // 2) * 2 + person % 2)
        sessions = OFTEN if person % 4 < 2 else SELDOM
        every = DAYS // sessions
        for session in range(sessions):
            day = session * every + int(random.integers(0, every // 3 if sessions == OFTEN else every))
            begin = midnight + datetime.timedelta(days=day, hours=int(random.integers(7, 22)))
            for place in range(1 + (sessions == SELDOM or session % 2)):
                time = begin + datetime.timedelta(minutes=7 * place, seconds=int(random.integers(0, 60)))
                found.append((person, int(next(liked)), time, person * OFTEN + session))
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

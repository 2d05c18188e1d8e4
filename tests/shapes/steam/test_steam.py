"""steam-200k: names of games as IDs, hours played, and no times, so no future to judge models on."""

import datetime
from collections import Counter

from pipeline import Shop
from tastes import ITEMS, PEOPLE, separated, visits

START = datetime.date(2016, 1, 1)
VISITS = visits(START)


def game(number: int) -> str:
    return f'Sid Meier\'s ""Civilization"" {number}, Gold' if number % 4 else f"Portal {number}"


def rows() -> str:
    found = []
    for visit in VISITS:
        name = f'"{game(visit.item)}"'
        found.append((151603712 + visit.person, name, "purchase", "1.0", 0))
        if visit.number % 3:
            found.append((151603712 + visit.person, name, "play", f"{visit.number % 300 / 10 + 0.1:.1f}", 0))
    return separated(found)


DIRTY = {
    '1,"Portal 4",play,many,0': "bad value",
    '1,"Portal 4",play,-1,0': "negative hours",
    '1,"Portal 4,play,1.0,0': "not CSV",
}


def test_steam(shop: Shop) -> None:
    text = rows()
    shop.deliver("events/steam", "steam-200k.csv", text + "\n".join(DIRTY) + "\n" + text.splitlines()[0])
    shop.ingest_events(reasons=Counter(DIRTY.values()), duplicates=1)
    assert shop.count_by("type") == {"purchase": len(VISITS), "play": text.count(",play,")}
    names = {row["item_id"] for row in shop.events()}
    assert names == {game(number).replace('""', '"') for number in range(ITEMS)}

    shop.no_future()
    weights = shop.weights()
    assert len(weights) == PEOPLE
    similar = shop.rows("build_similar_items").to_pylist()
    assert {row["similar_item_name"] for row in similar} <= names

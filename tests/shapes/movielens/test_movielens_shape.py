"""MovieLens: u.data and u.item without a header next to ratings.csv and movies.csv; low ratings count against."""

import datetime
from collections import Counter

from pipeline import Shop
from tastes import ITEMS, PEOPLE, separated, visits

START = datetime.date(1997, 9, 20)
TITLE = "Misérables, Les Nº {} (1995)"


def user(person: int) -> int:
    return 196 + person


def seconds(time: datetime.datetime) -> int:
    return int(time.timestamp())


def u_data() -> str:
    """People give 4 or 5 to films of their taste, and 1 to an item of the other taste at each third visit."""
    rows = []
    for visit in visits(START):
        rows.append((user(visit.person), visit.item + 1, 4 + visit.number % 2, seconds(visit.time)))
        if visit.number % 3 == 0:
            rows.append((user(visit.person), (visit.item + 1) % ITEMS + 1, 1, seconds(visit.time) + 30))
    return separated(rows, "\t")


def u_item() -> str:
    flags = ["0"] * 19
    rows = [(n + 1, TITLE.format(n + 1), "01-Jan-1995", "", f"http://films/{n}", *flags) for n in range(ITEMS)]
    return separated(rows, "|")


def ratings() -> str:
    rows = [(visit.person + 1, visit.item + 1, "4.5", seconds(visit.time)) for visit in visits(START, seed=2)]
    return separated([("userId", "movieId", "rating", "timestamp"), *rows])


def movies() -> str:
    rows = [(n + 1, f'"American President {n + 1}, The ""best"" (1995)"', "Comedy|Drama") for n in range(ITEMS)]
    return separated([("movieId", "title", "genres"), *rows])


DIRTY = {
    "1\t2\tfour\t881250949": "bad rating",
    "1\t2\t7\t881250949": "rating not from 1 to 5",
    "1 2 3 881250949": "another number of fields than [fields]",
    "1\t2\t3\t881250949000": "time after the arrival",
}


def test_movielens(shop: Shop) -> None:
    shop.deliver("events/movielens_100k", "u.data", u_data() + "\n".join(DIRTY) + "\n")
    shop.deliver("events/movielens_ratings", "ratings.csv", ratings())
    shop.deliver("items/movielens_100k", "u.item", u_item(), encoding="latin-1")
    shop.deliver("items/movielens_ratings", "movies.csv", movies())

    shop.ingest_events(reasons=Counter(DIRTY.values()))
    counts = {"movielens_100k": u_data().count("\n"), "movielens_ratings": ratings().count("\n") - 1}
    assert shop.count_by("source") == counts

    items = shop.ingest_items()
    assert items["7"]["name"] == TITLE.format(7)
    assert items["7"]["available_from"] == datetime.datetime(1995, 1, 1, tzinfo=datetime.UTC)
    assert items["m7"]["name"] == 'American President 7, The "best" (1995)'

    shop.recommend()
    liked = shop.weights()[str(user(0))]
    assert {int(item) % 2 for item, weight in liked.items() if weight > 0} == {1}, "only films of the own taste"
    shop.assert_tastes(user, lambda number: number + 1)
    assert len(shop.make_others()) >= PEOPLE

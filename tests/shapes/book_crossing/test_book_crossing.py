"""Book-Crossing: semicolons, quotes and Latin-1; ratings of 0, and no times, so no future to judge models on."""

import datetime
from collections import Counter

from pipeline import Shop
from tastes import ITEMS, visits

START = datetime.date(2004, 1, 1)
VISITS = visits(START)
BOOKS = ("ISBN", "Book-Title", "Book-Author", "Year-Of-Publication", "Publisher")
PICTURES = ("Image-URL-S", "Image-URL-M", "Image-URL-L")


def quoted(rows: list[tuple]) -> str:
    return "".join(";".join(f'"{value}"' for value in row) + "\r\n" for row in rows)


def isbn(number: int) -> str:
    return f"{34545000 + number:09d}{'X' if number % 3 else 7}"


def ratings() -> str:
    rows = [(276725 + visit.person, isbn(visit.item).lower(), (0, 9, 0, 3, 10)[visit.number % 5]) for visit in VISITS]
    return quoted([("User-ID", "ISBN", "Book-Rating"), *rows])


def books() -> str:
    rows = [(isbn(n), f"La fée &amp; l'ogre; tome {n}", "Amélie", 0, "Gallimard", "", "", "") for n in range(ITEMS)]
    torn = (isbn(99), r"The \"Real\" J. Peterman", "John", 1999, "Penguin", "", "", "")
    return quoted([(*BOOKS, *PICTURES), *rows, torn])


DIRTY = {
    '"276725";"034545104X"': "another number of fields than the header",
    '"276725";"034545104X";"ten"': "bad Book-Rating",
    '"276725";"a book";"0"': "no book number",
}


def test_book_crossing(shop: Shop) -> None:
    shop.deliver("events/book_crossing", "BX-Book-Ratings.csv", ratings() + "\n".join(DIRTY) + "\n", "latin-1")
    shop.deliver("items/book_crossing", "BX-Books.csv", books(), "latin-1")

    shop.ingest_events(reasons=Counter(DIRTY.values()))
    assert shop.count_by("type") == {"read": ratings().count('"0"'), "rating": len(VISITS) - ratings().count('"0"')}
    assert min(row["value"] for row in shop.events() if row["type"] == "rating") == 3

    items = shop.ingest_items()
    assert (len(items), items[isbn(7)]["name"]) == (ITEMS, "La fée & l'ogre; tome 7")
    assert (items[isbn(7)]["attributes"]["author"], items[isbn(7)]["attributes"].get("year")) == ("Amélie", None)
    assert items[isbn(7)]["attributes"]["delivered"] == str(shop.arrival)
    assert shop.metrics("ingest_items")["reasons"] == {"not CSV": 1}

    shop.no_future()
    similar = shop.rows("build_similar_items").to_pylist()
    assert {row["similar_item_name"] for row in similar} <= {row["name"] for row in items.values()}

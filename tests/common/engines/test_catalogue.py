"""Items that may be recommended, and their families."""

import numpy as np
import pyarrow as pa

from common.engines.catalogue import FOREVER, NEVER, Catalogue, family_numbers

NOW, RECENTLY = 1_000, 900


def available(last: int, since: int | None = None, until: int | None = None) -> bool:
    """Tell if an item with these dates and this last event may be recommended now."""
    of_one = [np.array([since is not None or until is not None])]
    dates = [np.array([NEVER if since is None else since]), np.array([FOREVER if until is None else until])]
    item = Catalogue(pa.array(["i"]), pa.array(["i"]), np.zeros(1, np.int64), *of_one, *dates)
    return bool(item.available(np.array([last]), RECENTLY, NOW)[0])


def test_items_without_dates_need_a_recent_event() -> None:
    assert available(RECENTLY) and not available(RECENTLY - 1) and not available(NEVER)


def test_dates_decide_where_there_are_some() -> None:
    assert available(NEVER, since=NOW) and not available(NOW, since=NOW + 1)
    assert available(NEVER, until=NOW + 1) and not available(NOW, until=NOW)
    assert not available(NOW, since=NOW - 2, until=NOW - 1)


def test_items_without_a_family_have_one_of_their_own() -> None:
    numbers = family_numbers(pa.array(["cup", None, "cup", None, "lamp"])).tolist()
    assert numbers[0] == numbers[2] and len(set(numbers)) == 4

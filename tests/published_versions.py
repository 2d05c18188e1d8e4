"""Small versions of a product in any store, as publications leave them."""

import datetime
from collections import Counter

import pyarrow as pa

from common import contracts
from common.delivery import versions, writer
from common.delivery.items import Items, make_items
from common.delivery.store import Store
from common.delivery.versions import Version
from common.engines.arrow import arrow_schema

CONTRACT = contracts.load("recommendations@2")
BUCKETS = 16


def items_that_show(name: str, users: int = 1) -> Items:
    """Return items that show a version's name to users, and by default the name in capitals."""
    shown = {"user": name, None: name.upper(), **{f"user-{number}": name for number in range(1, users)}}
    rows = [
        {"user_id": user, "style": "mixed", "rank": 1, "item_id": item, "item_name": "", "score": 1.0, "reason": None}
        for user, item in shown.items()
    ]
    return make_items(pa.Table.from_pylist(rows, arrow_schema(CONTRACT, list(CONTRACT.columns))), CONTRACT)


def begin(store: Store, name: str, users: int = 1) -> Version:
    """Write a complete version and return the values of its document."""
    items = items_that_show(name, users)
    versions.announce(store, {"version": name, "computed": name, "buckets": BUCKETS})
    writer.write(store, items, name, BUCKETS, True, lambda done: None)
    writer.check(store, items, name, BUCKETS, 10, lambda done: None)
    return versions.complete(store, name, users, items.default)


def publish(store: Store, name: str, users: int = 1) -> None:
    versions.switch(store, begin(store, name, users), versions.pointer(store))


def retire(store: Store, keep: datetime.timedelta) -> int:
    return versions.retire(store, keep, lambda done, total: None)


def lasting(store: Store) -> dict[str, int]:
    """Count the items of each version that do not expire."""
    parts = {place.part for place in store.scan(None)}
    counts: Counter[str] = Counter()
    for part in parts:
        counts[part.rpartition("/")[0]] += len(list(store.items(part)))
    return +counts


def shown(store: Store, user: str = "user") -> str:
    return str(store.shown(user)[0]["item_id"])

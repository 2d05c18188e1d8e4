"""Publish a product that write_product has written in shards: guard, and one switch of all frontends.

The items of a product that the guard refuses are deleted, versions that were replaced long ago are left to expire; a
failure of that step is only reported, and the next publication resumes it.
"""

import datetime
import itertools
import json
import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from common.contracts import Product
from common.delivery.items import EXPLAINED
from common.delivery.json_values import unpacked
from common.delivery.store import Document, Store, place_of
from common.delivery.stores import open_store
from common.delivery.versions import Version, complete, discard, observe, refuse_older, retire, switch
from common.engines import arrow
from common.errors import GateRefused, InputError
from common.handover import Task, run

SAMPLE = 1000  # keys that are compared with the live version
MIN_UNPUBLISHABLE = 10  # keys from which max_unpublishable_share applies, so that one does not stop a small product
Rows = list[dict[str, Any]]


def main(task: Task) -> None:
    parts = read_parts(task)
    product = Product(parts[0]["key"], compared=parts[0]["compared"])
    store = open_store(parts[0]["store"], parts[0]["table"], task.parameters["parallel"])
    content = next((json.loads(part["content"]) for part in parts if part["content"]), None)
    keys = sum(part["keys"] for part in parts)
    task.metrics |= {
        "product": parts[0]["product"],
        "store": parts[0]["store"],
        "table": store.name,
        "items": keys,
        "rows": sum(part["rows"] for part in parts),
    }
    with store.explained():
        seen, now = observe(store)
        version = complete(store, parts[0]["version"], keys, content)
        if seen is None or seen.values["version"] != version["version"]:
            refuse_older(store, version, seen, now)
            try:
                guard(task, parts, product, store, version, seen)
            except GateRefused:
                expire(task, store, partial(discard, store, version))
                raise
            with task.effect(f"published version {version['version']} of {store.name}"):
                switch(store, version, seen)
    task.metrics["version"] = version["version"]
    expire(task, store, partial(retire, store, datetime.timedelta(days=task.parameters["keep_days"])))
    task.log("published", **task.metrics)


def read_parts(task: Task) -> Rows:
    """Return the rows of all shards; InputError unless they are those of one version and of the whole product."""
    parts: Rows = arrow.read(task, "parts").to_pylist(maps_as_pydicts="strict")
    newest = max(part["version"] for part in parts)
    if stale := [str(number) for number, part in enumerate(parts) if part["version"] != newest]:
        raise InputError(
            f"The shards of task '{task.predecessors['parts']}' wrote different versions, by different code or "
            f"products; rerun it with map index {', '.join(stale)}."
        )
    rows, expected = sum(part["rows"] for part in parts), parts[0]["rows_of_product"]
    if rows != expected:
        raise InputError(
            f"The shards of task '{task.predecessors['parts']}' have {rows:,} rows in all, expected the {expected:,} "
            "of the product; check how its files are divided among shards, and rerun it."
        )
    return parts


def guard(task: Task, parts: Rows, product: Product, store: Store, version: Version, seen: Document | None) -> None:
    """Raise GateRefused if the product must not replace the live version; its figures become metrics."""
    parameters, name, keys = task.parameters, store.name, task.metrics["items"]
    check_unpublishable(task, parts)
    if not task.metrics["rows"]:
        raise GateRefused(f"The product for {name} has no rows, so nothing is published; check the task that wrote it.")
    users, default = count_default_users(parts, product)
    task.metrics |= {"users": users, "default_share": round(default / users, 4)} if users else {}
    if default > parameters["max_default_share"] * users:
        raise GateRefused(
            f"{default:,} of {users:,} users get only the default rows of {name}, {default / users:.0%}; "
            f"max_default_share allows {parameters['max_default_share']:.0%}: that is not personalization; check the "
            "predictions for missing users, or raise max_default_share."
        )
    if seen is None:
        return
    before = seen.values["items"]
    task.metrics["items_before"] = before
    if keys < before * (1 - parameters["max_key_drop"]):
        raise GateRefused(
            f"The product for {name} has {keys:,} keys, {1 - keys / before:.0%} fewer than the "
            f"{before:,} of the live version; max_key_drop allows {parameters['max_key_drop']:.0%}: part of the input "
            "is probably missing; check it, or raise max_key_drop."
        )
    overlap = mean_overlap(store, product, version, seen.values)
    if overlap is None:
        return
    task.metrics["overlap"] = round(overlap, 4)
    if overlap < parameters["min_overlap"]:
        raise GateRefused(
            f"The lists for {name} have {overlap:.0%} in common with the live version, on average of up to {SAMPLE:,} "
            f"keys; min_overlap requires {parameters['min_overlap']:.0%}: one run rarely changes that much; check the "
            "models, or lower min_overlap if the change is intended."
        )


def check_unpublishable(task: Task, parts: Rows) -> None:
    """Raise GateRefused if too many keys cannot be stored."""
    counts: Counter[str] = Counter()
    for part in parts:
        counts.update({reason: int(keys) for reason, keys in part["unpublishable"].items()})
    left_out, limit = counts.total(), task.parameters["max_unpublishable_share"]
    total = task.metrics["items"] + left_out
    task.metrics["items_left_out"] = left_out
    if left_out > limit * total and (left_out >= MIN_UNPUBLISHABLE or 2 * left_out > total):
        reasons = "; ".join(f"{EXPLAINED[reason]}: {keys:,}" for reason, keys in counts.items())
        raise GateRefused(
            f"{left_out:,} of {total:,} keys of {parts[0]['product']} cannot be stored ({reasons}), "
            f"max_unpublishable_share allows {limit:.0%}, so nothing is published; correct the task that wrote them "
            "(the metric unpublishable_keys of write_product has examples), or raise max_unpublishable_share."
        )


def count_default_users(parts: Rows, product: Product) -> tuple[int, int]:
    """Return the number of users, and of those who get only the default rows.

    They either have rows equal to the default ones, or none: the task that made the product counts the latter in its
    metric users_with_default_rows_only. Other keys than users, such as the only country, may have the default rows.
    """
    if product.key != "user_id":
        return 0, 0
    default = next((part["default_list"] for part in parts if part["default_list"]), "")
    same = sum(int(part["lists"].get(default, 0)) for part in parts)
    unlisted = parts[0]["users_without_rows"]
    return sum(part["keys"] for part in parts) + unlisted, same + unlisted


def mean_overlap(store: Store, product: Product, version: Version, seen: Version) -> float | None:
    """Return the mean, over a sample of keys in both versions, of the share of the longer list that both contain.

    None if the product has no values to compare, or no key is in both.
    """
    name = product.compared
    if name is None:
        return None
    now = sample(store, version["version"], version["buckets"])
    before = store.get([place_of(seen["version"], seen["buckets"], key) for key in now])
    shares = []
    for key, content in before.items():
        new, old = (set(compared_values(each, name)) for each in (now[key], content))
        shares.append(len(new & old) / max(1, len(new), len(old)))
    return sum(shares) / len(shares) if shares else None


def sample(store: Store, version: str, buckets: int) -> dict[str, bytes]:
    """Return the content of some keys of a version: those of buckets in random order, which hashes have filled."""
    order = random.Random(version).sample(range(buckets), buckets)
    items = itertools.chain.from_iterable(store.items(f"{version}/{bucket}") for bucket in order)
    return dict(itertools.islice(items, SAMPLE))


def compared_values(content: bytes, name: str) -> list[Any]:
    """Return the values by which the contents of two items are compared."""
    rows = unpacked(content)
    return [row[name] for row in (rows if isinstance(rows, list) else [rows])]


def expire(task: Task, store: Store, step: Callable[[Callable[[int, int], None]], int]) -> None:
    """Remove versions; a failure is reported, and the next publication resumes."""
    try:
        with store.explained():
            task.metrics["expired"] = step(partial(task.progress, "items of old versions left to expire"))
    except Exception as error:
        task.metrics["expiry_error"] = f"{type(error).__name__}: {error}"[:300]
        task.log("expiry failed", error=repr(task.metrics["expiry_error"]))


if __name__ == "__main__":
    run(main)

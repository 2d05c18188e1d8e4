"""Publish a product where frontends read it: guard, write next to the live version, check, switch.

The guard refuses a product before anything is written. Versions that were replaced long ago are left to expire; a
failure of that step is only reported, because the product is published by then.
"""

import datetime
import hashlib
import random
from functools import partial
from typing import Any

from common.delivery.items import EXPLAINED, Items, make_items
from common.delivery.reader import Item
from common.delivery.tables import Table, client, explained, table_name
from common.delivery.versions import abandon, announce, observe, refuse_older, retire, switch, timestamp, with_date
from common.delivery.writer import check, contents_of, write
from common.engines import arrow
from common.errors import GateRefused
from common.handover import Task, run
from common.handover.manifest import basis

SAMPLE = 1000  # keys that are compared with the live version
READ_BACK = 200  # items that are read back after writing
MIN_UNPUBLISHABLE = 10  # keys from which max_unpublishable_share applies, so that one does not stop a small product
EXAMPLES = 3  # keys per reason


def main(task: Task) -> None:
    source = task.input("product")
    assert source.contract is not None
    table = Table(
        client(task.parameters["parallel"]),
        table_name(task.parameters["tables"], source.contract.name),
        task.parameters["parallel"],
    )
    items = make_items(arrow.read(task, "product"), source.contract)
    check_unpublishable(task, items, source.contract.name)
    with explained(table.name):
        seen, now = observe(table)
        version = with_date(table, description(task, items), now)
        refuse_older(table, version, seen, now)
        guard(task, items, table, seen)
        publish(task, items, table, version, seen)
    expire_replaced(task, table)
    task.log("published", **task.metrics)


def check_unpublishable(task: Task, items: Items, contract: str) -> None:
    """Report the keys that DynamoDB cannot store; GateRefused if they are too many."""
    if not items.unpublishable:
        return
    task.metrics["unpublishable_keys"] = {
        reason: {"keys": len(keys), "examples": [shortened(key) for key in keys[:EXAMPLES]]}
        for reason, keys in items.unpublishable.items()
    }
    left_out = sum(map(len, items.unpublishable.values()))
    total, limit = len(items.keys) + left_out, task.parameters["max_unpublishable_share"]
    if left_out > limit * total and (left_out >= MIN_UNPUBLISHABLE or 2 * left_out > total):
        reasons = "; ".join(
            f"{EXPLAINED[reason]}: {len(keys):,}, such as {shortened(keys[0])}"
            for reason, keys in items.unpublishable.items()
        )
        raise GateRefused(
            f"{left_out:,} of {total:,} keys of {contract} cannot be stored ({reasons}), "
            f"max_unpublishable_share allows {limit:.0%}, so nothing is published; correct the task that wrote them, "
            "or raise max_unpublishable_share."
        )
    task.log("left out", keys=left_out, reasons=task.metrics["unpublishable_keys"])


def shortened(key: str) -> str:
    """Return the beginning of a key, on one line."""
    return repr(key[:40]) + ("…" if len(key) > 40 else "")


def description(task: Task, items: Items) -> Item:
    """Return the version that this task publishes, as attributes of the pointer.

    Its name contains the moment at which the product was computed, and a hash of its inputs and code: a retry resumes
    the version of the previous attempt, and a run that was overtaken, or whose input is older than that of the live
    version, cannot move the pointer.
    """
    manifests = task.input("product").manifests
    computed = max(parent.document["ended"] for parent in manifests)
    sources = hashlib.sha256("".join([*sorted(parent.digest for parent in manifests), task.code]).encode())
    text = {
        "version": f"{computed.removesuffix('+00:00')}Z-{sources.hexdigest()[:8]}",
        "computed": computed,
        "basis": timestamp(min(basis(parent.document) for parent in manifests)),
        "manifest": manifests[0].uri,
    }
    numbers = {"items": len(items.keys), "buckets": len(items.buckets) - 1}
    return {
        **{name: {"S": value} for name, value in text.items()},
        **{name: {"N": str(value)} for name, value in numbers.items()},
        **({"content": items.default} if items.default else {}),
    }


def guard(task: Task, items: Items, table: Table, seen: Item | None) -> None:
    """Raise GateRefused if the product must not replace the live version; its figures become metrics."""
    parameters, name = task.parameters, table.name
    if not items.rows:
        raise GateRefused(f"The product for {name} has no rows, so nothing is published; check the task that wrote it.")
    users, default = count_default_users(task, items)
    task.metrics |= {"items": len(items.keys), "rows": items.rows, "default_share": round(default / max(users, 1), 4)}
    if default > parameters["max_default_share"] * users:
        raise GateRefused(
            f"{default:,} of {users:,} users get only the default rows of {name}, {default / users:.0%}; "
            f"max_default_share allows {parameters['max_default_share']:.0%}: that is not personalization; check the "
            "predictions for missing users, or raise max_default_share."
        )
    if seen is None:
        return
    before = int(seen["items"]["N"])
    task.metrics["items_before"] = before
    if len(items.keys) < before * (1 - parameters["max_key_drop"]):
        raise GateRefused(
            f"The product for {name} has {len(items.keys):,} keys, {1 - len(items.keys) / before:.0%} fewer than the "
            f"{before:,} of the live version; max_key_drop allows {parameters['max_key_drop']:.0%}: part of the input "
            "is probably missing; check it, or raise max_key_drop."
        )
    overlap = mean_overlap(items, table, seen)
    if overlap is None:
        return
    task.metrics["overlap"] = round(overlap, 4)
    if overlap < parameters["min_overlap"]:
        raise GateRefused(
            f"The lists for {name} have {overlap:.0%} in common with the live version, on average of up to {SAMPLE:,} "
            f"keys; min_overlap requires {parameters['min_overlap']:.0%}: one run rarely changes that much; check the "
            "models, or lower min_overlap if the change is intended."
        )


def count_default_users(task: Task, items: Items) -> tuple[int, int]:
    """Return the number of users, and of those who get only the default rows.

    They either have rows equal to the default ones, or none: the task that wrote the product counts the latter in its
    metric users_with_default_rows_only. Other keys than users, such as the only country, may have the default rows.
    """
    if items.product.key != "user_id":
        return 0, 0
    unlisted = sum(
        parent.document["metrics"].get("users_with_default_rows_only", 0) for parent in task.input("product").manifests
    )
    same = 0
    if items.default and items.product.compared:
        default = compared_values(items.default, items.product.compared)
        for start in range(0, len(items.keys), 10_000):
            contents = items.contents(start, min(start + 10_000, len(items.keys)))
            same += sum(compared_values(content, items.product.compared) == default for content in contents)
    return len(items.keys) + unlisted, same + unlisted


def mean_overlap(items: Items, table: Table, seen: Item) -> float | None:
    """Return the mean, over a sample of keys in both versions, of the share of the longer list that both contain.

    None if the product has no values to compare, or no key is in both.
    """
    name = items.product.compared
    if name is None:
        return None
    chosen = random.Random(seen["version"]["S"]).sample(range(len(items.keys)), min(SAMPLE, len(items.keys)))
    keys = [items.keys[position] for position in chosen]
    before = contents_of(table, seen["version"]["S"], int(seen["buckets"]["N"]), keys)
    shares = []
    for position, key in zip(chosen, keys):
        if key in before:
            contents = items.contents(position, position + 1)[0], before[key]
            now, then = (set(compared_values(content, name)) for content in contents)
            shares.append(len(now & then) / max(1, len(now), len(then)))
    return sum(shares) / len(shares) if shares else None


def compared_values(content: Any, name: str) -> list[Any]:
    """Return the values by which the contents of two items are compared."""
    return [next(iter(row["M"][name].values())) for row in content.get("L", [content])]


def publish(task: Task, items: Items, table: Table, version: Item, seen: Item | None) -> None:
    """Write, check, switch."""
    name, total = version["version"]["S"], len(items.keys)
    announce(table, version)
    try:
        counts = write(table, items, name, lambda done: task.progress("items written", done, total))
        task.log("written", **counts)
        check(table, items, name, READ_BACK, lambda done: task.progress("items counted", done, total))
        with task.effect(f"published version {name} of {table.name}"):
            switch(table, version, seen)
    except Exception:
        abandon(table, version)
        raise
    task.metrics |= {"table": table.name, "version": name, **counts}


def expire_replaced(task: Task, table: Table) -> None:
    """Expire versions kept long enough; a failure is reported, and the next publication resumes."""
    keep = datetime.timedelta(days=task.parameters["keep_days"])

    try:
        with explained(table.name):
            progress = partial(task.progress, "items of old versions left to expire")
            task.metrics["expired"] = retire(table, keep, progress)
    except Exception as error:
        task.metrics["expiry_error"] = f"{type(error).__name__}: {error}"[:300]
        task.log("expiry failed", error=repr(task.metrics["expiry_error"]))


if __name__ == "__main__":
    run(main)

"""Write one shard of a product into its store: a version next to the live one, counted and read back.

All shards derive the same version from the manifests of all shards, so none waits for another. Frontends read it once
publish_product has moved the pointer.
"""

import hashlib
import itertools
import json
from collections import Counter
from typing import Any

from common.contracts import Contract
from common.delivery.items import Items, bucket_count, make_items
from common.delivery.store import Store, table_name
from common.delivery.stores import open_store
from common.delivery.versions import (
    Version,
    abandon,
    announce,
    observe,
    refuse_older,
    refuse_retired,
    timestamp,
    with_date,
)
from common.delivery.writer import check, write
from common.engines import arrow
from common.handover import Task, run
from common.handover.manifest import basis

READ_BACK = 200  # items of all shards that are read back after writing
COMMON_LISTS = 100  # of a shard; others have less than a hundredth of its users
EXAMPLES = 3  # keys per reason


def main(task: Task) -> None:
    contract = arrow.contract_of(task.input("product"))
    parameters, name = task.parameters, table_name(task.parameters["tables"], contract.name)
    store = open_store(parameters["store"], name, parameters["parallel"])
    items = make_items(arrow.read(task, "product"), contract)
    report_unpublishable(task, items)
    with store.explained():
        seen, now = observe(store)
        version = with_date(store, description(task, bucket_count(items.product, task.input("product").rows)), now)
        refuse_older(store, version, seen, now)
        counts = write_part(task, items, store, version)
    task.metrics |= {"store": parameters["store"], "table": store.name, "version": version["version"]}
    task.metrics |= {"items": len(items.keys), **counts}
    write_row(task, items, contract)
    task.log("written", **task.metrics)


def report_unpublishable(task: Task, items: Items) -> None:
    """Report the keys that cannot be stored, with examples; publish_product refuses too many."""
    if items.unpublishable:
        task.metrics["unpublishable_keys"] = {
            reason: {"keys": len(keys), "examples": [shortened(key) for key in keys[:EXAMPLES]]}
            for reason, keys in items.unpublishable.items()
        }
        task.log("left out", reasons=task.metrics["unpublishable_keys"])


def shortened(key: str) -> str:
    """Return the beginning of a key, on one line."""
    return repr(key[:40]) + ("…" if len(key) > 40 else "")


def description(task: Task, buckets: int) -> Version:
    """Return the version that this task writes a shard of, as values of its document.

    Its name contains the moment at which the product was computed, and a hash of its inputs and code: a retry resumes
    the version of the previous attempt, and a run that was overtaken, or whose input is older than that of the live
    version, cannot move the pointer. The numbers of items and the default rows follow once all shards are written.
    """
    manifests = task.input("product").manifests
    computed = max(parent.document["ended"] for parent in manifests)
    sources = hashlib.sha256("".join([*sorted(parent.digest for parent in manifests), task.code]).encode())
    return {
        "version": f"{computed.removesuffix('+00:00')}Z-{sources.hexdigest()[:8]}",
        "computed": computed,
        "basis": timestamp(min(basis(parent.document) for parent in manifests)),
        "manifest": manifests[0].uri,
        "buckets": buckets,
    }


def write_part(task: Task, items: Items, store: Store, version: Version) -> dict[str, int]:
    """Write and check the items; return the figures of writer.write."""
    name, buckets, total = version["version"], version["buckets"], len(items.keys)
    sample = -(-READ_BACK // (task.map_count or 1))
    announce(store, version)
    refuse_retired(store, version)
    try:
        counts = write(
            store, items, name, buckets, task.attempt > 1, lambda done: task.progress("items written", done, total)
        )
        check(store, items, name, buckets, sample, lambda done: task.progress("items counted", done, total))
        refuse_retired(store, version)
    except Exception:
        abandon(store, version)
        raise
    return counts


def write_row(task: Task, items: Items, contract: Contract) -> None:
    """Hand over the figures by which all shards are published."""
    source = task.input("product")
    unpublishable = {reason: str(len(keys)) for reason, keys in items.unpublishable.items()}
    default_list, lists = common_lists(items)
    row: dict[str, Any] = {
        "product": contract.name,
        "key": items.product.key,
        "compared": items.product.compared,
        "store": task.metrics["store"],
        "table": task.metrics["table"],
        "version": task.metrics["version"],
        "keys": len(items.keys),
        "rows": items.rows,
        "rows_of_product": source.rows,
        "unpublishable": list(unpublishable.items()),
        "content": json.dumps(items.default) if items.default else None,
        "default_list": default_list,
        "lists": list(lists.items()),
        "users_without_rows": sum(
            parent.document["metrics"].get("users_with_default_rows_only", 0) for parent in source.manifests
        ),
    }
    arrow.write_rows(task, "part", [tuple(row.values())])


def common_lists(items: Items) -> tuple[str | None, dict[str, str]]:
    """Return the digest of the default rows, and the number of keys by the digest of each of the most common lists.

    By them publish_product finds the users whose rows are equal to the default ones, which another shard may have.
    """
    if items.product.key != "user_id" or items.product.compared is None:
        return None, {}
    values, starts = items.columns[items.product.compared], items.starts
    counts: Counter[str] = Counter()
    for first in range(0, len(items.keys), 10_000):
        bounds = starts[first : first + 10_001]
        shown = values[bounds[0] : bounds[-1]].to_pylist()
        counts.update(digest(shown[begin:end]) for begin, end in itertools.pairwise((bounds - bounds[0]).tolist()))
    default = digest(values[: starts[0]].to_pylist()) if starts[0] else None
    return default, {each: str(count) for each, count in counts.most_common(COMMON_LISTS)}


def digest(values: list[Any]) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]


if __name__ == "__main__":
    run(main)

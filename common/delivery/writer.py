"""Items of a version in a store: written in parallel, looked up, read back, and finally removed."""

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from common.delivery.items import Items
from common.delivery.json_values import packed, unpacked
from common.delivery.store import Place, Store, place_of
from common.errors import TaskError

BATCH = 100  # items that are looked up or written by one call of the store


def write(
    store: Store, items: Items, version: str, buckets: int, resume: bool, progress: Callable[[int], None]
) -> dict[str, int]:
    """Write the items of a version; `progress` gets the number of items stored so far.

    To resume, look up first which items an earlier attempt has stored. Returns the numbers of items written, found, and
    re-sent because the store was busy, and the write units of those written.
    """
    counts = {"written": 0, "found": 0, "sent_again": 0, "write_units": 0}
    lock = threading.Lock()

    def count(**more: int) -> None:
        with lock:
            for name, number in more.items():
                counts[name] += number
            progress(counts["written"] + counts["found"])

    def write_some(first: int) -> None:
        after = min(first + BATCH, len(items.keys))
        places = [place_of(version, buckets, key) for key in items.keys[first:after]]
        stored = store.find(places) if resume else set()
        contents = zip(places, items.contents(first, after))
        left = [(place, packed(content)) for place, content in contents if place.key not in stored]
        count(found=len(stored))
        sent_again = store.put(left) if left else 0
        count(sent_again=sent_again, written=len(left), write_units=sum(write_units(*item) for item in left))

    for_each(store, write_some, range(0, len(items.keys), BATCH))
    return counts


def write_units(place: Place, content: bytes) -> int:
    """Return the units that DynamoDB charges to write an item: one for each KiB of it, also for one that is begun."""
    size = len("part") + len(place.part) + len("id") + len(place.key.encode()) + len("content") + len(content)
    return -(-size // 1024)


def check(store: Store, items: Items, version: str, buckets: int, sample: int, progress: Callable[[int], None]) -> None:
    """Raise TaskError unless the store has all these items of a version, those of a sample with equal content.

    Looks up keys, and does not count buckets: other shards write into these, too.
    """
    found = 0

    def count(first: int) -> int:
        return len(store.find([place_of(version, buckets, key) for key in items.keys[first : first + BATCH]]))

    def add(number: int) -> None:
        nonlocal found
        found += number
        progress(found)

    for_each(store, count, range(0, len(items.keys), BATCH), add)
    if found != len(items.keys):
        raise TaskError(
            f"{store.name} contains {found:,} items of version {version}, expected {len(items.keys):,}; the pointer "
            "was not moved, rerun the task."
        )
    chosen = random.Random(version).sample(range(len(items.keys)), min(sample, len(items.keys)))
    stored = store.get([place_of(version, buckets, items.keys[position]) for position in chosen])
    for position in chosen:
        key = items.keys[position]
        if key not in stored or unpacked(stored[key]) != items.contents(position, position + 1)[0]:
            raise TaskError(
                f"{store.name} returns other content for '{key}' of version {version} than was written; the pointer "
                "was not moved, rerun the task with a new input."
            )


def remove(
    store: Store, version: str, buckets: int, remove_part: Callable[[str], int], progress: Callable[[int], None]
) -> None:
    """Expire or delete all parts of a version; `progress` gets the number of further items."""
    for_each(store, lambda bucket: remove_part(f"{version}/{bucket}"), range(buckets), progress)


def for_each(
    store: Store, function: Callable[[int], Any], numbers: range, on_result: Callable[[Any], None] = lambda _: None
) -> None:
    """Call a function for each number, on the threads of the store; `on_result` gets each result as it arrives.

    The first exception ends it; calls that wait are not started.
    """
    with ThreadPoolExecutor(store.threads) as pool:
        futures = [pool.submit(function, number) for number in numbers]
        try:
            for future in as_completed(futures):
                on_result(future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise

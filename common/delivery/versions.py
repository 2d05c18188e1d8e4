"""Versions of a product in its store: the pointer to the live one, the switch to the next, rollback, expiry.

Each version has a document, from before its first item is written until long after its last one expires; the pointer is
a copy of one. Every write depends on what was read: the pointer moves, and a version is marked for expiry, only while
the pointer and the version's document are unchanged. So nothing of the live version ever expires.
"""

import datetime
from collections.abc import Callable
from functools import partial
from typing import Any

from common.delivery.store import POINTER, VERSIONS, Document, Store
from common.delivery.writer import remove
from common.errors import StaleAttempt, TaskError

Version = dict[str, Any]  # values of a version's document
SECOND = datetime.timedelta(seconds=1)
GRACE = datetime.timedelta(hours=1)  # no rollback to a version that expires within it
REMEMBERED = datetime.timedelta(days=14)  # a version's document outlives its items, so that no late task lists it anew
DECISION = ("rolled_back", "rolled_back_by")  # values that every later pointer inherits


def pointer(store: Store) -> Document | None:
    """Return the pointer, None before the first publication."""
    return observe(store)[0]


def observe(store: Store) -> tuple[Document | None, datetime.datetime]:
    """Return the pointer, None before the first publication, and the store's time."""
    return store.read(POINTER)


def timestamp(time: datetime.datetime) -> str:
    """Format a time as in manifests and versions, so that text sorts as time does."""
    return time.isoformat(timespec="milliseconds")


def with_date(store: Store, version: Version, now: datetime.datetime) -> Version:
    """Return the version with `computed` at most the store's time; if it was announced, as announced.

    Otherwise a producer's clock that is ahead would block later versions. A retry must not get a later time than the
    previous attempt, or it would look newer than a rollback between the two.
    """
    announced = listed(store, version["version"])
    computed = announced.values["computed"] if announced else version["computed"]
    return {**version, "computed": min(computed, timestamp(now))}


def listed(store: Store, name: str) -> Document | None:
    """Return the document of a version, None if there is none."""
    return store.read(VERSIONS + name)[0]


def lasting(store: Store, name: str) -> Document | None:
    """Return the document of a version, None if there is none or its items were left to expire."""
    entry = listed(store, name)
    return entry if entry and not is_over(entry) else None


def is_over(entry: Document) -> bool:
    """Return True if the items of a version were refused or left to expire."""
    return not entry.values.keys().isdisjoint({"retired", "expires"})


def announce(store: Store, version: Version) -> None:
    """List a version before its first item is written, so that every item belongs to a listed version."""
    if listed(store, version["version"]) is None:
        replace(store, version, None)  # refused if another shard has listed it


def replace(store: Store, values: Version, entry: Document | None) -> bool:
    """Replace the document of a version; False if it changed since it was read."""
    key = VERSIONS + values["version"]
    return store.commit({key: values}, {key: tag_of(entry)})


def refuse_retired(store: Store, version: Version) -> None:
    """Raise StaleAttempt if a version was refused or left to expire: nothing makes its items last again."""
    if lasting(store, version["version"]) is None:
        raise expired_version(store, version["version"])


def expired_version(store: Store, name: str) -> StaleAttempt:
    return StaleAttempt(
        f"Version {name} of {store.name} was refused, or left to expire before it was complete, so it is not "
        "published; rerun the pipeline."
    )


def complete(store: Store, name: str, items: int, default: Any) -> Version:
    """Add the number of items and the default rows to the document of a version whose shards are written; return it.

    Raises StaleAttempt if the version was refused or left to expire.
    """
    while entry := lasting(store, name):
        values = {**entry.values, "items": items, **({"content": default} if default else {})}
        if values == entry.values or replace(store, values, entry):
            return values
    raise expired_version(store, name)


def abandon(store: Store, version: Version) -> None:
    """Re-list a version that was retired while it was written, so that the next publication expires its items."""
    while (entry := listed(store, version["version"])) is None or is_over(entry):  # usual: it is not
        if replace(store, {**version, "kept_until": 0, "retired": 0}, entry):
            return


def switch(store: Store, version: Version, seen: Document | None) -> None:
    """Move the pointer to a complete version if the pointer is still `seen`.

    Raises StaleAttempt if a newer version is live or a person has rolled back, TaskError if it moved otherwise.
    """
    name = version["version"]
    if seen and seen.values["version"] == name:
        return
    inherited = {key: seen.values[key] for key in DECISION if key in seen.values} if seen else {}
    follows = {"follows": seen.values["version"]} if seen else {}
    if move_pointer(store, {**version, **follows, **inherited}, seen):
        return
    current, now = observe(store)
    if current and current.values["version"] == name:
        return  # another process of this task moved it
    refuse_older(store, version, current, now)
    if same(current, seen):
        raise expired_version(store, name)
    raise TaskError(
        f"The pointer of {store.name} moved while version {name} was written, and was left unchanged; rerun the "
        "task, it resumes from here."
    )


def roll_back(store: Store, who: str = "an operator") -> tuple[Version, Version]:
    """Move the pointer to the version that the live one followed; return the version left, and the one now live.

    The pointer records the decision: versions computed before it are never published.

    Raises TaskError if there is no such version, if it expires within an hour, or if the pointer moves concurrently.
    """
    seen, now = observe(store)
    if seen is None or "follows" not in seen.values:
        raise TaskError(f"{store.name} has no earlier version to roll back to; rerun its pipeline instead.")
    earlier = listed(store, seen.values["follows"])
    gone = f"Version {seen.values['follows']} of {store.name} is no longer kept; rerun its pipeline instead."
    if earlier is None or earlier.values.get("kept_until", float("inf")) < (now + GRACE).timestamp():
        raise TaskError(gone)
    # Two clocks of the same second may disagree: the version left is refused in any case.
    left = min(seen.values["computed"], timestamp(now + SECOND))
    decision = {"rolled_back": max(timestamp(now), left), "rolled_back_by": who}
    if move_pointer(store, {**earlier.values, **decision}, seen):
        return seen.values, earlier.values
    if same(pointer(store), seen):
        raise TaskError(gone)
    raise TaskError(f"The pointer of {store.name} moved concurrently; check which version is live, then retry.")


def move_pointer(store: Store, version: Version, seen: Document | None) -> bool:
    """Switch all readers to a version, in one write with its document.

    Returns False, with nothing written, if the pointer is no longer `seen` or the version was left to expire.
    """
    key = VERSIONS + version["version"]
    follows = {"follows": version["follows"]} if "follows" in version else {}
    switched = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    moved = {**without_end(version), "switched": switched}
    while entry := lasting(store, version["version"]):
        writes = {POINTER: moved, key: {**without_end(entry.values), **follows}}
        if store.commit(writes, {POINTER: tag_of(seen), key: entry.tag}):
            return True
        if not same(pointer(store), seen):
            return False
    return False


def without_end(version: Version) -> Version:
    """Return a version without `kept_until`, which is set anew when the next version replaces this one."""
    return {name: value for name, value in version.items() if name != "kept_until"}


def same(one: Document | None, other: Document | None) -> bool:
    """Return True if a document was not written between two reads."""
    return tag_of(one) == tag_of(other)


def tag_of(document: Document | None) -> str | None:
    return document.tag if document else None


def retire(store: Store, keep: datetime.timedelta, progress: Callable[[int, int], None]) -> int:
    """Expire versions that were replaced longer than `keep` ago, and date the others; return the number of items.

    `progress` gets the number of items that expire so far, and the total. Only versions older than the live one
    expire: the live one and those being written keep all items. Once the pointer moves, nothing more is marked: the
    next publication resumes.
    """
    live, now = observe(store)
    assert live is not None
    due = []
    for name, entry in store.versions().items():
        values = entry.values
        if "expires" in values:
            if values["expires"] < now.timestamp():
                store.commit({VERSIONS + name: None}, {VERSIONS + name: entry.tag})
        elif name == live.values["version"] or values["computed"] >= live.values["computed"]:
            continue
        elif "kept_until" not in values:
            mark(store, live, entry, now + keep, "kept_until")
        elif values["kept_until"] > now.timestamp():
            continue
        elif "retired" in values or mark(store, live, entry, now, "retired"):
            due.append(values)
    return remove_all(store, due, now, progress, partial(store.expire, at=int(now.timestamp())))


def discard(store: Store, version: Version, progress: Callable[[int, int], None]) -> int:
    """Delete a version that was refused, unless it is live: no reader has seen it; return the number of items."""
    live, now = observe(store)
    entry = listed(store, version["version"])
    if entry is None or (live and live.values["version"] == version["version"]):
        return 0
    if "retired" not in entry.values and not mark(store, live, entry, now, "kept_until", "retired"):
        return 0
    return remove_all(store, [entry.values], now, progress, store.delete)


def remove_all(
    store: Store,
    due: list[Version],
    now: datetime.datetime,
    progress: Callable[[int, int], None],
    remove_part: Callable[[str], int],
) -> int:
    """Remove all items of retired versions, and let their documents expire later; return the number of items."""
    total, done = sum(version.get("items", 0) for version in due), 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        progress(done, total)

    for version in due:
        entry = listed(store, version["version"])
        remove(store, version["version"], version["buckets"], remove_part, count)
        if entry:  # last: until then the next publication resumes, also if a late task has written items meanwhile
            replace(store, {**entry.values, "expires": int((now + REMEMBERED).timestamp())}, entry)
    return done


def mark(store: Store, live: Document | None, entry: Document, time: datetime.datetime, *names: str) -> bool:
    """Set values of a version to a time; False if the pointer or the version changed since they were read.

    A rollback to the version clears `kept_until` and moves the pointer; a `retired` version cannot be rolled back to.
    """
    key = VERSIONS + entry.values["version"]
    values = entry.values | dict.fromkeys(names, int(time.timestamp()))
    return store.commit({key: values}, {key: entry.tag, POINTER: tag_of(live)})


def refuse_older(store: Store, version: Version, seen: Document | None, now: datetime.datetime) -> None:
    """Raise StaleAttempt if a person rolled back after this version was computed, or the live one was computed later.

    A version is also refused if its oldest input is older than that of the live one, as of a run that was overtaken.
    A live version that is dated in the future, by a clock that was ahead, refuses nothing.
    """
    if seen is None or seen.values["version"] == version["version"]:
        return
    current, name, computed = seen.values, version["version"], version["computed"]
    if "rolled_back" in current and computed <= current["rolled_back"]:
        raise StaleAttempt(
            f"Version {name} is not published, because {current['rolled_back_by']} rolled {store.name} back at "
            f"{current['rolled_back']}, after this version was computed ({computed}); rerun the pipeline to "
            "compute a new one."
        )
    live = current["version"]
    if computed < current["computed"] <= timestamp(now):
        raise StaleAttempt(
            f"Version {name} is not published, because {store.name} shows a newer one, {live}; to roll back, use "
            "make rollback."
        )
    if "basis" in current and "basis" in version and version["basis"] < current["basis"] <= timestamp(now):
        raise StaleAttempt(
            f"Version {name} is not published, because its oldest input was taken at {version['basis']}, before "
            f"that of version {live}, which {store.name} shows ({current['basis']}); rerun the pipeline."
        )

"""Versions of a product in its table: the pointer to the live one, the switch to the next, rollback, expiry.

The partition `versions` has an entry for each version, from before its first item is written until its last one
expires; the pointer is a copy of one entry. Every write is conditional: the pointer moves, and a version is marked for
expiry, only while the pointer is unchanged since it was read. So nothing of the live version ever expires.
"""

import contextlib
import datetime
import email.utils
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

from common.delivery.reader import POINTER, Item
from common.delivery.tables import Table
from common.delivery.throttling import request, transact
from common.delivery.writer import delete, expire, items_of
from common.errors import StaleAttempt, TaskError

VERSIONS = "versions"  # name of the partition
SECOND = datetime.timedelta(seconds=1)
GRACE = datetime.timedelta(hours=1)  # no rollback to a version that expires within it
DECISION = ("rolled_back", "rolled_back_by")  # attributes that every later pointer inherits
LISTED = "attribute_exists(id) AND attribute_not_exists(retired) AND attribute_not_exists(expires)"


def pointer(table: Table) -> Item | None:
    """Return the pointer, None before the first publication."""
    return observe(table)[0]


def observe(table: Table) -> tuple[Item | None, datetime.datetime]:
    """Return the pointer, None before the first publication, and DynamoDB's time."""
    response = request(table, "get_item", TableName=table.name, Key=POINTER, ConsistentRead=True)
    return response.get("Item"), store_time(response)


def store_time(response: Any) -> datetime.datetime:
    """Return the time of DynamoDB's clock, which all publishers share, from the Date of a response in whole seconds.

    This machine's clock adds the fraction if it is in the same second; otherwise the result is the end of that second.
    """
    now = datetime.datetime.now(datetime.UTC)
    second = email.utils.parsedate_to_datetime(response["ResponseMetadata"]["HTTPHeaders"]["date"])
    return now if second <= now < second + SECOND else second + SECOND - datetime.timedelta(milliseconds=1)


def timestamp(time: datetime.datetime) -> str:
    """Format a time as in manifests and versions, so that text sorts as time does."""
    return time.isoformat(timespec="milliseconds")


def with_date(table: Table, version: Item, now: datetime.datetime) -> Item:
    """Return the version with `computed` at most DynamoDB's time; if it was announced, as announced.

    Otherwise a producer's clock that is ahead would block later versions. A retry must not get a later time than the
    previous attempt, or it would look newer than a rollback between the two.
    """
    announced = listed(table, version["version"]["S"])
    computed = announced["computed"]["S"] if announced else version["computed"]["S"]
    return {**version, "computed": {"S": min(computed, timestamp(now))}}


def listed(table: Table, name: str) -> Item | None:
    """Return the entry of a version, None if there is none."""
    response = request(table, "get_item", TableName=table.name, Key=version_key(name), ConsistentRead=True)
    entry: Item | None = response.get("Item")
    return entry


def announce(table: Table, version: Item) -> None:
    """List a version before its first item is written, so that every item belongs to a listed version."""
    key = version_key(version["version"]["S"])
    with contextlib.suppress(table.client.exceptions.ConditionalCheckFailedException):  # by a previous attempt
        put(table, {**version, **key}, ConditionExpression="attribute_not_exists(id)")


def refuse_retired(table: Table, version: Item) -> None:
    """Raise StaleAttempt if a version was refused or left to expire: nothing makes its items last again."""
    entry = listed(table, version["version"]["S"])
    if entry is None or "retired" in entry or "expires" in entry:
        raise expired_version(table, version["version"]["S"])


def expired_version(table: Table, name: str) -> StaleAttempt:
    return StaleAttempt(
        f"Version {name} of {table.name} was refused, or left to expire before it was complete, so it is not "
        "published; rerun the pipeline."
    )


def complete(table: Table, name: str, items: int, default: Any) -> Item:
    """Add the number of items and the default rows to the entry of a version whose shards are written; return it.

    Raises StaleAttempt if the version was refused or left to expire.
    """
    values = {":items": {"N": str(items)}, **({":content": default} if default else {})}
    try:
        response = request(
            table,
            "update_item",
            TableName=table.name,
            Key=version_key(name),
            UpdateExpression="SET #items = :items" + (", #content = :content" if default else ""),
            ConditionExpression=LISTED,
            ExpressionAttributeNames={"#items": "items", **({"#content": "content"} if default else {})},
            ExpressionAttributeValues=values,
            ReturnValues="ALL_NEW",
        )
    except table.client.exceptions.ConditionalCheckFailedException:
        raise expired_version(table, name) from None
    entry: Item = response["Attributes"]
    return entry


def abandon(table: Table, version: Item) -> None:
    """Re-list a version that was retired while it was written, so that the next publication expires its items."""
    key, past = version_key(version["version"]["S"]), {"N": "0"}
    with contextlib.suppress(table.client.exceptions.ConditionalCheckFailedException):  # usual: it is listed
        item = {**version, **key, "kept_until": past, "retired": past}
        put(table, item, ConditionExpression="attribute_not_exists(id) OR attribute_exists(expires)")


def switch(table: Table, version: Item, seen: Item | None) -> None:
    """Move the pointer to a complete version if the pointer is still `seen`.

    Raises StaleAttempt if a newer version is live or a person has rolled back, TaskError if it moved otherwise.
    """
    name = version["version"]["S"]
    if seen and seen["version"]["S"] == name:
        return
    inherited = {attribute: seen[attribute] for attribute in DECISION if attribute in seen} if seen else {}
    follows = {"follows": seen["version"]} if seen else {}
    if move_pointer(table, {**version, **follows, **inherited}, seen):
        return
    current, now = observe(table)
    if current and current["version"]["S"] == name:
        return  # another process of this task moved it
    refuse_older(table, version, current, now)
    if current == seen:
        raise expired_version(table, name)
    raise TaskError(
        f"The pointer of {table.name} moved while version {name} was written, and was left unchanged; rerun the "
        "task, it resumes from here."
    )


def roll_back(table: Table, who: str = "an operator") -> tuple[Item, Item]:
    """Move the pointer to the version that the live one followed; return the version left, and the one now live.

    The pointer records the decision: versions computed before it are never published.

    Raises TaskError if there is no such version, if it expires within an hour, or if the pointer moves concurrently.
    """
    seen, now = observe(table)
    if seen is None or "follows" not in seen:
        raise TaskError(f"{table.name} has no earlier version to roll back to; rerun its pipeline instead.")
    version = listed(table, seen["follows"]["S"])
    gone = f"Version {seen['follows']['S']} of {table.name} is no longer kept; rerun its pipeline instead."
    if version is None or ("kept_until" in version and int(version["kept_until"]["N"]) < (now + GRACE).timestamp()):
        raise TaskError(gone)
    # Two clocks of the same second may disagree: the version left is refused in any case.
    left = min(seen["computed"]["S"], timestamp(now + SECOND))
    decision = {"rolled_back": {"S": max(timestamp(now), left)}, "rolled_back_by": {"S": who}}
    if move_pointer(table, {**version, **decision}, seen):
        return seen, version
    if pointer(table) == seen:
        raise TaskError(gone)
    raise TaskError(f"The pointer of {table.name} moved concurrently; check which version is live, then retry.")


def move_pointer(table: Table, version: Item, seen: Item | None) -> bool:
    """Switch all readers to a version, in one write with its entry in the list of versions.

    Returns False, with nothing written, if the pointer is no longer `seen` or the version was left to expire.
    """
    name, tag = version["version"]["S"], {"S": uuid.uuid4().hex}
    item = {attribute: value for attribute, value in version.items() if attribute != "kept_until"}
    now = {"S": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}
    update: Item = {"UpdateExpression": "REMOVE kept_until"}  # set anew when the next version replaces this one
    if "follows" in version:
        update = {
            "UpdateExpression": "SET follows = :follows REMOVE kept_until",
            "ExpressionAttributeValues": {":follows": version["follows"]},
        }
    if transact(
        table,
        ("Put", {"Item": {**item, **POINTER, "switched": now, "tag": tag}, **unchanged(seen)}),
        ("Update", {"Key": version_key(name), "ConditionExpression": LISTED, **update}),
    ):
        return True
    current = pointer(table)  # the response to an earlier attempt may have been lost
    return current is not None and current.get("tag") == tag


def unchanged(seen: Item | None) -> dict[str, Any]:
    """Return the condition that the pointer is still `seen`: each write of it has a new tag."""
    if seen is None:
        return {"ConditionExpression": "attribute_not_exists(id)"}
    if "tag" not in seen:  # written by a release before tags
        return {
            "ConditionExpression": "version = :version AND switched = :switched AND attribute_not_exists(tag)",
            "ExpressionAttributeValues": {":version": seen["version"], ":switched": seen["switched"]},
        }
    return {"ConditionExpression": "tag = :tag", "ExpressionAttributeValues": {":tag": seen["tag"]}}


def retire(table: Table, keep: datetime.timedelta, progress: Callable[[int, int], None]) -> int:
    """Expire versions that were replaced longer than `keep` ago, and date the others; return the number of items.

    `progress` gets the number of items that expire so far, and the total. Only versions older than the live one
    expire: the live one and those being written keep all items. Once the pointer moves, nothing more is marked: the
    next publication resumes.
    """
    live, now = observe(table)
    assert live is not None
    due = []
    for version in items_of(table, VERSIONS):
        if version["version"] == live["version"] or version["computed"]["S"] >= live["computed"]["S"]:
            continue
        if "kept_until" not in version:
            mark(table, live, version, now + keep, "kept_until")
        elif int(version["kept_until"]["N"]) > now.timestamp():
            continue
        elif "retired" in version or mark(table, live, version, now, "retired"):
            due.append(version)
    return remove(table, due, now, progress, partial(expire, expires=int(now.timestamp())))


def discard(table: Table, version: Item, progress: Callable[[int, int], None]) -> int:
    """Delete a version that was refused, unless it is live: no reader has seen it; return the number of items."""
    live, now = observe(table)
    entry = listed(table, version["version"]["S"])
    if entry is None or (live and live["version"] == version["version"]):
        return 0
    if "retired" not in entry and not mark(table, live, entry, now, "kept_until", "retired"):
        return 0
    return remove(table, [entry], now, progress, delete)


def remove(
    table: Table,
    due: list[Item],
    now: datetime.datetime,
    progress: Callable[[int, int], None],
    remove_items: Callable[[Table, str, int, Callable[[int], None]], None],
) -> int:
    """Remove all items of retired versions, and let their entries expire; return the number of items."""
    total, done = sum(int(version.get("items", {"N": "0"})["N"]) for version in due), 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        progress(done, total)

    for version in due:
        remove_items(table, version["version"]["S"], int(version["buckets"]["N"]), count)
        expire_entry(table, version, int(now.timestamp()))  # last: until then the next publication resumes
    return done


def mark(table: Table, live: Item | None, version: Item, time: datetime.datetime, *names: str) -> bool:
    """Set attributes of a version to a time; False if the pointer or the version changed since they were read.

    A rollback to the version clears `kept_until` and moves the pointer; a `retired` version cannot be rolled back to.
    """
    kept = {":kept": version["kept_until"]} if "kept_until" in version else {}
    condition = "kept_until = :kept" if kept else "attribute_not_exists(kept_until)"
    return transact(
        table,
        ("ConditionCheck", {"Key": POINTER, **unchanged(live)}),
        (
            "Update",
            {
                "Key": version_key(version["version"]["S"]),
                "UpdateExpression": "SET " + ", ".join(f"{name} = :time" for name in names),
                "ConditionExpression": f"{LISTED} AND {condition}",
                "ExpressionAttributeValues": {":time": {"N": str(int(time.timestamp()))}, **kept},
            },
        ),
    )


def expire_entry(table: Table, version: Item, expires: int) -> None:
    """Make the entry of a retired version expire when its items do."""
    with contextlib.suppress(table.client.exceptions.ConditionalCheckFailedException):  # DynamoDB deleted it
        request(
            table,
            "update_item",
            TableName=table.name,
            Key=version_key(version["version"]["S"]),
            UpdateExpression="SET expires = :expires",
            ConditionExpression="attribute_exists(retired)",
            ExpressionAttributeValues={":expires": {"N": str(expires)}},
        )


def put(table: Table, item: Item, **condition: Any) -> None:
    request(table, "put_item", TableName=table.name, Item=item, **condition)


def version_key(name: str) -> Item:
    """Return the primary key of a version's entry."""
    return {"part": {"S": VERSIONS}, "id": {"S": name}}


def refuse_older(table: Table, version: Item, current: Item | None, now: datetime.datetime) -> None:
    """Raise StaleAttempt if a person rolled back after this version was computed, or the live one was computed later.

    A version is also refused if its oldest input is older than that of the live one, as of a run that was overtaken.
    A live version that is dated in the future, by a clock that was ahead, refuses nothing.
    """
    if current is None or current["version"] == version["version"]:
        return
    name, computed = version["version"]["S"], version["computed"]["S"]
    if "rolled_back" in current and computed <= current["rolled_back"]["S"]:
        raise StaleAttempt(
            f"Version {name} is not published, because {current['rolled_back_by']['S']} rolled {table.name} back at "
            f"{current['rolled_back']['S']}, after this version was computed ({computed}); rerun the pipeline to "
            "compute a new one."
        )
    live = current["version"]["S"]
    if computed < current["computed"]["S"] <= timestamp(now):
        raise StaleAttempt(
            f"Version {name} is not published, because {table.name} shows a newer one, {live}; to roll back, use "
            "make rollback."
        )
    if "basis" in current and "basis" in version and version["basis"]["S"] < current["basis"]["S"] <= timestamp(now):
        raise StaleAttempt(
            f"Version {name} is not published, because its oldest input was taken at {version['basis']['S']}, before "
            f"that of version {live}, which {table.name} shows ({current['basis']['S']}); rerun the pipeline."
        )

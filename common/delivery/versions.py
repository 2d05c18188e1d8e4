"""Versions of a product in its table: the pointer to the live one, the switch to the next, rollback, expiry.

Each version is an item of the part `versions` from before its first item is written until its last one expires; the
pointer is a copy of one of these. Every write depends on what was read before it: the pointer moves, and a version is
marked as one that ends, only while the pointer is as it was read. So nothing of the live version ever expires.
"""

import contextlib
import datetime
import email.utils
import uuid
from collections.abc import Callable
from typing import Any

from common.delivery.reader import POINTER, Item
from common.delivery.tables import Table
from common.delivery.throttling import request, transact
from common.delivery.writer import expire, items_of
from common.errors import StaleAttempt, TaskError

VERSIONS = "versions"  # the part
SECOND = datetime.timedelta(seconds=1)
GRACE = datetime.timedelta(hours=1)  # no rollback to what is kept no longer than that
DECISION = ("rolled_back", "rolled_back_by")  # attributes of the pointer, which every later one keeps
LISTED = "attribute_exists(id) AND attribute_not_exists(retired) AND attribute_not_exists(expires)"


def pointer(table: Table) -> Item | None:
    """The pointer, None before the first publication."""
    return observe(table)[0]


def observe(table: Table) -> tuple[Item | None, datetime.datetime]:
    """The pointer, None before the first publication, and the store's time."""
    response = request(table, "get_item", TableName=table.name, Key=POINTER, ConsistentRead=True)
    return response.get("Item"), store_time(response)


def store_time(response: Any) -> datetime.datetime:
    """The time by DynamoDB's clock, which all publishers share, by the Date of a response: that has whole seconds.

    This machine's clock adds the fraction if it is in the same second; else it is the end of that second.
    """
    now = datetime.datetime.now(datetime.UTC)
    second = email.utils.parsedate_to_datetime(response["ResponseMetadata"]["HTTPHeaders"]["date"])
    return now if second <= now < second + SECOND else second + SECOND - datetime.timedelta(milliseconds=1)


def written(time: datetime.datetime) -> str:
    """A time as manifests and versions have it, so that text sorts as time does."""
    return time.isoformat(timespec="milliseconds")


def dated(table: Table, version: Item, now: datetime.datetime) -> Item:
    """The version with `computed` no later than the store's time, and as it was announced if it was.

    A producer's clock that is ahead would otherwise block later versions; a retry must not get a later time than the
    attempt before it, or it would look newer than a rollback between the two.
    """
    announced = listed(table, version["version"]["S"])
    computed = announced["computed"]["S"] if announced else version["computed"]["S"]
    return {**version, "computed": {"S": min(computed, written(now))}}


def listed(table: Table, name: str) -> Item | None:
    """The item that describes a version, None if there is none."""
    place = version_place(name)
    found: Item | None = request(table, "get_item", TableName=table.name, Key=place, ConsistentRead=True).get("Item")
    return found


def announce(table: Table, version: Item) -> None:
    """List a version before its first item is written, so that no item is left behind that nobody knows of."""
    place = version_place(version["version"]["S"])
    with contextlib.suppress(table.client.exceptions.ConditionalCheckFailedException):  # by an attempt before
        put(table, {**version, **place}, ConditionExpression="attribute_not_exists(id)")


def abandon(table: Table, version: Item) -> None:
    """List a version again whose items were left to expire while it was written, for the next publication to do it."""
    place, over = version_place(version["version"]["S"]), {"N": "0"}
    with contextlib.suppress(table.client.exceptions.ConditionalCheckFailedException):  # it is listed, as most are
        item = {**version, **place, "kept_until": over, "retired": over}
        put(table, item, ConditionExpression="attribute_not_exists(id) OR attribute_exists(expires)")


def switch(table: Table, version: Item, seen: Item | None) -> None:
    """Let the pointer lead to a complete version if the pointer is still what was seen.

    Raises StaleAttempt if a newer version is live or a person has rolled back, TaskError if it moved otherwise.
    """
    name = version["version"]["S"]
    if seen and seen["version"]["S"] == name:
        return
    inherited = {attribute: seen[attribute] for attribute in DECISION if attribute in seen} if seen else {}
    follows = {"follows": seen["version"]} if seen else {}
    if move_pointer(table, {**version, **follows, **inherited}, seen):
        return
    there, now = observe(table)
    if there and there["version"]["S"] == name:
        return  # by another process of this task
    refuse_older(table, version, there, now)
    if there == seen:
        raise StaleAttempt(
            f"Version {name} of {table.name} was left to expire before it was complete, so it is not published; run "
            "the pipeline again."
        )
    raise TaskError(
        f"The pointer of {table.name} moved while version {name} was written, and was left where it is; run the task "
        "again, it resumes from here."
    )


def roll_back(table: Table, who: str = "an operator") -> tuple[Item, Item]:
    """Let the pointer lead to the version that the live one followed; both, the one that was left first.

    The pointer keeps the decision: no publication shows what was computed before it.

    Raises TaskError if there is no such version, if it is kept for no more than an hour, or if the pointer moves
    meanwhile.
    """
    seen, now = observe(table)
    if seen is None or "follows" not in seen:
        raise TaskError(f"{table.name} has shown no version before the one in place, so there is none to go back to.")
    version = listed(table, seen["follows"]["S"])
    gone = f"Version {seen['follows']['S']} of {table.name} is kept no longer; run its pipeline again instead."
    if version is None or ("kept_until" in version and int(version["kept_until"]["N"]) < (now + GRACE).timestamp()):
        raise TaskError(gone)
    # Two clocks of the same second may disagree: what is left is refused in any case.
    left = min(seen["computed"]["S"], written(now + SECOND))
    decision = {"rolled_back": {"S": max(written(now), left)}, "rolled_back_by": {"S": who}}
    if move_pointer(table, {**version, **decision}, seen):
        return seen, version
    if pointer(table) == seen:
        raise TaskError(gone)
    raise TaskError(f"The pointer of {table.name} moved meanwhile; look what is in place and try again.")


def move_pointer(table: Table, version: Item, seen: Item | None) -> bool:
    """Switch all readers to a version, in one write with its entry in the list of versions.

    False, with nothing written, if the pointer is not what was seen any more or the version is left to expire.
    """
    name, tag = version["version"]["S"], {"S": uuid.uuid4().hex}
    item = {attribute: value for attribute, value in version.items() if attribute != "kept_until"}
    now = {"S": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}
    update: Item = {"UpdateExpression": "REMOVE kept_until"}  # it counts from when the next version replaces this one
    if "follows" in version:
        update = {
            "UpdateExpression": "SET follows = :follows REMOVE kept_until",
            "ExpressionAttributeValues": {":follows": version["follows"]},
        }
    if transact(
        table,
        ("Put", {"Item": {**item, **POINTER, "switched": now, "tag": tag}, **unchanged(seen)}),
        ("Update", {"Key": version_place(name), "ConditionExpression": LISTED, **update}),
    ):
        return True
    there = pointer(table)  # the response to a try before may have been lost
    return there is not None and there.get("tag") == tag


def unchanged(seen: Item | None) -> dict[str, Any]:
    """The condition that the pointer is what was seen: each write of it has a tag of its own."""
    if seen is None:
        return {"ConditionExpression": "attribute_not_exists(id)"}
    if "tag" not in seen:  # written by a release before tags
        return {
            "ConditionExpression": "version = :version AND switched = :switched AND attribute_not_exists(tag)",
            "ExpressionAttributeValues": {":version": seen["version"], ":switched": seen["switched"]},
        }
    return {"ConditionExpression": "tag = :tag", "ExpressionAttributeValues": {":tag": seen["tag"]}}


def retire(table: Table, keep: datetime.timedelta, told: Callable[[int, int], None]) -> int:
    """Let all versions expire whose time to be gone back to is over, and set that of the others; how many items it was.

    `told` gets how many items of how many expire by now. That is for versions older than the live one alone: it keeps
    all of its own, and so does one that is being written. Once the pointer moves, nothing more is marked: the next
    publication resumes.
    """
    live, now = observe(table)
    assert live is not None
    due = []
    for version in items_of(table, VERSIONS):
        if version["version"] == live["version"] or version["computed"]["S"] >= live["computed"]["S"]:
            continue
        if "kept_until" not in version:
            mark(table, live, version, "kept_until", now + keep)
        elif int(version["kept_until"]["N"]) > now.timestamp():
            continue
        elif "retired" in version or mark(table, live, version, "retired", now):
            due.append(version)
    total, done = sum(int(version["items"]["N"]) for version in due), 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        told(done, total)

    for version in due:
        expires = int(now.timestamp())
        expire(table, version["version"]["S"], int(version["buckets"]["N"]), expires, count)
        end(table, version, expires)  # at last: until then the next publication would resume
    return done


def mark(table: Table, live: Item, version: Item, name: str, time: datetime.datetime) -> bool:
    """Set an attribute of a version to a time; False if the pointer or the version changed since they were read.

    A rollback to the version clears `kept_until` and moves the pointer; a version that is `retired` has no way back.
    """
    kept = {":kept": version["kept_until"]} if "kept_until" in version else {}
    condition = "kept_until = :kept" if kept else "attribute_not_exists(kept_until)"
    return transact(
        table,
        ("ConditionCheck", {"Key": POINTER, **unchanged(live)}),
        (
            "Update",
            {
                "Key": version_place(version["version"]["S"]),
                "UpdateExpression": f"SET {name} = :time",
                "ConditionExpression": f"{LISTED} AND {condition}",
                "ExpressionAttributeValues": {":time": {"N": str(int(time.timestamp()))}, **kept},
            },
        ),
    )


def end(table: Table, version: Item, expires: int) -> None:
    """Let the entry of a retired version expire as its items do."""
    with contextlib.suppress(table.client.exceptions.ConditionalCheckFailedException):  # DynamoDB deleted it
        request(
            table,
            "update_item",
            TableName=table.name,
            Key=version_place(version["version"]["S"]),
            UpdateExpression="SET expires = :expires",
            ConditionExpression="attribute_exists(retired)",
            ExpressionAttributeValues={":expires": {"N": str(expires)}},
        )


def put(table: Table, item: Item, **condition: Any) -> None:
    request(table, "put_item", TableName=table.name, Item=item, **condition)


def version_place(name: str) -> Item:
    """The primary key of the item that describes a version."""
    return {"part": {"S": VERSIONS}, "id": {"S": name}}


def refuse_older(table: Table, version: Item, there: Item | None, now: datetime.datetime) -> None:
    """Raise StaleAttempt if a person rolled back after this version was computed, or the live one was computed later.

    So is one of which the oldest input was taken before that of the live one, as by a run that is slower than the next.
    A live version that is dated in the future, by a clock that was ahead, refuses nothing.
    """
    if there is None or there["version"] == version["version"]:
        return
    name, computed = version["version"]["S"], version["computed"]["S"]
    if "rolled_back" in there and computed <= there["rolled_back"]["S"]:
        raise StaleAttempt(
            f"Version {name} is not published, because {there['rolled_back_by']['S']} rolled {table.name} back at "
            f"{there['rolled_back']['S']}, after this version was computed ({computed}); run the pipeline again, which "
            "computes a new one."
        )
    live = there["version"]["S"]
    if computed < there["computed"]["S"] <= written(now):
        raise StaleAttempt(
            f"Version {name} is not published, because {table.name} shows a newer one, {live}; to go back to an older "
            "one, use make rollback."
        )
    if "basis" in there and "basis" in version and version["basis"]["S"] < there["basis"]["S"] <= written(now):
        raise StaleAttempt(
            f"Version {name} is not published, because its oldest input was taken at {version['basis']['S']}, before "
            f"that of version {live}, which {table.name} shows ({there['basis']['S']}); run the pipeline again."
        )

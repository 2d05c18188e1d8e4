"""Versions of a product in its table: which one the pointer leads to, the switch to the next, the way back, the end.

Each version is an item of the part `versions` from before its first item is written until its last one expires; the
pointer is a copy of one of these. Nothing of the version in place expires. A later one's publication sets how long the
one before is kept to go back to (`kept_until`), and the first publication after that lets it expire.
"""

import contextlib
import datetime
from collections.abc import Callable
from typing import Any

from common.delivery.reader import POINTER, Item
from common.delivery.tables import Table
from common.delivery.writer import expire, items_of
from common.failures import Failure, Fenced

VERSIONS = "versions"  # the part
GRACE = datetime.timedelta(hours=1)  # no rollback to what is kept no longer than that, so none meets its end


def pointer(table: Table) -> Item | None:
    """The pointer as it stands, None before the first publication."""
    found: Item | None = table.client.get_item(TableName=table.name, Key=POINTER, ConsistentRead=True).get("Item")
    return found


def announce(table: Table, version: Item) -> None:
    """Note a version before its first item is written, so that none is left behind that nobody knows of."""
    with contextlib.suppress(table.client.exceptions.ConditionalCheckFailedException):  # by an attempt before
        place = version_place(version["version"]["S"])
        put(table, {**version, **place}, ConditionExpression="attribute_not_exists(id)")


def switch(table: Table, version: Item, seen: Item | None) -> None:
    """Let the pointer lead to a complete version if it is still what was seen, and no newer one.

    Raises Fenced if a newer version is in place, Failure if another took the pointer meanwhile.
    """
    name = version["version"]["S"]
    if seen and seen["version"]["S"] == name:
        return
    item = {**version, **({"follows": seen["version"]} if seen else {})}
    put(table, {**item, **version_place(name)})
    try:
        move_pointer(table, item, seen, version["computed"])
    except table.client.exceptions.ConditionalCheckFailedException:
        there = pointer(table)
        if there and there["version"]["S"] == name:
            return  # the answer to the first try was lost, and the second found what the first had done
        refuse_older(table, version, there)
        raise Failure(
            f"The pointer of {table.name} moved while version {name} was written, and was left where it is; run the "
            "task again, it goes on from here."
        ) from None


def roll_back(table: Table) -> tuple[Item, Item]:
    """Let the pointer lead to the version that the one in place followed; both, the one that was left first.

    Raises Failure if there is none, if it is kept for no more than an hour, or if another moves the pointer meanwhile.
    """
    seen = pointer(table)
    if seen is None or "follows" not in seen:
        raise Failure(f"{table.name} has shown no version before the one in place, so there is none to go back to.")
    name = seen["follows"]["S"]
    version = table.client.get_item(TableName=table.name, Key=version_place(name), ConsistentRead=True).get("Item")
    soon = datetime.datetime.now(datetime.UTC) + GRACE
    if version is None or ("kept_until" in version and int(version["kept_until"]["N"]) < soon.timestamp()):
        raise Failure(f"Version {name} of {table.name} is kept no longer; run its pipeline again instead.")
    if version.pop("kept_until", None):  # it counts anew from when the next version replaces this one
        put(table, version)
    try:
        move_pointer(table, version, seen)
    except table.client.exceptions.ConditionalCheckFailedException:
        raise Failure(f"The pointer of {table.name} moved meanwhile; look what is in place and try again.") from None
    return seen, version


def move_pointer(table: Table, version: Item, seen: Item | None, latest: Item | None = None) -> None:
    """The one conditional write that switches all readers; `latest` is when what is in place may have been computed."""
    condition: dict[str, Any] = {"ConditionExpression": "attribute_not_exists(id)"}
    if seen:
        condition = {
            "ConditionExpression": "version = :seen" + (" AND computed <= :latest" if latest else ""),
            "ExpressionAttributeValues": {":seen": seen["version"], **({":latest": latest} if latest else {})},
        }
    now = {"S": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}
    put(table, {**version, **POINTER, "switched": now}, **condition)


def retire(table: Table, keep: datetime.timedelta, told: Callable[[int, int], None]) -> int:
    """Let all versions expire whose time to be gone back to is over, and set that of the others; how many items it was.

    `told` gets how many items of how many expire by now. That is for versions older than the one in place alone: it
    keeps all of its own, and so does one that is being written.
    """
    now = datetime.datetime.now(datetime.UTC)
    place, due = pointer(table), []
    assert place is not None
    for version in items_of(table, VERSIONS):
        if version["computed"]["S"] >= place["computed"]["S"]:
            continue
        if "kept_until" not in version:
            put(table, {**version, "kept_until": {"N": str(int((now + keep).timestamp()))}})
        elif int(version["kept_until"]["N"]) <= now.timestamp():
            due.append(version)
    total, done = sum(int(version["items"]["N"]) for version in due), 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        told(done, total)

    for version in due:
        expires = int(now.timestamp())
        expire(table, version["version"]["S"], int(version["buckets"]["N"]), expires, count)
        put(table, {**version, "expires": {"N": str(expires)}})  # at last: until then the next one would go on
    return done


def put(table: Table, item: Item, **condition: Any) -> None:
    table.client.put_item(TableName=table.name, Item=item, **condition)


def version_place(name: str) -> Item:
    """The primary key of the item that describes a version."""
    return {"part": {"S": VERSIONS}, "id": {"S": name}}


def refuse_older(table: Table, version: Item, there: Item | None) -> None:
    """Raise Fenced if the version in place was computed after this one."""
    if there and there["computed"]["S"] > version["computed"]["S"]:
        raise Fenced(
            f"Version {version['version']['S']} is not published, because {table.name} shows a newer one, "
            f"{there['version']['S']}; to go back to an older one, use make rollback."
        )

"""Versions of a product in its table: which one the pointer leads to, the switch to the next, the way back.

A version that was complete once is an item of the part `versions`; the pointer is a copy of one of these.
"""

import datetime
from typing import Any

from common.delivery.reader import POINTER, Item
from common.delivery.tables import Table
from common.failures import Failure, Fenced

GRACE = datetime.timedelta(hours=1)  # no rollback to what expires sooner


def pointer(table: Table) -> Item | None:
    """The pointer as it stands, None before the first publication."""
    found: Item | None = table.client.get_item(TableName=table.name, Key=POINTER, ConsistentRead=True).get("Item")
    return found


def switch(table: Table, version: Item, expires: int, seen: Item | None) -> None:
    """Let the pointer lead to a complete version if it is still what was seen, and no newer one.

    Raises Fenced if a newer version is in place, Failure if another took the pointer meanwhile.
    """
    name = version["version"]["S"]
    if seen and seen["version"]["S"] == name:
        return
    item = {**version, **({"follows": seen["version"]} if seen else {})}
    kept = {**item, **version_place(name), "expires": {"N": str(expires)}}
    table.client.put_item(TableName=table.name, Item=kept)
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

    Raises Failure if there is none, if it expires within the hour, or if another moves the pointer meanwhile.
    """
    seen = pointer(table)
    if seen is None or "follows" not in seen:
        raise Failure(f"{table.name} has shown no version before the one in place, so there is none to go back to.")
    name = seen["follows"]["S"]
    found = table.client.get_item(TableName=table.name, Key=version_place(name), ConsistentRead=True).get("Item")
    soon = (datetime.datetime.now(datetime.UTC) + GRACE).timestamp()
    if found is None or int(found["expires"]["N"]) < soon:
        raise Failure(f"Version {name} of {table.name} has expired; run its pipeline again instead.")
    version = {key: value for key, value in found.items() if key != "expires"}  # or the pointer would expire with it
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
    table.client.put_item(TableName=table.name, Item={**version, **POINTER, "switched": now}, **condition)


def version_place(name: str) -> Item:
    """The primary key of the item that describes a version."""
    return {"part": {"S": "versions"}, "id": {"S": name}}


def refuse_older(table: Table, version: Item, there: Item | None) -> None:
    """Raise Fenced if the version in place was computed after this one."""
    if there and there["computed"]["S"] > version["computed"]["S"]:
        raise Fenced(
            f"Version {version['version']['S']} is not published, because {table.name} shows a newer one, "
            f"{there['version']['S']}; to go back to an older one, use make rollback."
        )

"""Going back to versions that frontends saw before, and the tables they lie in."""

import datetime
import itertools
import uuid
from collections import Counter

import pyarrow as pa
import pytest
from botocore.exceptions import ClientError

from common import contracts
from common.delivery import reader, tables, versions, writer
from common.delivery.items import Items, make_items
from common.delivery.reader import Item
from common.delivery.tables import Table
from common.failures import ArgumentError, Failure
from common.tables import arrow_schema

CONTRACT = contracts.load("recommendations@1")
AT_ONCE, LONG = datetime.timedelta(0), datetime.timedelta(days=14)


def items_that_show(name: str, users: int = 1) -> Items:
    """Items in which users are shown a version's name, and all others that name in capitals."""
    shown = {"user": name, None: name.upper(), **{f"user-{number}": name for number in range(1, users)}}
    rows = [
        {"user_id": user, "rank": 1, "item_id": item, "item_name": "", "score": 1.0, "reason": None}
        for user, item in shown.items()
    ]
    return make_items(pa.Table.from_pylist(rows, arrow_schema(CONTRACT, list(CONTRACT.columns))), CONTRACT)


def begin(table: Table, name: str, users: int = 1) -> Item:
    """A version written whole; what describes it."""
    items = items_that_show(name, users)
    version = {"version": {"S": name}, "computed": {"S": name}, "buckets": {"N": str(len(items.buckets) - 1)}}
    version |= {"items": {"N": str(users)}, "content": items.default}
    versions.announce(table, version)
    writer.write(table, items, name, lambda done: None)
    writer.check(table, items, name, 10, lambda done: None)
    return version


def publish(table: Table, name: str, users: int = 1) -> None:
    versions.switch(table, begin(table, name, users), versions.pointer(table))


def retire(table: Table, keep: datetime.timedelta) -> int:
    return versions.retire(table, keep, lambda done, total: None)


def lasting(table: Table) -> dict[str, int]:
    """How many items of each version do not expire."""
    pages = table.client.get_paginator("scan").paginate(TableName=table.name)
    items = [item for page in pages for item in page["Items"] if "expires" not in item]
    return Counter(version for item in items for version, slash, _ in [item["part"]["S"].partition("/")] if slash)


def shown(table: Table, user: str = "user") -> str:
    return str(reader.read(table.client, table.name, user)[0]["item_id"])


def test_going_back_leads_to_what_was_shown_before_however_often(product_table: Table) -> None:
    for name in ("a", "b", "c"):
        publish(product_table, name)
    left, found = versions.roll_back(product_table)
    assert (left["version"]["S"], found["version"]["S"]) == ("c", "b")
    assert (shown(product_table), shown(product_table, "nobody")) == ("b", "B")
    publish(product_table, "d")
    versions.roll_back(product_table)
    assert shown(product_table) == "b"  # not c, which nobody wanted
    versions.roll_back(product_table)
    assert shown(product_table) == "a"
    with pytest.raises(Failure, match="has shown no version before the one in place"):
        versions.roll_back(product_table)
    assert "expires" not in (versions.pointer(product_table) or {})


def test_there_is_no_way_back_to_what_is_kept_no_longer(product_table: Table) -> None:
    for name in ("a", "b"):
        publish(product_table, name)
    retire(product_table, versions.GRACE / 2)
    with pytest.raises(Failure, match=r"Version a of .* is kept no longer"):
        versions.roll_back(product_table)
    assert shown(product_table) == "b"


def test_only_what_was_replaced_and_is_kept_no_longer_expires(product_table: Table) -> None:
    begin(product_table, "0")  # and never switched to: its task was given up
    for name in ("a", "b", "c"):
        publish(product_table, name)
    assert retire(product_table, LONG) == 0
    versions.roll_back(product_table)
    assert retire(product_table, AT_ONCE) == 0  # what has its time keeps it, what is in place or newer gets none
    publish(product_table, "d")
    begin(product_table, "e")  # and is still being written
    retire(product_table, AT_ONCE)
    assert lasting(product_table) == dict.fromkeys("0abcde", 1)
    assert retire(product_table, AT_ONCE) == 2  # b and c; a has its fortnight, and so has what was given up
    assert lasting(product_table) == dict.fromkeys("0ade", 1)
    assert retire(product_table, AT_ONCE) == 0
    assert shown(product_table) == "d"


def test_expiry_that_was_stopped_is_gone_on_with(product_table: Table, monkeypatch) -> None:
    for name in ("a", "b"):
        publish(product_table, name, users=200)
    retire(product_table, AT_ONCE)
    put_batch, calls = writer.put_batch, itertools.count()

    def stopping(table: Table, requests: list) -> int:
        if next(calls) == 5:
            raise KeyboardInterrupt
        return put_batch(table, requests)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(writer, "put_batch", stopping)
        retire(product_table, AT_ONCE)
    left = lasting(product_table)
    assert 0 < left["a"] < 200
    assert retire(product_table, AT_ONCE) == left["a"]
    assert lasting(product_table) == {"b": 200}


def test_what_expires_counts_as_not_there_for_whoever_writes_it_again(product_table: Table) -> None:
    for name in ("a", "b"):
        publish(product_table, name)
    for _ in range(2):
        retire(product_table, AT_ONCE)
    assert lasting(product_table) == {"b": 1}
    written = writer.write(product_table, items_that_show("a"), "a", lambda done: None)
    assert (written["written"], written["found"]) == (1, 0)
    assert lasting(product_table) == {"a": 1, "b": 1}


def test_going_back_while_another_publishes_changes_nothing(product_table: Table, monkeypatch) -> None:
    publish(product_table, "a")
    publish(product_table, "b")
    seen = versions.pointer(product_table)
    publish(product_table, "c")
    monkeypatch.setattr(versions, "pointer", lambda table: seen)
    with pytest.raises(Failure, match="moved meanwhile"):
        versions.roll_back(product_table)
    assert shown(product_table) == "c"


def test_a_switch_whose_answer_was_lost_counts(product_table: Table, monkeypatch) -> None:
    """The client sends it again, and the second finds what the first has done."""
    publish(product_table, "a")
    move = versions.move_pointer

    def twice(*arguments) -> None:
        move(*arguments)
        move(*arguments)

    monkeypatch.setattr(versions, "move_pointer", twice)
    publish(product_table, "b")
    assert shown(product_table) == "b"


@pytest.mark.parametrize("capacity", [None, {"ReadCapacityUnits": 7, "WriteCapacityUnits": 3}])
def test_a_table_is_made_once_as_its_environment_pays_for_it(dynamodb: str, capacity: dict | None) -> None:
    client, name = tables.client(), f"made-{uuid.uuid4().hex}"
    assert tables.create(client, name, capacity)
    assert not tables.create(client, name, capacity)
    found = client.describe_table(TableName=name)["Table"]
    if capacity:
        assert {key: found["ProvisionedThroughput"][key] for key in capacity} == capacity
    else:
        assert found["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"


def test_credentials_that_are_refused_are_told_as_such(monkeypatch) -> None:
    with pytest.raises(ArgumentError, match="refuses these credentials"), tables.explained("table"):
        raise ClientError({"Error": {"Code": "AccessDeniedException"}}, "PutItem")

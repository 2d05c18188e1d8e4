"""Rollback to earlier versions, their expiry, and the tables of products."""

import dataclasses
import datetime
import itertools
import math
import uuid
from collections import Counter

import pyarrow as pa
import pytest
from botocore.exceptions import ClientError

from common import contracts
from common.delivery import reader, tables, throttling, versions, writer
from common.delivery.items import Items, make_items
from common.delivery.reader import Item
from common.delivery.tables import Table
from common.engines.arrow import arrow_schema
from common.errors import ArgumentError, StaleAttempt, TaskError

CONTRACT = contracts.load("recommendations@2")
BUCKETS = 16
AT_ONCE, LONG = datetime.timedelta(0), datetime.timedelta(days=14)


def items_that_show(name: str, users: int = 1) -> Items:
    """Return items that show a version's name to users, and by default the name in capitals."""
    shown = {"user": name, None: name.upper(), **{f"user-{number}": name for number in range(1, users)}}
    rows = [
        {"user_id": user, "style": "mixed", "rank": 1, "item_id": item, "item_name": "", "score": 1.0, "reason": None}
        for user, item in shown.items()
    ]
    return make_items(pa.Table.from_pylist(rows, arrow_schema(CONTRACT, list(CONTRACT.columns))), CONTRACT)


def begin(table: Table, name: str, users: int = 1) -> Item:
    """Write a complete version and return its entry."""
    items = items_that_show(name, users)
    version = {"version": {"S": name}, "computed": {"S": name}, "buckets": {"N": str(BUCKETS)}}
    version |= {"items": {"N": str(users)}, "content": items.default}
    versions.announce(table, version)
    writer.write(table, items, name, BUCKETS, True, lambda done: None)
    writer.check(table, items, name, BUCKETS, 10, lambda done: None)
    return version


def publish(table: Table, name: str, users: int = 1) -> None:
    versions.switch(table, begin(table, name, users), versions.pointer(table))


def retire(table: Table, keep: datetime.timedelta) -> int:
    return versions.retire(table, keep, lambda done, total: None)


def lasting(table: Table) -> dict[str, int]:
    """Count the items of each version that do not expire."""
    pages = table.client.get_paginator("scan").paginate(TableName=table.name)
    items = [item for page in pages for item in page["Items"] if "expires" not in item]
    return Counter(version for item in items for version, slash, _ in [item["part"]["S"].partition("/")] if slash)


def shown(table: Table, user: str = "user") -> str:
    return str(reader.read(table.client, table.name, user)[0]["item_id"])


def test_each_rollback_shows_the_version_shown_before(product_table: Table) -> None:
    for name in ("a", "b", "c"):
        publish(product_table, name)
    left, found = versions.roll_back(product_table)
    assert (left["version"]["S"], found["version"]["S"]) == ("c", "b")
    assert (shown(product_table), shown(product_table, "nobody")) == ("b", "B")
    publish(product_table, "d")
    versions.roll_back(product_table)
    assert shown(product_table) == "b"  # not c, which was rolled back
    versions.roll_back(product_table)
    assert shown(product_table) == "a"
    with pytest.raises(TaskError, match="has no earlier version to roll back to"):
        versions.roll_back(product_table)
    assert "expires" not in (versions.pointer(product_table) or {})


def test_rollback_to_a_version_about_to_expire_fails(product_table: Table) -> None:
    for name in ("a", "b"):
        publish(product_table, name)
    retire(product_table, versions.GRACE / 2)
    with pytest.raises(TaskError, match=r"Version a of .* is no longer kept"):
        versions.roll_back(product_table)
    assert shown(product_table) == "b"


def test_only_replaced_versions_past_their_days_expire(product_table: Table) -> None:
    begin(product_table, "0")  # never switched to: its task was abandoned
    for name in ("a", "b", "c"):
        publish(product_table, name)
    assert retire(product_table, LONG) == 0
    versions.roll_back(product_table)
    assert retire(product_table, AT_ONCE) == 0  # dates stay; the live version and newer ones get none
    publish(product_table, "d")
    begin(product_table, "e")  # still being written
    retire(product_table, AT_ONCE)
    assert lasting(product_table) == dict.fromkeys("0abcde", 1)
    assert retire(product_table, AT_ONCE) == 2  # b and c; a and the abandoned version have a fortnight
    assert lasting(product_table) == dict.fromkeys("0ade", 1)
    assert retire(product_table, AT_ONCE) == 0
    assert shown(product_table) == "d"


def test_interrupted_expiry_resumes(product_table: Table, monkeypatch) -> None:
    for name in ("a", "b"):
        publish(product_table, name, users=60)
    retire(product_table, AT_ONCE)
    expire_batch, calls = writer.expire_batch, itertools.count()

    def stopping(*arguments) -> None:
        if next(calls) == 5:
            raise KeyboardInterrupt
        expire_batch(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(writer, "expire_batch", stopping)
        retire(product_table, AT_ONCE)
    left = lasting(product_table)
    assert 0 < left["a"] < 60
    assert retire(product_table, AT_ONCE) == left["a"]
    assert lasting(product_table) == {"b": 60}


def test_expiring_items_are_written_again(product_table: Table) -> None:
    for name in ("a", "b"):
        publish(product_table, name)
    for _ in range(2):
        retire(product_table, AT_ONCE)
    assert lasting(product_table) == {"b": 1}
    written = writer.write(product_table, items_that_show("a"), "a", BUCKETS, True, lambda done: None)
    assert (written["written"], written["found"]) == (1, 0)
    assert lasting(product_table) == {"a": 1, "b": 1}


def test_switch_to_a_retired_version_is_fenced(product_table: Table) -> None:
    publish(product_table, "a")
    version = begin(product_table, "b")
    versions.abandon(product_table, version)  # changes nothing: it is listed
    seen = versions.pointer(product_table)
    assert seen
    assert versions.mark(product_table, seen, version, datetime.datetime.now(datetime.UTC), "kept_until")
    entry = versions.listed(product_table, "b")
    assert entry
    assert versions.mark(product_table, seen, entry, datetime.datetime.now(datetime.UTC), "retired")
    with pytest.raises(StaleAttempt, match="or left to expire before it was complete"):
        versions.switch(product_table, version, seen)
    assert shown(product_table) == "a"


def test_mark_is_refused_once_the_pointer_or_the_version_changed(product_table: Table) -> None:
    now = datetime.datetime.now(datetime.UTC)
    for name in ("a", "b"):
        publish(product_table, name)
    seen, entry = versions.pointer(product_table), versions.listed(product_table, "a")
    assert seen
    assert entry
    assert versions.mark(product_table, seen, entry, now, "kept_until")
    assert not versions.mark(product_table, seen, entry, now, "kept_until")
    publish(product_table, "c")
    entry = versions.listed(product_table, "a")
    assert entry
    assert not versions.mark(product_table, seen, entry, now, "retired")


@pytest.mark.parametrize("write", ["switch", "roll back"])
def test_write_whose_response_was_lost_counts(product_table: Table, monkeypatch, write: str) -> None:
    """The client re-sends it, and the second request finds the result of the first."""
    publish(product_table, "a")
    publish(product_table, "b")
    version = begin(product_table, "c")
    transact = versions.transact

    def twice(*arguments) -> bool:
        transact(*arguments)
        return transact(*arguments)

    monkeypatch.setattr(versions, "transact", twice)
    if write == "switch":
        versions.switch(product_table, version, versions.pointer(product_table))
    else:
        versions.roll_back(product_table)
    assert shown(product_table) == ("c" if write == "switch" else "a")


BUSY = [
    ClientError({"Error": {"Code": "ThrottlingException"}}, "any"),
    ClientError({"Error": {"Code": "ProvisionedThroughputExceededException"}}, "any"),
    ClientError({"Error": {"Code": "InternalServerError"}}, "any"),
    ClientError(
        {
            "Error": {"Code": "TransactionCanceledException"},
            "CancellationReasons": [{"Code": "None"}, {"Code": "TransactionConflict"}],
        },
        "any",
    ),
]
WAITS = {
    "pointer": lambda table: versions.pointer(table),
    "contents": lambda table: writer.contents_of(table, "a", BUCKETS, ["user"]),
    "keys": lambda table: list(writer.items_of(table, "a/0")),
    "write": lambda table: writer.put_batch(table, [{"PutRequest": {"Item": {**reader.POINTER}}}]),
    "expiry": lambda table: writer.expire_batch(table, "a/0", ["user"], 5),
    "announcement": lambda table: versions.announce(table, {"version": {"S": "a"}}),
    "transaction": lambda table: versions.transact(table, ("Put", {"Item": {**reader.POINTER}})),
}


class Busy:
    """A client that refuses its first `times` calls, or processes nothing in them."""

    def __init__(self, client, error: ClientError | None, times: float) -> None:
        self.client, self.error, self.left = client, error, times

    def __getattr__(self, name: str):
        def call(**arguments):
            if self.left <= 0:
                return getattr(self.client, name)(**arguments)
            self.left -= 1
            if self.error:
                raise self.error
            left = arguments.get("RequestItems")
            failed = [{"Error": {"Code": "ThrottlingError"}} for _ in arguments.get("Statements", [])]
            return {"UnprocessedItems": left, "UnprocessedKeys": left, "Responses": failed or {}}

        return self.client.exceptions if name == "exceptions" else call


@pytest.mark.parametrize(
    ("wait", "error"),
    [(wait, error) for wait in WAITS for error in BUSY]
    + [(wait, None) for wait in ("contents", "write", "expiry")],  # any other request is processed or refused
)
def test_every_request_is_retried_until_patience_ends(
    product_table: Table, monkeypatch, wait: str, error: ClientError | None
) -> None:
    monkeypatch.setattr(throttling.time, "sleep", lambda seconds: None)
    WAITS[wait](dataclasses.replace(product_table, client=Busy(product_table.client, error, 12)))
    monkeypatch.setattr(throttling, "PATIENCE", 0.01)
    with pytest.raises(TaskError, match=r"accepted no requests for 0 s, because it (is throttled|answers)"):
        WAITS[wait](dataclasses.replace(product_table, client=Busy(product_table.client, error, math.inf)))


def test_expiry_does_not_recreate_deleted_items(product_table: Table) -> None:
    publish(product_table, "a")
    (part,) = {reader.primary_key("a", BUCKETS, "user")["part"]["S"]}
    product_table.client.delete_item(TableName=product_table.name, Key=reader.primary_key("a", BUCKETS, "user"))
    writer.expire_batch(product_table, part, ["user"], 5)
    assert list(writer.items_of(product_table, part)) == []
    assert reader.read(product_table.client, product_table.name, "user")[0]["item_id"] == "A"


@pytest.mark.parametrize("capacity", [None, {"ReadCapacityUnits": 7, "WriteCapacityUnits": 3}])
def test_table_is_created_once_with_its_billing_mode(dynamodb: str, capacity: dict | None) -> None:
    client, name = tables.client(), f"made-{uuid.uuid4().hex}"
    assert tables.create(client, name, capacity) == ["table", "expiry"]
    assert tables.create(client, name, capacity) == []
    found = client.describe_table(TableName=name)["Table"]
    if capacity:
        assert {key: found["ProvisionedThroughput"][key] for key in capacity} == capacity
    else:
        assert found["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"


def test_killed_creation_of_a_table_resumes(dynamodb: str, monkeypatch) -> None:
    client, name = tables.client(), f"made-{uuid.uuid4().hex}"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tables, "let_expire", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        tables.create(client, name, None)
    assert tables.create(client, name, None) == ["expiry"]
    assert tables.create(client, name, None) == []
    assert client.describe_time_to_live(TableName=name)["TimeToLiveDescription"]["AttributeName"] == "expires"


def test_create_waits_for_a_concurrent_creation(dynamodb: str, monkeypatch) -> None:
    """The concurrent call makes the table active after a while, and enables expiry first."""
    client, name = tables.client(), f"made-{uuid.uuid4().hex}"
    tables.create(client, name, None)
    states, described = ["CREATING", "CREATING"], [{"TimeToLiveStatus": "DISABLED"}]
    monkeypatch.setattr(tables.time, "sleep", lambda seconds: None)
    table, expiry = client.describe_table, client.describe_time_to_live

    def describe_table(**arguments):
        return {"Table": {"TableStatus": states.pop()}} if states else table(**arguments)

    def describe_time_to_live(**arguments):
        return {"TimeToLiveDescription": described.pop()} if described else expiry(**arguments)

    def enabled_already(**_):
        raise ClientError({"Error": {"Code": "ValidationException", "Message": "already enabled"}}, "UpdateTimeToLive")

    monkeypatch.setattr(client, "describe_table", describe_table)
    monkeypatch.setattr(client, "describe_time_to_live", describe_time_to_live)
    monkeypatch.setattr(client, "update_time_to_live", enabled_already)
    assert tables.create(client, name, None) == []
    assert (states, described) == ([], [])


def test_create_fails_if_the_table_never_becomes_active(dynamodb: str, monkeypatch) -> None:
    client, name = tables.client(), f"made-{uuid.uuid4().hex}"
    monkeypatch.setattr(client, "describe_table", lambda **_: {"Table": {"TableStatus": "CREATING"}})
    monkeypatch.setattr(tables, "CREATION_TIME", 0.0)
    with pytest.raises(
        TaskError, match=f"Table {name} is CREATING, expected ACTIVE within 0 s; rerun make create-tables"
    ):
        tables.create(client, name, None)


def test_table_that_expires_by_another_attribute_is_reported(dynamodb: str) -> None:
    client, name = tables.client(), f"made-{uuid.uuid4().hex}"
    tables.create(client, name, None)
    for enabled, attribute in ((False, "expires"), (True, "ttl")):
        specification = {"Enabled": enabled, "AttributeName": attribute}
        client.update_time_to_live(TableName=name, TimeToLiveSpecification=specification)
    with pytest.raises(TaskError, match="is ENABLED by 'ttl', expected ENABLED by 'expires'"):
        tables.create(client, name, None)


def test_refused_credentials_are_reported_as_an_argument_error(monkeypatch) -> None:
    with pytest.raises(ArgumentError, match="refuses these credentials"), tables.explained("table"):
        raise ClientError({"Error": {"Code": "AccessDeniedException"}}, "PutItem")

"""The store of a product in DynamoDB: lost responses, busy tables, expiry, creation, documents of older releases."""

import dataclasses
import math
import random
import string
import uuid

import pytest
from botocore.exceptions import ClientError
from published_versions import BUCKETS, begin, items_that_show, publish, shown

from common.delivery import patience, versions, writer
from common.delivery.dynamodb import store as module
from common.delivery.dynamodb import tables
from common.delivery.dynamodb.store import DynamoDB
from common.delivery.store import POINTER, VERSIONS, Place, place_of
from common.errors import ArgumentError, TaskError


@pytest.mark.parametrize("write", ["switch", "roll back"])
def test_write_whose_response_was_lost_counts(product_table: DynamoDB, monkeypatch, write: str) -> None:
    """The client re-sends it, and the second request finds the result of the first."""
    publish(product_table, "a")
    publish(product_table, "b")
    version = begin(product_table, "c")
    transact = module.transact

    def twice(*arguments) -> bool:
        transact(*arguments)
        return transact(*arguments)

    monkeypatch.setattr(module, "transact", twice)
    if write == "switch":
        versions.switch(product_table, version, versions.pointer(product_table))
    else:
        versions.roll_back(product_table)
    assert shown(product_table) == ("c" if write == "switch" else "a")


def test_documents_of_a_release_without_tags_are_replaced_once(product_table: DynamoDB) -> None:
    key, name = VERSIONS + "a", {"TableName": product_table.name}
    for where in ({"part": {"S": "versions"}, "id": {"S": "a"}}, {"part": {"S": "current"}, "id": {"S": "current"}}):
        product_table.client.put_item(**name, Item={**where, "version": {"S": "a"}, "items": {"N": "3"}})
    pointer, entry = product_table.read(POINTER)[0], product_table.read(key)[0]
    assert pointer == entry == product_table.versions()["a"]
    assert entry
    assert entry.values == {"version": "a", "items": 3}
    expected = {POINTER: entry.tag, key: entry.tag}
    assert product_table.commit({key: {"version": "a"}}, expected)
    assert not product_table.commit({key: {"version": "b"}}, expected)
    assert not product_table.commit({key: {"version": "b"}}, {key: None})
    changed = product_table.read(key)[0]
    assert changed
    assert product_table.commit({key: None}, {key: changed.tag})
    assert product_table.read(key)[0] is None


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
PLACE = place_of("a", BUCKETS, "user")
WAITS = {
    "document": lambda store: store.read(POINTER),
    "contents": lambda store: store.get([PLACE]),
    "items": lambda store: list(store.items(PLACE.part)),
    "write": lambda store: store.put([(PLACE, b"content")]),
    "expiry": lambda store: store.expire_batch(PLACE.part, ["user"], 5),
    "transaction": lambda store: store.commit({POINTER: {"version": "a"}}, {POINTER: None}),
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
    product_table: DynamoDB, monkeypatch, wait: str, error: ClientError | None
) -> None:
    monkeypatch.setattr(patience.time, "sleep", lambda seconds: None)
    WAITS[wait](dataclasses.replace(product_table, client=Busy(product_table.client, error, 12)))
    monkeypatch.setattr(patience, "PATIENCE", 0.01)
    with pytest.raises(TaskError, match=r"accepted no requests for 0 s, because it (is throttled|answers)"):
        WAITS[wait](dataclasses.replace(product_table, client=Busy(product_table.client, error, math.inf)))


def test_write_units_are_begun_kibibytes_of_the_items_that_an_attempt_writes(product_table: DynamoDB) -> None:
    noise = "".join(random.Random(1).choices(string.printable, k=8000))  # hardly compresses
    items = items_that_show(noise, 3)
    first = writer.write(product_table, items, "v", BUCKETS, True, lambda done: None)
    stored = product_table.client.scan(TableName=product_table.name)["Items"]
    sizes = [sum(len(name) + len(value.get("B") or value["S"]) for name, value in item.items()) for item in stored]
    assert first["write_units"] == sum(math.ceil(size / 1024) for size in sizes) == 3 * 8
    product_table.erase([place_of("v", BUCKETS, "user")])
    resumed = writer.write(product_table, items, "v", BUCKETS, True, lambda done: None)
    assert (resumed["written"], resumed["found"], resumed["write_units"]) == (1, 2, 8)


@pytest.mark.parametrize(("size", "units"), [(1, 1), (1004, 1), (1005, 2), (2028, 2), (2029, 3)])
def test_write_units_count_names_and_keys(size: int, units: int) -> None:
    assert writer.write_units(Place("v/1", "usü"), b"x" * size) == units  # part, id and content with v/1 and usü: 20


def test_expiry_does_not_recreate_deleted_items(product_table: DynamoDB) -> None:
    publish(product_table, "a")
    product_table.erase([PLACE])
    product_table.expire_batch(PLACE.part, ["user"], 5)
    assert list(product_table.scan(None)) == []
    assert shown(product_table) == "A"


@pytest.mark.parametrize("units", [None, (7, 3)])
def test_table_is_created_once_with_its_billing_mode(dynamodb: str, units: tuple | None) -> None:
    client, name = tables.client(), f"made-{uuid.uuid4().hex}"
    assert tables.create(client, name, units) == ["table", "expiry"]
    assert tables.create(client, name, units) == []
    found = client.describe_table(TableName=name)["Table"]
    if units:
        capacity = found["ProvisionedThroughput"]
        assert (capacity["ReadCapacityUnits"], capacity["WriteCapacityUnits"]) == units
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

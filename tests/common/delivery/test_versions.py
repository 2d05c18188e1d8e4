"""Going back to versions that frontends saw before, and the tables they lie in."""

import time
import uuid

import pyarrow as pa
import pytest
from botocore.exceptions import ClientError

from common import contracts
from common.delivery import reader, tables, versions, writer
from common.delivery.items import make_items
from common.delivery.tables import Table
from common.failures import ArgumentError, Failure
from common.tables import arrow_schema

CONTRACT = contracts.load("recommendations@1")
LATER = int(time.time()) + 86_400


def publish(table: Table, name: str, expires: int = LATER) -> None:
    """A version in which one user is shown the version's name, and all others that name in capitals."""
    rows = [
        {"user_id": user, "rank": 1, "item_id": item, "item_name": "", "score": 1.0, "reason": None}
        for user, item in (("user", name), (None, name.upper()))
    ]
    items = make_items(pa.Table.from_pylist(rows, arrow_schema(CONTRACT, list(CONTRACT.columns))), CONTRACT)
    writer.write(table, items, name, expires, lambda done: None)
    writer.check(table, items, name, 10, lambda done: None)
    version = {"version": {"S": name}, "computed": {"S": name}, "buckets": {"N": str(len(items.buckets) - 1)}}
    version |= {"items": {"N": "1"}, "content": items.default}
    versions.switch(table, version, expires, versions.pointer(table))


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


def test_there_is_no_way_back_to_what_expires(product_table: Table) -> None:
    publish(product_table, "a", expires=int(time.time()) + 1800)
    publish(product_table, "b")
    with pytest.raises(Failure, match=r"Version a of .* has expired"):
        versions.roll_back(product_table)
    assert shown(product_table) == "b"


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

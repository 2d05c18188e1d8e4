"""The limits of publications are those that DynamoDB enforces, tested on the DynamoDB of DYNAMODB_ENDPOINT.

Without that variable it is dynalite. It has no transactions and no expiry, and counts characters instead of bytes of
text. All other tests use moto's server, which takes 26 items in a batch and counts the bytes of numbers otherwise.
"""

import bisect
import datetime
import random
import uuid
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from botocore.exceptions import ClientError

from common.contracts import Column, Contract, Product
from common.delivery.dynamodb import tables
from common.delivery.dynamodb.store import BATCH, GET_BATCH, item_key
from common.delivery.dynamodb.tables import Table
from common.delivery.items import MAX_ITEM, Items, make_items
from common.delivery.json_values import packed
from common.delivery.store import MAX_KEY, place_of
from common.engines.arrow import arrow_schema

VERSION = "2011-06-01T12:00:00.000Z-12345678"
PRINTABLE = [chr(code) for code in range(32, 127)]
KINDS: dict[str, Callable[[random.Random], Any]] = {
    "string": lambda draw: "".join(draw.choices(PRINTABLE, k=60)),
    "float64": lambda draw: draw.random(),
    "boolean": lambda draw: draw.random() < 0.5,
    "timestamp": lambda draw: datetime.datetime.fromtimestamp(draw.randrange(2**31), datetime.UTC),
}


@pytest.fixture
def table(strict_dynamodb: str) -> Table:
    """An empty table with the keys of a product table."""
    client = tables.client(1)
    name = f"t{uuid.uuid4().hex}"
    keys = {"part": "HASH", "id": "RANGE"}
    client.create_table(
        TableName=name,
        AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"} for key in keys],
        KeySchema=[{"AttributeName": key, "KeyType": kind} for key, kind in keys.items()],
        BillingMode="PAY_PER_REQUEST",
    )
    tables.wait_until_active(client, name)
    return Table(client, name, 1)


def primary_key(key: str) -> dict[str, Any]:
    return item_key(place_of(VERSION, 16, key))


def item(key: str, content: Any = (), **more: Any) -> dict[str, Any]:
    return {**primary_key(key), "content": {"B": packed(content)}, **more}


def test_full_batch_is_accepted_and_one_more_item_is_not(table: Table) -> None:
    puts = [{"PutRequest": {"Item": item(f"user-{number}")}} for number in range(BATCH + 1)]
    table.client.batch_write_item(RequestItems={table.name: puts[:BATCH]})
    with pytest.raises(ClientError, match="ValidationException"):
        table.client.batch_write_item(RequestItems={table.name: puts})
    keys = [primary_key(f"user-{number}") for number in range(GET_BATCH + 1)]
    answer = table.client.batch_get_item(RequestItems={table.name: {"Keys": keys[:GET_BATCH]}})
    assert len(answer["Responses"][table.name]) == BATCH
    with pytest.raises(ClientError, match="ValidationException"):
        table.client.batch_get_item(RequestItems={table.name: {"Keys": keys}})


def test_repeated_key_in_a_batch_is_refused(table: Table) -> None:
    with pytest.raises(ClientError, match="ValidationException"):
        table.client.batch_write_item(RequestItems={table.name: [{"PutRequest": {"Item": item("a")}}] * 2})


@pytest.mark.parametrize("key", ["a", "\x00", "ü" * (MAX_KEY // 2)])
def test_publishable_key_can_be_stored(table: Table, key: str) -> None:
    table.client.put_item(TableName=table.name, Item=item(key))
    assert table.client.get_item(TableName=table.name, Key=primary_key(key))["Item"]


@pytest.mark.parametrize("key", ["", "a" * (MAX_KEY + 1)])
def test_unpublishable_key_is_refused(table: Table, key: str) -> None:
    with pytest.raises(ClientError, match="ValidationException"):
        table.client.put_item(TableName=table.name, Item={**item("a"), "id": {"S": key}})
    with pytest.raises(ClientError, match="ValidationException"):
        table.client.get_item(TableName=table.name, Key={**primary_key("a"), "id": {"S": key}})


def test_reserved_word_is_refused_and_its_alias_is_not(table: Table) -> None:
    condition = {"TableName": table.name, "Item": item("a"), "ExpressionAttributeValues": {":value": {"S": "a"}}}
    with pytest.raises(ClientError, match="reserved keyword: value"):
        table.client.put_item(**condition, ConditionExpression="value = :value")
    with pytest.raises(ClientError, match="ConditionalCheckFailedException"):
        table.client.put_item(
            **condition, ConditionExpression="#name = :value", ExpressionAttributeNames={"#name": "value"}
        )


@pytest.mark.parametrize("kind", KINDS)
def test_item_within_our_limit_is_accepted_even_if_it_hardly_compresses(table: Table, kind: str) -> None:
    """Our limit is of the rows before compression."""
    contract = Contract(
        "wide@1",
        "Rows in order.",
        {"key": Column("string"), "place": Column("int64"), "value": Column(kind)},
        product=Product("key", "place"),
    )
    draw = random.Random(1)
    values = [KINDS[kind](draw) for _ in range(60_000)]

    def made(rows: int) -> Items:
        columns = {"key": ["k"] * rows, "place": range(rows), "value": values[:rows]}
        return make_items(pa.table(columns, arrow_schema(contract, list(contract.columns))), contract)

    rows = bisect.bisect_left(range(60_000), True, key=lambda count: not made(count).keys) - 1
    (content,) = made(rows).contents(0, 1)
    expires = {"N": "1900000000"}
    table.client.put_item(TableName=table.name, Item=item("k", content, expires=expires))
    with pytest.raises(ClientError, match="size"):
        table.client.put_item(TableName=table.name, Item=item("k", draw.randbytes(MAX_ITEM).hex(), expires=expires))

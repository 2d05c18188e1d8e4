"""A product in a DynamoDB table of its own: documents and items as docs/delivery.md describes them."""

import datetime
import email.utils
import itertools
import time
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from common.delivery.dynamodb import reader, tables
from common.delivery.dynamodb.tables import EXPIRY, Table
from common.delivery.dynamodb.throttling import THROTTLED, UNAVAILABLE, request, send_all, transact
from common.delivery.dynamodb.values import Attributes, decode, encode
from common.delivery.store import POINTER, VERSIONS, Document, Place
from common.errors import TaskError

BATCH = 25  # items; the limit of one BatchWriteItem or BatchExecuteStatement
GET_BATCH = 100  # items of one BatchGetItem
SECOND = datetime.timedelta(seconds=1)
LISTED = VERSIONS.rstrip("/")  # the part of the versions' documents
OWN = ("part", "id", "tag")  # attributes of a document that are not its values


@dataclass(frozen=True)
class DynamoDB(Table):
    """The store of one product; it has the methods of common.delivery.store.Store."""

    @classmethod
    def open(cls, url: str, name: str, threads: int) -> "DynamoDB":
        """Return the store of a product at DYNAMODB_ENDPOINT, else at Amazon; all have the URL `dynamodb:`."""
        return cls(tables.client(threads), name, threads)

    def explained(self) -> AbstractContextManager[None]:
        return tables.explained(self.name)

    def create(self, units: tuple[int, int] | None) -> list[str]:
        return tables.create(self.client, self.name, units)

    def exists(self) -> bool:
        try:
            self.client.describe_table(TableName=self.name)
            return True
        except self.client.exceptions.ResourceNotFoundException:
            return False

    def read(self, key: str) -> tuple[Document | None, datetime.datetime]:
        response = request(self, "get_item", TableName=self.name, Key=document_key(key), ConsistentRead=True)
        return document(response.get("Item")), store_time(response)

    def versions(self) -> dict[str, Document]:
        return {item["id"]["S"]: found for item in self.query(LISTED) if (found := document(item))}

    def commit(self, writes: Mapping[str, dict[str, Any] | None], expected: Mapping[str, str | None]) -> bool:
        tag = uuid.uuid4().hex
        actions = [action(key, writes, known, tag) for key, known in expected.items()]
        if transact(self, *actions):
            return True
        # The response to an earlier attempt may have been lost.
        found = [self.read(key)[0] for key in writes]
        return [each and each.tag for each in found] == [None if each is None else tag for each in writes.values()]

    def put(self, items: list[tuple[Place, bytes]]) -> int:
        return self.write(
            [{"PutRequest": {"Item": {**item_key(place), "content": {"B": content}}}} for place, content in items]
        )

    def find(self, places: list[Place]) -> set[str]:
        return {item["id"]["S"] for item in self.lasting(places)}

    def get(self, places: list[Place]) -> dict[str, bytes]:
        return {item["id"]["S"]: item["content"]["B"] for item in self.lasting(places, "content")}

    def items(self, part: str) -> Iterator[tuple[str, bytes]]:
        for item in self.query(part, FilterExpression="attribute_not_exists(expires)"):
            yield item["id"]["S"], item["content"]["B"]

    def expire(self, part: str, at: int) -> int:
        return sum(self.expire_batch(part, keys, at) for keys in self.batches(part))

    def delete(self, part: str) -> int:
        count = 0
        for keys in self.batches(part):
            self.erase([Place(part, key) for key in keys])
            count += len(keys)
        return count

    def erase(self, places: list[Place]) -> None:
        self.write([{"DeleteRequest": {"Key": item_key(place)}} for place in places])

    def shown(self, key: str) -> Any:
        return reader.read(self.client, self.name, key)

    def scan(self, units: float | None) -> Iterator[Place]:
        with ThreadPoolExecutor(self.threads) as pool:
            for places in pool.map(lambda number: self.scan_segment(number, units), range(self.threads)):
                yield from places

    def scan_segment(self, number: int, units: float | None) -> list[Place]:
        """Return the items of one of as many segments of the table as there are threads."""
        pages = self.client.get_paginator("scan").paginate(
            TableName=self.name,
            ProjectionExpression="part, id",
            ConsistentRead=True,
            Segment=number,
            TotalSegments=self.threads,
            ReturnConsumedCapacity="TOTAL",
        )
        places = []
        for page in pages:
            places += [Place(item["part"]["S"], item["id"]["S"]) for item in page["Items"] if "/" in item["part"]["S"]]
            if units:
                time.sleep(page["ConsumedCapacity"]["CapacityUnits"] * self.threads / (units / 2))
        return places

    def write(self, requests: list[Attributes]) -> int:
        """Write or delete items, 25 at once; return the number re-sent because the table was throttled."""

        def send(waiting: list[Attributes]) -> list[Attributes]:
            response = self.client.batch_write_item(RequestItems={self.name: waiting})
            left: list[Attributes] = response["UnprocessedItems"].get(self.name, [])
            return left

        return sum(send_all(self, requests[at : at + BATCH], send) for at in range(0, len(requests), BATCH))

    def lasting(self, places: list[Place], *attributes: str) -> list[Attributes]:
        """Return the key, and other named attributes, of those of a version's items that exist and do not expire."""
        found: list[Attributes] = []
        # Moto's server takes three times as long to evaluate the same as a ProjectionExpression.
        options = {"ConsistentRead": True, "AttributesToGet": ["id", EXPIRY, *attributes]}

        def send(waiting: list[Attributes]) -> list[Attributes]:
            response = self.client.batch_get_item(RequestItems={self.name: {"Keys": waiting, **options}})
            found.extend(response["Responses"].get(self.name, []))
            left: list[Attributes] = response["UnprocessedKeys"].get(self.name, {}).get("Keys", [])
            return left

        for start in range(0, len(places), GET_BATCH):
            send_all(self, [item_key(place) for place in places[start : start + GET_BATCH]], send)
        return [item for item in found if EXPIRY not in item]

    def query(self, part: str, **options: Any) -> Iterator[Attributes]:
        """Yield the items of a partition, sorted by their keys."""
        query = {
            "TableName": self.name,
            "KeyConditionExpression": "part = :part",
            "ExpressionAttributeValues": {":part": {"S": part}},
            "ConsistentRead": True,
            **options,
        }
        while True:
            page = request(self, "query", **query)
            yield from page["Items"]
            if "LastEvaluatedKey" not in page:
                return
            query["ExclusiveStartKey"] = page["LastEvaluatedKey"]

    def batches(self, part: str) -> Iterator[list[str]]:
        """Yield the keys of the items of a part that do not expire, 25 at once."""
        found = self.query(part, FilterExpression="attribute_not_exists(expires)", ProjectionExpression="id")
        keys = (item["id"]["S"] for item in found)
        while batch := list(itertools.islice(keys, BATCH)):
            yield batch

    def expire_batch(self, part: str, keys: list[str], at: int) -> int:
        """Set the expiry of at most 25 items; an update, because a put would recreate items deleted by now."""

        def send(waiting: list[str]) -> list[str]:
            statement = f'UPDATE "{self.name}" SET expires = ? WHERE part = ? AND id = ?'
            statements = [
                {"Statement": statement, "Parameters": [{"N": str(at)}, {"S": part}, {"S": key}]} for key in waiting
            ]
            responses = self.client.batch_execute_statement(Statements=statements)["Responses"]
            errors = {key: response["Error"] for key, response in zip(waiting, responses) if "Error" in response}
            for error in errors.values():
                if error["Code"] not in {"ConditionalCheckFailed", *THROTTLED, *UNAVAILABLE}:
                    raise TaskError(
                        f"{self.name} does not let items expire ({error['Code']}: {error.get('Message')}), expected "
                        "UPDATE to be allowed; see the policy of the job."
                    )
            return [key for key, error in errors.items() if error["Code"] != "ConditionalCheckFailed"]

        send_all(self, keys, send)
        return len(keys)


def item_key(place: Place) -> Attributes:
    """Return the primary key of an item."""
    return {"part": {"S": place.part}, "id": {"S": place.key}}


def document_key(key: str) -> Attributes:
    """Return the primary key of a document."""
    return reader.POINTER if key == POINTER else item_key(Place(*key.split("/", 1)))


def document(item: Attributes | None) -> Document | None:
    """Return a document from the attributes of its item; one of a release without tags has the tag ''."""
    if item is None:
        return None
    values = {name: value for name, value in item.items() if name not in OWN}
    return Document(decode(values), item.get("tag", {"S": ""})["S"])


def action(
    key: str, writes: Mapping[str, dict[str, Any] | None], known: str | None, tag: str
) -> tuple[str, dict[str, Any]]:
    """Return the part of a transaction that concerns one document: it has the known tag, and is written if need be."""
    condition: dict[str, Any] = {
        "ConditionExpression": "tag = :tag",
        "ExpressionAttributeValues": {":tag": {"S": known}},
    }
    if not known:  # it must not exist, or not have a tag
        exists = "attribute_not_exists(id)" if known is None else "attribute_exists(id) AND attribute_not_exists(tag)"
        condition = {"ConditionExpression": exists}
    if key not in writes:
        return "ConditionCheck", {"Key": document_key(key), **condition}
    values = writes[key]
    if values is None:
        return "Delete", {"Key": document_key(key), **condition}
    return "Put", {"Item": {**encode(values), **document_key(key), "tag": {"S": tag}}, **condition}


def store_time(response: Any) -> datetime.datetime:
    """Return the time of DynamoDB's clock, which all publishers share, from the Date of a response in whole seconds.

    This machine's clock adds the fraction if it is in the same second; otherwise the result is the end of that second.
    """
    now = datetime.datetime.now(datetime.UTC)
    second = email.utils.parsedate_to_datetime(response["ResponseMetadata"]["HTTPHeaders"]["date"])
    return now if second <= now < second + SECOND else second + SECOND - datetime.timedelta(milliseconds=1)

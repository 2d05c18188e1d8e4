"""The tables of products: their names and keys, the client that talks to them, and what is wrong if none answers."""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    NoRegionError,
    ReadTimeoutError,
)

from common.errors import ArgumentError, TaskError

CREATION_TIME = 300.0  # seconds; Amazon takes ten or so
EXPIRY = "expires"  # the attribute
REFUSALS = ("AccessDeniedException", "UnrecognizedClientException", "InvalidSignatureException")


@dataclass(frozen=True)
class Table:
    """A product's table, by a client for as many threads as work at once."""

    client: Any
    name: str
    threads: int


def client(connections: int = 10) -> Any:
    """A client of the DynamoDB that DYNAMODB_ENDPOINT names, else of Amazon's; for so many threads at once."""
    config = Config(
        retries={"mode": "standard", "max_attempts": 6},
        max_pool_connections=connections,
        parameter_validation=False,  # of items made by our own code, 25 a request: a fifth of the processor time
    )
    with explained():
        return boto3.client("dynamodb", endpoint_url=os.environ.get("DYNAMODB_ENDPOINT") or None, config=config)


def table_name(prefix: str, contract: str) -> str:
    """The name of a product's table: the same for all versions of its contract."""
    return prefix + contract.partition("@")[0]


def create(client: Any, table: str, capacity: dict[str, int] | None) -> list[str]:
    """Create a product's table, on demand or with ReadCapacityUnits and WriteCapacityUnits, and let its items expire.

    Returns what was missing and is there now: "table", "expiry", both or nothing. A call that was killed, or another
    that is under way, is resumed.
    """
    billing: Any = {"BillingMode": "PAY_PER_REQUEST"}
    if capacity:
        billing = {"BillingMode": "PROVISIONED", "ProvisionedThroughput": capacity}
    names, done = {"part": "HASH", "id": "RANGE"}, []
    with explained(table):
        try:
            client.create_table(
                TableName=table,
                AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in names],
                KeySchema=[{"AttributeName": name, "KeyType": kind} for name, kind in names.items()],
                **billing,
            )
            done.append("table")
        except client.exceptions.ResourceInUseException:  # it is there, is being made or is being deleted
            pass
        wait_until_active(client, table)
        if let_expire(client, table):
            done.append("expiry")
    return done


def wait_until_active(client: Any, table: str) -> None:
    """Wait for a table that is being made; TaskError after CREATION_TIME."""
    deadline = time.monotonic() + CREATION_TIME
    while True:
        try:
            status = client.describe_table(TableName=table)["Table"]["TableStatus"]
        except client.exceptions.ResourceNotFoundException:  # so soon after its creation, or it was being deleted
            status = "missing"
        if status == "ACTIVE":
            return
        if time.monotonic() > deadline:
            raise TaskError(
                f"Table {table} is {status}, expected ACTIVE within {CREATION_TIME:.0f} s; run make create-tables "
                "again, it resumes."
            )
        time.sleep(1)


def let_expire(client: Any, table: str) -> bool:
    """Have DynamoDB delete items of a table at the time in `expires`; False if it does so already."""
    described = client.describe_time_to_live(TableName=table)["TimeToLiveDescription"]
    status, attribute = described["TimeToLiveStatus"], described.get("AttributeName", EXPIRY)
    if status in ("ENABLED", "ENABLING") and attribute == EXPIRY:
        return False
    if status != "DISABLED":
        raise TaskError(
            f"The expiry of {table} is {status} by '{attribute}', expected ENABLED by '{EXPIRY}'; disable it if it is "
            "enabled, and run make create-tables again in an hour."
        )
    try:
        client.update_time_to_live(TableName=table, TimeToLiveSpecification={"Enabled": True, "AttributeName": EXPIRY})
    except ClientError:
        described = client.describe_time_to_live(TableName=table)["TimeToLiveDescription"]
        if (described["TimeToLiveStatus"], described.get("AttributeName")) not in (
            ("ENABLED", EXPIRY),
            ("ENABLING", EXPIRY),
        ):
            raise
        return False  # another call was quicker
    return True


@contextlib.contextmanager
def explained(table: str = "") -> Iterator[None]:
    """Say what is wrong with DynamoDB: ArgumentError where no retry mends it (no table, no credentials, no rights)."""
    where = os.environ.get("DYNAMODB_ENDPOINT") or "Amazon's DynamoDB"
    try:
        yield
    except (NoCredentialsError, NoRegionError) as error:
        raise ArgumentError(
            f"{str(error).rstrip('.')}, expected AWS credentials and AWS_DEFAULT_REGION for {where}; set them."
        ) from None
    except (ConnectionClosedError, ConnectTimeoutError, EndpointConnectionError, ReadTimeoutError):
        raise TaskError(f"{where} can't be reached; check DYNAMODB_ENDPOINT and the network, then try again.") from None
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code == "ResourceNotFoundException" and table:
            raise ArgumentError(
                f"There is no table {table} at {where}; make it with make create-tables ENV=…, or correct 'tables'."
            ) from None
        if code in REFUSALS:
            raise ArgumentError(
                f"{where} refuses these credentials ({code}) for table '{table}'; give ones that may use it."
            ) from None
        raise

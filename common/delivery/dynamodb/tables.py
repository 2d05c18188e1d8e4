"""DynamoDB tables of products: keys, creation, the client, and its errors as sentences."""

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

CREATION_TIME = 300.0  # seconds; Amazon takes about ten
EXPIRY = "expires"  # attribute with the time of expiry
REFUSALS = ("AccessDeniedException", "UnrecognizedClientException", "InvalidSignatureException")


@dataclass(frozen=True)
class Table:
    """A product's table, and the number of threads that its client serves concurrently."""

    client: Any
    name: str
    threads: int


def client(connections: int = 10) -> Any:
    """Return a client of the DynamoDB at DYNAMODB_ENDPOINT, else of Amazon's, for `connections` threads."""
    config = Config(
        retries={"mode": "standard", "max_attempts": 6},
        max_pool_connections=connections,
        parameter_validation=False,  # our own code made the items, 25 per request: it saves a fifth of the CPU time
    )
    with explained():
        return boto3.client("dynamodb", endpoint_url=os.environ.get("DYNAMODB_ENDPOINT") or None, config=config)


def create(client: Any, table: str, units: tuple[int, int] | None) -> list[str]:
    """Create a product's table, on demand or with units for reads and writes, and enable expiry.

    Returns the steps that were missing: "table", "expiry", both or none. Resumes a call that was killed, or one that
    runs concurrently.
    """
    billing: Any = {"BillingMode": "PAY_PER_REQUEST"}
    if units:
        capacity = dict(zip(("ReadCapacityUnits", "WriteCapacityUnits"), units))
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
        except client.exceptions.ResourceInUseException:  # it exists, is being created or is being deleted
            pass
        wait_until_active(client, table)
        if let_expire(client, table):
            done.append("expiry")
    return done


def wait_until_active(client: Any, table: str) -> None:
    """Wait for a table that is being created; TaskError after CREATION_TIME."""
    deadline = time.monotonic() + CREATION_TIME
    while True:
        try:
            status = client.describe_table(TableName=table)["Table"]["TableStatus"]
        except client.exceptions.ResourceNotFoundException:  # not visible yet, or it was being deleted
            status = "missing"
        if status == "ACTIVE":
            return
        if time.monotonic() > deadline:
            raise TaskError(
                f"Table {table} is {status}, expected ACTIVE within {CREATION_TIME:.0f} s; rerun make create-tables, "
                "it resumes."
            )
        time.sleep(1)


def let_expire(client: Any, table: str) -> bool:
    """Make DynamoDB delete items of a table at the time in `expires`; False if it does so already."""
    described = client.describe_time_to_live(TableName=table)["TimeToLiveDescription"]
    status, attribute = described["TimeToLiveStatus"], described.get("AttributeName", EXPIRY)
    if status in ("ENABLED", "ENABLING") and attribute == EXPIRY:
        return False
    if status != "DISABLED":
        raise TaskError(
            f"The expiry of {table} is {status} by '{attribute}', expected ENABLED by '{EXPIRY}'; disable it if it is "
            "enabled, and rerun make create-tables in an hour."
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
        return False  # a concurrent call was quicker
    return True


@contextlib.contextmanager
def explained(table: str = "") -> Iterator[None]:
    """Explain errors of DynamoDB: ArgumentError if no retry helps (no table, no credentials, no rights)."""
    where = os.environ.get("DYNAMODB_ENDPOINT") or "Amazon's DynamoDB"
    try:
        yield
    except (NoCredentialsError, NoRegionError) as error:
        raise ArgumentError(
            f"{str(error).rstrip('.')}, expected AWS credentials and AWS_DEFAULT_REGION for {where}; set them."
        ) from None
    except (ConnectionClosedError, ConnectTimeoutError, EndpointConnectionError, ReadTimeoutError):
        raise TaskError(f"{where} can't be reached; check DYNAMODB_ENDPOINT and the network, then retry.") from None
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code == "ResourceNotFoundException" and table:
            raise ArgumentError(
                f"{where} has no table {table}; create it with make create-tables ENV=…, or correct 'tables'."
            ) from None
        if code in REFUSALS:
            raise ArgumentError(
                f"{where} refuses these credentials ({code}) for table '{table}'; use credentials with access to it."
            ) from None
        raise

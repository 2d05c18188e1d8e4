"""The tables of products: their names and keys, the client that talks to them, and what is wrong if none answers."""

import contextlib
import os
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
)

from common.failures import ArgumentError, Failure

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


def create(client: Any, table: str, capacity: dict[str, int] | None) -> bool:
    """Create a product's table, on demand or with ReadCapacityUnits and WriteCapacityUnits; False if there is one."""
    billing: Any = {"BillingMode": "PAY_PER_REQUEST"}
    if capacity:
        billing = {"BillingMode": "PROVISIONED", "ProvisionedThroughput": capacity}
    names = {"part": "HASH", "id": "RANGE"}
    with explained():
        try:
            client.create_table(
                TableName=table,
                AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in names],
                KeySchema=[{"AttributeName": name, "KeyType": kind} for name, kind in names.items()],
                **billing,
            )
        except client.exceptions.ResourceInUseException:
            return False
        client.get_waiter("table_exists").wait(TableName=table, WaiterConfig={"Delay": 1})
        expiry = {"Enabled": True, "AttributeName": "expires"}
        client.update_time_to_live(TableName=table, TimeToLiveSpecification=expiry)
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
    except (ConnectionClosedError, ConnectTimeoutError, EndpointConnectionError):
        raise Failure(f"{where} can't be reached; check DYNAMODB_ENDPOINT and the network, then try again.") from None
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

"""Delete the items of some people from products by user, in all versions, expired ones too."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from common import contracts
from common.delivery.reader import POINTER
from common.delivery.tables import Table, table_name
from common.delivery.versions import VERSIONS
from common.ingestion.suppression import People
from tools.lake.forget_content import Named
from tools.lake.forget_requests import Requests
from tools.tables import ROOT

OTHER_PARTS = {VERSIONS, POINTER["part"]["S"]}  # descriptions of versions, not items


def personal_tables(prefix: str) -> list[str]:
    """Return the names of the tables whose items have user IDs as keys."""
    files = (ROOT / "common" / "contracts").glob("*.toml")
    products = [(file.stem, contracts.load(file.stem).product) for file in files]
    return sorted({table_name(prefix, name) for name, product in products if product and product.key == "user_id"})


def existing(client: Any, names: list[str]) -> list[str]:
    """Return the existing ones of some tables."""

    def exists(name: str) -> bool:
        try:
            client.describe_table(TableName=name)
            return True
        except client.exceptions.ResourceNotFoundException:
            return False

    return [name for name in names if exists(name)]


def erase(table: Table, people: People, requests: Requests, units: float | None) -> tuple[int, int]:
    """Delete the items of some people; return the number of items read and deleted.

    The whole table is read, to include versions that are not listed any more. A table with reserved capacity is read at
    half its read units, so that frontends keep the other half.
    """

    def scan_segment(number: int) -> tuple[int, list[dict[str, Any]]]:
        seen, found = 0, []
        pages = table.client.get_paginator("scan").paginate(
            TableName=table.name,
            ProjectionExpression="part, id",
            ConsistentRead=True,
            Segment=number,
            TotalSegments=table.threads,
            ReturnConsumedCapacity="TOTAL",
        )
        for page in pages:
            seen += len(page["Items"])
            found += [item for item in page["Items"] if item["part"]["S"] not in OTHER_PARTS and owner(item)]
            if units:
                time.sleep(page["ConsumedCapacity"]["CapacityUnits"] * table.threads / (units / 2))
        return seen, found

    def owner(item: dict[str, Any]) -> str | None:
        return people.find(item["id"]["S"])

    with ThreadPoolExecutor(table.threads) as pool:
        results = list(pool.map(scan_segment, range(table.threads)))
    items = [item for _, found in results for item in found]
    by_version: dict[str, Named] = {}
    for item in items:
        version = item["part"]["S"].rpartition("/")[0]
        by_version.setdefault(version, Named()).update([owner(item) or ""])
    for version, named in by_version.items():
        requests.record(f"tables/{table.name}/{version}", named)
    requests.save()
    for item in items:
        table.client.delete_item(TableName=table.name, Key=item)
    return sum(seen for seen, _ in results), len(items)

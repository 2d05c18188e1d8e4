"""Items of products that are kept by user: those of some people deleted, in all versions, expired ones too."""

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

OTHER_PARTS = {VERSIONS, POINTER["part"]["S"]}  # what describes versions, and no item of any


def personal_tables(prefix: str) -> list[str]:
    """The names of the tables whose items are kept by user."""
    files = (ROOT / "common" / "contracts").glob("*.toml")
    products = [(file.stem, contracts.load(file.stem).product) for file in files]
    return sorted({table_name(prefix, name) for name, product in products if product and product.key == "user_id"})


def existing(client: Any, names: list[str]) -> list[str]:
    """Those of some tables that are there."""

    def is_there(name: str) -> bool:
        try:
            client.describe_table(TableName=name)
            return True
        except client.exceptions.ResourceNotFoundException:
            return False

    return [name for name in names if is_there(name)]


def erase(table: Table, people: People, requests: Requests, units: float | None) -> tuple[int, int]:
    """Delete the items of some people; how many items were looked at and how many deleted.

    The whole table is read, so that no version is left out that nobody announces any more; of a table with reserved
    capacity at a rate of half its read units, so that frontends keep the other half.
    """

    def segment(number: int) -> tuple[int, list[dict[str, Any]]]:
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
        results = list(pool.map(segment, range(table.threads)))
    items = [item for _, found in results for item in found]
    by_version: dict[str, Named] = {}
    for item in items:
        version = item["part"]["S"].rpartition("/")[0]
        by_version.setdefault(version, Named()).update([owner(item) or ""])
    for version, named in by_version.items():
        requests.note(f"tables/{table.name}/{version}", named)
    requests.save()
    for item in items:
        table.client.delete_item(TableName=table.name, Key=item)
    return sum(seen for seen, _ in results), len(items)

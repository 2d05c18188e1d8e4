"""Publications as frontends see them, on both stand-ins for DynamoDB."""

import uuid
from pathlib import Path
from typing import Any

import pytest
from recommending_lake import Lake, table

from common.delivery import reader, tables, versions
from common.delivery.versions import Table

CONTRACT = "recommendations@1"


@pytest.fixture
def store(dynamodb: str) -> Table:
    """An empty table of recommendations."""
    client = tables.client()
    name = tables.table_name(f"t{uuid.uuid4().hex}-", CONTRACT)
    assert tables.create(client, name, None)
    return Table(client, name, 2)


class Shop:
    """Runs publish_product, each time in a lake of its own, into one table."""

    def __init__(self, folder: Path, store: Table) -> None:
        self.folder = folder
        self.store = store
        self.lakes: list[Lake] = []

    def lake(self, lists: dict[str | None, list[str]], score: float = 0.5) -> Lake:
        """A lake in which a task has just written these lists of items by user."""
        lake = Lake(self.folder / str(len(self.lakes)))
        self.lakes.append(lake)
        lake.put("select", CONTRACT, table(CONTRACT, rows(lists, score)))
        return lake

    def run(self, lake: Lake, *arguments: str) -> int:
        prefix = self.store.name.removesuffix("recommendations")
        return lake.run("publish_product", "--from", "product=select", "--set", f"tables={prefix}", *arguments)

    def publish(self, lists: dict[str | None, list[str]], *arguments: str) -> int:
        return self.run(self.lake(lists), *arguments)

    def shown(self, user: str) -> list[str] | None:
        found = reader.read(self.store.client, self.store.name, user)
        return found and [row["item_id"] for row in found]


def rows(lists: dict[str | None, list[str]], score: float) -> list[dict[str, Any]]:
    return [
        {"user_id": user, "rank": rank, "item_id": item, "item_name": item.upper(), "score": score, "reason": None}
        for user, items in lists.items()
        for rank, item in enumerate(items, 1)
    ]


@pytest.fixture
def shop(tmp_path: Path, store: Table) -> Shop:
    return Shop(tmp_path, store)


def test_what_was_published_is_read_with_two_gets(shop: Shop) -> None:
    assert shop.shown("a") is None
    assert shop.publish({None: ["cup"], "a": ["lamp", "cup"], "ü": ["pot"]}) == 0
    assert (shop.shown("a"), shop.shown("ü"), shop.shown("nobody")) == (["lamp", "cup"], ["pot"], ["cup"])
    assert shop.publish({None: ["pot"], "a": ["cup", "pot"], "b": ["cup"]}) == 0
    assert (shop.shown("a"), shop.shown("b"), shop.shown("ü")) == (["cup", "pot"], ["cup"], ["pot"])
    versions.roll_back(shop.store)
    assert (shop.shown("a"), shop.shown("ü"), shop.shown("nobody")) == (["lamp", "cup"], ["pot"], ["cup"])

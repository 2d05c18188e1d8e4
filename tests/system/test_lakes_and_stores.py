"""The same product from each kind of lake in each kind of store: nine pairs, one content for frontends."""

from pathlib import Path

from recommending_lake import Lake, table

from common.delivery.store import Store
from common.delivery.stores import open_store
from common.handover import storage

CONTRACT = "recommendations@2"
ROWS = [
    {"user_id": user, "style": "new", "rank": rank, "item_id": f"{user} {rank}", "item_name": "Ä", "score": rank / 3}
    for user in ("é", "13132", None)
    for rank in (1, 2)
]


def test_frontends_read_the_same_from_any_lake_in_any_store(
    tmp_path: Path, any_store: Store, store_url: str, any_lake: str
) -> None:
    store = open_store(store_url, any_store.name, 1)
    store.create(None)  # again, with the keys and in the region of the lake on S3
    lake = Lake(tmp_path)
    lake.put("select", CONTRACT, table(CONTRACT, ROWS))
    files = [file for file in (tmp_path / "lake").rglob("*") if file.is_file()]
    for file in files:
        storage.write(f"{any_lake}/{file.relative_to(tmp_path / 'lake')}", file.read_bytes())
    lake.root = any_lake
    target = ("--set", f"store={store_url}", "--set", f"tables={store.name.removesuffix('recommendations')}")
    assert lake.run("write_product", "--from", "product=select", *target, map_index=0) == 0
    assert lake.run("publish_product", "--from", "parts=write_product") == 0
    for user, key in (("é", "é"), ("13132", "13132"), ("nobody", None)):
        shown = [(row["item_id"], row["item_name"], float(row["score"])) for row in store.shown(user)]
        assert shown == [(f"{key} {rank}", "Ä", rank / 3) for rank in (1, 2)]

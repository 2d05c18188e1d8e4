"""Similar items: by names, by buyers, with a fallback for every item."""

import datetime
from collections import defaultdict
from pathlib import Path

import pytest
from recommending_lake import Lake, table

from jobs.build_similar_items.main import compare_names

NOW = datetime.datetime(2011, 6, 1, 12, tzinfo=datetime.UTC)
SOURCE = ["--from", "interactions=interactions"]
NAMES = {
    "10001": "RED METAL BOX",
    "10002": "GREEN METAL BOX",
    "10003": "SPACEBOY LUNCH BAG",
    "10004": "DOLLY GIRL CUP",
    "10005": "BLUE METAL BOX",
    "10006": "QQQ",
    "10007": "OLD METAL BOX",
}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path)


def put(lake: Lake, bought: list[tuple], names: dict[str, str] = NAMES) -> None:
    """Publish pairs of user, item, days since the last event; and the catalogue, if it has items."""
    never = {f"{name}{suffix}": 0 for name in ("weight", "events") for suffix in ("_before_test", "_before_tuning")}
    rows = [
        {
            **never,
            "user_id": user,
            "item_id": item,
            "weight": weight,
            "events": 1,
            "last_time": NOW - datetime.timedelta(days=days),
        }
        for user, item, days, weight in sorted((*pair, 1.0)[:4] for pair in bought)
    ]
    lake.put_buckets("interactions", "interactions@2", table("interactions@2", rows))
    goods = [{"item_id": item, "name": name, "family": item} for item, name in names.items()]
    if goods:
        lake.put("items", "items@2", table("items@2", goods), dataset="curated/items")


def similar(lake: Lake, *settings: str) -> dict[str, list[tuple]]:
    assert lake.run("build_similar_items", *SOURCE, *settings) == 0
    found = defaultdict(list)
    for row in lake.rows("build_similar_items").to_pylist():
        assert row["rank"] == len(found[row["item_id"]]) + 1
        found[row["item_id"]].append((row["similar_item_id"], row["reason"]))
    return found


def sales() -> list[tuple]:
    """Return purchases: red boxes and lunch bags by the same 60 users; other boxes and the cup by one each."""
    pairs = [(f"u{user}", item, 5) for user in range(60) for item in ("10001", "10003")]
    return [*pairs, ("v", "10002", 5), ("w", "10004", 5), ("y", "10005", 0), ("x", "10006", 5), ("x", "10007", 100)]


def test_items_are_compared_by_buyers_and_new_ones_by_name(lake: Lake) -> None:
    put(lake, sales())
    found = similar(lake)
    assert found["10001"][0] == ("10003", "bought by the same users")
    assert found["10003"][0] == ("10001", "bought by the same users")
    assert {item for item, reason in found["10005"] if reason == "similar name"} >= {"10001", "10002"}
    assert found["10002"][0][1] == "similar name"


def test_every_item_has_similar_ones_that_are_still_sold(lake: Lake) -> None:
    put(lake, sales())
    found = similar(lake, "--set", "count=3")
    assert found.keys() == NAMES.keys()
    shown = {item for rows in found.values() for item, _ in rows}
    assert "10007" not in shown
    assert all(own not in {item for item, _ in rows} for own, rows in found.items())
    assert all(1 <= len(rows) <= 3 for rows in found.values())
    assert found["10006"][0][1] == "popular"
    assert lake.manifest("build_similar_items")["metrics"]["items_with_rows"] == len(NAMES)


def test_trust_in_buyers_is_a_parameter(lake: Lake) -> None:
    put(lake, sales())
    found = similar(lake, "--set", "prior_strength=100000")
    assert found["10001"][0] in {("10002", "similar name"), ("10005", "similar name")}


def test_pairs_without_a_weight_do_not_count(lake: Lake) -> None:
    put(lake, [*sales(), *((f"w{user}", item, 0, 0.0) for user in range(90) for item in ("10001", "10007", "stamp"))])
    found = similar(lake)
    assert found["10001"][0] == ("10003", "bought by the same users")
    assert "10007" not in {item for rows in found.values() for item, _ in rows}
    assert lake.manifest("build_similar_items")["metrics"]["interactions_without_item_in_catalogue"] == 0


def test_sample_of_whole_buckets_is_read_up_to_the_limit(lake: Lake) -> None:
    put(lake, sales())
    similar(lake, "--set", "max_training_pairs=70")
    sample = lake.manifest("build_similar_items")["metrics"]["sample"]
    files = lake.manifest("interactions")["outputs"]["rows"]["files"]
    assert 0 < sample["files"] < sample["of_files"] == len(files)
    assert 50 < sample["rows"] <= 70 < sample["of_rows"] == 125


def test_without_a_catalogue_the_items_of_the_pairs_are_compared_by_users_only(lake: Lake) -> None:
    put(lake, sales(), names={})
    found = similar(lake)
    assert found.keys() == {item for _, item, _ in sales()}
    assert found["10001"][0] == ("10003", "bought by the same users")
    assert found["10005"][0][1] == "popular"
    assert {row["similar_item_name"] for row in lake.rows("build_similar_items").to_pylist()} <= found.keys()


def test_too_many_pairs_with_unlisted_items_are_refused(lake: Lake, capsys) -> None:
    put(lake, sales() + [(f"u{user}", "banana", 1) for user in range(40)])
    assert lake.run("build_similar_items", *SOURCE, "--set", "max_unlisted_share=0.2") == 4
    assert (
        "40 of 165 interactions (24%) are with items that curated/items lacks, such as 'banana'"
        in capsys.readouterr().err
    )
    assert lake.run("build_similar_items", *SOURCE) == 0
    assert lake.manifest("build_similar_items")["metrics"]["interactions_without_item_in_catalogue"] == 40


def test_catalogue_without_sales_is_an_input_error(lake: Lake, capsys) -> None:
    put(lake, [("x", "10001", 5)])
    assert lake.run("build_similar_items", *SOURCE) == 3
    assert (
        "1 items of curated/items are available, by their dates or by an event in the last 60 days"
        in capsys.readouterr().err.splitlines()[-1]
    )


def test_names_with_common_parts_only_are_not_similar() -> None:
    assert compare_names(["ITEM"] * 300).nnz == 0
    assert compare_names(["RED BOX", "RED BOX"]).nnz > 0

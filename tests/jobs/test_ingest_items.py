"""Catalogue from contradictory descriptions."""

from pathlib import Path

import pytest
from recommending_lake import Lake

HEADER = "item_id,description,seen\n"


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path)


def names(lake: Lake) -> dict[str, str]:
    return {row["item_id"]: row["name"] for row in lake.dataset("curated/items").to_pylist()}


@pytest.mark.parametrize(
    "descriptions, name",
    [
        (["PAPER  BAG ", "crushed"], "PAPER BAG"),
        (["PAPER BAG", "LARGE PAPER BAG"], "LARGE PAPER BAG"),
        (["LARGE PAPER BAG", "PAPER BAG", ""], "PAPER BAG"),
        (["PAPER BAG", "FOUND"], "PAPER BAG"),
        (["SOMBRERO", "Glow In The Dark Shot Glasses"], "SOMBRERO"),
        (["Glow In The Dark Shot Glasses", "given away"], "Glow In The Dark Shot Glasses"),
        (["BAG 125g SWIRLY MARBLES", "?"], "BAG 125g SWIRLY MARBLES"),
        (['BOX, "GREEN"', "22719"], 'BOX, "GREEN"'),
    ],
)
def test_best_kind_of_description_wins_then_the_last_seen(lake: Lake, descriptions: list[str], name: str) -> None:
    quoted = ['"' + text.replace('"', '""') + '"' for text in descriptions]
    lines = [f"22719,{text},2011-01-{day + 1:02}T00:00:00Z\n" for day, text in enumerate(quoted)]
    lake.raw_items("2011-02-01", HEADER + "".join(lines))
    assert lake.run("ingest_items") == 0
    assert names(lake) == {"22719": name}


def test_rows_without_stock_code_or_name_are_quarantined(lake: Lake) -> None:
    lake.raw_items(
        "2011-02-01",
        HEADER
        + "85123A,WHITE HOLDER,2011-01-01T00:00:00Z\nPOST,POSTAGE FEE,2011-01-01T00:00:00Z\n"
        + "20852,given away,2011-01-01T00:00:00Z\n20852,,2011-01-01T00:00:00Z\n",
    )
    assert lake.run("ingest_items") == 4  # more than half of the rows, as of another shop's catalogue
    assert lake.run("ingest_items", "--set", "max_dropped_share=0.75") == 0
    assert lake.dataset("curated/items").to_pylist() == [
        {
            **dict.fromkeys(("available_from", "available_until", "attributes")),
            "item_id": "85123A",
            "name": "WHITE HOLDER",
            "family": "85123",
        }
    ]
    quarantine = [(row["line"], row["reason"], row["content"]) for row in lake.rows("ingest_items").to_pylist()]
    assert quarantine == [
        (3, "no stock code: five digits at the beginning", "POST,POSTAGE FEE,2011-01-01T00:00:00Z"),
        (4, "no description is a name", "20852,given away,2011-01-01T00:00:00Z"),
        (5, "no description is a name", "20852,,2011-01-01T00:00:00Z"),
    ]
    assert lake.manifest("ingest_items")["metrics"] == {
        "lines": 4,
        "unusable": 0,
        "reasons": {},
        "files_quarantined": 0,
        "files_left_out": 0,
        "not_kept": {},
        "items": 1,
        "items_with_several_names": 0,
        "dropped": {"no description is a name": 2, "no stock code: five digits at the beginning": 1},
    }


def test_deliveries_are_read_together(lake: Lake) -> None:
    lake.raw_items("2011-02-01", HEADER + "22719,OLD NAME,2011-01-01T00:00:00Z\n22720,KEPT ITEM,2011-01-01T00:00:00Z\n")
    lake.raw_items("2011-02-02", HEADER + "22719,NEW NAME,2011-02-01T00:00:00Z\n")
    assert lake.run("ingest_items") == 0
    assert names(lake) == {"22719": "NEW NAME", "22720": "KEPT ITEM"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("item_id,name\n1,2\n", "its first line does not name item_id, description, seen"),
        ("item_id\0", "its first line does not name item_id, description, seen"),
    ],
)
def test_file_that_is_not_a_list_of_items_is_named(lake: Lake, capsys, text: str, reason: str) -> None:
    lake.raw_items("2011-02-01", text)
    assert lake.run("ingest_items") == 3
    assert f"arrival=2011-02-01/items.csv: {reason}" in capsys.readouterr().err.splitlines()[-1]


def test_missing_delivery_is_an_input_error(lake: Lake) -> None:
    assert lake.run("ingest_items") == 3

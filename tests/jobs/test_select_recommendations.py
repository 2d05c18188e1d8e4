"""Recommendations from small sets of predictions."""

import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recommending_lake import Lake, table

from common.engines.arrays import string_arrays
from jobs.select_recommendations.main import select

DAY = 86_400_000_000
SOURCES = ["--from", "predictions=predictions", "--from", "model=model"]
AS_OF = int(datetime.datetime(2011, 6, 1, tzinfo=datetime.UTC).timestamp()) * 1_000_000
#            item, family, days since the last event, trending score
CATALOGUE = [
    ("red cup", "cup", 1, 5.0),
    ("blue cup", "cup", 1, 9.0),
    ("green cup", "cup", 60, 4.0),
    ("lamp", "lamp", 2, 1.0),
    ("old lamp", "lamp", 61, 8.0),
    ("never sold", "none", None, 0.0),
]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake(tmp_path)
    names = [item for item, *_ in CATALOGUE]
    rows = [{"item_id": item, "name": item.upper(), "family": family} for item, family, *_ in CATALOGUE]
    lake.put("items", "items@2", table("items@2", rows), dataset="curated/items")
    known = sorted([*names[:-1], "POST"])
    sold = {item: AS_OF - (days or 0) * DAY for item, _, days, _ in CATALOGUE} | {"POST": AS_OF}
    trending = {item: score for item, *_, score in CATALOGUE} | {"POST": 99.0}
    arrays = {
        **string_arrays("items", pa.array(known, pa.string())),
        "last_event": np.array([sold[item] for item in known]),
        "trending": np.array([trending[item] for item in known]),
    }
    lake.put_model("model", arrays, {"as_of": AS_OF, "verb": "bought"})
    return lake


def shown(lake: Lake, predictions: list[tuple], *arguments: str, styles: tuple[str, ...] = ("mixed",)) -> list[tuple]:
    """Return user, rank, item, reason of each row; predictions are user, rank, item, explaining item of each style."""
    rows = [
        {
            "user_id": user,
            "style": style,
            "rank": rank,
            "item_id": item,
            "score": 1 / rank,
            "explained_by_item_id": because,
            "model": "ease",
        }
        for style in styles
        for user, rank, item, because in predictions
    ]
    lake.put("predictions", "predictions@3", table("predictions@3", rows))
    assert lake.run("select_recommendations", *SOURCES, *arguments, map_index=0) == 0
    found = lake.rows("select_recommendations").to_pylist()
    assert all(row["item_name"] == row["item_id"].upper() for row in found)
    return [(row["user_id"], row["rank"], row["item_id"], row["reason"]) for row in found]


DEFAULT = [
    (None, 1, "blue cup", "trending"),
    (None, 2, "red cup", "trending"),
    (None, 3, "lamp", "trending"),
]


def test_items_no_longer_available_are_dropped_without_rank_gaps(lake: Lake) -> None:
    predictions = [
        ("u", 1, "old lamp", "lamp"),
        ("u", 2, "POST", "POST"),
        ("u", 3, "green cup", "red cup"),
        ("u", 4, "never sold", None),
        ("u", 5, "lamp", "lamp"),
    ]
    assert shown(lake, predictions) == [
        *DEFAULT,
        ("u", 1, "green cup", "bought with RED CUP"),
        ("u", 2, "lamp", "bought before"),
    ]
    metrics = lake.manifest("select_recommendations/map-0")["metrics"]
    assert (metrics["predictions"], metrics["no_longer_available"], metrics["users"]) == (5, 3, 1)


def test_rows_per_family_and_per_user_are_limited(lake: Lake) -> None:
    predictions = [
        ("u", 1, "red cup", None),
        ("u", 2, "blue cup", "POST"),
        ("u", 3, "lamp", "lamp"),
        ("v", 1, "blue cup", "lamp"),
    ]
    found = shown(lake, predictions, "--set", "max_per_family=1", "--set", "count=2")
    assert found == [
        (None, 1, "blue cup", "trending"),
        (None, 2, "lamp", "trending"),
        ("u", 1, "red cup", None),
        ("u", 2, "lamp", "bought before"),
        ("v", 1, "blue cup", "bought with LAMP"),
    ]


def test_styles_of_a_user_follow_each_other(lake: Lake) -> None:
    predictions = [("u", 1, "lamp", "lamp"), ("u", 2, "red cup", None), ("v", 1, "red cup", None)]
    found = shown(lake, predictions, "--set", "styles=new, again", "--set", "count=1", styles=("mixed", "again", "new"))
    assert [row[:3] for row in found[1:]] == [
        ("u", 1, "lamp"),
        ("u", 2, "lamp"),
        ("v", 1, "red cup"),
        ("v", 2, "red cup"),
    ]
    assert lake.rows("select_recommendations")["style"].to_pylist() == ["trending", "new", "again", "new", "again"]
    assert lake.manifest("select_recommendations/map-0")["metrics"]["rows_by_style"] == {"new": 2, "again": 2}


@pytest.mark.parametrize(
    "styles, message", [("", "is empty"), ("agan", "There is no style 'agan'; did you mean 'again'")]
)
def test_unknown_styles_are_refused(lake: Lake, capsys, styles: str, message: str) -> None:
    lake.put("predictions", "predictions@3", table("predictions@3", []))
    inputs = ["--from", "predictions=predictions", "--from", "model=model"]
    assert lake.run("select_recommendations", *inputs, "--set", f"styles={styles}", map_index=0) == 2
    assert message in capsys.readouterr().err


def test_users_without_remaining_predictions_get_default_rows(lake: Lake) -> None:
    assert shown(lake, [("u", 1, "old lamp", "lamp")]) == DEFAULT
    assert lake.manifest("select_recommendations/map-0")["metrics"]["users_with_default_rows_only"] == 1


def test_default_rows_remain_without_predictions(lake: Lake) -> None:
    assert shown(lake, []) == DEFAULT


def test_catalogue_without_available_items_is_refused(tmp_path: Path, capsys) -> None:
    lake = Lake(tmp_path)
    rows = [{"item_id": "cup", "name": "CUP", "family": "cup"}]
    lake.put("items", "items@2", table("items@2", rows), dataset="curated/items")
    lake.put_model(
        "model",
        {**string_arrays("items", pa.array(["lamp"])), "last_event": np.array([AS_OF]), "trending": np.ones(1)},
        {"as_of": AS_OF, "verb": "bought"},
    )
    lake.put("predictions", "predictions@3", table("predictions@3", []))
    assert lake.run("select_recommendations", *SOURCES, map_index=0) == 4
    assert "no rows can be shown" in capsys.readouterr().err.splitlines()[-1]


def test_without_a_catalogue_items_of_the_model_are_shown_by_id(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    arrays = {"last_event": np.array([AS_OF, AS_OF]), "trending": np.array([1.0, 2.0])}
    lake.put_model(
        "model", {**string_arrays("items", pa.array(["cup", "lamp"])), **arrays}, {"as_of": AS_OF, "verb": "bought"}
    )
    lake.put("predictions", "predictions@3", table("predictions@3", []))
    assert lake.run("select_recommendations", *SOURCES, map_index=0) == 0
    found = lake.rows("select_recommendations").to_pylist()
    assert [(row["item_id"], row["item_name"]) for row in found] == [("lamp", "lamp"), ("cup", "cup")]


def test_shards_select_their_users_and_the_first_one_the_default_rows(lake: Lake, monkeypatch) -> None:
    monkeypatch.setattr("jobs.select_recommendations.main.ROWS_AT_ONCE", 1)
    monkeypatch.setattr("common.engines.arrow.BATCH", 2)  # rows of a user continue in the next batch
    users = [f"u{number}" for number in range(50)]
    items = [(1, "red cup"), (2, "old lamp"), (3, "lamp")]
    rows = [
        {"user_id": user, "style": "mixed", "rank": rank, "item_id": item, "score": 1.0, "model": "ease"}
        for user in users
        for rank, item in items
    ]
    lake.put_buckets("predictions", "predictions@3", table("predictions@3", rows))
    for shard in range(4):
        assert lake.run("select_recommendations", *SOURCES, "--set", "shards=4", map_index=shard) == 0
    found = lake.rows("select_recommendations")
    shown = [tuple(row[name] for name in ("user_id", "rank", "item_id")) for row in found.to_pylist()]
    assert shown[:3] == [row[:3] for row in DEFAULT]
    assert sorted(shown[3:]) == sorted(
        (user, rank, item) for user in users for rank, item in [(1, "red cup"), (2, "lamp")]
    )
    metrics = [lake.manifest(f"select_recommendations/map-{shard}")["metrics"] for shard in range(4)]
    assert [each["default_rows"] for each in metrics] == [3, 0, 0, 0]
    assert sum(each["users"] for each in metrics) == 50
    assert sum(each["rows_by_style"]["mixed"] for each in metrics) == 100
    assert sum(each["no_longer_available"] for each in metrics) == 50


def test_user_with_rows_apart_is_refused(lake: Lake, monkeypatch, capsys) -> None:
    monkeypatch.setattr("jobs.select_recommendations.main.ROWS_AT_ONCE", 1)
    monkeypatch.setattr("common.engines.arrow.BATCH", 1)
    row = {"style": "mixed", "rank": 1, "item_id": "lamp", "score": 1.0, "model": "ease"}
    rows = [{**row, "user_id": user} for user in ("u", "v", "u")]
    lake.put("predictions", "predictions@3", table("predictions@3", rows))
    assert lake.run("select_recommendations", *SOURCES, map_index=0) == 3
    assert "The rows of a user do not follow each other" in capsys.readouterr().err.splitlines()[-1]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=40), st.integers(1, 3), st.integers(1, 5))
def test_selection_equals_a_loop_over_users(entries: list[tuple[int, int]], max_per_family: int, count: int) -> None:
    users, families = (np.array([entry[part] for entry in entries], dtype=np.int64) for part in (0, 1))
    ranks = np.arange(len(entries))[::-1].copy()
    kept, ranks_again = select(users, ranks, families, max_per_family, count)
    expected = []
    for user in sorted(set(users.tolist())):
        of_family: dict[int, int] = {}
        chosen = []
        for entry in sorted(np.flatnonzero(users == user), key=lambda entry: ranks[entry]):
            of_family[families[entry]] = of_family.get(families[entry], 0) + 1
            if of_family[families[entry]] <= max_per_family and len(chosen) < count:
                chosen.append(int(entry))
        expected += [(entry, place + 1) for place, entry in enumerate(chosen)]
    assert list(zip(kept.tolist(), ranks_again.tolist(), strict=True)) == expected

"""Predictions of one small model, against scores computed manually."""

import datetime
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from recommending_lake import Lake, table

from common.engines import interactions as interactions_of_lake
from common.engines.arrays import string_arrays
from common.handover.inputs import Input
from common.handover.storage import File

AS_OF = datetime.datetime(2011, 6, 1, tzinfo=datetime.UTC)
ITEMS = ["apple", "bread", "cheese", "dates"]
# bread follows apple, cheese follows apple less, dates follow bread
WEIGHTS = np.array([[0, 0.9, 0.4, 0], [0, 0, 0, 0.5], [0, 0, 0, 0], [0, 0, 0, 0]], dtype=np.float32)


def model(lake: Lake, *styles: str, self_weight: float = 0.0) -> None:
    arrays = {
        **string_arrays("items", pa.array(ITEMS, pa.string())),
        "0_dense": WEIGHTS,
        "0_head": np.arange(4),
        "momentum": np.ones(4, dtype=np.float32),
        "0_sparse_data": np.zeros(0, dtype=np.float32),
        "0_sparse_indices": np.zeros(0, dtype=np.int32),
        "0_sparse_indptr": np.zeros(5, dtype=np.int32),
    }
    as_of = int(AS_OF.timestamp() * 1e6)
    scoring = {"half_life": 10.0, "counting": 1.0, "self_weight": self_weight, "momentum": 0.0}
    members = [{"fit": 0, "weight": 1.0, "scoring": scoring}]
    fits = [{"name": "ease", "kind": "items", "numbers": {}}]
    of_styles = {style: {"model": "ease", "members": members} for style in styles or ("mixed",)}
    lake.put_model("model", arrays, {"model": "ease", "fits": fits, "styles": of_styles, "as_of": as_of})


def interactions(lake: Lake, bought: list[tuple[str, str, int, int]], weight: float = 1) -> None:
    """Publish pairs of user, item, purchases and age in days."""
    rows = []
    for user, item, events, days in bought:
        time = AS_OF - datetime.timedelta(days)
        row = {"user_id": user, "item_id": item, "weight": weight, "events": events, "first_time": time}
        none = {"weight": 0, "events": 0, "last_time": None}
        before = {
            f"{key}{suffix}": value for suffix in ("_before_test", "_before_tuning") for key, value in none.items()
        }
        rows.append({**row, "last_time": time, **before})
    lake.put_buckets("interactions", "interactions@2", table("interactions@2", rows))


def predict(lake: Lake, shards: int = 1, candidates: int = 3) -> list[tuple]:
    for shard in range(shards):
        settings = ["--set", f"shards={shards}", "--set", f"candidates={candidates}"]
        inputs = ["--from", "interactions=interactions", "--from", "model=model"]
        assert lake.run("predict_recommendations", *inputs, *settings, map_index=shard) == 0
    columns = ("user_id", "rank", "item_id", "score", "explained_by_item_id")
    return sorted(tuple(row[name] for name in columns) for row in lake.rows("predict_recommendations").to_pylist())


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path)


def test_scores_decay_with_age_and_name_the_top_purchase(lake: Lake) -> None:
    model(lake, "new")
    interactions(lake, [("u", "apple", 1, 10), ("u", "bread", 3, 0)])
    apple, bread = 1 / 2, 2  # log2(1 + purchases), halved once for the apple
    assert predict(lake) == [
        ("u", 1, "dates", pytest.approx(0.5 * bread), "bread"),
        ("u", 2, "cheese", pytest.approx(0.4 * apple), "apple"),
    ]


def test_mixed_items_include_those_that_the_user_had(lake: Lake) -> None:
    model(lake, self_weight=2.0)
    interactions(lake, [("u", "apple", 1, 0)])
    assert predict(lake, candidates=2) == [
        ("u", 1, "apple", pytest.approx(2), "apple"),
        ("u", 2, "bread", pytest.approx(0.9), "apple"),
    ]


def test_again_shows_only_items_that_the_user_had(lake: Lake) -> None:
    model(lake, "again", self_weight=2.0)
    interactions(lake, [("u", "apple", 1, 0), ("u", "bread", 1, 10)])
    assert predict(lake) == [
        ("u", 1, "apple", pytest.approx(2), "apple"),
        ("u", 2, "bread", pytest.approx(1.9), "bread"),
    ]


def test_trending_model_predicts_nothing(lake: Lake) -> None:
    document = {"model": "trending", "fits": [], "styles": {}, "as_of": int(AS_OF.timestamp() * 1e6)}
    lake.put_model("model", string_arrays("items", pa.array(ITEMS, pa.string())), document)
    interactions(lake, [("u", "apple", 1, 0)])
    assert predict(lake) == []


def test_shards_contain_each_user_once_with_equal_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.predict_recommendations.main.USERS_PER_BLOCK", 7)
    bought = [(f"user {number}", ITEMS[number % 3], 1 + number % 4, number % 30) for number in range(200)]
    found = []
    for shards in (1, 3, 8):
        lake = Lake(tmp_path / str(shards))
        model(lake)
        interactions(lake, sorted(bought))
        found.append(predict(lake, shards))
    assert found[0] == found[1] == found[2]
    assert {row[0] for row in found[0]} == {user for user, item, *_ in bought if item != "cheese"}


def test_all_shards_together_read_the_hand_over_once(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    monkeypatch.setattr(interactions_of_lake, "open_checked", recorded(opened, interactions_of_lake.open_checked))
    model(lake)
    interactions(lake, [(f"user {number}", ITEMS[number % 3], 1, 0) for number in range(200)])
    predict(lake, 8)
    whole = lake.manifest("interactions")["outputs"]["rows"]
    assert len(set(opened)) == len(whole["files"])
    assert sum(file.bytes for file in set(opened)) == whole["bytes"]
    assert max(map(opened.count, opened)) == 2  # the footer for the number of rows, then the rows


def recorded(opened: list, function: Callable) -> Callable:
    """Return a function that records the file that it is to open."""

    def open_file(source: Input, file: File, *more: object) -> object:
        opened.append(file)
        return function(source, file, *more)

    return open_file


def test_rows_of_a_user_of_all_styles_follow_each_other(lake: Lake) -> None:
    model(lake, "mixed", "again", self_weight=2.0)
    interactions(lake, [("u", "apple", 1, 0), ("v", "apple", 1, 0)])
    predict(lake, candidates=2)
    rows = lake.rows("predict_recommendations").to_pylist()
    found = [tuple(row[name] for name in ("user_id", "style", "rank", "item_id")) for row in rows]
    of_user = [("again", 1, "apple"), ("mixed", 1, "apple"), ("mixed", 2, "bread")]
    assert [row[0] for row in found] in (["u"] * 3 + ["v"] * 3, ["v"] * 3 + ["u"] * 3)
    assert [row[1:] for row in found] == of_user * 2


def test_items_unknown_to_the_model_are_ignored(lake: Lake) -> None:
    model(lake)
    interactions(lake, [("u", "POST", 5, 0), ("v", "postage", 1, 0)])
    assert predict(lake) == []


def test_cancelled_pairs_are_ignored(lake: Lake) -> None:
    model(lake)
    interactions(lake, [("u", "apple", 5, 0)], weight=0)
    assert predict(lake) == []

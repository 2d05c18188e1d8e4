"""Training on interactions with a taste to learn, and the gate on those without."""

import datetime
import math
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from recommending_lake import Lake, table

from common.engines.arrays import strings_of
from common.engines.arrow import bucket_of
from common.handover.buckets import MIN_BUCKETS
from common.recommending.histories import History
from common.recommending.models import MODELS, NEW, from_arrays, ranking_of

START = datetime.datetime(2011, 1, 1, tzinfo=datetime.UTC)
USERS, ITEMS = 120, 40
DAYS = {"": 100, "_before_test": 80, "_before_tuning": 60}  # days before now, test, tuning
CATALOGUE = [{"item_id": f"{10000 + i}", "name": f"ITEM NUMBER {i}", "family": f"{10000 + i}"} for i in range(ITEMS)]


def interactions(purchases: dict[tuple[int, int], list[int]], item_name=lambda item: str(10000 + item)) -> pa.Table:
    """Return interactions@2 from the days on which users bought items."""
    rows = []
    for (user, item), days in sorted(purchases.items()):
        row = {
            "user_id": f"u{user:03}",
            "item_id": item_name(item),
            "first_time": START + datetime.timedelta(min(days)),
        }
        for suffix, end in DAYS.items():
            known = [day for day in days if day < end]
            row |= {
                f"weight{suffix}": math.log1p(len(known)),
                f"events{suffix}": len(known),
                f"last_time{suffix}": START + datetime.timedelta(max(known)) if known else None,
            }
        rows.append(row)
    return table("interactions@2", rows)


def with_taste(seed: int = 0) -> dict[tuple[int, int], list[int]]:
    """Return users that buy from one half of the items, a few at a time."""
    random = np.random.default_rng(seed)
    return {
        (user, int(item)): [int(random.integers(0, 100))]
        for user in range(USERS)
        for item in random.permutation(ITEMS // 2)[:12] + ITEMS // 2 * (user % 2)
    }


def nothing_but_fashion() -> dict[tuple[int, int], list[int]]:
    """Return purchases in the windows that follow pioneers just before, and not the users' early ones."""
    random = np.random.default_rng(1)
    bought = {
        (user, int(item)): [int(random.integers(0, 50))] for user in range(USERS) for item in random.permutation(20)[:6]
    }
    for window, start in enumerate((60, 80)):
        for item in range(20 + 10 * window, 30 + 10 * window):
            bought |= {(user, item): [start + 1 + user % 18] for user in range(USERS)}
            bought |= {(USERS + 60 * window + pioneer, item): [start - 1] for pioneer in range(60)}
        bought |= {(user, (user + window) % 20): [start + 1] for user in range(USERS)}  # a weak signal for models
    return bought


def nothing_to_learn() -> dict[tuple[int, int], list[int]]:
    """Return random purchases of separate items, so that two items have at most one user in common."""
    random = np.random.default_rng(2)
    days = [5, 15, 25, 35, 65, 70, 85, 90]  # early, in the tuning window, in the test window
    return {
        (user, int(item)): [day]
        for user in range(150)
        for item, day in zip(random.permutation(600)[: len(days)], days, strict=True)
    }


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake(tmp_path)
    lake.put("items", "items@2", table("items@2", CATALOGUE), dataset="curated/items")
    return lake


def train(lake: Lake, *arguments: str) -> int:
    return lake.run("train_recommender", "--from", "interactions=interactions", *arguments)


def test_shipped_model_is_fitted_on_all_data(lake: Lake) -> None:
    late = {(user, ITEMS - 1): [95] for user in range(1, USERS, 2)}
    lake.put("interactions", "interactions@2", interactions(without_last_item() | late))
    assert train(lake) == 0
    arrays, document = lake.model("train_recommender")
    assert strings_of("items", arrays).to_pylist() == [item["item_id"] for item in CATALOGUE]
    model = from_arrays(arrays, document["fits"], document["styles"]["new"]["members"])
    bought_it = of_dense(np.eye(ITEMS)[[ITEMS - 1]])
    assert ranking_of(model, bought_it, NEW).items.size, "the late item says nothing of others"
    assert arrays["trending"].argmax() == ITEMS - 1
    newest = START + datetime.timedelta(99)
    assert document["as_of"] == arrays["last_event"].max() == newest.timestamp() * 1e6
    assert arrays["last_event"][-1] == (START + datetime.timedelta(95)).timestamp() * 1e6


def test_cold_users_and_new_items_are_reported_separately(lake: Lake) -> None:
    newcomers = {(USERS + number, number % 10): [90] for number in range(7)}
    new_item = {(user, ITEMS - 1): [60 if user == 3 else 90] for user in range(3, 20, 2)}
    lake.put("interactions", "interactions@2", interactions(without_last_item() | newcomers | new_item))
    assert train(lake) == 0
    _, document = lake.model("train_recommender")
    mixed = lake.manifest("train_recommender")["metrics"]["styles"]["mixed"]
    assert document["cold_users"]["users"] == 7
    assert mixed["users_with_new_items"] == len(new_item) - 1
    for name, figures in mixed["models"].items():
        counts, ndcg = mixed["users_by_history"], mixed["by_history"][name]
        mean = sum(counts[group] * ndcg[group] for group in counts) / mixed["users"]
        assert mean == pytest.approx(figures["ndcg"], abs=1e-4)
    for figures in document["quality"]["mixed"].values():
        assert figures["new_items"]["users"] == len(new_item) - 1
        assert (
            sum(group["users"] for group in figures["by_length"].values())
            == lake.manifest("train_recommender")["metrics"]["test_users"]
        )


def of_dense(events: np.ndarray) -> History:
    users, items = np.nonzero(events)
    indptr = np.searchsorted(users, np.arange(len(events) + 1))
    ones = np.ones(len(items), dtype=np.float32)
    return History(indptr, items.astype(np.int32), ones, ones, 0 * ones, events.shape[1])


def test_small_budgets_sample_users_and_leave_out_models_and_log_them(lake: Lake, capsys) -> None:
    rows = interactions(with_taste())
    lake.put_buckets("interactions", "interactions@2", rows)
    assert train(lake, "--set", "seconds=1", "--set", f"max_training_pairs={len(rows) * 3 // 4}") == 0
    metrics = lake.manifest("train_recommender")["metrics"]
    sample, found = metrics["sample"], metrics["models"]
    assert len(rows) / 2 < sample["rows"] <= len(rows) * 3 / 4 < sample["of_rows"] == len(rows)
    buckets = bucket_of(rows["user_id"].combine_chunks(), MIN_BUCKETS)
    read = np.isin(buckets, np.unique(buckets)[: sample["files"]])
    assert sample["rows"] == read.sum()
    assert metrics["users"] == len(rows.filter(pa.array(read))["user_id"].unique())
    planned = next(line for line in capsys.readouterr().out.splitlines() if " planned " in line)
    assert "cosine" in found
    for name in set(MODELS) - set(found):
        assert name in planned.split("left_out")[1]


def without_last_item() -> dict[tuple[int, int], list[int]]:
    return {pair: days for pair, days in with_taste().items() if pair[1] != ITEMS - 1}


def test_model_that_learned_tastes_ships_with_its_report(lake: Lake) -> None:
    lake.put("interactions", "interactions@2", interactions(with_taste()))
    assert train(lake) == 0
    metrics = lake.manifest("train_recommender")["metrics"]
    assert metrics["users"] == USERS and metrics["items"] == ITEMS
    assert set(metrics["models"]) - {"blend"} == {"popularity", "recent popularity", *MODELS}
    for name, figures in metrics["models"].items():
        assert figures["ndcg_low"] <= figures["ndcg"] <= figures["ndcg_high"], name
        assert 0 < figures["coverage"] <= 1
    chosen = metrics["styles"]["mixed"]
    found = metrics["models"]
    over_both = {name: found[name]["ndcg"] + found[name]["tuning_ndcg"] for name in MODELS}
    assert chosen["best"] == max(over_both, key=lambda name: over_both[name])
    assert chosen["behind_best"][0] <= 0
    assert metrics["model"] == ("blend" if chosen.get("blend_ahead_of_single", [0])[0] > 0 else chosen["single"])


def test_each_style_has_its_own_figures_and_model(lake: Lake) -> None:
    again = {pair: [*days, 65, 85] for pair, days in list(with_taste().items())[::3]}
    lake.put("interactions", "interactions@2", interactions(with_taste() | again))
    assert train(lake) == 0
    _, document = lake.model("train_recommender")
    styles = lake.manifest("train_recommender")["metrics"]["styles"]
    assert set(document["styles"]) == set(styles) == {"mixed", "again", "new"}
    assert styles["mixed"]["users"] == USERS >= max(styles["again"]["users"], styles["new"]["users"]) > 0
    assert len({styles[style]["models"]["cosine"]["ndcg"] for style in styles}) == 3
    for style, settings in document["styles"].items():
        assert settings["model"] == styles[style]["model"]
        own = {member["scoring"]["self_weight"] for member in settings["members"]}
        assert own == {0.0} if style == "new" else True


def test_without_repeats_only_new_items_are_learned(lake: Lake) -> None:
    lake.put("interactions", "interactions@2", interactions(with_taste()))
    assert train(lake, "--set", "repeats=false") == 0
    _, document = lake.model("train_recommender")
    assert list(document["styles"]) == ["new"]


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    made = []
    for name in ("one", "other"):
        lake = Lake(tmp_path / name)
        lake.put("items", "items@2", table("items@2", CATALOGUE), dataset="curated/items")
        lake.put("interactions", "interactions@2", interactions(with_taste()))
        assert train(lake, "--set", "evaluation_users=50") == 0
        made.append((lake.bytes_of("train_recommender"), lake.manifest("train_recommender")["metrics"]))
    assert made[0] == made[1]


def test_trending_items_ship_if_no_model_beats_recent_popularity(lake: Lake, capsys) -> None:
    lake.put("interactions", "interactions@2", interactions(nothing_but_fashion()))
    assert train(lake, "--set", "repeats=false") == 0
    arrays, document = lake.model("train_recommender")
    metrics = lake.manifest("train_recommender")["metrics"]
    assert document["model"] == metrics["model"] == "trending"
    assert document["because"] == metrics["because"] == "no model beats recent popularity on the test window"
    assert (document["fits"], document["styles"]) == ([], {})
    assert arrays["trending"].max() > 0
    assert " trending note='no model beats recent popularity" in capsys.readouterr().out


def test_items_outside_the_catalogue_are_ignored_and_counted(lake: Lake, capsys) -> None:
    with_postage = with_taste() | {(user, ITEMS): [1, 65, 85] for user in range(USERS)}
    name = lambda item: "POST" if item == ITEMS else str(10000 + item)  # noqa: E731
    lake.put("interactions", "interactions@2", interactions(with_postage, name))
    assert train(lake, "--set", "max_unlisted_share=0.05") == 4
    assert "120 of 1,560 interactions (8%) are with items" in capsys.readouterr().err
    assert train(lake, "--set", "seconds=1") == 0
    metrics = lake.manifest("train_recommender")["metrics"]
    assert metrics["items"] == ITEMS
    assert metrics["pairs"] == len(with_taste())
    assert metrics["interactions_without_item_in_catalogue"] == USERS


def test_without_a_catalogue_all_items_take_part(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.put("interactions", "interactions@2", interactions(with_taste()))
    assert train(lake, "--set", "seconds=1") == 0
    assert lake.manifest("train_recommender")["metrics"]["items"] == ITEMS


def test_trending_items_ship_if_nobody_came_back(lake: Lake) -> None:
    early = {pair: [day // 2 for day in days] for pair, days in with_taste().items()}
    lake.put("interactions", "interactions@2", interactions(early))
    assert train(lake) == 0
    arrays, document = lake.model("train_recommender")
    assert document["model"] == "trending"
    assert document["because"].startswith("nobody has items before a window and target events in it")
    assert arrays["trending"].max() > 0


def test_views_are_learned_from_and_targets_are_the_truth(lake: Lake) -> None:
    """Users view many items of their taste and buy few; who only views counts, too."""
    rows = interactions(with_taste()).to_pylist()
    for number, row in enumerate(rows):
        if number % 4:
            row |= {name: 0 for name in row if name.startswith("events")}
    lake.put("interactions", "interactions@2", table("interactions@2", rows))
    assert train(lake) == 0
    metrics = lake.manifest("train_recommender")["metrics"]
    bought = [row for row in rows if row["events"] > row["events_before_test"] and row["events"]]
    assert 0 < metrics["test_users"] <= len({row["user_id"] for row in bought}) < USERS
    assert metrics["models"]["cosine"]["ndcg"] > metrics["models"]["recent popularity"]["ndcg"]


def test_figures_do_not_know_the_purchases_to_predict(lake: Lake, capsys) -> None:
    """If nothing can be learned, a model that saw the window's purchases would stand out."""
    goods = [{"item_id": str(10000 + i), "name": f"ITEM NUMBER {i}", "family": str(10000 + i)} for i in range(600)]
    lake.put("more_items", "items@2", table("items@2", goods), dataset="curated/items")
    lake.put("interactions", "interactions@2", interactions(nothing_to_learn()))
    train(lake)
    found = re.findall(r" evaluated model='(.*?)'.* tuning_ndcg=(\S+) ndcg=(\S+)", capsys.readouterr().out)
    assert len(found) >= 2 + len(MODELS)
    for name, tuning, test in found:
        assert float(tuning) < 0.05 and float(test) < 0.05, name


def test_tuning_figures_do_not_know_later_purchases(tmp_path: Path) -> None:
    tuned = []
    for later in (85, 95):
        lake = Lake(tmp_path / str(later))
        lake.put("items", "items@2", table("items@2", CATALOGUE), dataset="curated/items")
        taste = with_taste()
        early = {pair: [min(days[0], 79)] for pair, days in taste.items()}
        more = {
            pair: [*days, later] for position, (pair, days) in enumerate(early.items()) if position % (later % 7) == 0
        }
        lake.put("interactions", "interactions@2", interactions(early | more))
        assert train(lake) == 0
        metrics = lake.manifest("train_recommender")["metrics"]["models"]
        tuned.append({name: figures["tuning_ndcg"] for name, figures in metrics.items()})
    assert tuned[0] == tuned[1]

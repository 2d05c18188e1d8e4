"""Bad input, for all jobs that make products: one table of cases, each with its exit code and its sentence."""

import datetime
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from churn_features import CUTS, NOW, features
from pyspark.sql import SparkSession
from recommending_lake import JOBS, Lake, table

from common.engines.arrays import string_arrays
from common.handover.job_toml import load

TIME = datetime.datetime(2011, 5, 30, tzinfo=datetime.UTC)
EVENT = {"event_id": "e", "user_id": "ann", "item_id": "10001", "type": "purchase", "quantity": 1, "unit_price": 1.0}
ITEMS = [{"item_id": item, "name": f"ITEM {item}", "family": item} for item in ("10001", "10002", "10003")]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path)


def put_features(lake: Lake, rows: pa.Table) -> None:
    lake.put("features", "user_features@2", rows)


def put_shop(lake: Lake, events: list[dict], items: list[dict]) -> None:
    lake.put_day("events", "events@3", table("events@3", events), "curated/events", TIME.date())
    lake.put("items", "items@2", table("items@2", items), dataset="curated/items")


def put_predicted(lake: Lake, users: Sequence[str]) -> None:
    unlikely = {"segment": "active", "churn_probability": 0.1, "model": "trees"}
    rows = [{**unlikely, "user_id": user} for user in users]
    lake.put("predicted", "churn_predictions@2", table("churn_predictions@2", rows))


def log_or_message(capsys: pytest.CaptureFixture[str], code: int) -> str:
    """Return the last line of a failure, or the log of a success."""
    printed = capsys.readouterr()
    return printed.err.splitlines()[-1] if code else printed.out


def changed(rows: pa.Table, name: str, values: object) -> pa.Table:
    return rows.set_column(rows.column_names.index(name), name, pa.array(values))


def spoilt(rows: pa.Table) -> pa.Table:
    """Return purchases that are NaN for some users and infinite for others, at every cut."""
    values = rows["targets"].to_numpy().copy()
    values[::5], values[1::5] = np.nan, np.inf
    return changed(rows, "targets", values)


def constant_later(rows: pa.Table) -> pa.Table:
    """Return rows with a feature that is constant from the newest labelled cut on."""
    late = np.asarray([cut.as_py() >= CUTS[-1] for cut in rows["cut"]])
    return changed(rows, "recency_days", np.where(late, 5.0, rows["recency_days"].to_numpy()))


ALL = features(600)
ONE = ALL.filter(pa.compute.equal(ALL["user_id"], "user 1"))
NEVER_AT_RISK = ALL.filter(pa.compute.equal(ALL["cut"], pa.scalar(NOW)))
NOBODY_CHURNS = changed(ALL, "churned", [None if each is None else False for each in ALL["churned"].to_pylist()])
NOTHING_DIFFERS = ALL
for column in ("plan", "targets", "recency_days"):
    values = ["free"] * len(ALL) if column == "plan" else [1.0] * len(ALL)
    NOTHING_DIFFERS = changed(NOTHING_DIFFERS, column, values)

CHURN = [  # the features, the exit code of training, its message or log
    ("no rows", ALL.slice(0, 0), 3, "the features have 0"),
    ("one user", ONE, 3, "Of the 3 users at risk before .* churned, so nothing can be learned"),
    ("all users new: none had a cut", NEVER_AT_RISK, 3, "the features have 0"),
    ("nobody churns", NOBODY_CHURNS, 3, "Of the 1542 users at risk before .* 0 churned"),
    ("every feature constant", NOTHING_DIFFERS, 3, "Every feature is constant"),
    ("NaN and infinite values", spoilt(ALL), 3, "has a NaN or infinite number in 'targets'; rerun the task"),
    ("a feature that became constant", constant_later(ALL), 0, "evaluated model"),
]


@pytest.mark.parametrize("rows, code, message", [case[1:] for case in CHURN], ids=[case[0] for case in CHURN])
def test_training_and_predicting_churn(lake: Lake, capsys, rows: pa.Table, code: int, message: str) -> None:
    put_features(lake, rows)
    assert lake.run("train_churn", "--from", "features=features") == code
    assert re.search(message, log_or_message(capsys, code))
    if not code:
        assert lake.run("predict_churn", "--from", "features=features", "--from", "model=train_churn", map_index=0) == 0
        found = lake.rows("predict_churn")["churn_probability"].drop_null().to_numpy()
        assert len(found) > 400
        assert ((found > 0) & (found < 1)).all()


def test_prediction_for_no_users_and_for_a_new_one(lake: Lake) -> None:
    put_features(lake, ALL)
    assert lake.run("train_churn", "--from", "features=features") == 0
    new = NEVER_AT_RISK.slice(0, 1)
    for name in ("targets", "recency_days", "tenure_days"):
        new = changed(new, name, pa.nulls(1, pa.float64()) if name != "targets" else [0.0])
    for task, rows, count in (("nobody", ALL.slice(0, 0), 0), ("new", new, 1)):
        lake.put(task, "user_features@2", rows)
        arguments = ["--from", f"features={task}", "--from", "model=train_churn", "--attempt", str(count + 2)]
        assert lake.run("predict_churn", *arguments, map_index=0) == 0
        key = lake.folder / "lake/intermediate/dag/run/predict_churn/map-0/manifest.json"
        assert f'"users": {count}' in key.read_text()


USERS = [f"user {number}" for number in range(20)]


def sold(users: Sequence[str | None], items: list[dict] = ITEMS, **more: object) -> list[dict]:
    """Return one purchase of each item by each user, on the last day: all users are new and alike."""
    return [
        {**EVENT, "user_id": user, "item_id": item["item_id"], "time": TIME, **more} for user in users for item in items
    ]


SHOPS = {  # events and items
    "no events": ([], ITEMS),
    "no items": (sold(USERS), []),
    "nothing": ([], []),
    "one user": (sold([USERS[0], None]), ITEMS),
    "one item": (sold(USERS, ITEMS[:1]), ITEMS[:1]),
    "NaN and infinite values": (
        sold(USERS[:10], unit_price=np.nan) + sold(USERS[10:], unit_price=np.inf) + sold([None]),
        ITEMS,
    ),
    "names that say nothing": (sold([None]), [{**item, "name": " "} for item in ITEMS]),
}
FROM_SHOPS = [  # the job, the shop, the exit code, its message or log
    ("build_trending_items", "no events", 4, "nothing is trending"),
    ("build_trending_items", "no items", 0, "output role=trending rows=3 "),
    ("build_trending_items", "one user", 4, "No item had 3 people in 7 days"),
    ("build_trending_items", "NaN and infinite values", 0, "output role=trending rows=3 "),
    ("build_user_features", "no events", 3, "No user is known before the end of the window"),
    ("build_user_features", "NaN and infinite values", 0, "output role=features rows=20 "),
    ("join_characteristics", "nothing", 0, "output role=characteristics rows=20 "),
    ("join_characteristics", "NaN and infinite values", 0, "output role=characteristics rows=20 "),
    ("build_interactions", "no events", 3, "No interaction is left of"),
    ("build_interactions", "one user", 0, "output role=interactions rows=3 "),
    ("build_interactions", "NaN and infinite values", 0, "output role=interactions rows=60 "),
]


@pytest.mark.parametrize("job, shop, code, message", FROM_SHOPS, ids=[f"{case[0]}: {case[1]}" for case in FROM_SHOPS])
def test_products_of_a_shop(
    session: SparkSession, lake: Lake, capsys, job: str, shop: str, code: int, message: str
) -> None:
    put_shop(lake, *SHOPS[shop])
    put_predicted(lake, USERS)
    arguments = ["--from", "predictions=predicted"] if "predictions" in load(JOBS / job).inputs else []
    assert lake.run(job, *arguments) == code
    assert message in log_or_message(capsys, code)


DAY = datetime.timedelta(days=1)
WEIGHTS = ("weight", "weight_before_test", "weight_before_tuning")
BOUGHT = {"events": 3, "events_before_test": 2, "events_before_tuning": 1, **dict.fromkeys(WEIGHTS, 1.0)}
BOUGHT |= {"first_time": TIME - 60 * DAY, "last_time": TIME}
BOUGHT |= {"last_time_before_test": TIME - 30 * DAY, "last_time_before_tuning": TIME - 60 * DAY}
NEW = {"events_before_test": 0, "events_before_tuning": 0, "weight_before_test": 0.0, "weight_before_tuning": 0.0}
NEW |= {"first_time": TIME, "last_time_before_test": None, "last_time_before_tuning": None}
INTERACTIONS = [  # users, items, changed values, the exit code, its message or log
    ("no rows", [], ITEMS, {}, 4, "No interaction is with an item of curated/items"),
    ("one user", USERS[:1], ITEMS, {}, 0, "no model beats recent popularity on the test window"),
    ("one item", USERS, ITEMS[:1], {}, 0, "no model beats recent popularity on the test window"),
    ("all users new", USERS, ITEMS, NEW, 0, "nobody has items before a window and target events in it"),
    ("nothing differs", USERS, ITEMS, {}, 0, "no model beats recent popularity on the test window"),
    ("NaN", USERS, ITEMS, dict.fromkeys(WEIGHTS, np.nan), 3, "a null, NaN or infinite number in 'weight'"),
    ("infinite", USERS, ITEMS, dict.fromkeys(WEIGHTS, np.inf), 3, "a null, NaN or infinite number in 'weight'"),
]


@pytest.mark.parametrize(
    "users, items, other, code, message", [case[1:] for case in INTERACTIONS], ids=[case[0] for case in INTERACTIONS]
)
def test_training_a_recommender(
    lake: Lake, capsys, users: list, items: list, other: dict, code: int, message: str
) -> None:
    put_shop(lake, sold(USERS), ITEMS)
    rows = [{**BOUGHT, "user_id": user, "item_id": item["item_id"], **other} for user in users for item in items]
    lake.put("interactions", "interactions@2", table("interactions@2", rows))
    assert lake.run("train_recommender", "--from", "interactions=interactions") == code
    assert message in log_or_message(capsys, code)


def test_characteristics_without_users_have_no_rows(session: SparkSession, lake: Lake) -> None:
    put_shop(lake, sold(USERS), ITEMS)
    put_predicted(lake, [])
    assert lake.run("join_characteristics", "--from", "predictions=predicted") == 0
    assert lake.manifest("join_characteristics")["outputs"]["characteristics"]["rows"] == 0


def put_model(lake: Lake, items: list[dict], weight: float, score: float) -> None:
    """Publish a model with equal weights between all items, and equal popularity."""
    count = len(items)
    sparse = {
        "data": np.zeros(0, np.float32),
        "indices": np.zeros(0, np.int32),
        "indptr": np.zeros(count + 1, np.int32),
    }
    arrays = {
        **string_arrays("items", pa.array([item["item_id"] for item in items], pa.string())),
        "last_event": np.full(count, AS_OF),
        "trending": np.full(count, score),
        "momentum": np.ones(count, np.float32),
        "0_dense": np.full((count, count), weight, np.float32),
        "0_head": np.arange(count),
        **{f"0_sparse_{name}": values for name, values in sparse.items()},
    }
    scoring = {"half_life": 10.0, "counting": 1.0, "self_weight": 0.0, "momentum": 0.0}
    fits = [{"name": "ease", "kind": "items", "numbers": {}}]
    styles = {"mixed": {"model": "ease", "members": [{"fit": 0, "weight": 1.0, "scoring": scoring}]}}
    lake.put_model("model", arrays, {"model": "ease", "fits": fits, "styles": styles, "as_of": AS_OF, "verb": "bought"})


AS_OF = int(TIME.timestamp()) * 1_000_000
PREDICTED = [  # users, items of the model, changed values, the model's weight, the exit code, its message or log
    ("no rows", [], ITEMS, {}, 1.0, 0, "output role=predictions rows=0 "),
    ("one user", USERS[:1], ITEMS, {}, 1.0, 0, "output role=predictions rows=3 "),
    ("one item", USERS, ITEMS[:1], {}, 1.0, 0, "output role=predictions rows=20 "),
    ("a model without items", USERS, [], {}, 1.0, 0, "output role=predictions rows=0 "),
    ("all users new", USERS, ITEMS, {"weight": 0.0}, 1.0, 0, "output role=predictions rows=0 "),
    ("nothing differs", USERS, ITEMS, {}, 1.0, 0, "output role=predictions rows=60 "),
    ("NaN", USERS, ITEMS, {"weight": np.nan}, 1.0, 3, "a null, NaN or infinite number in 'weight'"),
    ("infinite", USERS, ITEMS, {"weight": np.inf}, 1.0, 3, "a null, NaN or infinite number in 'weight'"),
    ("an infinite model", USERS, ITEMS, {}, np.inf, 4, "Output 'predictions' has NaN or infinite numbers in 'score'"),
]


@pytest.mark.parametrize(
    "users, items, other, weight, code, message", [case[1:] for case in PREDICTED], ids=[case[0] for case in PREDICTED]
)
def test_predicting_recommendations(
    lake: Lake, capsys, users: list, items: list, other: dict, weight: float, code: int, message: str
) -> None:
    rows = [{**BOUGHT, "user_id": user, "item_id": item["item_id"], **other} for user in users for item in ITEMS]
    lake.put("interactions", "interactions@2", table("interactions@2", rows))
    put_model(lake, items, weight, 1.0)
    inputs = ["--from", "interactions=interactions", "--from", "model=model"]
    assert lake.run("predict_recommendations", *inputs, map_index=0) == code
    assert message in log_or_message(capsys, code)


SELECTED = [  # users, items, score of predictions, of trending items, the exit code, its message or log
    ("no rows", [], ITEMS, 1.0, 1.0, 0, "output role=recommendations rows=3 "),
    ("one user", USERS[:1], ITEMS, 1.0, 1.0, 0, "output role=recommendations rows=6 "),
    ("one item", USERS, ITEMS[:1], 1.0, 1.0, 0, "output role=recommendations rows=21 "),
    ("no items", USERS, [], 1.0, 1.0, 0, "output role=recommendations rows=63 "),
    ("nothing trending", USERS, ITEMS, 1.0, 0.0, 4, "No item with interactions is available in curated/items"),
    ("nothing differs", USERS, ITEMS, 1.0, 1.0, 0, "output role=recommendations rows=63 "),
    ("NaN", USERS, ITEMS, np.nan, 1.0, 3, "a NaN or infinite number in 'score'"),
    ("infinite", USERS, ITEMS, np.inf, 1.0, 3, "a NaN or infinite number in 'score'"),
    ("trending infinite", USERS, ITEMS, 1.0, np.inf, 4, "has NaN or infinite numbers in 'score'"),
]


@pytest.mark.parametrize(
    "users, items, score, trending, code, message", [case[1:] for case in SELECTED], ids=[case[0] for case in SELECTED]
)
def test_selecting_recommendations(
    lake: Lake, capsys, users: list, items: list, score: float, trending: float, code: int, message: str
) -> None:
    lake.put("items", "items@2", table("items@2", items), dataset="curated/items")
    put_model(lake, ITEMS, 1.0, trending)
    rows = [
        {"user_id": user, "style": "mixed", "rank": rank, "item_id": item["item_id"], "score": score, "model": "ease"}
        for user in users
        for rank, item in enumerate(ITEMS, 1)
    ]
    lake.put("predictions", "predictions@3", table("predictions@3", rows))
    inputs = ["--from", "predictions=predictions", "--from", "model=model"]
    assert lake.run("select_recommendations", *inputs, map_index=0) == code
    assert message in log_or_message(capsys, code)


SIMILAR = [  # users, items of the pairs, changed values, the catalogue, the exit code, its message or log
    ("no rows", [], ITEMS, {}, ITEMS, 3, "0 items of curated/items are available"),
    ("one user", USERS[:1], ITEMS, {}, ITEMS, 0, "items_with_rows=3"),
    ("one item", USERS, ITEMS[:1], {}, ITEMS[:1], 3, "1 items of curated/items are available"),
    ("no catalogue", USERS, ITEMS, {}, [], 0, "items_with_rows=3"),
    (
        "no weights",
        USERS,
        ITEMS,
        {"weight": 0.0, "last_time": None},
        ITEMS,
        3,
        "0 items of curated/items are available",
    ),
    ("NaN", USERS, ITEMS, {"weight": np.nan}, ITEMS, 3, "a null, NaN or infinite number in 'weight'"),
    ("blank names", USERS[:1], ITEMS, {}, [{**item, "name": " "} for item in ITEMS], 0, "items_with_rows=3"),
]


@pytest.mark.parametrize(
    "users, items, other, catalogue, code, message", [case[1:] for case in SIMILAR], ids=[case[0] for case in SIMILAR]
)
def test_comparing_items(
    lake: Lake, capsys, users: list, items: list, other: dict, catalogue: list, code: int, message: str
) -> None:
    lake.put("items", "items@2", table("items@2", catalogue), dataset="curated/items")
    rows = [{**BOUGHT, **NEW, "user_id": user, "item_id": item["item_id"], **other} for user in users for item in items]
    lake.put("interactions", "interactions@2", table("interactions@2", rows))
    assert lake.run("build_similar_items", "--from", "interactions=interactions") == code
    assert message in log_or_message(capsys, code)


VERSIONS = [  # of a contract that a job reads from another task, or in a dataset; the job, the role, the contract
    ("build_interactions", None, "events@3"),
    ("train_recommender", "interactions", "interactions@2"),
    ("predict_recommendations", "interactions", "interactions@2"),
    ("select_recommendations", "predictions", "predictions@3"),
    ("build_user_features", None, "events@3"),
    ("train_churn", "features", "user_features@2"),
    ("predict_churn", "features", "user_features@2"),
    ("join_characteristics", "predictions", "churn_predictions@2"),
    ("build_similar_items", "interactions", "interactions@2"),
    ("build_trending_items", None, "events@3"),
    ("write_product", "product", "recommendations@2"),
    ("publish_product", "parts", "published_part@2"),
]


@pytest.mark.parametrize("job, role, contract", VERSIONS, ids=[case[0] for case in VERSIONS])
def test_table_of_another_contract_version_names_both(lake: Lake, capsys, job: str, role: str, contract: str) -> None:
    put_shop(lake, sold(USERS), ITEMS)
    arguments = ["--set", "tables=t-", "--set", "store=dynamodb:"] if job == "write_product" else []
    if role:
        lake.put("other", contract, table(contract, []))
        arguments += ["--from", f"{role}=other"]
    if role and "model" in load(JOBS / job).inputs:
        arguments += ["--from", "model=other"]
    other = f"{contract.partition('@')[0]}@9"
    for manifest in (lake.folder / "lake").rglob("manifest.json"):
        manifest.write_text(manifest.read_text().replace(f'"{contract}"', f'"{other}"'))
    mapped = 0 if load(JOBS / job).mapped_by else None
    assert lake.run(job, *arguments, map_index=mapped) == 3
    line = log_or_message(capsys, 3)
    assert contract in line and other in line


@pytest.mark.parametrize("job", ["build_trending_items", "build_user_features"])
def test_lake_without_the_datasets_is_reported(lake: Lake, capsys, job: str) -> None:
    (lake.folder / "lake").mkdir()
    assert lake.run(job) == 3
    assert "has no published partition; run the job that fills it" in capsys.readouterr().err.splitlines()[-1]


def test_cancellations_need_subscriptions(lake: Lake, capsys) -> None:
    put_shop(lake, [{**EVENT, "time": TIME}], ITEMS)
    assert lake.run("build_user_features", "--set", "churn=cancelled") == 3
    assert "the dataset curated/users has no subscription" in capsys.readouterr().err.splitlines()[-1]

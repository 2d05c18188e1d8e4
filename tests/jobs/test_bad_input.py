"""Bad input, for all jobs that make products: one table of cases, each with its exit code and its sentence."""

import datetime
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from recommending_lake import Lake, table
from test_churn import CUTS, NOW, features

TIME = datetime.datetime(2011, 5, 30, tzinfo=datetime.UTC)
EVENT = {"event_id": "e", "user_id": "ann", "item_id": "10001", "type": "purchase", "quantity": 1, "unit_price": 1.0}
ITEMS = [{"item_id": item, "name": f"ITEM {item}", "family": item} for item in ("10001", "10002", "10003")]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path)


def put_features(lake: Lake, rows: pa.Table) -> None:
    lake.put("features", "user_features@1", rows)


def put_shop(lake: Lake, events: list[dict], items: list[dict]) -> None:
    lake.put_day("events", "events@1", table("events@1", events), "curated/events", TIME.date())
    lake.put("items", "items@1", table("items@1", items), dataset="curated/items")


def changed(rows: pa.Table, name: str, values: object) -> pa.Table:
    return rows.set_column(rows.column_names.index(name), name, pa.array(values))


def spoilt(rows: pa.Table) -> pa.Table:
    """Purchases that are NaN for some users and infinite for others, at every cut."""
    values = rows["purchases"].to_numpy().copy()
    values[::5], values[1::5] = np.nan, np.inf
    return changed(rows, "purchases", values)


def constant_later(rows: pa.Table) -> pa.Table:
    """A feature that told users apart until the newest labelled cut, and does no longer."""
    late = np.asarray([cut.as_py() >= CUTS[-1] for cut in rows["cut"]])
    return changed(rows, "recency_days", np.where(late, 5.0, rows["recency_days"].to_numpy()))


ALL = features(600)
ONE = ALL.filter(pa.compute.equal(ALL["user_id"], "user 1"))
NEVER_AT_RISK = ALL.filter(pa.compute.equal(ALL["cut"], pa.scalar(NOW)))
NOBODY_CHURNS = changed(ALL, "churned", [None if each is None else False for each in ALL["churned"].to_pylist()])
NOTHING_DIFFERS = ALL
for column in ("plan", "purchases", "recency_days"):
    values = ["free"] * len(ALL) if column == "plan" else [1.0] * len(ALL)
    NOTHING_DIFFERS = changed(NOTHING_DIFFERS, column, values)

CHURN = [  # what the features are, the exit code of training, what is said or, where it succeeds, foretold
    ("no rows", ALL.slice(0, 0), 3, "0 cuts with users at risk"),
    ("one user", ONE, 3, "Of the 2 users at risk before .* churned, so nothing can be learned"),
    ("all users new: none had a cut", NEVER_AT_RISK, 3, "0 cuts with users at risk"),
    ("nobody churns", NOBODY_CHURNS, 3, "Of the 1028 users at risk before .* 0 churned"),
    ("every feature constant", NOTHING_DIFFERS, 3, "Every feature is constant"),
    ("NaN and infinite values", spoilt(ALL), 0, "unusable_numbers=[1-9]"),
    ("a feature that became constant", constant_later(ALL), 0, "judged model"),
]


@pytest.mark.parametrize("rows, code, said", [case[1:] for case in CHURN], ids=[case[0] for case in CHURN])
def test_training_and_predicting_churn(lake: Lake, capsys, rows: pa.Table, code: int, said: str) -> None:
    put_features(lake, rows)
    assert lake.run("train_churn", "--from", "features=features") == code
    printed = capsys.readouterr()
    assert re.search(said, printed.err.splitlines()[-1] if code else printed.out)
    if not code:
        assert lake.run("predict_churn", "--from", "features=features", "--from", "model=train_churn", map_index=0) == 0
        found = lake.rows("predict_churn")["churn_probability"].drop_null().to_numpy()
        assert len(found) > 400
        assert ((found > 0) & (found < 1)).all()


def test_predicting_for_nobody_and_for_one_who_is_new(lake: Lake) -> None:
    put_features(lake, ALL)
    assert lake.run("train_churn", "--from", "features=features") == 0
    new = NEVER_AT_RISK.slice(0, 1)
    for name in ("purchases", "recency_days", "tenure_days"):
        new = changed(new, name, pa.nulls(1, pa.float64()) if name != "purchases" else [0.0])
    for task, rows, count in (("nobody", ALL.slice(0, 0), 0), ("new", new, 1)):
        lake.put(task, "user_features@1", rows)
        arguments = ["--from", f"features={task}", "--from", "model=train_churn", "--attempt", str(count + 2)]
        assert lake.run("predict_churn", *arguments, map_index=0) == 0
        key = lake.folder / "lake/intermediate/dag/run/predict_churn/map-0/manifest.json"
        assert f'"users": {count}' in key.read_text()


ONE_OF_EACH = [{**EVENT, "item_id": item["item_id"], "time": TIME} for item in ITEMS]
SIMILAR = [
    ("no events", [], ITEMS, 3, "0 items of curated/items were sold"),
    ("one item", [{**EVENT, "time": TIME}], ITEMS[:1], 3, "1 items of curated/items were sold"),
    ("an empty catalogue", [{**EVENT, "time": TIME}], [], 3, "0 items of curated/items were sold"),
    (
        "one user",
        [{**EVENT, "item_id": item["item_id"], "time": TIME} for item in ITEMS],
        ITEMS,
        0,
        "items_with_rows=3",
    ),
    (
        "names that say nothing",
        [{**event, "user_id": None} for event in ONE_OF_EACH],
        [{**item, "name": " "} for item in ITEMS],
        0,
        "'popular': 6",
    ),
]


@pytest.mark.parametrize("events, items, code, said", [case[1:] for case in SIMILAR], ids=[case[0] for case in SIMILAR])
def test_similar_items(lake: Lake, capsys, events: list[dict], items: list[dict], code: int, said: str) -> None:
    put_shop(lake, events, items)
    assert lake.run("build_similar_items") == code
    printed = capsys.readouterr()
    assert said in (printed.err.splitlines()[-1] if code else printed.out)


JOBS = {  # a role that each job reads from another task or a dataset
    "train_churn": "features",
    "predict_churn": "features",
    "join_characteristics": "predictions",
    "publish_product": "product",
}


@pytest.mark.parametrize("job, role", JOBS.items(), ids=JOBS)
def test_a_table_of_another_contract_is_told_with_both_names(lake: Lake, capsys, job: str, role: str) -> None:
    put_shop(lake, [{**EVENT, "time": TIME}], ITEMS)
    lake.put("other", "quarantine@1", table("quarantine@1", []))
    roles = {"predict_churn": ["--from", "model=other"]}.get(job, [])
    settings = ["--set", "tables=t-"] if job == "publish_product" else []
    mapped = 0 if job == "predict_churn" else None
    assert lake.run(job, "--from", f"{role}=other", *roles, *settings, map_index=mapped) == 3
    assert re.search(r"outputs of contract|is of contract", capsys.readouterr().err.splitlines()[-1])


@pytest.mark.parametrize("job", ["build_similar_items", "build_trending_items", "build_user_features"])
def test_a_lake_without_the_datasets_is_told(lake: Lake, capsys, job: str) -> None:
    (lake.folder / "lake").mkdir()
    assert lake.run(job) == 3
    assert "has no published partition; run the job that fills it" in capsys.readouterr().err.splitlines()[-1]


def test_cancellations_are_not_foretold_without_subscriptions(lake: Lake, capsys) -> None:
    put_shop(lake, [{**EVENT, "time": TIME}], ITEMS)
    assert lake.run("build_user_features", "--set", "churn=cancelled") == 3
    assert "the dataset curated/users holds no subscription" in capsys.readouterr().err.splitlines()[-1]

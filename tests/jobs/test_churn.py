"""Training and prediction of churn on synthetic users."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from churn_features import CUTS, NOW, features
from recommending_lake import Lake

FEATURES = ["--from", "features=features"]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path)


def put(lake: Lake, rows: pa.Table, task: str = "features") -> None:
    lake.put(task, "user_features@2", rows)


def last_line(capsys: pytest.CaptureFixture) -> str:
    return capsys.readouterr().err.splitlines()[-1]


def test_best_model_ships_with_its_quality_and_a_plot(lake: Lake) -> None:
    put(lake, features(1000))
    assert lake.run("train_churn", *FEATURES) == 0
    metrics = lake.manifest("train_churn")["metrics"]
    models = metrics["models"]
    assert models.keys() == {"logistic regression", "boosted trees", "blend", "recency rule"}
    assert models[metrics["model"]]["auc"] > 0.85 > 0.75 > models["recency rule"]["auc"] > 0.55
    assert models[metrics["model"]]["calibration_error"] < 0.05
    assert metrics["cut"] == str(CUTS[-1])
    _, document = lake.model("train_churn")
    assert set(document["features"]) == {"plan", "targets", "recency_days"}
    files = [file["path"] for file in lake.manifest("train_churn")["outputs"]["model"]["files"]]
    assert any(file.endswith("/model/calibration.svg") for file in files)


def test_figures_do_not_know_the_outcome(lake: Lake, capsys) -> None:
    """If nothing can be learned, a model that saw the newest window would stand out."""
    put(lake, features(2000, learnable=0))
    lake.run("train_churn", *FEATURES)
    evaluated = [line for line in capsys.readouterr().out.splitlines() if " evaluated " in line]
    found = [float(line.split("auc=")[1].split()[0]) for line in evaluated]
    assert len(found) == 4
    assert all(abs(auc - 0.5) < 0.06 for auc in found)


def test_model_below_the_recency_rule_is_refused(lake: Lake, capsys) -> None:
    rows = features(600, learnable=0)
    noise = rows["recency_days"]
    good = pa.array(np.where(np.asarray(rows["churned"].fill_null(False)), 90.0, 3.0), noise.type)
    put(lake, rows.set_column(rows.column_names.index("recency_days"), "recency_days", good))
    assert lake.run("train_churn", *FEATURES) == 4
    assert "does not beat the recency rule" in last_line(capsys)
    assert not (lake.folder / "lake" / "products" / "churn_model" / "all" / "manifest.json").exists()


def test_model_much_worse_than_the_incumbent_is_refused(lake: Lake, capsys) -> None:
    put(lake, features(1000))
    assert lake.run("train_churn", *FEATURES) == 0
    spoilt = features(1000, seed=1)
    targets = spoilt["targets"].to_numpy()
    amounts = pa.array(targets * np.exp(np.random.default_rng(2).normal(size=len(spoilt))))
    newest = np.asarray([cut.as_py() >= CUTS[-1] for cut in spoilt["cut"]])
    hidden = pa.array(np.where(newest, targets, 1.0))  # informative on the newest cut only
    for name, values in (("value", amounts), ("targets", hidden)):
        spoilt = spoilt.set_column(spoilt.column_names.index(name), name, values)
    put(lake, spoilt, "spoilt")
    again = ["--from", "features=spoilt", "--attempt"]
    assert lake.run("train_churn", *again, "2") == 4
    assert "worse than the incumbent model" in last_line(capsys)
    assert lake.run("train_churn", *again, "3", "--set", "max_auc_loss=0.3") == 0
    metrics = lake.manifest("train_churn")["metrics"]
    assert metrics["in_place"]["auc"] > 0.9 > metrics["models"][metrics["model"]]["auc"]


def test_predictions_name_top_features_and_add_up(lake: Lake) -> None:
    put(lake, features(900))
    assert lake.run("train_churn", *FEATURES) == 0
    for shard in range(3):
        arguments = [*FEATURES, "--from", "model=train_churn", "--set", "shards=3"]
        assert lake.run("predict_churn", *arguments, map_index=shard) == 0
    rows = lake.rows("predict_churn").to_pylist()
    assert sorted(row["user_id"] for row in rows) == sorted(f"user {number}" for number in range(900))
    without = [row for row in rows if row["churn_probability"] is None]
    assert {int(row["user_id"].split()[1]) % 7 for row in without} == {0}
    assert all(row["top_feature_1"] is None for row in without)
    at_risk = [row for row in rows if row["churn_probability"] is not None]
    assert len(at_risk) == len(rows) - len(without) > 700
    firsts = [row["top_feature_1"] for row in at_risk]
    assert firsts.count("targets") > 0.8 * len(firsts)
    assert {row["top_feature_3"] for row in at_risk} <= {"plan", "targets", "recency_days", None}
    odds = [np.log(row["churn_probability"] / (1 - row["churn_probability"])) for row in at_risk]
    moved = [sum(row[f"contribution_{place}"] or 0 for place in (1, 2, 3)) for row in at_risk]
    assert np.ptp(np.subtract(odds, moved)) < 1e-6, "three features are all there are, so they explain everything"
    assert all(abs(row["contribution_1"]) >= abs(row["contribution_2"] or 0) for row in at_risk)


def test_the_same_seed_gives_the_same_model(tmp_path: Path) -> None:
    found = []
    for name in ("one", "two"):
        lake = Lake(tmp_path / name)
        put(lake, features(600))
        assert lake.run("train_churn", *FEATURES) == 0
        found.append(lake.bytes_of("train_churn"))
    assert found[0] == found[1]


def test_segments_follow_the_last_purchase(lake: Lake) -> None:
    rows = features(800)
    put(lake, rows)
    assert lake.run("train_churn", *FEATURES) == 0
    assert lake.run("predict_churn", *FEATURES, "--from", "model=train_churn", map_index=0) == 0
    segments = {row["user_id"]: row["segment"] for row in lake.rows("predict_churn").to_pylist()}
    for row in rows.to_pylist():
        if row["cut"] == NOW:
            days = row["recency_days"]
            expected = "active" if days <= 28 else "cooling" if days <= 90 else "lapsed"
            assert segments[row["user_id"]] == expected, json.dumps(row, default=str)

"""Training and prediction of churn on synthetic users."""

import re
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
    lake.put_buckets(task, "user_features@2", rows)


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


def replaced(rows: pa.Table, **columns: object) -> pa.Table:
    for name, values in columns.items():
        rows = rows.set_column(rows.column_names.index(name), name, pa.array(values))
    return rows


def cuts_of(rows: pa.Table) -> np.ndarray:
    return rows["cut"].to_numpy(zero_copy_only=False).astype("datetime64[D]")


def test_shipped_model_has_learned_from_the_newest_labelled_cut(lake: Lake) -> None:
    rows = features(1000)
    targets = rows["targets"].to_numpy()
    older = cuts_of(rows) < np.datetime64(CUTS[-1])
    noisy = targets * np.exp(np.random.default_rng(2).normal(size=len(rows)))
    put(lake, replaced(rows, targets=np.where(older, 1.0, targets), value=noisy))
    assert lake.run("train_churn", *FEATURES, "--set", "place_model=false") == 0
    assert not (lake.folder / "lake" / "products").exists()
    arrays, document = lake.model("train_churn")
    assert "targets" in document["features"]
    assert "targets" not in document["judged"]["features"], "it was constant before the cut on which it was judged"
    shipped = [name for name in arrays if not name.startswith("judged_")]
    assert {f"judged_{name}" for name in shipped} | set(shipped) == set(arrays)
    assert any(not np.array_equal(arrays[name], arrays[f"judged_{name}"]) for name in shipped)


def test_probabilities_are_called_calibrated_only_if_they_were(lake: Lake) -> None:
    """The share that churns changes on the newest cut: no earlier cut foretold it."""
    steady = features(2000)
    newest = cuts_of(steady) == np.datetime64(CUTS[-1])
    stayed = np.where(
        newest & (np.arange(len(steady)) % 2 == 0), False, steady["churned"].to_numpy(zero_copy_only=False)
    )
    changed = replaced(steady, churned=[None if each is None else bool(each) for each in stayed])
    for attempt, (task, rows, calibrated) in enumerate((("steady", steady, True), ("changed", changed, False)), 1):
        put(lake, rows, task)
        arguments = ["--from", f"features={task}", "--attempt", str(attempt), "--set"]
        assert lake.run("train_churn", *arguments, "max_auc_loss=1") == 0
        trained = lake.manifest("train_churn")["metrics"]
        assert trained["calibrated"] is calibrated
        assert list(trained["judged_cuts"]) == [str(cut) for cut in CUTS[-2:]]
        of_newest = trained["judged_cuts"][str(CUTS[-1])]
        assert (of_newest["calibration_error"] <= of_newest["max_calibration_error"]) is calibrated
        model = ["--from", "model=train_churn", "shards=1"]
        assert lake.run("predict_churn", *arguments, *reversed(model[2:]), *model[:2], map_index=0) == 0
        predicted = lake.manifest("predict_churn/map-0")["metrics"]
        assert predicted["calibrated"] is calibrated
        assert predicted["calibration_error"] == of_newest["calibration_error"]


def test_cuts_whose_outcome_was_not_known_do_not_teach(lake: Lake, capsys) -> None:
    rows = features(600)
    last = np.where(cuts_of(rows) < np.datetime64(NOW), np.datetime64(NOW) - 40, np.datetime64(NOW))
    overlapping = np.where(cuts_of(rows) == np.datetime64(CUTS[-1]), np.datetime64(CUTS[-1]), last)
    put(lake, replaced(rows, cut=overlapping))
    assert lake.run("train_churn", *FEATURES) == 3
    assert "the features have 2 labelled, 0 of them known as of the newest" in last_line(capsys)


@pytest.mark.parametrize(
    "tenure, remedy",
    [
        (400.0, "set labelled_cuts of build_user_features to 2 or more and cut_spacing_days to 30, .* 400 days"),
        (50.0, "2 cuts .* need 61 days of history instead of 50: lengthen .* or lower horizon_days to at most 24"),
    ],
)
def test_too_few_cuts_say_which_history_is_enough(lake: Lake, capsys, tenure: float, remedy: str) -> None:
    rows = features(600)
    rows = replaced(rows, tenure_days=np.full(len(rows), tenure))
    put(lake, rows.filter(pa.array(cuts_of(rows) >= np.datetime64(CUTS[-1]))))
    assert lake.run("train_churn", *FEATURES) == 3
    assert re.search(remedy, last_line(capsys))


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
    assert re.search("does not beat the recency rule .* 5 or more and cut_spacing_days to 30", last_line(capsys))
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


def test_segments_follow_the_last_target_event(lake: Lake) -> None:
    rows = features(800)
    recency = rows["recency_days"].to_numpy()
    tenure = np.where(np.arange(len(rows)) % 5 == 0, 10.0, 400.0)
    mask = np.arange(len(rows)) % 11 == 0
    put(lake, replaced(rows, recency_days=pa.array(recency, mask=mask), tenure_days=tenure))
    assert lake.run("train_churn", *FEATURES) == 0
    days = ["--set", "active_within_days=20", "--set", "cooling_within_days=50"]
    arguments = [*FEATURES, "--from", "model=train_churn", *days]
    assert lake.run("predict_churn", *arguments, map_index=0) == 0
    segments = {row["user_id"]: row["segment"] for row in lake.rows("predict_churn").to_pylist()}
    for user, cut, days, age, never in zip(rows["user_id"], rows["cut"], recency, tenure, mask, strict=True):
        if cut.as_py() == NOW:
            since = "active" if days <= 20 else "cooling" if days <= 50 else "lapsed"
            assert segments[user.as_py()] == ("not started" if never else "new" if age < 20 else since)

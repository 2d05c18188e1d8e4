"""Churn models: as arrays they equal scikit-learn's, and their contributions add up."""

import numpy as np
import pyarrow as pa
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier

from common.churn import calibration, encoding, fitting, models
from common.churn.encoding import Encoding
from common.churn.models import Calibration

RANDOM = np.random.default_rng(0)
ROWS = 3000


@pytest.fixture(scope="module")
def matrix() -> np.ndarray:
    """Return skewed numbers, some unknown, and a column that is always 0."""
    matrix = RANDOM.lognormal(size=(ROWS, 4))
    matrix[RANDOM.random(matrix.shape) < 0.2] = np.nan
    return np.column_stack([matrix, np.zeros(ROWS)])


@pytest.fixture(scope="module")
def churned(matrix: np.ndarray) -> np.ndarray:
    known = np.nan_to_num(matrix, nan=1.0)
    odds = 2 * np.log(known[:, 0]) - (known[:, 1] > 1) * known[:, 2]
    return RANDOM.random(ROWS) < models.probability(odds)


def test_trees_equal_scikit_learn_on_unseen_rows(matrix, churned, monkeypatch) -> None:
    fitted = []
    fit = HistGradientBoostingClassifier.fit
    monkeypatch.setattr(HistGradientBoostingClassifier, "fit", lambda *given: fitted.append(fit(*given)) or fitted[0])
    trees = fitting.fit_trees(matrix[:2000], churned[:2000], 8, 0)
    found = models.probability(models.log_odds(trees, matrix[2000:]))
    np.testing.assert_allclose(found, fitted[0].predict_proba(matrix[2000:])[:, 1], rtol=1e-9)
    assert found.std() > 0.2


def test_average_of_trees_is_that_of_their_training_rows(matrix, churned) -> None:
    trees = fitting.fit_trees(matrix, churned, 8, 0)
    assert models.log_odds(trees, matrix).mean() == pytest.approx(trees.average, abs=1e-6)


@pytest.mark.parametrize("kind", ["regression", "trees", "blend"])
def test_model_is_equal_after_serialisation(kind, matrix, churned) -> None:
    regression, trees = fitting.fit_regression(matrix, churned, 0.1), fitting.fit_trees(matrix, churned, 8, 0)
    model = {"regression": regression, "trees": trees, "blend": models.Blend(regression, trees)}[kind]
    again = models.from_arrays(model.arrays())
    assert type(again) is type(model)
    np.testing.assert_array_equal(models.log_odds(again, matrix), models.log_odds(model, matrix))
    contributions = model.contributions(matrix)
    assert not contributions[:, 4].any()
    assert np.abs(contributions[:, 0]).mean() > 3 * np.abs(contributions[:, 3]).mean()
    np.testing.assert_allclose(model.average + contributions.sum(axis=1), models.log_odds(model, matrix))


def test_unknown_number_is_the_average_to_a_regression(matrix, churned) -> None:
    regression = fitting.fit_regression(matrix, churned, 0.1)
    assert models.log_odds(regression, np.full((1, 5), np.nan))[0] == pytest.approx(regression.average)


def test_extreme_log_odds_do_not_overflow() -> None:
    with np.errstate(all="raise"):
        assert models.probability(np.array([-1e6, 0.0, 1e6])).tolist() == [0, 0.5, 1]


def test_constant_features_have_no_column() -> None:
    rows = pa.table(
        {
            "number": [1.0, None, None, 4.0],
            "constant": [3.0, 3.0, 3.0, None],
            "nothing": pa.nulls(4, pa.float64()),
            "plan": ["free", "basic", "free", None],
            "everyone": ["same"] * 4,
        }
    )
    found = encoding.fit_encoding(rows)
    assert list(zip(found.features, found.words, strict=True)) == [
        ("number", None),
        ("plan", "free"),
        ("plan", "basic"),
    ]
    np.testing.assert_array_equal(found.matrix(rows), [[1, 1, 0], [np.nan, 0, 1], [np.nan, 1, 0], [4, 0, 0]])
    assert found.matrix(rows.set_column(3, "plan", [["gold"] * 4]))[:, 1:].sum() == 0


def test_rare_words_have_no_column() -> None:
    rows = pa.table({"country": ["a"] * 500 + ["b"] * 498 + ["c"] * 2})
    assert encoding.fit_encoding(rows).words == ["a", "b"]


def test_words_add_up_to_their_feature() -> None:
    names, values = Encoding(["plan", "age", "plan"], ["x", None, "y"]).by_feature(np.array([[1.0, 5.0, 2.0]]))
    assert (names, values.tolist()) == (["age", "plan"], [[5.0, 3.0]])


def test_calibration_inverts_distorted_probabilities() -> None:
    odds = RANDOM.normal(size=40_000)
    churned = RANDOM.random(40_000) < models.probability(2 * odds - 1)
    found = calibration.fit_calibration(odds, churned)
    assert found.slope == pytest.approx(2, abs=0.1)
    assert found.shift == pytest.approx(-1, abs=0.1)
    assert calibration.quality(odds, odds, churned)["calibration_error"] > 0.1
    assert calibration.quality(odds, found(odds), churned)["calibration_error"] < 0.01


def test_calibration_is_shifted_to_a_mean_probability() -> None:
    odds = RANDOM.normal(size=1000)
    found = calibration.with_mean(Calibration(2.0, 1.0), odds, 0.2)
    assert found.slope == 2.0
    assert models.probability(found(odds)).mean() == pytest.approx(0.2)


def test_calibration_error_of_a_small_example() -> None:
    odds = np.log(np.array([0.25, 0.25, 0.25, 0.25, 0.75]) / np.array([0.75, 0.75, 0.75, 0.75, 0.25]))
    churned = np.array([True, True, False, False, True])
    assert calibration.reliability(models.probability(odds), churned) == [
        {"rows": 4, "probability": 0.25, "churned": 0.5},
        {"rows": 1, "probability": 0.75, "churned": 1.0},
    ]
    assert calibration.quality(odds, Calibration(1, 0)(odds), churned)["calibration_error"] == pytest.approx(0.25)

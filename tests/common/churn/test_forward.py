"""Walk over labelled cuts: each is predicted and calibrated from cuts known before, and the claim follows a rule."""

import datetime

import numpy as np
import pyarrow as pa
import pytest

from common.churn import forward, models
from common.churn.forward import Labelled, Walk
from common.churn.training import Rows

SETTINGS = {"logistic regression": {"setting": 1.0}, "boosted trees": {"setting": 2.0}, "blend": {}}
NAME = "logistic regression"
FIRST = datetime.date(2020, 1, 1)
QUARTER = 91


def labelled(rates: list[float], users: int = 3000, spacing: int = QUARTER, horizon: int = QUARTER) -> Labelled:
    """Return users of cuts whose base rates have these log-odds; one feature moves the log-odds, recency is noise."""
    random = np.random.default_rng(0)
    cuts = {}
    for number, rate in enumerate(rates):
        value = random.normal(size=users)
        features = pa.table({"value": value, "recency_days": random.exponential(30, users)})
        churned = random.random(users) < models.probability(rate + 1.5 * value)
        cuts[FIRST + datetime.timedelta(days=number * spacing)] = Rows(features, churned)
    return Labelled(cuts, horizon)


def walk(given: Labelled) -> Walk:
    return forward.walk(given, SETTINGS, 1, lambda *_: None)


def test_probabilities_are_calibrated_if_the_rates_stay() -> None:
    walked = walk(labelled([-1.0] * 5, users=6000))
    calibrated, figures = forward.judge_calibration(walked, forward.judge(walked, NAME))
    assert calibrated
    assert len(figures) == 3, "the first cut teaches, the second calibrates"
    assert all(each["calibration_error"] < 0.03 for each in figures.values())


@pytest.mark.parametrize(
    "rates", [[-1.0, -1.0, -1.0, -1.0, 0.0], [-1.0] * 3], ids=["the newest differs", "one cut is judged"]
)
def test_probabilities_are_not_called_calibrated_without_proof(rates) -> None:
    walked = walk(labelled(rates))
    calibrated, figures = forward.judge_calibration(walked, forward.judge(walked, NAME))
    assert figures
    assert not calibrated


def test_model_without_an_earlier_prediction_is_not_called_calibrated() -> None:
    walked = walk(labelled([-1.0, -1.0]))
    judged = forward.judge(walked, NAME)
    assert [each.correction for each in judged.values()] == ["as fitted"]
    assert forward.judge_calibration(walked, judged) == (False, {})


def test_calibration_does_not_know_the_judged_cut() -> None:
    given = labelled([-1.0] * 4, users=2000)
    newest = max(given.cuts)
    rows = given.cuts[newest]
    flipped = Labelled({**given.cuts, newest: Rows(rows.features, ~rows.churned)}, given.days)
    one, other = (forward.judge(walk(each), NAME)[newest] for each in (given, flipped))
    assert one.calibration == other.calibration
    np.testing.assert_array_equal(one.odds, other.odds)
    assert one.quality["calibration_error"] < 0.05 < 0.3 < other.quality["calibration_error"]


def test_cut_is_predicted_from_outcomes_known_as_of_it() -> None:
    given = labelled([-1.0] * 6, users=200, spacing=30, horizon=60)
    cuts = list(given.cuts)
    assert given.known(cuts[3]) == cuts[:2]
    assert list(walk(given).odds) == cuts[2:]
    assert given.next == cuts[-1] + datetime.timedelta(days=60)


def test_season_is_corrected_after_it_was_better_on_an_earlier_cut() -> None:
    year = [-1.5, 0.0, 1.0, -0.5]
    walked = walk(labelled(year * 2, users=2000))
    judged = list(forward.judge(walked, NAME).values())
    assert "season" not in judged[2].losses, "a year has not passed yet"
    assert "season" in judged[3].losses
    assert judged[3].correction != "season", "it was never tried"
    assert all(each.correction == "season" for each in judged[4:])
    assert (
        max(each.quality["calibration_error"] for each in judged[4:])
        < 0.06
        < 0.1
        < judged[3].quality["calibration_error"]
    )
    assert min(each.losses["newest cut"] - each.losses["season"] for each in judged[4:]) > 0.01


def test_base_rate_beats_the_newest_cut_if_that_is_an_exception() -> None:
    walked = walk(labelled([0.0, 0.0, 1.5, 0.0], users=2000))
    losses = [each.losses for each in forward.judge(walked, NAME).values()][-1]
    assert losses["base rate"] < losses["newest cut"]


def test_cut_with_one_outcome_is_left_out() -> None:
    given = labelled([-1.0] * 4, users=300)
    second = list(given.cuts)[1]
    rows = given.cuts[second]
    nobody = Labelled({**given.cuts, second: Rows(rows.features, np.zeros(300, dtype=bool))}, given.days)
    assert list(walk(nobody).odds) == list(given.cuts)[2:]

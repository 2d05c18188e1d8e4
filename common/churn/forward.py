"""Churn models judged forward in time: each labelled cut is predicted and calibrated from earlier cuts only.

A model is fitted on the cuts whose outcome was known as of a cut, and predicts that cut. Its probabilities there are
calibrated by the newest cut that it predicted before, with the correction of four that was best on the cuts before.
Shipping takes the same step once more, to the users of now, so expect the figures of the newest labelled cut.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from sklearn.metrics import log_loss

from common.churn import calibration, training
from common.churn.encoding import Floats
from common.churn.models import Calibration, probability
from common.churn.training import Fitted, Progress, Rows, Settings

AS_FITTED, NEWEST, BASE_RATE, SEASON = "as fitted", "newest cut", "base rate", "season"
YEAR = 365
MAX_ERROR = 0.1  # of a calibrated model, as a share of the rarer outcome's share
NEWEST_JUDGED = 2  # cuts: one may fit by luck, and old ones were predicted from less


@dataclass(frozen=True)
class Labelled:
    """Users at each labelled cut, oldest first, and the days after a cut until its outcome is known."""

    cuts: dict[datetime.date, Rows]
    days: int

    def known(self, cut: datetime.date) -> list[datetime.date]:
        """Return the cuts whose outcome was known as of a cut."""
        return [each for each in self.cuts if each + datetime.timedelta(days=self.days) <= cut]

    @property
    def next(self) -> datetime.date:
        """Return the first cut as of which all outcomes are known."""
        return max(self.cuts) + datetime.timedelta(days=self.days)

    def rows(self, cuts: list[datetime.date]) -> Rows:
        """Return the rows of several cuts, without a copy of the features."""
        rows = [self.cuts[cut] for cut in cuts]
        return Rows(pa.concat_tables([each.features for each in rows]), np.concatenate([each.churned for each in rows]))

    def share(self, cut: datetime.date) -> float:
        """Return the share that churned, with one user more of either outcome."""
        churned = self.cuts[cut].churned
        return float((churned.sum() + 1) / (len(churned) + 2))


@dataclass(frozen=True)
class Walk:
    """Log-odds of the cuts that could be predicted, oldest first, by model; `fitted` are the models of the newest."""

    labelled: Labelled
    odds: dict[datetime.date, dict[str, Floats]]
    fitted: Fitted

    def predicted(self, cut: datetime.date) -> list[datetime.date]:
        """Return the predicted cuts whose outcome was known as of a cut."""
        return [each for each in self.labelled.known(cut) if each in self.odds]


def walk(labelled: Labelled, settings: Settings, seed: int, progress: Progress) -> Walk:
    """Predict each cut, by models fitted on the cuts known as of it, unless it or these have one outcome only."""
    odds = {}
    for number, (cut, rows) in enumerate(labelled.cuts.items()):
        progress(f"cuts predicted, now {cut},", number, len(labelled.cuts))
        known = labelled.known(cut)
        if known and rows.teaches and (before := labelled.rows(known)).teaches:
            fitted = training.fit_models(before, settings, seed)
            odds[cut] = fitted.log_odds(rows)
    return Walk(labelled, odds, fitted)


def corrections(walked: Walk, name: str, cut: datetime.date) -> dict[str, Calibration]:
    """Return the possible calibrations of a model for a cut, from the cuts known as of it, by name of the correction.

    `newest cut`: slope and shift of the newest predicted cut. `base rate` shifts further, so that the mean probability
    of its users is the mean share that churned in all cuts, `season` so that it is that of the cut a year before.
    """
    labelled, predicted = walked.labelled, walked.predicted(cut)
    if not predicted:
        return {AS_FITTED: Calibration(1.0, 0.0)}
    newest, known = predicted[-1], labelled.known(cut)
    fitted = calibration.fit_calibration(walked.odds[newest][name], labelled.cuts[newest].churned)

    def shifted_to(cuts: list[datetime.date]) -> Calibration:
        share = float(np.mean([labelled.share(each) for each in cuts]))
        return calibration.with_mean(fitted, walked.odds[newest][name], share)

    found = {NEWEST: fitted, AS_FITTED: Calibration(1.0, 0.0), BASE_RATE: shifted_to(known)}
    nearest = min(known, key=lambda each: abs((cut - each).days - YEAR))
    if abs((cut - nearest).days - YEAR) <= labelled.days / 2:
        found[SEASON] = shifted_to([nearest])
    return found


@dataclass(frozen=True)
class Judged:
    """A predicted cut: the correction, which has not seen it, calibrated log-odds, and their quality.

    losses: the log loss there of each correction that was possible; empty without an earlier predicted cut.
    """

    correction: str
    calibration: Calibration
    odds: Floats
    quality: dict[str, float]
    losses: dict[str, float]


def choose_correction(
    walked: Walk, name: str, cut: datetime.date, judged: dict[datetime.date, Judged]
) -> tuple[str, Calibration]:
    """Return the correction of a model for a cut: the lowest mean log loss on the cuts judged before.

    Only corrections that were tried there are compared, on the cuts on which all of them were. Without such a cut it is
    the calibration by the newest predicted cut, or, without any, none.
    """
    possible = corrections(walked, name, cut)
    losses = [judged[each].losses for each in walked.predicted(cut) if judged[each].losses]
    tried = [each for each in possible if any(each in of_cut for of_cut in losses)]
    common = [of_cut for of_cut in losses if all(each in of_cut for each in tried)]
    best = min(tried, key=lambda each: np.mean([of_cut[each] for of_cut in common]), default=next(iter(possible)))
    return best, possible[best]


def judge(walked: Walk, name: str) -> dict[datetime.date, Judged]:
    """Return the quality of a model on each cut that it predicted, calibrated by the cuts before."""
    judged: dict[datetime.date, Judged] = {}
    for cut, of_models in walked.odds.items():
        odds, churned = of_models[name], walked.labelled.cuts[cut].churned
        losses = {}
        if walked.predicted(cut):
            for each, calibrate in corrections(walked, name, cut).items():
                losses[each] = round(float(log_loss(churned, probability(calibrate(odds)))), 5)
        correction, chosen = choose_correction(walked, name, cut, judged)
        calibrated = chosen(odds)
        quality = calibration.quality(odds, calibrated, churned)
        judged[cut] = Judged(correction, chosen, calibrated, quality, losses)
    return judged


def judge_calibration(walked: Walk, judged: dict[datetime.date, Judged]) -> tuple[bool, dict[str, dict[str, Any]]]:
    """Return if the probabilities of a model are calibrated, and the figures of each cut after an earlier one.

    They are calibrated if on each of the newest two such cuts the calibration error is at most a tenth of the share of
    the rarer outcome.
    """
    figures, within = {}, []
    for cut, each in judged.items():
        if each.losses:
            share = float(walked.labelled.cuts[cut].churned.mean())
            limit = MAX_ERROR * min(share, 1 - share)
            within.append(each.quality["calibration_error"] <= limit)
            figures[str(cut)] = {
                "churned": round(share, 5),
                "correction": each.correction,
                "calibration_error": each.quality["calibration_error"],
                "max_calibration_error": round(limit, 5),
                "log_loss": each.losses,
                "auc": each.quality["auc"],
            }
    return len(within) >= NEWEST_JUDGED and all(within[-NEWEST_JUDGED:]), figures

"""Calibration of probabilities: fit and error."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

from common.churn.encoding import Floats
from common.churn.models import Calibration, probability

Churned = NDArray[np.bool_]
BINS = 10
MAX_SHIFT = 20.0  # of log-odds
BISECTIONS = 40


def fit_calibration(odds: Floats, churned: Churned) -> Calibration:
    """Return the slope and shift of highest likelihood on these rows."""
    fitted = LogisticRegression(C=1e6).fit(odds[:, None], churned)
    return Calibration(float(fitted.coef_[0, 0]), float(fitted.intercept_[0]))


def with_mean(calibrated: Calibration, odds: Floats, share: float) -> Calibration:
    """Return the calibration shifted so that the mean probability of the log-odds is the share, by bisection."""
    low, high = -MAX_SHIFT, MAX_SHIFT
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if probability(calibrated(odds) + middle).mean() < share:
            low = middle
        else:
            high = middle
    return Calibration(calibrated.slope, calibrated.shift + (low + high) / 2)


def reliability(probabilities: Floats, churned: Churned) -> list[dict[str, float]]:
    """Return rows, mean probability and share churned of each tenth of the range of probabilities with rows."""
    tenth = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    bins = []
    for number in np.unique(tenth):
        inside = tenth == number
        mean, share = float(probabilities[inside].mean()), float(churned[inside].mean())
        bins.append({"rows": int(inside.sum()), "probability": round(mean, 5), "churned": round(share, 5)})
    return bins


def quality(odds: Floats, calibrated: Floats, churned: Churned) -> dict[str, float]:
    """Return AUC and average precision of log-odds, and log loss and calibration error of calibrated log-odds.

    The calibration error is the mean over rows of |share churned - mean probability| of their tenth (Naeini et al.
    2015). Both churned and other rows are required.
    """
    probabilities = probability(calibrated)
    bins = reliability(probabilities, churned)
    error = sum(each["rows"] * abs(each["churned"] - each["probability"]) for each in bins) / len(odds)
    figures = {
        "auc": roc_auc_score(churned, odds),
        "average_precision": average_precision_score(churned, odds),
        "log_loss": log_loss(churned, probabilities),
        "calibration_error": error,
    }
    return {name: round(float(value), 5) for name, value in figures.items()}

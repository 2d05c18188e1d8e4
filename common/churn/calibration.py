"""Calibration of probabilities: fit, error, plot."""

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


def plot(bins: list[dict[str, float]], title: str) -> str:
    """Draw `reliability` as SVG: share churned over probability, dots with an area in proportion to the rows."""
    max_rows = max(each["rows"] for each in bins)
    points = [(60 + 400 * each["probability"], 440 - 400 * each["churned"], each) for each in bins]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in points)
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{2 + 10 * (each["rows"] / max_rows) ** 0.5:.1f}" fill="#1f6f8b" '
        f'fill-opacity=".6"><title>{each["rows"]:,} users: {each["probability"]:.3f} predicted, {each["churned"]:.3f} '
        "churned</title></circle>"
        for x, y, each in points
    )
    ticks = "".join(
        f'<text x="{60 + 400 * tick / 5:.0f}" y="458" text-anchor="middle">{tick / 5:g}</text>'
        f'<text x="52" y="{444 - 400 * tick / 5:.0f}" text-anchor="end">{tick / 5:g}</text>'
        for tick in range(6)
    )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" width="500" height="500" font-family="sans-serif" font-size="12">'
        f'<rect width="500" height="500" fill="white"/><text x="60" y="24" font-size="14">{title}</text>'
        '<rect x="60" y="40" width="400" height="400" fill="none" stroke="#999"/>'
        '<line x1="60" y1="440" x2="460" y2="40" stroke="#999" stroke-dasharray="4"/>'
        f'{ticks}<text x="260" y="485" text-anchor="middle">probability</text>'
        '<text transform="translate(18 240) rotate(-90)" text-anchor="middle">share that churned</text>'
        f'<polyline points="{line}" fill="none" stroke="#1f6f8b" stroke-width="1.5"/>{dots}</svg>\n'
    )

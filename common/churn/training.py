"""Fits of all churn models on the same rows, with settings chosen on held-out users."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
from sklearn.metrics import log_loss

from common.churn import encoding, fitting, models
from common.churn.calibration import Churned
from common.churn.encoding import Encoding, Floats
from common.churn.models import Blend, Model
from common.errors import InputError

RECENCY = Encoding(["recency_days"], [None])
RULE = "recency rule"
STRENGTHS = (0.1, 0.01, 1.0)
LEAVES = (8, 24)
Progress = Callable[[str, int, int], None]
Settings = dict[str, dict[str, float]]  # by model: its setting, and its log loss on held-out users


@dataclass(frozen=True)
class Rows:
    """Users as of one or more cuts: their features, and whether they churned."""

    features: pa.Table
    churned: Churned

    def where(self, chosen: Churned) -> Rows:
        return Rows(self.features.filter(pa.array(chosen)), self.churned[chosen])

    @property
    def teaches(self) -> bool:
        """True if at least two of the users churned, and two did not."""
        return 2 <= int(self.churned.sum()) <= len(self.churned) - 2


@dataclass(frozen=True)
class Fitted:
    """Models fitted on the same rows, by name, their columns, and the recency rule, which has its own column."""

    columns: Encoding
    models: dict[str, Model]
    rule: Model

    def log_odds(self, rows: Rows) -> dict[str, Floats]:
        """Return the log-odds of the rows by the name of the model."""
        matrix = self.columns.matrix(rows.features)
        odds = {name: models.log_odds(model, matrix) for name, model in self.models.items()}
        return odds | {RULE: models.log_odds(self.rule, RECENCY.matrix(rows.features))}


def fit(name: str, setting: float, matrix: Floats, churned: Churned, seed: int) -> Model:
    if name == "boosted trees":
        return fitting.fit_trees(matrix, churned, int(setting), seed)
    return fitting.fit_regression(matrix, churned, setting)


def fit_models(training: Rows, settings: Settings, seed: int) -> Fitted:
    """Fit each model with its setting, and the recency rule; the blend is the mean of the other two."""
    columns = encoding.fit_encoding(training.features)
    matrix = columns.matrix(training.features)
    fitted: dict[str, Model] = {
        name: fit(name, chosen["setting"], matrix, training.churned, seed)
        for name, chosen in settings.items()
        if "setting" in chosen
    }
    fitted["blend"] = Blend(fitted["logistic regression"], fitted["boosted trees"])
    rule = fitting.fit_regression(RECENCY.matrix(training.features), training.churned, 1.0)
    return Fitted(columns, fitted, rule)


def choose_settings(training: Rows, held_out: Churned, seed: int, progress: Progress) -> Settings:
    """Return by model its best setting, and its log loss on the held-out users."""
    fitted, held = training.where(~held_out), training.where(held_out)
    columns = encoding.fit_encoding(fitted.features)
    if not columns.features:
        raise InputError(
            "Every feature is constant, so nothing can be learned; check build_user_features and its input."
        )
    matrix, held_matrix = columns.matrix(fitted.features), columns.matrix(held.features)

    def loss(odds: Floats) -> float:
        return float(log_loss(held.churned, models.probability(odds), labels=[False, True]))

    best: Settings = {}
    odds: dict[str, Floats] = {}
    for name, settings in (("logistic regression", STRENGTHS), ("boosted trees", LEAVES)):
        for setting in settings:
            progress(f"models tried, now {name} with {setting:g},", len(odds), 2)
            tried = models.log_odds(fit(name, setting, matrix, fitted.churned, seed), held_matrix)
            if name not in best or loss(tried) < best[name]["held_out_log_loss"]:
                best[name], odds[name] = {"setting": setting, "held_out_log_loss": loss(tried)}, tried
    mean = (odds["logistic regression"] + odds["boosted trees"]) / 2
    best["blend"] = {"held_out_log_loss": loss(mean)}
    return best

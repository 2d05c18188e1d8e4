"""The models of churn: a recency rule, logistic regression, boosted trees, and their blend; all give log-odds.

Fitted by scikit-learn, kept as plain arrays: who has numpy can apply them, and no pickle is ever loaded. Each says of
every row how far each column moved the log-odds away from the model's average; the average and the moves add up to the
log-odds exactly.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from common.churn.encoding import Floats

Arrays = dict[str, NDArray[Any]]
Part = TypeVar("Part", "Regression", "Trees")
BLOCK = 20_000  # rows; their parts stay near the cache
ONE_THREAD = 300_000  # rows up to which threads wait for each other longer than they work, if others want the cores


class Model(Protocol):
    """Log-odds of rows (rows x columns of an encoding), as an average and the part of each column."""

    @property
    def average(self) -> float: ...

    def parts(self, matrix: Floats) -> Floats: ...

    def arrays(self) -> Arrays: ...


def log_odds(model: Model, matrix: Floats) -> Floats:
    """Log-odds of each row (rows). O(rows x columns) memory of a block only."""
    blocks = [matrix[start : start + BLOCK] for start in range(0, len(matrix), BLOCK)]
    moved: Floats = np.concatenate([np.zeros(0), *(model.parts(block).sum(axis=1) for block in blocks)])
    return model.average + moved


def probability(odds: Floats) -> Floats:
    """1 / (1 + exp(-log-odds)), without overflow."""
    probabilities: Floats = 0.5 * (1 + np.tanh(odds / 2))
    return probabilities


@dataclass(frozen=True)
class Regression:
    """Log-odds = intercept + sum of weight (z - mean) / scale, with z = sign(x) log(1 + |x|), unknown values the mean.

    All arrays have a value a column.
    """

    intercept: Floats
    weight: Floats
    mean: Floats
    scale: Floats

    @property
    def average(self) -> float:
        return float(self.intercept[0])

    def parts(self, matrix: Floats) -> Floats:
        return standardised(matrix, self.mean, self.scale) * self.weight

    def arrays(self) -> Arrays:
        return {field.name: getattr(self, field.name) for field in fields(self)}


def standardised(matrix: Floats, mean: Floats, scale: Floats) -> Floats:
    with np.errstate(invalid="ignore"):
        damped: Floats = (np.sign(matrix) * np.log1p(np.abs(matrix)) - mean) / scale
    return np.where(np.isnan(damped), 0.0, damped)


def fit_regression(matrix: Floats, churned: NDArray[np.bool_], strength: float) -> Regression:
    """Logistic regression with an L2 penalty of 1 / strength on standardised columns, by L-BFGS."""
    damped = np.sign(matrix) * np.log1p(np.abs(matrix))
    known = np.isfinite(damped)
    count = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, damped, 0).sum(axis=0) / count
    scale = np.sqrt(np.where(known, (damped - mean) ** 2, 0).sum(axis=0) / count)
    scale[scale == 0] = 1
    found = LogisticRegression(C=strength, max_iter=2000).fit(standardised(matrix, mean, scale), churned)
    return Regression(found.intercept_, found.coef_[0], mean, scale)


@dataclass(frozen=True)
class Trees:
    """Trees one after the other, a value a node: log-odds = base + sum over trees of `value` of the leaf reached.

    A row goes to the node `left` if its value of column `feature` is at most `threshold`, or unknown where
    `unknown_left` says so, else to `right`; positions are within all nodes, a leaf leads to itself. The value of an
    inner node is the mean of the training rows in it. roots: the first node of each tree.
    """

    base: Floats
    roots: NDArray[np.int32]
    feature: NDArray[np.int32]
    threshold: Floats
    unknown_left: NDArray[np.bool_]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    value: Floats

    @property
    def average(self) -> float:
        return float(self.base[0] + self.value[self.roots].sum())

    def parts(self, matrix: Floats) -> Floats:
        """A column's part is the sum of the changes of value at the nodes that ask for it (Saabas 2014)."""
        rows = np.arange(len(matrix))
        parts = np.zeros(matrix.shape)
        for root in self.roots:
            place, node = rows, np.full(len(rows), root)
            while len(node):  # rows that have reached a leaf drop out
                feature = self.feature[node]
                value = matrix[place, feature]
                goes_left = np.where(np.isnan(value), self.unknown_left[node], value <= self.threshold[node])
                below = np.where(goes_left, self.left[node], self.right[node])
                parts[place, feature] += self.value[below] - self.value[node]
                inner = self.left[below] != below
                place, node = place[inner], below[inner]
        return parts

    def arrays(self) -> Arrays:
        return {field.name: getattr(self, field.name) for field in fields(self)}


def fit_trees(matrix: Floats, churned: NDArray[np.bool_], leaves: int, seed: int) -> Trees:
    """Gradient boosting of 200 histogram trees, each split among three columns in ten drawn."""
    model = HistGradientBoostingClassifier(
        learning_rate=0.03,
        max_iter=200,
        max_leaf_nodes=leaves,
        min_samples_leaf=min(50, 1 + len(matrix) // 20),
        l2_regularization=5.0,
        max_features=0.3,
        early_stopping=False,
        random_state=seed,
    )
    with threadpool_limits(1 if len(matrix) < ONE_THREAD else None, "openmp"):
        model.fit(matrix, churned)
    nodes = [tree.nodes for (tree,) in model._predictors]  # not public, so tests compare with predict_proba
    roots = np.cumsum([0, *(len(tree) for tree in nodes[:-1])])
    starts = np.repeat(roots, [len(tree) for tree in nodes])
    joined = np.concatenate(nodes)
    itself, leaf = np.arange(len(joined)), joined["is_leaf"] == 1
    left = np.where(leaf, itself, joined["left"] + starts)
    right = np.where(leaf, itself, joined["right"] + starts)
    value, count = joined["value"].copy(), joined["count"].astype(np.float64)
    for node in np.flatnonzero(~leaf)[::-1]:  # nodes below stand behind
        below = [left[node], right[node]]
        value[node] = np.average(value[below], weights=count[below])
    return Trees(
        base=model._baseline_prediction.ravel(),
        roots=roots.astype(np.int32),
        feature=joined["feature_idx"].astype(np.int32),
        threshold=joined["num_threshold"].copy(),
        unknown_left=joined["missing_go_to_left"] == 1,
        left=left.astype(np.int32),
        right=right.astype(np.int32),
        value=value,
    )


@dataclass(frozen=True)
class Blend:
    """The mean of the log-odds of a regression and of trees."""

    regression: Model
    trees: Model

    @property
    def average(self) -> float:
        return (self.regression.average + self.trees.average) / 2

    def parts(self, matrix: Floats) -> Floats:
        return (self.regression.parts(matrix) + self.trees.parts(matrix)) / 2

    def arrays(self) -> Arrays:
        return self.regression.arrays() | self.trees.arrays()


def from_arrays(arrays: Arrays) -> Model:
    """The model whose arrays these are."""

    def part(kind: type[Part]) -> Part:
        return kind(**{field.name: np.asarray(arrays[field.name]) for field in fields(kind)})

    if "roots" not in arrays:
        return part(Regression)
    return Blend(part(Regression), part(Trees)) if "weight" in arrays else part(Trees)

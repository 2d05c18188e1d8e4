"""Fits of churn models by scikit-learn, whose import takes a second, which prediction need not wait."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from common.churn.encoding import Floats
from common.churn.models import Regression, Trees, standardise

ONE_THREAD = 300_000  # rows up to which threads wait longer than they work, if others compete for the cores


def fit_regression(matrix: Floats, churned: NDArray[np.bool_], strength: float) -> Regression:
    """Fit a logistic regression with an L2 penalty of 1 / strength on standardised columns, by L-BFGS."""
    damped = np.sign(matrix) * np.log1p(np.abs(matrix))
    known = np.isfinite(damped)
    count = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, damped, 0).sum(axis=0) / count
    scale = np.sqrt(np.where(known, (damped - mean) ** 2, 0).sum(axis=0) / count)
    scale[scale == 0] = 1
    fitted = LogisticRegression(C=strength, max_iter=2000).fit(standardise(matrix, mean, scale), churned)
    return Regression(fitted.intercept_, fitted.coef_[0], mean, scale)


def fit_trees(matrix: Floats, churned: NDArray[np.bool_], leaves: int, seed: int) -> Trees:
    """Fit 200 histogram trees by gradient boosting, each split on the best of 30 % of the columns, drawn at random."""
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
    nodes = [tree.nodes for (tree,) in model._predictors]  # private, so tests compare with predict_proba
    roots = np.cumsum([0, *(len(tree) for tree in nodes[:-1])])
    starts = np.repeat(roots, [len(tree) for tree in nodes])
    joined = np.concatenate(nodes)
    itself, leaf = np.arange(len(joined)), joined["is_leaf"] == 1
    left = np.where(leaf, itself, joined["left"] + starts)
    right = np.where(leaf, itself, joined["right"] + starts)
    value, count = joined["value"].copy(), joined["count"].astype(np.float64)
    for node in np.flatnonzero(~leaf)[::-1]:  # children follow their parents
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

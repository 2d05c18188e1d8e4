"""The models that there are, the grids of their parameters, and the choice of parameters on one window."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy.sparse as sp

from common.recommending.ease import LARGEST_HEAD, ease, head_items
from common.recommending.evaluation import DEPTH, Truth, quality
from common.recommending.histories import Floats, History, fitting_matrix
from common.recommending.neighbours import cosine, rp3beta
from common.recommending.popularity import momentum, popularity
from common.recommending.ranking import ItemModel, Ranking, Scores, joined, rank, same_for_all

Parameters = dict[str, float]
Fit = Callable[[sp.csr_matrix, Parameters], "Floats | sp.csr_matrix"]

FOREVER = 36_500.0  # days; a half-life that decays nothing
LARGEST_TUNING_HEAD = 6_000  # EASE costs items^3: its parameters are sought on the head of the head, 2 s a fit


@dataclass(frozen=True)
class Recipe:
    """How a model is fitted on users x items, and the values of its parameters to try; the search starts at the first.

    head: the most items that it takes; it knows only the most popular so many.
    """

    fit: Fit
    grid: dict[str, tuple[float, ...]]
    head: int | None = None


MODELS: dict[str, Recipe] = {
    "cosine": Recipe(lambda matrix, p: cosine(matrix, p["shrinkage"]), {"shrinkage": (10, 1, 100)}),
    "rp3beta": Recipe(
        lambda matrix, p: rp3beta(matrix, p["alpha"], p["beta"]), {"alpha": (0.8, 0.6), "beta": (0.4, 0.2, 0.6)}
    ),
    "ease": Recipe(
        lambda matrix, p: ease(matrix, p["regularization"]), {"regularization": (300, 100, 1000)}, LARGEST_HEAD
    ),
}
# What all of them have: the half-life of pairs in the fit and of user vectors (days); the weight of an item for
# itself, in multiples of the model's typical strongest weight; the exponent of the momentum of items.
COMMON_GRID: dict[str, tuple[float, ...]] = {
    "fit_half_life": (FOREVER, 90),
    "user_half_life": (365, 90, 30),
    "own": (30, 0, 10),
    "momentum": (0.4, 0, 0.8),
}
SPARSE_PARTS = ("data", "indices", "indptr")
OF_SCORING = ("user_half_life", "own", "momentum")
RECENT_HALF_LIVES = (7.0, 3.0, 14.0, 30.0, 60.0)


def fit(name: str, pairs: History, parameters: Parameters, head: int = LARGEST_HEAD) -> ItemModel:
    """The model of a name in `MODELS` on the pairs (users x items), with its own parameters and those of all models.

    Time and memory: those of the model's function. An item's own weight is `own` times the mean over items of the
    largest weight for them, so that one grid serves models of any scale.
    """
    return _with_scoring(_weights(name, pairs, parameters, head), pairs, parameters)


def recommend(model: ItemModel, vectors: sp.csr_matrix, count: int, repeats: bool) -> Iterator[Ranking]:
    """Blocks of the `count` best items of each row of `model.vectors`; without `repeats`, of those not in the row.

    Items are positions among the model's. See `rank` for order, time and memory.
    """
    users, items = vectors.shape
    return rank(model.scores(vectors), users, items, count, None if repeats else vectors)


def ranking_of(model: ItemModel, asked: History, repeats: bool) -> Ranking:
    """The first 10 of each row, as positions in the catalogue."""
    whole = joined(list(recommend(model, model.vectors(asked), DEPTH, repeats)))
    return whole._replace(items=model.columns[whole.items])


def to_arrays(model: ItemModel) -> dict[str, np.ndarray]:
    """The arrays that `from_arrays` needs, by name; sparse weights as the three arrays of their rows."""
    weights = model.weights
    if isinstance(weights, np.ndarray):
        parts = {"weights": weights}
    else:
        parts = {f"weights_{part}": getattr(weights, part) for part in SPARSE_PARTS}
    return {"columns": model.columns, "factor": model.factor, **parts}


def from_arrays(arrays: dict[str, np.ndarray], own: float, half_life: float) -> ItemModel:
    """The model whose arrays and two numbers these are; dense weights may be mapped from a file."""
    weights = arrays.get("weights")
    if weights is None:
        size = len(arrays["columns"])
        weights = sp.csr_matrix(tuple(arrays[f"weights_{part}"] for part in SPARSE_PARTS), shape=(size, size))
    return ItemModel(weights, arrays["columns"], arrays["factor"], own, half_life)


def popular_ranking(scores: np.ndarray, asked: History, repeats: bool) -> Ranking:
    """The first 10 of each row by scores (items) that are the same for everyone."""
    same: Scores = same_for_all(scores)
    seen = None if repeats else asked.matrix(asked.events)
    return joined(list(rank(same, asked.user_count, asked.item_count, DEPTH, seen)))


def choose(
    name: str, pairs: History, asked: History, truth: Truth, repeats: bool, head: int = LARGEST_HEAD
) -> tuple[Parameters, float]:
    """Parameters of the highest nDCG@10 found for a model, and that nDCG@10.

    Fits on `pairs`, ranks for the rows of `asked` (users x items) and compares with the same rows of `truth`. One pass
    of coordinate search: each parameter in turn over its grid, the others at the best so far; a fit is used for all
    parameters that only scoring needs. Time: about 4 fits and 10 rankings.
    """
    weights = lru_cache(maxsize=1)(lambda fitting: _weights(name, pairs, dict(fitting), min(head, LARGEST_TUNING_HEAD)))

    def score(parameters: Parameters) -> float:
        fitting = tuple((key, value) for key, value in parameters.items() if key not in OF_SCORING)
        model = _with_scoring(weights(fitting), pairs, parameters)
        return quality(ranking_of(model, asked, repeats), truth).means()["ndcg"]

    return coordinate_search(_grid(name, repeats), score)


def choose_recent_popularity(pairs: History, asked: History, truth: Truth, repeats: bool) -> tuple[Parameters, float]:
    """The half-life, in days, of the popularity with the highest nDCG@10, and that; arguments as for `choose`."""

    def score(parameters: Parameters) -> float:
        ranking = popular_ranking(popularity(pairs, parameters["half_life"]), asked, repeats)
        return quality(ranking, truth).means()["ndcg"]

    return coordinate_search({"half_life": RECENT_HALF_LIVES}, score)


def coordinate_search(
    grid: dict[str, tuple[float, ...]], score: Callable[[Parameters], float]
) -> tuple[Parameters, float]:
    """Best parameters and their score: from the first values of the grid, each parameter in turn over its values."""
    best = {name: values[0] for name, values in grid.items()}
    highest = score(best)
    for name, values in grid.items():
        for value in values[1:]:
            found = score({**best, name: value})
            if found > highest:
                best, highest = {**best, name: value}, found
    return best, highest


def _grid(name: str, repeats: bool) -> dict[str, tuple[float, ...]]:
    grid = {"fit_half_life": COMMON_GRID["fit_half_life"], **MODELS[name].grid, **COMMON_GRID}
    return grid if repeats else {**grid, "own": (0,)}


Fitted = tuple["Floats | sp.csr_matrix", np.ndarray, float]


def _weights(name: str, pairs: History, parameters: Parameters, head: int) -> Fitted:
    """Weights, positions of their items, typical strongest weight."""
    recipe = MODELS[name]
    matrix = fitting_matrix(pairs, parameters["fit_half_life"])
    columns = np.arange(pairs.item_count)
    if recipe.head is not None and min(head, recipe.head) < pairs.item_count:
        columns = head_items(matrix, min(head, recipe.head))
        matrix = matrix[:, columns]
    weights = recipe.fit(matrix, parameters)
    strongest = _strongest(weights)
    return weights, columns, float(strongest.mean()) if len(strongest) else 1.0


def _strongest(weights: Floats | sp.csr_matrix) -> np.ndarray:
    """The positive ones of the largest weights for each item."""
    if not weights.shape[0]:
        return np.zeros(0)
    largest = weights.max(axis=0)
    values = np.asarray(largest.toarray() if sp.issparse(largest) else largest).ravel()
    return values[values > 0]


def _with_scoring(fitted: Fitted, pairs: History, parameters: Parameters) -> ItemModel:
    weights, columns, strongest = fitted
    factor = momentum(pairs, parameters["momentum"])[columns]
    return ItemModel(weights, columns, factor, parameters["own"] * strongest, parameters["user_half_life"])

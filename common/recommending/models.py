"""Model registry: grids, cost estimates, selection on one window."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from common.recommending.als import als
from common.recommending.blend import Blend, Model
from common.recommending.ease import MAX_HEAD, ease, head_items
from common.recommending.evaluation import DEPTH, Truth, quality
from common.recommending.factor_model import FactorModel
from common.recommending.histories import MAX_FITTED, Floats, History, fitting_matrix
from common.recommending.item_model import ItemModel
from common.recommending.neighbours import cosine, rp3beta
from common.recommending.popularity import momentum, popularity
from common.recommending.ranking import NonPersonalizedScorer, Ranking, Scorer, concatenate, rank
from common.recommending.svd import svd

Parameters = dict[str, float]

FOREVER = 36_500.0  # days; a half-life that decays nothing
SQUARES_PER_SECOND = 1.2e8  # products of users' pairs of items, on two cores
MAX_TUNING_HEAD = 6_000  # EASE costs items^3: its parameters are tuned on a smaller head, 2 s per fit


@dataclass(frozen=True)
class ItemWeights:
    """Fitted weights between items: fields as of ItemModel, zero diagonals."""

    sparse: sp.csr_matrix
    dense: Floats
    head: NDArray[np.int64]


@dataclass(frozen=True)
class Factors:
    """Fitted factors: fields as of FactorModel."""

    inputs: Floats
    outputs: Floats
    confidence: float = 0.0
    regularization: float = 0.0


Fitted = ItemWeights | Factors


@dataclass(frozen=True)
class Size:
    """Sizes that determine the cost of a fit. squares: the sum over users of the square of their number of items."""

    users: int
    items: int
    pairs: int
    squares: float

    @classmethod
    def of(cls, pairs: History) -> Size:
        lengths = pairs.lengths[pairs.lengths <= MAX_FITTED].astype(np.float64)
        return cls(pairs.user_count, pairs.item_count, len(pairs.indices), float((lengths**2).sum()))


@dataclass(frozen=True)
class Recipe:
    """Fit of a model on users x items with a maximum number of head items, its cost, and the values to try.

    cost: approximate seconds of a fit on two cores. grid: the search starts at the first values.
    """

    fit: Callable[[sp.csr_matrix, Parameters, int], Fitted]
    cost: Callable[[Size, Parameters, int], float]
    grid: Mapping[str, tuple[float, ...]]


def _neighbours(weights: sp.csr_matrix) -> ItemWeights:
    return ItemWeights(weights, np.zeros((0, 0), dtype=np.float32), np.zeros(0, dtype=np.int64))


def _ease(matrix: sp.csr_matrix, p: Parameters, head: int) -> ItemWeights:
    """Fit EASE between head items; weights from or to the tail are those of RP3beta, rescaled to EASE."""
    items = matrix.shape[1]
    columns = head_items(matrix, min(head, MAX_HEAD, items))
    dense = ease(matrix if len(columns) == items else matrix[:, columns], p["regularization"], p["dropout"])
    sparse = sp.csr_matrix((items, items), dtype=np.float32)
    if len(columns) < items:
        sparse = rp3beta(matrix, 0.8, 0.4)
        sparse.data *= np.float32(_typical_weight(dense) / _typical_weight(sparse))
        in_head = np.zeros(items, dtype=bool)
        in_head[columns] = True
        rows = np.repeat(np.arange(items), np.diff(sparse.indptr))
        sparse.data[in_head[rows] & in_head[sparse.indices]] = 0
        sparse.eliminate_zeros()
    return ItemWeights(sparse, dense, columns)


def _als(matrix: sp.csr_matrix, p: Parameters, head: int) -> Factors:
    factors = als(matrix, int(p["factors"]), p["confidence"], p["ridge"])
    return Factors(factors, factors, p["confidence"], p["ridge"])


MODELS: dict[str, Recipe] = {
    "cosine": Recipe(
        lambda matrix, p, _: _neighbours(cosine(matrix, p["shrinkage"])),
        lambda size, p, _: size.squares / SQUARES_PER_SECOND + size.items**2 / 1e9,
        {"shrinkage": (10, 1, 100)},
    ),
    "rp3beta": Recipe(
        lambda matrix, p, _: _neighbours(rp3beta(matrix, p["alpha"], p["beta"])),
        lambda size, p, _: size.squares / SQUARES_PER_SECOND + size.items**2 / 1e9,
        {"alpha": (0.8, 0.6), "beta": (0.4, 0.2, 0.6)},
    ),
    "ease": Recipe(
        _ease,
        lambda size, p, head: size.squares / SQUARES_PER_SECOND + min(head, size.items) ** 3 / 7.5e10,
        {"regularization": (300, 100, 1000), "dropout": (0.5, 0, 0.75)},
    ),
    "als": Recipe(
        _als,
        lambda size, p, _: 10 * (size.pairs * p["factors"] / 3e8 + (size.users + size.items) / 1.2e6),
        {"factors": (16, 32, 64), "ridge": (30, 10, 100), "confidence": (3, 10, 1)},
    ),
    "svd": Recipe(
        lambda matrix, p, _: Factors(*svd(matrix, int(p["factors"]), p["item_power"])),
        lambda size, p, _: 10 * size.pairs * p["factors"] / 2.2e9 + (size.users + size.items) * p["factors"] ** 2 / 3e9,
        {"factors": (16, 32, 64), "item_power": (0.3, 0.15, 0.5)},
    ),
}
# Parameters of all models: the half-life of pairs in the fit (days), whether it weighs pairs by their purchases, the
# half-life of user vectors (days), the weight of an item for itself, in multiples of the model's typical strongest
# weight, and the exponent of the momentum of items.
FITTING_GRID: dict[str, tuple[float, ...]] = {"fit_half_life": (FOREVER, 90), "counting": (1, 0)}
SCORING_GRID: dict[str, tuple[float, ...]] = {
    "user_half_life": (365, 90, 30),
    "self_weight": (30, 0, 10),
    "momentum": (0.4, 0, 0.8, 1.2, 1.8),
}
RECENT_HALF_LIVES = (7.0, 3.0, 14.0, 30.0, 60.0)


def defaults(name: str, repeats: bool) -> Parameters:
    """Return the parameters from which the search starts."""
    return {key: values[0] for key, values in _grid(name, repeats).items()}


def fit(name: str, pairs: History, parameters: Parameters, head: int = MAX_HEAD) -> ItemModel | FactorModel:
    """Fit a model of `MODELS` on the pairs (users x items), with its specific parameters and the common ones.

    Time and memory: those of the model's function. The weight of an item for itself is `self_weight` times the mean
    over items of the largest weight for them, so that one grid serves models of any scale.
    """
    return _add_scoring(_fit_weights(name, pairs, parameters, head), pairs, parameters, reused=False)


def recommend(scorer: Scorer, pairs: History, count: int, repeats: bool) -> Iterator[Ranking]:
    """Yield blocks of the `count` best items of each row of `pairs`; without `repeats`, of those not in the row.

    See `rank` for order, time and memory.
    """
    yield from rank(scorer, pairs.user_count, count, excluded(pairs, repeats))


def excluded(pairs: History, repeats: bool) -> sp.csr_matrix | None:
    """Return the items not to recommend to each row: its own without `repeats`, else None."""
    return None if repeats else pairs.matrix(np.ones_like(pairs.events))


def ranking_of(model: Model, queries: History, repeats: bool) -> Ranking:
    """Rank the first 10 items of each row."""
    return concatenate(list(recommend(model.scorer(queries), queries, DEPTH, repeats)))


def popular_ranking(scores: np.ndarray, queries: History, repeats: bool) -> Ranking:
    """Rank the first 10 items of each row by the same scores (items) for everyone."""
    return concatenate(list(recommend(NonPersonalizedScorer(scores), queries, DEPTH, repeats)))


def to_arrays(
    members: Sequence[ItemModel | FactorModel], weights: Sequence[float]
) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    """Return all arrays of models by name, those of the first prefixed 0_, and the other inputs of `from_arrays`."""
    arrays: dict[str, np.ndarray] = {}
    descriptions: list[dict[str, Any]] = []
    for number, (member, weight) in enumerate(zip(members, weights, strict=True)):
        arrays |= {f"{number}_{name}": array for name, array in member.arrays().items()}
        descriptions.append({"kind": member.kind, "weight": weight, "numbers": member.numbers()})
    return arrays, descriptions


def from_arrays(arrays: Mapping[str, np.ndarray], members: Sequence[Mapping[str, Any]]) -> Model:
    """Return the blend of models that `to_arrays` serialised, or the only model; arrays may be memory-mapped."""
    kinds = {kind.kind: kind for kind in (ItemModel, FactorModel)}
    fitted: list[Model] = []
    for number, member in enumerate(members):
        of_member = {name.partition("_")[2]: array for name, array in arrays.items() if name.startswith(f"{number}_")}
        fitted.append(kinds[member["kind"]].of_arrays(of_member, member["numbers"]))
    return fitted[0] if len(fitted) == 1 else Blend(fitted, [member["weight"] for member in members])


@dataclass(frozen=True)
class Choice:
    """Parameters, their nDCG@10 on the tuning window, and the number tried."""

    parameters: Parameters
    ndcg: float
    tried: int


def choose(
    name: str,
    pairs: History,
    queries: History,
    truth: Truth,
    repeats: bool,
    head: int = MAX_HEAD,
    seconds: float = np.inf,
) -> Choice:
    """Choose the parameters of the highest nDCG@10 for a model.

    Fits on `pairs`, ranks for the rows of `queries` (users x items), compares with the same rows of `truth`. One pass
    of coordinate search: each parameter in turn over its grid, the others at the best so far; a fit is reused for all
    parameters of the scoring. Candidates that would exceed `seconds` by the estimates of `fit_seconds` and
    `rank_seconds` are skipped, except the first. Estimates, so that the choice does not depend on the machine.
    """
    head = min(head, MAX_TUNING_HEAD)
    fitted = lru_cache(maxsize=1)(lambda fitting: _fit_weights(name, pairs, dict(fitting), head))
    size, last, spent, tried = Size.of(pairs), None, 0.0, 0

    def score(parameters: Parameters) -> float:
        nonlocal last, spent, tried
        fitting = tuple((key, value) for key, value in parameters.items() if key not in SCORING_GRID)
        price = rank_seconds(queries) + (0 if fitting == last else fit_seconds(name, size, parameters, head))
        if tried and spent + price > seconds:
            return -np.inf
        last, spent, tried = fitting, spent + price, tried + 1
        model = _add_scoring(fitted(fitting), pairs, parameters, reused=True)
        return quality(ranking_of(model, queries, repeats), truth).means()["ndcg"]

    best, ndcg = coordinate_search(_grid(name, repeats), score)
    return Choice(best, ndcg, tried)


def fit_seconds(name: str, size: Size, parameters: Parameters, head: int) -> float:
    """Estimate the seconds of a fit on two cores."""
    return MODELS[name].cost(size, parameters, head)


def rank_seconds(queries: History) -> float:
    """Estimate the seconds to rank for these users on two cores."""
    return queries.user_count * queries.item_count / 1e8


def choose_recent_popularity(pairs: History, queries: History, truth: Truth, repeats: bool) -> Choice:
    """Choose the half-life, in days, of the popularity with the highest nDCG@10; arguments as of `choose`."""

    def score(parameters: Parameters) -> float:
        ranking = popular_ranking(popularity(pairs, parameters["half_life"]), queries, repeats)
        return quality(ranking, truth).means()["ndcg"]

    return Choice(*coordinate_search({"half_life": RECENT_HALF_LIVES}, score), len(RECENT_HALF_LIVES))


def coordinate_search(
    grid: Mapping[str, tuple[float, ...]], score: Callable[[Parameters], float]
) -> tuple[Parameters, float]:
    """Return the best parameters and their score: from the first values of the grid, each parameter in turn."""
    best = {name: values[0] for name, values in grid.items()}
    highest = score(best)
    for name, values in grid.items():
        for value in values[1:]:
            reached = score({**best, name: value})
            if reached > highest:
                best, highest = {**best, name: value}, reached
    return best, highest


def _grid(name: str, repeats: bool) -> dict[str, tuple[float, ...]]:
    """Return the grid of a model; parameters without a fit come first, so that any budget covers them."""
    grid = {**SCORING_GRID, **FITTING_GRID, **MODELS[name].grid}
    return grid if repeats else {**grid, "self_weight": (0,)}


def _fit_weights(name: str, pairs: History, parameters: Parameters, head: int) -> Fitted:
    matrix = fitting_matrix(pairs, parameters["fit_half_life"], bool(parameters["counting"]))
    return MODELS[name].fit(matrix, parameters, head)


def _add_scoring(fitted: Fitted, pairs: History, parameters: Parameters, reused: bool) -> ItemModel | FactorModel:
    """Add the self weight and the momentum of each item; changes `fitted` in place unless it is reused."""
    factor = momentum(pairs, parameters["momentum"])
    half_life = parameters["user_half_life"]
    if isinstance(fitted, Factors):
        self_weight = np.float32(parameters["self_weight"] * _typical_weight(_sampled_weights(fitted))) * factor
        outputs = fitted.outputs * factor[:, None]
        return FactorModel(fitted.inputs, outputs, self_weight, half_life, fitted.confidence, fitted.regularization)
    head, dense = fitted.head, fitted.dense.copy() if reused else fitted.dense
    self_weight = (
        np.float32(parameters["self_weight"] * _typical_weight(dense if len(head) else fitted.sparse)) * factor
    )
    dense *= factor[head]
    np.fill_diagonal(dense, self_weight[head])
    self_weight[head] = 0
    sparse = sp.csr_matrix(
        (fitted.sparse.data * factor[fitted.sparse.indices], fitted.sparse.indices, fitted.sparse.indptr),
        shape=fitted.sparse.shape,
    )
    if self_weight.any():
        sparse = (sparse + sp.diags(self_weight, format="csr", dtype=np.float32)).tocsr()
    return ItemModel(sparse, dense, head, half_life)


def _sampled_weights(factors: Factors) -> Floats:
    """Return the weights from all items to 1,000 evenly sampled ones (items x sampled), zero to itself."""
    inputs, items = factors.inputs, len(factors.inputs)
    if factors.confidence:
        gram = inputs.T @ inputs + np.float32(factors.regularization) * np.eye(inputs.shape[1], dtype=np.float32)
        inputs = np.float32(1 + factors.confidence) * np.linalg.solve(gram, inputs.T).T
    sampled = np.unique(np.linspace(0, items - 1, min(items, 1000)).astype(np.int64))
    weights: Floats = inputs @ factors.outputs[sampled].T
    weights[sampled, np.arange(len(sampled))] = 0
    return weights


def _typical_weight(weights: Floats | sp.csr_matrix) -> float:
    """Return the mean over items of their largest weight, where it is positive; 1 if there is none."""
    if not min(weights.shape):
        return 1.0
    largest = weights.max(axis=0)
    values = np.asarray(largest.toarray() if sp.issparse(largest) else largest).ravel()
    values = values[values > 0]
    return float(values.mean()) if len(values) else 1.0

"""The models that there are, the grids of their parameters, what they cost, and the choice on one window."""

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
from common.recommending.ranking import NonPersonalizedScorer, Ranking, Scorer, joined, rank
from common.recommending.svd import svd

Parameters = dict[str, float]

FOREVER = 36_500.0  # days; a half-life that decays nothing
SQUARES_A_SECOND = 1.2e8  # products of users' pairs of items, on two cores
MAX_TUNING_HEAD = 6_000  # EASE costs items^3: its parameters are sought on the head of the head, 2 s a fit


@dataclass(frozen=True)
class ItemWeights:
    """What is fitted of a model of weights between items: parts as of ItemModel, zero diagonals."""

    sparse: sp.csr_matrix
    dense: Floats
    head: NDArray[np.int64]


@dataclass(frozen=True)
class Factors:
    """What is fitted of a model of factors: parts as of FactorModel."""

    inputs: Floats
    outputs: Floats
    confidence: float = 0.0
    regularization: float = 0.0


Fitted = ItemWeights | Factors


@dataclass(frozen=True)
class Size:
    """What fitting costs depend on. squares: the sum over users of the square of their number of items."""

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
    """How a model is fitted on users x items with at most so many head items, what that costs, and values to try.

    cost: seconds of a fit on two cores, about. grid: the search starts at the first values.
    """

    fit: Callable[[sp.csr_matrix, Parameters, int], Fitted]
    cost: Callable[[Size, Parameters, int], float]
    grid: Mapping[str, tuple[float, ...]]


def _neighbours(weights: sp.csr_matrix) -> ItemWeights:
    return ItemWeights(weights, np.zeros((0, 0), dtype=np.float32), np.zeros(0, dtype=np.int64))


def _ease(matrix: sp.csr_matrix, p: Parameters, head: int) -> ItemWeights:
    """EASE between head items; what comes from or goes to the tail are RP3beta's weights, brought to EASE's scale."""
    items = matrix.shape[1]
    columns = head_items(matrix, min(head, MAX_HEAD, items))
    dense = ease(matrix if len(columns) == items else matrix[:, columns], p["regularization"], p["dropout"])
    sparse = sp.csr_matrix((items, items), dtype=np.float32)
    if len(columns) < items:
        sparse = rp3beta(matrix, 0.8, 0.4)
        sparse.data *= np.float32(_typical(dense) / _typical(sparse))
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
        lambda size, p, _: size.squares / SQUARES_A_SECOND + size.items**2 / 1e9,
        {"shrinkage": (10, 1, 100)},
    ),
    "rp3beta": Recipe(
        lambda matrix, p, _: _neighbours(rp3beta(matrix, p["alpha"], p["beta"])),
        lambda size, p, _: size.squares / SQUARES_A_SECOND + size.items**2 / 1e9,
        {"alpha": (0.8, 0.6), "beta": (0.4, 0.2, 0.6)},
    ),
    "ease": Recipe(
        _ease,
        lambda size, p, head: size.squares / SQUARES_A_SECOND + min(head, size.items) ** 3 / 7.5e10,
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
# What all of them have: the half-life of pairs in the fit (days), whether pairs count by their purchases there, and the
# half-life of user vectors (days); the weight of an item for itself, in multiples of the model's typical strongest
# weight; the exponent of the momentum of items.
FITTING_GRID: dict[str, tuple[float, ...]] = {"fit_half_life": (FOREVER, 90), "counting": (1, 0)}
SCORING_GRID: dict[str, tuple[float, ...]] = {
    "user_half_life": (365, 90, 30),
    "own": (30, 0, 10),
    "momentum": (0.4, 0, 0.8, 1.2, 1.8),
}
RECENT_HALF_LIVES = (7.0, 3.0, 14.0, 30.0, 60.0)


def defaults(name: str, repeats: bool) -> Parameters:
    """The parameters from which the search starts."""
    return {key: values[0] for key, values in _grid(name, repeats).items()}


def fit(name: str, pairs: History, parameters: Parameters, head: int = MAX_HEAD) -> ItemModel | FactorModel:
    """The model of a name in `MODELS` on the pairs (users x items), with its own parameters and those of all models.

    Time and memory: those of the model's function. An item's own weight is `own` times the mean over items of the
    largest weight for them, so that one grid serves models of any scale.
    """
    return _with_scoring(_fitted(name, pairs, parameters, head), pairs, parameters, reused=False)


def recommend(scorer: Scorer, pairs: History, count: int, repeats: bool) -> Iterator[Ranking]:
    """Blocks of the `count` best items of each row of `pairs`; without `repeats`, of those not in the row.

    See `rank` for order, time and memory.
    """
    yield from rank(scorer, pairs.user_count, count, excluded(pairs, repeats))


def excluded(pairs: History, repeats: bool) -> sp.csr_matrix | None:
    """What must not be recommended to each row: nothing if repeats are wanted, else what it has."""
    return None if repeats else pairs.matrix(np.ones_like(pairs.events))


def ranking_of(model: Model, asked: History, repeats: bool) -> Ranking:
    """The first 10 of each row."""
    return joined(list(recommend(model.scorer(asked), asked, DEPTH, repeats)))


def popular_ranking(scores: np.ndarray, asked: History, repeats: bool) -> Ranking:
    """The first 10 of each row by scores (items) that are the same for everyone."""
    return joined(list(recommend(NonPersonalizedScorer(scores), asked, DEPTH, repeats)))


def to_arrays(
    members: Sequence[ItemModel | FactorModel], weights: Sequence[float]
) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    """All arrays of models by name, those of the first with 0_ before, and what `from_arrays` needs besides."""
    arrays: dict[str, np.ndarray] = {}
    described: list[dict[str, Any]] = []
    for number, (member, weight) in enumerate(zip(members, weights, strict=True)):
        arrays |= {f"{number}_{name}": array for name, array in member.arrays().items()}
        described.append({"kind": member.kind, "weight": weight, "numbers": member.numbers()})
    return arrays, described


def from_arrays(arrays: Mapping[str, np.ndarray], members: Sequence[Mapping[str, Any]]) -> Model:
    """The blend of models that `to_arrays` took apart, or the only one; arrays may be mapped from files."""
    kinds = {kind.kind: kind for kind in (ItemModel, FactorModel)}
    made: list[Model] = []
    for number, member in enumerate(members):
        own = {name.partition("_")[2]: array for name, array in arrays.items() if name.startswith(f"{number}_")}
        made.append(kinds[member["kind"]].of_arrays(own, member["numbers"]))
    return made[0] if len(made) == 1 else Blend(made, [member["weight"] for member in members])


@dataclass(frozen=True)
class Choice:
    """Parameters, their nDCG@10 on the window they were chosen on, and how many were tried."""

    parameters: Parameters
    ndcg: float
    tried: int


def choose(
    name: str,
    pairs: History,
    asked: History,
    truth: Truth,
    repeats: bool,
    head: int = MAX_HEAD,
    seconds: float = np.inf,
) -> Choice:
    """Parameters of the highest nDCG@10 found for a model.

    Fits on `pairs`, ranks for the rows of `asked` (users x items) and compares with the same rows of `truth`. One pass
    of coordinate search: each parameter in turn over its grid, the others at the best so far; a fit is used for all
    parameters that only scoring needs. What would exceed `seconds` by the estimates of `fit_seconds` and
    `rank_seconds` is not tried, but the first always is: estimates, so that the choice does not depend on the machine.
    """
    head = min(head, MAX_TUNING_HEAD)
    fitted = lru_cache(maxsize=1)(lambda fitting: _fitted(name, pairs, dict(fitting), head))
    size, last, spent, tried = Size.of(pairs), None, 0.0, 0

    def score(parameters: Parameters) -> float:
        nonlocal last, spent, tried
        fitting = tuple((key, value) for key, value in parameters.items() if key not in SCORING_GRID)
        price = rank_seconds(asked) + (0 if fitting == last else fit_seconds(name, size, parameters, head))
        if tried and spent + price > seconds:
            return -np.inf
        last, spent, tried = fitting, spent + price, tried + 1
        model = _with_scoring(fitted(fitting), pairs, parameters, reused=True)
        return quality(ranking_of(model, asked, repeats), truth).means()["ndcg"]

    best, ndcg = coordinate_search(_grid(name, repeats), score)
    return Choice(best, ndcg, tried)


def fit_seconds(name: str, size: Size, parameters: Parameters, head: int) -> float:
    """About how long a fit takes on two cores."""
    return MODELS[name].cost(size, parameters, head)


def rank_seconds(asked: History) -> float:
    """About how long it takes on two cores to rank for these users."""
    return asked.user_count * asked.item_count / 1e8


def choose_recent_popularity(pairs: History, asked: History, truth: Truth, repeats: bool) -> Choice:
    """The half-life, in days, of the popularity with the highest nDCG@10; arguments as for `choose`."""

    def score(parameters: Parameters) -> float:
        ranking = popular_ranking(popularity(pairs, parameters["half_life"]), asked, repeats)
        return quality(ranking, truth).means()["ndcg"]

    return Choice(*coordinate_search({"half_life": RECENT_HALF_LIVES}, score), len(RECENT_HALF_LIVES))


def coordinate_search(
    grid: Mapping[str, tuple[float, ...]], score: Callable[[Parameters], float]
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
    """What costs no fit comes first, so that it is tried whatever the budget."""
    grid = {**SCORING_GRID, **FITTING_GRID, **MODELS[name].grid}
    return grid if repeats else {**grid, "own": (0,)}


def _fitted(name: str, pairs: History, parameters: Parameters, head: int) -> Fitted:
    matrix = fitting_matrix(pairs, parameters["fit_half_life"], bool(parameters["counting"]))
    return MODELS[name].fit(matrix, parameters, head)


def _with_scoring(fitted: Fitted, pairs: History, parameters: Parameters, reused: bool) -> ItemModel | FactorModel:
    """The model with own weight and momentum of each item; what is fitted changes in place unless it is reused."""
    factor = momentum(pairs, parameters["momentum"])
    half_life = parameters["user_half_life"]
    if isinstance(fitted, Factors):
        own = np.float32(parameters["own"] * _typical(_sampled_weights(fitted))) * factor
        outputs = fitted.outputs * factor[:, None]
        return FactorModel(fitted.inputs, outputs, own, half_life, fitted.confidence, fitted.regularization)
    head, dense = fitted.head, fitted.dense.copy() if reused else fitted.dense
    own = np.float32(parameters["own"] * _typical(dense if len(head) else fitted.sparse)) * factor
    dense *= factor[head]
    np.fill_diagonal(dense, own[head])
    own[head] = 0
    sparse = sp.csr_matrix(
        (fitted.sparse.data * factor[fitted.sparse.indices], fitted.sparse.indices, fitted.sparse.indptr),
        shape=fitted.sparse.shape,
    )
    if own.any():
        sparse = (sparse + sp.diags(own, format="csr", dtype=np.float32)).tocsr()
    return ItemModel(sparse, dense, head, half_life)


def _sampled_weights(factors: Factors) -> Floats:
    """What single purchases of all items say of 1,000 items evenly picked (items x picked), of itself not."""
    inputs, items = factors.inputs, len(factors.inputs)
    if factors.confidence:
        gram = inputs.T @ inputs + np.float32(factors.regularization) * np.eye(inputs.shape[1], dtype=np.float32)
        inputs = np.float32(1 + factors.confidence) * np.linalg.solve(gram, inputs.T).T
    picked = np.unique(np.linspace(0, items - 1, min(items, 1000)).astype(np.int64))
    weights: Floats = inputs @ factors.outputs[picked].T
    weights[picked, np.arange(len(picked))] = 0
    return weights


def _typical(weights: Floats | sp.csr_matrix) -> float:
    """The mean over items of the largest weight for them, of those where it is positive; 1 if there is none."""
    if not min(weights.shape):
        return 1.0
    largest = weights.max(axis=0)
    values = np.asarray(largest.toarray() if sp.issparse(largest) else largest).ravel()
    values = values[values > 0]
    return float(values.mean()) if len(values) else 1.0

"""Model registry: fits, their cost estimates and grids, rankings by style, serialisation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse as sp

from common.recommending.als import als
from common.recommending.blend import Blend, Model
from common.recommending.blocks import one_thread
from common.recommending.ease import MAX_HEAD, ease, head_items
from common.recommending.evaluation import DEPTH, Truth
from common.recommending.factor_model import FactorModel
from common.recommending.histories import BY_EVENTS, BY_NOTHING, BY_WEIGHT, Floats, History, fitting_matrix
from common.recommending.item_model import ItemModel
from common.recommending.neighbours import cosine, rp3beta
from common.recommending.popularity import momentum
from common.recommending.ranking import NonPersonalizedScorer, Ranking, Scorer, concatenate, rank
from common.recommending.scoring import Scoring
from common.recommending.svd import svd

Parameters = dict[str, float]
Fitting = tuple[tuple[str, float], ...]
Fit = ItemModel | FactorModel

FOREVER = 36_500.0  # days; a half-life that decays nothing
SQUARES_PER_SECOND = 1.2e8  # products of users' pairs of items, on two cores
CUBES_PER_SECOND = 1e11  # items^3 of EASE, on one core: .9e11 at 4,000 items, 1.05e11 at 12,000
UNSCORED = Scoring(FOREVER)
MIXED, AGAIN, NEW = "mixed", "again", "new"
STYLES = (MIXED, AGAIN, NEW)  # all items; those that the user had; those that the user never had


@dataclass(frozen=True)
class Size:
    """Sizes that determine the cost of a fit. squares: the sum over users of the square of their number of items."""

    users: int
    items: int
    pairs: int
    squares: float

    @classmethod
    def of(cls, pairs: History) -> Size:
        lengths = pairs.lengths.astype(np.float64)
        return cls(pairs.user_count, pairs.item_count, len(pairs.indices), float((lengths**2).sum()))


@dataclass(frozen=True)
class Recipe:
    """Fit of a model on users x items with a maximum number of head items, its cost, and the values to try.

    cost: approximate seconds of a fit on two cores. grid: the search starts at the first values.
    """

    fit: Callable[[sp.csr_matrix, Parameters, int], Fit]
    cost: Callable[[Size, Parameters, int], float]
    grid: Mapping[str, tuple[float, ...]]


def _neighbours(weights: sp.csr_matrix) -> ItemModel:
    return ItemModel(weights, np.zeros((0, 0), dtype=np.float32), np.zeros(0, dtype=np.int64), UNSCORED)


def _ease(matrix: sp.csr_matrix, p: Parameters, head: int) -> ItemModel:
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
    return ItemModel(sparse, dense, columns, UNSCORED)


def _als(matrix: sp.csr_matrix, p: Parameters, head: int) -> FactorModel:
    factors = als(matrix, int(p["factors"]), p["confidence"], p["ridge"])
    return FactorModel(factors, factors, UNSCORED, p["confidence"], p["ridge"])


def _rp3beta(matrix: sp.csr_matrix, p: Parameters, head: int) -> ItemModel:
    return _neighbours(rp3beta(matrix, p["alpha"], p["beta"], int(p["neighbours"]), bool(p["by_source"])))


MODELS: dict[str, Recipe] = {  # the simplest first: of equal ones it ships
    "cosine": Recipe(
        lambda matrix, p, _: _neighbours(cosine(matrix, p["shrinkage"])),
        lambda size, p, _: size.squares / SQUARES_PER_SECOND + size.items**2 / 1e9,
        {"shrinkage": (10, 1, 100)},
    ),
    "rp3beta": Recipe(
        _rp3beta,
        lambda size, p, _: size.squares / SQUARES_PER_SECOND + size.items**2 / 1e9,
        {"alpha": (0.8, 0.6), "beta": (0.4, 0.2, 0.6), "neighbours": (100, 30, 300), "by_source": (0, 1)},
    ),
    "ease": Recipe(
        _ease,
        lambda size, p, head: size.squares / SQUARES_PER_SECOND + min(head, size.items) ** 3 / CUBES_PER_SECOND,
        {"regularization": (300, 100, 1000), "dropout": (0.5, 0, 0.75)},
    ),
    "als": Recipe(
        _als,
        lambda size, p, _: 10 * (size.pairs * p["factors"] / 3e8 + (size.users + size.items) / 1.2e6),
        {"factors": (16, 32, 64), "ridge": (30, 10, 100), "confidence": (3, 10, 1)},
    ),
    "svd": Recipe(
        lambda matrix, p, _: FactorModel(*svd(matrix, int(p["factors"]), p["item_power"]), UNSCORED),
        lambda size, p, _: 10 * size.pairs * p["factors"] / 2.2e9 + (size.users + size.items) * p["factors"] ** 2 / 3e9,
        {"factors": (16, 32, 64, 128, 256), "item_power": (0.3, 0.15, 0.5)},
    ),
}
# Parameters of all models: the half-life of pairs in the fit (days) and the strength of pairs there; the half-life of
# user vectors (days) and the strength of their pairs, the weight of an item for itself, in multiples of the model's
# typical strongest weight, and the exponent of the momentum of items.
FITTING_GRID: dict[str, tuple[float, ...]] = {
    "fit_half_life": (FOREVER, 90),
    "counting": (BY_EVENTS, BY_NOTHING, BY_WEIGHT),
}
SCORING_GRID: dict[str, tuple[float, ...]] = {
    "user_half_life": (365, 90, 30),
    "user_counting": (BY_EVENTS, BY_NOTHING, BY_WEIGHT),
    "self_weight": (30, 0, 10),
    "momentum": (0.4, 0, 0.8, 1.2, 1.8),
}


def defaults(name: str) -> Parameters:
    """Return the parameters from which the search starts, on data of one type of events."""
    return {key: values[0] for key, values in {**SCORING_GRID, **FITTING_GRID, **MODELS[name].grid}.items()}


def fitting_of(parameters: Parameters) -> Fitting:
    """Return the parameters that a fit depends on."""
    return tuple((key, value) for key, value in parameters.items() if key not in SCORING_GRID)


@dataclass(frozen=True)
class Fitted:
    """A fit that can be scored in several ways: its typical strongest weight, and the momentum of its items."""

    model: Fit
    typical: float
    ratio: Floats

    def scored(self, parameters: Parameters) -> Fit:
        """Return the model that scores by these parameters; it shares all arrays."""
        scoring = Scoring(
            parameters["user_half_life"],
            parameters["user_counting"],
            parameters["self_weight"] * self.typical,
            parameters["momentum"],
            self.ratio,
        )
        return replace(self.model, scoring=scoring)


def fit_once(name: str, pairs: History, parameters: Parameters, head: int = MAX_HEAD) -> Fitted:
    """Fit a model of `MODELS` on the pairs (users x items), with its specific parameters and those of FITTING_GRID.

    Time and memory: those of the model's function.
    """
    matrix = fitting_matrix(pairs, parameters["fit_half_life"], parameters["counting"])
    model = MODELS[name].fit(matrix, parameters, head)
    if isinstance(model, FactorModel):
        with one_thread():
            typical = _typical_weight(_sampled_weights(model))
    else:
        typical = _typical_weight(model.dense if len(model.head) else model.sparse)
    return Fitted(model, typical, momentum(pairs))


def fit(name: str, pairs: History, parameters: Parameters, head: int = MAX_HEAD) -> Fit:
    """Fit a model of `MODELS` on the pairs, to score by the parameters.

    The weight of an item for itself is `self_weight` times the mean over items of the largest weight for them, so that
    one grid serves models of any scale.
    """
    return fit_once(name, pairs, parameters, head).scored(parameters)


def fit_seconds(name: str, size: Size, parameters: Parameters, head: int) -> float:
    """Estimate the seconds of a fit on two cores."""
    return MODELS[name].cost(size, parameters, head)


def limits(pairs: History, style: str) -> dict[str, sp.csr_matrix]:
    """Return the arguments of `rank` that make a style of recommendations for the rows of `pairs`."""
    names = {AGAIN: "only", NEW: "exclude"}
    return {names[style]: pairs.matrix(np.ones_like(pairs.events))} if style in names else {}


def of_style(truth: Truth, pairs: History, style: str) -> Truth:
    """Return the part of the truth that a style can reach, with `pairs` as the histories."""
    if style == MIXED:
        return truth
    return truth.in_history(pairs) if style == AGAIN else truth.new_to_users(pairs)


def recommend(scorer: Scorer, pairs: History, count: int, style: str) -> Iterator[Ranking]:
    """Yield blocks of the `count` best items of each row of `pairs`, of a style.

    See `rank` for order, time and memory.
    """
    yield from rank(scorer, pairs.user_count, count, **limits(pairs, style))


def ranking_of(model: Model, queries: History, style: str) -> Ranking:
    """Rank the first 10 items of each row."""
    return concatenate(list(recommend(model.scorer(queries), queries, DEPTH, style)))


def popular_ranking(scores: np.ndarray, queries: History, style: str) -> Ranking:
    """Rank the first 10 items of each row by the same scores (items) for everyone."""
    return concatenate(list(recommend(NonPersonalizedScorer(scores), queries, DEPTH, style)))


def to_arrays(fits: Sequence[Fit]) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    """Return all arrays of fits by name, those of the first prefixed 0_, and their kinds and numbers."""
    arrays: dict[str, np.ndarray] = {}
    descriptions: list[dict[str, Any]] = []
    for number, each in enumerate(fits):
        arrays |= {f"{number}_{name}": array for name, array in each.arrays().items()}
        descriptions.append({"kind": each.kind, "numbers": each.numbers()})
    return arrays, descriptions


def from_arrays(
    arrays: Mapping[str, np.ndarray], fits: Sequence[Mapping[str, Any]], members: Sequence[Mapping[str, Any]]
) -> Model:
    """Return the blend of members, or the only one; arrays may be memory-mapped.

    `arrays` has those of `to_arrays`, and the `momentum` of the items; `fits` are kinds and numbers. A member has the
    number of its fit, its weight, and the numbers of its scoring.
    """
    kinds = {kind.kind: kind for kind in (ItemModel, FactorModel)}
    made: list[Model] = []
    for member in members:
        fit, prefix = fits[member["fit"]], f"{member['fit']}_"
        of_fit = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
        scoring = Scoring(**member["scoring"], ratio=arrays["momentum"])
        made.append(kinds[fit["kind"]].of_arrays(of_fit, fit["numbers"], scoring))
    return made[0] if len(made) == 1 else Blend(made, [member["weight"] for member in members])


def _sampled_weights(factors: FactorModel) -> Floats:
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

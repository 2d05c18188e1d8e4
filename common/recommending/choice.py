"""Choice of parameters on one window, and of the model to ship by two."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from common.recommending import evaluation
from common.recommending.ease import MAX_HEAD
from common.recommending.evaluation import Numbers, Truth, quality
from common.recommending.histories import BY_EVENTS, BY_NOTHING, BY_WEIGHT, History, strength
from common.recommending.models import (
    FITTING_GRID,
    MODELS,
    NEW,
    SCORING_GRID,
    Fitted,
    Parameters,
    Size,
    fit_once,
    fit_seconds,
    popular_ranking,
    ranking_of,
)
from common.recommending.popularity import popularity

TUNING_HEAD = 6_000  # items of EASE to choose parameters on, where the budget does not allow all that ship
RECENT_HALF_LIVES = (7.0, 3.0, 14.0, 30.0, 60.0)
AGES = {"fit_half_life", "user_half_life", "momentum"}
COUNTINGS = {"counting", "user_counting"}
Grid = Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Choice:
    """Parameters, their nDCG@10 on the tuning window, also per user, and the number tried."""

    parameters: Parameters
    ndcg: float
    tried: int
    per_user: Numbers = field(default_factory=lambda: np.zeros(0))


def choose(
    name: str,
    pairs: History,
    queries: History,
    truth: Truth,
    style: str,
    head: int = MAX_HEAD,
    seconds: float = np.inf,
) -> Choice:
    """Choose the parameters of the highest nDCG@10 for a model.

    Fits on `pairs`, ranks for the rows of `queries` (users x items), compares with the same rows of `truth`. One pass
    of coordinate search: each parameter in turn over its grid, the others at the best so far; then a second pass over
    the parameters of the scoring, which reuses one fit. Candidates that would exceed `seconds` by the estimates of
    `fit_seconds` and `rank_seconds` are skipped, except the first. Estimates, so that the choice does not depend on the
    machine.
    """
    grid, size = grid_of(name, pairs, style), Size.of(pairs)
    head = tuning_head(name, size, grid, head, seconds)
    fitted = lru_cache(maxsize=1)(lambda fitting: fit_once(name, pairs, dict(fitting), head))
    last, spent, tried = None, 0.0, 0

    def score(parameters: Parameters) -> Numbers | None:
        nonlocal last, spent, tried
        fitting = tuple((key, value) for key, value in parameters.items() if key not in SCORING_GRID)
        price = rank_seconds(queries) + (0 if fitting == last else fit_seconds(name, size, parameters, head))
        if tried and spent + price > seconds:
            return None
        last, spent, tried = fitting, spent + price, tried + 1
        return quality(ranking_of(fitted(fitting).scored(parameters), queries, style), truth).ndcg

    best, ndcg = coordinate_search(grid, score)
    best, ndcg = coordinate_search({key: grid[key] for key in SCORING_GRID}, score, (best, ndcg))
    return Choice(best, mean(ndcg), tried, ndcg)


def choose_scoring(
    fitted: Fitted,
    start: Parameters,
    pairs: History,
    queries: History,
    truth: Truth,
    style: str,
    seconds: float = np.inf,
) -> Choice:
    """Choose the parameters of the scoring of a style for a fit, from those of another; arguments as of `choose`."""
    tried = 0

    def score(parameters: Parameters) -> Numbers | None:
        nonlocal tried
        if tried and (tried + 1) * rank_seconds(queries) > seconds:
            return None
        tried += 1
        return quality(ranking_of(fitted.scored(parameters), queries, style), truth).ndcg

    grid = useful({**SCORING_GRID, **({"self_weight": (0,)} if style == NEW else {})}, pairs)
    start = {**start, "self_weight": 0} if style == NEW else start
    first = score(start)
    assert first is not None
    best, ndcg = coordinate_search(grid, score, (start, first))
    return Choice(best, mean(ndcg), tried, ndcg)


def choose_recent_popularity(pairs: History, queries: History, truth: Truth, style: str) -> Choice:
    """Choose the half-life, in days, of the popularity with the highest nDCG@10; arguments as of `choose`."""

    def score(parameters: Parameters) -> Numbers | None:
        return quality(popular_ranking(popularity(pairs, parameters["half_life"]), queries, style), truth).ndcg

    best, ndcg = coordinate_search({"half_life": RECENT_HALF_LIVES}, score)
    return Choice(best, mean(ndcg), len(RECENT_HALF_LIVES), ndcg)


def coordinate_search(
    grid: Grid, score: Callable[[Parameters], Numbers | None], start: tuple[Parameters, Numbers] | None = None
) -> tuple[Parameters, Numbers]:
    """Return the parameters of the highest mean score, and the scores of the users: each parameter in turn.

    From the first values of the grid, or from known parameters and their scores. `score` returns None for parameters
    that it leaves out, never for the first.
    """
    if start is None:
        first = {name: values[0] for name, values in grid.items()}
        scores = score(first)
        assert scores is not None
        start = first, scores
    best, highest = start
    for name, values in grid.items():
        for value in values:
            if value == best[name]:
                continue
            reached = score({**best, name: value})
            if reached is not None and mean(reached) > mean(highest):
                best, highest = {**best, name: value}, reached
    return best, highest


def mean(values: Numbers) -> float:
    """Return the mean, 0 without values."""
    return float(values.mean()) if len(values) else 0.0


def rank_seconds(queries: History) -> float:
    """Estimate the seconds to rank for these users on two cores."""
    return queries.user_count * queries.item_count / 1e8


def tuning_head(name: str, size: Size, grid: Grid, head: int, seconds: float) -> int:
    """Return the head items to choose parameters on: those that ship if the budget covers the search, else fewer."""
    first = {key: values[0] for key, values in grid.items()}
    fits = 1 + sum(len(values) - 1 for key, values in grid.items() if key not in SCORING_GRID)
    return head if fits * fit_seconds(name, size, first, head) <= seconds else min(head, TUNING_HEAD)


def grid_of(name: str, pairs: History, style: str) -> Grid:
    """Return the grid of a model; parameters without a fit come first, so that any budget covers them."""
    grid = {**SCORING_GRID, **FITTING_GRID, **MODELS[name].grid}
    if style == NEW:
        grid["self_weight"] = (0,)
    if "factors" in grid:
        most = min(pairs.user_count, pairs.item_count)
        grid["factors"] = tuple(value for value in grid["factors"] if value <= most) or grid["factors"][:1]
    return useful(grid, pairs)


def useful(grid: Grid, pairs: History) -> dict[str, tuple[float, ...]]:
    """Return the grid without the values that change nothing on these pairs.

    Where some pairs have no target event, such as views, counting begins with the weights, and counting events means to
    fit on the others alone.
    """
    values = dict(grid)
    if not len(pairs.age) or pairs.age.min() == pairs.age.max():
        values |= {name: grid[name][:1] for name in AGES & grid.keys()}
    order = (BY_EVENTS, BY_NOTHING, BY_WEIGHT) if (pairs.events > 0).all() else (BY_WEIGHT, BY_NOTHING, BY_EVENTS)
    strengths = {counting: strength(pairs, counting) for counting in order}
    kept: list[float] = []
    for counting in order:
        if not any(_proportional(strengths[counting], strengths[other]) for other in kept):
            kept.append(counting)
    return values | {name: tuple(kept) for name in COUNTINGS & grid.keys()}


def _proportional(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.allclose(one * other.sum(), other * one.sum()))


class Winner(NamedTuple):
    """The model that ships alone: the simplest of those as good as the best; `behind`: 95 % interval of the lag."""

    name: str
    best: str
    behind: tuple[float, float]


def choose_winner(ndcg: Mapping[str, Sequence[Numbers]], seed: int) -> Winner:
    """Return the first model, of simple to complex ones, whose lag behind the best may be noise.

    `ndcg` has the windows' nDCG@10 per user of each model. The best has the highest mean over the windows; the lag is
    noise if its 95 % interval, by bootstrap over the users of all windows, reaches zero.
    """
    best = max(ndcg, key=lambda name: sum(mean(window) for window in ndcg[name]))
    behind = {
        name: evaluation.interval(
            np.concatenate([ahead - own for ahead, own in zip(ndcg[best], windows, strict=True)]), seed
        )
        for name, windows in ndcg.items()
    }
    name = next(name for name in ndcg if behind[name][0] <= 0)
    return Winner(name, best, behind[name])

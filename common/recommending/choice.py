"""Choice of parameters on one window, and of the model to ship by two."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

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
    Fitting,
    Parameters,
    Size,
    fit_once,
    fit_seconds,
    fitting_of,
    popular_ranking,
)
from common.recommending.popularity import popularity
from common.recommending.trials import trial

TUNING_HEAD = 6_000  # items of EASE to choose parameters on, where the budget does not allow all that ship
RECENT_HALF_LIVES = (7.0, 3.0, 14.0, 30.0, 60.0)
OWN_FITS = 5_000  # items; in a larger catalogue the fits of several styles may not fit into memory
OWN_FITS_COST = 8  # fits that the budget must cover besides: three styles are fitted to evaluate and to ship
VECTORS = ("user_half_life", "user_counting")
FREE = {"self_weight", "momentum"}  # parameters that each trial has several values of
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


class Chosen(NamedTuple):
    """The choice for a style, and the fit of its parameters that it was made on."""

    choice: Choice
    fitted: Fitted


def choose(
    name: str,
    pairs: History,
    queries: History,
    truths: Mapping[str, Truth],
    head: int = MAX_HEAD,
    seconds: float = np.inf,
) -> dict[str, Chosen]:
    """Choose the parameters of the highest nDCG@10 for a model, for each style of `truths`.

    Fits on `pairs`, ranks for the rows of `queries` (users x items), compares with the same rows of `truths`. Climbs
    along each parameter in turn from the best so far of the first style; then, for each style, along those of the
    scoring, which need no other fit. Each style takes the best of all that was tried for any. Candidates that would
    exceed `seconds` by the estimates of `fit_seconds` and `rank_seconds` are skipped, except the first. Estimates, so
    that the choice does not depend on the machine.
    """
    search = Search(name, pairs, queries, truths, head, seconds)
    main, *others = truths
    search.attempt(search.start, search.grid["momentum"])
    for key in search.grid:
        if key not in FREE:
            search.climb(main, key)
    for style in (main, *others):
        for key in VECTORS:
            search.climb(style, key)
        search.attempt(search.best(style).parameters, search.grid["momentum"])
    return {style: search.chosen(style) for style in truths}


class Search:
    """Search for the parameters of one model for all styles, and its state."""

    def __init__(
        self, name: str, pairs: History, queries: History, truths: Mapping[str, Truth], head: int, seconds: float
    ) -> None:
        self.name, self.pairs, self.queries, self.truths, self.seconds = name, pairs, queries, truths, seconds
        self.size, self.main = Size.of(pairs), next(iter(truths))
        self.grid = grid_of(name, pairs, self.main)
        self.start = {key: values[0] for key, values in self.grid.items()}
        self.head = tuning_head(name, self.size, self.grid, head, seconds)
        self.own_fits = self.size.items <= OWN_FITS and (
            OWN_FITS_COST * fit_seconds(name, self.size, self.start, self.head) <= seconds
        )
        self.found: dict[tuple[str, Fitting], Choice] = {}
        self.fits: dict[Fitting, Fitted] = {}
        self.seen: dict[tuple[Any, ...], set[float]] = defaultdict(set)  # momenta by fit and vectors
        self.spent, self.tried = 0.0, 0

    def climb(self, style: str, key: str) -> None:
        """Try the neighbours of the best value of a style, up, or else down, until one is worse; all if unordered."""
        values = sorted(self.grid[key])
        if key in COUNTINGS:
            for value in values:
                self.attempt({**self.best(style).parameters, key: value})
            return
        for step in (1, -1):
            here = start = values.index(self.best(style).parameters[key])
            while 0 <= here + step < len(values) and self.best(style).parameters[key] == values[here]:
                here += step
                self.attempt({**self.best(style).parameters, key: values[here]})
            if self.best(style).parameters[key] != values[start]:
                return

    def attempt(self, parameters: Parameters, momenta: Sequence[float] | None = None) -> None:
        """Try parameters with some momenta, by default those of the best of each style; keep what is better."""
        momenta = momenta or [self.best(style).parameters["momentum"] for style in self.truths]
        fitting = fitting_of(parameters)
        seen = self.seen[fitting, *(parameters[key] for key in VECTORS)]
        new = [momentum for momentum in dict.fromkeys(momenta) if momentum not in seen]
        price = 0 if fitting in self.fits else fit_seconds(self.name, self.size, parameters, self.head)
        budget = (self.seconds - self.spent - price) / rank_seconds(self.queries) if self.queries.user_count else 0
        if not new or (self.tried and budget < 1 + len(new)):
            return
        new = new if budget >= 1 + len(new) else new[:1]
        self.spent += price + (1 + len(new)) * rank_seconds(self.queries)
        seen.update(new)
        if fitting not in self.fits:
            self.fits[fitting] = fit_once(self.name, self.pairs, parameters, self.head)
        weights = self.grid["self_weight"]
        found = trial(self.fits[fitting], parameters, new, weights, self.queries, self.truths)
        self.tried += len(new) * len(weights)
        for variant, ndcg in found.items():
            best = self.found.get((variant.style, fitting))
            if best is None or mean(ndcg) > best.ndcg:
                choice = Choice({**parameters, **variant.numbers()}, mean(ndcg), 0, ndcg)
                self.found[variant.style, fitting] = choice
        held = {fitting_of(self.best(style).parameters) for style in self.truths}
        self.fits = {key: fitted for key, fitted in self.fits.items() if key in held}

    def best(self, style: str) -> Choice:
        """Return the best for a style: of all fits, or of the one of the first style."""
        choices = [choice for (other, _), choice in self.found.items() if other == style]
        if style == self.main or self.own_fits:
            return max(choices, key=lambda choice: choice.ndcg)
        return self.found[style, fitting_of(self.best(self.main).parameters)]

    def chosen(self, style: str) -> Chosen:
        """Return the best for a style and its fit."""
        best = self.best(style)
        return Chosen(replace(best, tried=self.tried), self.fits[fitting_of(best.parameters)])


def choose_recent_popularity(pairs: History, queries: History, truth: Truth, style: str) -> Choice:
    """Choose the half-life, in days, of the popularity with the highest nDCG@10; arguments as of `choose`."""

    def score(parameters: Parameters) -> Numbers:
        return quality(popular_ranking(popularity(pairs, parameters["half_life"]), queries, style), truth).ndcg

    best, ndcg = coordinate_search({"half_life": RECENT_HALF_LIVES}, score)
    return Choice(best, mean(ndcg), len(RECENT_HALF_LIVES), ndcg)


def coordinate_search(grid: Grid, score: Callable[[Parameters], Numbers]) -> tuple[Parameters, Numbers]:
    """Return the parameters of the highest mean score, and the scores of the users: each parameter in turn.

    From the first values of the grid.
    """
    best = {name: values[0] for name, values in grid.items()}
    highest = score(best)
    for name, values in grid.items():
        for value in values[1:]:
            reached = score({**best, name: value})
            if mean(reached) > mean(highest):
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

"""Train recommendation models: choose on the tuning window, evaluate on the test window, fit the best on all data.

Only goods of the catalogue (curated/items) take part. Parameters come from the tuning window alone; on the test window
each model is evaluated once, with those. A model passes the gate if its nDCG@10 there is higher than that of recent
popularity; of those that pass, the one that was best on the tuning window is shipped. A blend of them, its weights from
the tuning window, is shipped instead if on the test window it beats all of them beyond the noise of a bootstrap.
"""

import time
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp

from common.engines import arrow
from common.engines.arrays import string_arrays, write_arrays
from common.engines.catalogue import check_listed
from common.engines.interactions import Interactions, read_interactions
from common.errors import GateRefused, InputError
from common.handover import Task, run
from common.recommending import MICROSECONDS_PER_DAY, evaluation, models
from common.recommending.blend import Blend, candidates, choose_weights
from common.recommending.evaluation import Truth
from common.recommending.histories import History, history
from common.recommending.popularity import popularity
from common.recommending.ranking import Ranking

MOMENTS = {"now": "", "test": "_before_test", "tuning": "_before_tuning"}  # suffixes of the columns as of each
NEW = np.timedelta64(28, "D")  # an item counts as new for this long after its first sale
NEVER = np.datetime64("NaT", "us")
RECENT = "recent popularity"
BLEND = "blend"


@dataclass(frozen=True)
class Snapshot:
    """Data as of a moment: histories (all users x catalogue), last event of each item (NaT: none yet)."""

    moment: np.datetime64
    pairs: History
    last_event: np.ndarray


@dataclass(frozen=True)
class Window:
    """Evaluation window: rank for the rows of `queries`; `truth` has their later purchases, row by row."""

    queries: History
    truth: Truth


@dataclass(frozen=True)
class Data:
    """Snapshots of the interactions with goods, and the windows between them."""

    users: int
    items: pa.Array
    now: Snapshot
    at_test: Snapshot
    at_tuning: Snapshot
    tuning: Window
    test: Window
    test_truth: Truth  # of all users
    new: np.ndarray  # marks the items that were new as of the test window


@dataclass
class Evaluation:
    """Figures of the models on the test window, by name."""

    task: Task
    data: Data
    choices: dict[str, dict[str, Any]] = field(default_factory=dict)
    quality: dict[str, dict[str, Any]] = field(default_factory=dict)
    details: dict[str, dict[str, Any]] = field(default_factory=dict)
    ndcg: dict[str, np.ndarray] = field(default_factory=dict)  # of each user of the test window

    def add(self, name: str, choice: models.Choice, ranking: Ranking, started: float) -> None:
        """Evaluate a model by its ranking on the test window, and log its figures."""
        test, seed = self.data.test, self.task.parameters["seed"]
        result = evaluation.quality(ranking, test.truth)
        on_new = evaluation.quality(ranking, test.truth.only(self.data.new))
        low, high = evaluation.interval(result.ndcg, seed)
        figures = {
            "tuning_ndcg": choice.ndcg,
            **result.means(),
            "ndcg_low": low,
            "ndcg_high": high,
            "coverage": evaluation.coverage(ranking, int((~np.isnat(self.data.at_test.last_event)).sum())),
        }
        self.choices[name] = {"parameters": choice.parameters, "tuning_ndcg": choice.ndcg, "tried": choice.tried}
        self.quality[name] = {key: round(value, 5) for key, value in figures.items()}
        self.details[name] = {
            "by_length": evaluation.by_length(result, test.queries.lengths),
            "new_items": {"users": len(on_new.rows), **on_new.means()},
        }
        self.ndcg[name] = result.ndcg
        self.task.log(
            "evaluated",
            model=f"'{name}'",
            seconds=round(time.monotonic() - started, 1),
            tried=choice.tried,
            **self.quality[name],
            **choice.parameters,
        )


def read_data(task: Task) -> Data:
    """Read the interactions with goods of the catalogue, and cut them into snapshots and windows."""
    columns = [f"{name}{suffix}" for suffix in MOMENTS.values() for name in ("weight", "events", "last_time")]
    interactions = read_interactions(task, "interactions", [*columns, "first_time"])
    items, interactions = select_listed(task, interactions)
    count = len(items)
    now, at_test, at_tuning = (snapshot(interactions, suffix, count) for suffix in MOMENTS.values())
    task.log("read", users=len(interactions.users), items=count, pairs=len(now.pairs.indices))
    tuning_truth = bought_between(interactions, "_before_test", "_before_tuning", count)
    test_truth = bought_between(interactions, "", "_before_test", count)
    if not task.parameters["repeats"]:
        tuning_truth, test_truth = tuning_truth.new_to_users(at_tuning.pairs), test_truth.new_to_users(at_test.pairs)
    limits = task.parameters["evaluation_users"], task.parameters["seed"]
    tuning = window(at_tuning.pairs, tuning_truth, *limits, "tuning")
    test = window(at_test.pairs, test_truth, *limits, "test")
    new = first_sales(interactions, count) > at_test.moment - NEW
    return Data(len(interactions.users), items, now, at_test, at_tuning, tuning, test, test_truth, new)


def select_listed(task: Task, interactions: Interactions) -> tuple[pa.Array, Interactions]:
    """Return the items that take part, and the interactions with positions among them: -1 for other items.

    Those of the catalogue take part; all if there is none. GateRefused if no item remains, or too few interactions.
    """
    if not task.input("items").rows:
        return interactions.items, interactions
    catalogue = arrow.read(task, "items", ["item_id"])["item_id"]
    known = pc.is_in(interactions.items, value_set=catalogue).to_numpy(zero_copy_only=False)
    positions = np.where(known, np.cumsum(known) - 1, -1).astype(np.int32)
    indices = positions[interactions.indices]
    unlisted = interactions.items.take(pa.array(interactions.indices[indices < 0]))
    check_listed(task, "interactions", unlisted, len(indices))
    items = interactions.items.filter(pa.array(known))
    if not len(items):
        raise GateRefused(
            "No interaction is with an item of curated/items, so nothing can be recommended; deliver items."
        )
    return items, interactions._replace(indices=indices)


def snapshot(interactions: Interactions, suffix: str, items: int) -> Snapshot:
    """Return the pairs that existed as of a moment, the last purchase among them."""
    values, indices = interactions.values, interactions.indices
    exists = (values[f"weight{suffix}"] > 0) & (indices >= 0)
    times = values[f"last_time{suffix}"]
    moment = times[exists].max() if exists.any() else np.datetime64("1970-01-01T00:00:00", "us")
    pairs = history(
        interactions.indptr,
        indices,
        exists,
        values[f"events{suffix}"],
        (moment - times).astype(np.int64) / MICROSECONDS_PER_DAY,
        items,
    )
    last_event = np.full(items, NEVER)
    np.fmax.at(last_event, indices[exists], times[exists])
    return Snapshot(moment, pairs, last_event)


def first_sales(interactions: Interactions, items: int) -> np.ndarray:
    """Return the time of the first sale of each item."""
    known, first_sold = interactions.indices >= 0, np.full(items, NEVER)
    np.fmin.at(first_sold, interactions.indices[known], interactions.values["first_time"][known])
    return first_sold


def bought_between(interactions: Interactions, later: str, earlier: str, items: int) -> Truth:
    """Return the pairs with more purchases as of the later moment than as of the earlier one."""
    grew = interactions.values[f"events{later}"] > interactions.values[f"events{earlier}"]
    grew &= interactions.indices >= 0
    before = np.concatenate(([0], np.cumsum(grew)))
    columns = interactions.indices[grew]
    shape = (len(interactions.users), items)
    return Truth(sp.csr_matrix((np.ones(len(columns), np.int8), columns, before[interactions.indptr]), shape=shape))


def window(pairs: History, truth: Truth, max_users: int, seed: int, name: str) -> Window:
    """Draw at most `max_users` users with purchases before and in the window; InputError if there is none."""
    rows = np.flatnonzero((pairs.lengths > 0) & (truth.counts > 0))
    if not len(rows):
        raise InputError(
            f"No user bought goods both before and in the {name} window, so no model can be evaluated; choose windows "
            "of build_interactions with purchases on both sides, and fill curated/items with these goods."
        )
    if len(rows) > max_users:
        rows = np.sort(np.random.default_rng(seed).choice(rows, max_users, replace=False))
    return Window(pairs.rows(rows), Truth(truth.bought[rows]))


class Plan(NamedTuple):
    """Models to run: names with the head items of each, and the seconds that each has to choose parameters."""

    heads: dict[str, int]
    seconds: float


def plan(task: Task, size: models.Size) -> Plan:
    """Select the models of which four fits (choose, blend, evaluate, ship) fit into an equal share of the budget.

    EASE gets fewer head items until it fits. The first in MODELS always runs. All by estimates, so that the same data
    give the same plan anywhere.
    """
    share = task.parameters["seconds"] / len(models.MODELS)
    head = task.parameters["head_items"]
    heads: dict[str, int] = {}
    estimates, left_out = {}, {}
    for name in models.MODELS:
        parameters = models.defaults(name, task.parameters["repeats"])
        sizes = [min(head, size.items) // 2**halvings for halvings in range(5)] if name == "ease" else [head]
        prices = {items: models.fit_seconds(name, size, parameters, items) for items in sizes}
        fitting = [items for items in sizes if 4 * prices[items] <= share]
        if fitting or not heads:
            heads[name] = fitting[0] if fitting else sizes[-1]
            estimates[name] = round(prices[heads[name]], 1)
        else:
            left_out[name] = round(min(prices.values()), 1)
    task.log("planned", seconds_a_fit=estimates, left_out=left_out, seconds_a_model=round(share, 1))
    return Plan(heads, share)


def evaluate_popularity(data: Data, report: Evaluation, repeats: bool) -> tuple[float, np.ndarray]:
    """Evaluate all-time and recent popularity; return the half-life of the latter and its scores."""
    started = time.monotonic()
    tuning, test = data.tuning, data.test
    ranking = models.popular_ranking(popularity(data.at_tuning.pairs), tuning.queries, repeats)
    choice = models.Choice({}, evaluation.quality(ranking, tuning.truth).means()["ndcg"], 1)
    ranking = models.popular_ranking(popularity(data.at_test.pairs), test.queries, repeats)
    report.add("popularity", choice, ranking, started)
    choice = models.choose_recent_popularity(data.at_tuning.pairs, tuning.queries, tuning.truth, repeats)
    half_life = choice.parameters["half_life"]
    trending = popularity(data.at_test.pairs, half_life)
    report.add(RECENT, choice, models.popular_ranking(trending, test.queries, repeats), started)
    return half_life, trending


def evaluate_models(task: Task, data: Data, report: Evaluation, planned: Plan) -> dict[str, float]:
    """Choose the parameters of each model, evaluate it, and their blend; return the weights of the blend's members."""
    repeats, fitted = task.parameters["repeats"], {}
    for number, (name, head) in enumerate(planned.heads.items()):
        task.progress(f"choosing and evaluating models, now {name}", number, len(planned.heads))
        started = time.monotonic()
        choice = models.choose(
            name, data.at_tuning.pairs, data.tuning.queries, data.tuning.truth, repeats, head, planned.seconds
        )
        fitted[name] = models.fit(name, data.at_test.pairs, choice.parameters, head)
        report.add(name, choice, models.ranking_of(fitted[name], data.test.queries, repeats), started)
    started = time.monotonic()
    parameters = {name: report.choices[name]["parameters"] for name in planned.heads}
    weights = blend_weights(data.at_tuning.pairs, data.tuning, parameters, planned.heads, repeats)
    if len(weights.parameters) > 1:
        blend = Blend([fitted[name] for name in weights.parameters], list(weights.parameters.values()))
        report.add(BLEND, weights, models.ranking_of(blend, data.test.queries, repeats), started)
    return weights.parameters


def blend_weights(
    pairs: History, tuning: Window, parameters: dict[str, models.Parameters], heads: dict[str, int], repeats: bool
) -> models.Choice:
    """Choose the weights of the models, without those of weight 0, and return the blend's nDCG@10 on the window."""
    sizes = {name: min(head, models.MAX_TUNING_HEAD) for name, head in heads.items()}
    scorers = [models.fit(name, pairs, parameters[name], sizes[name]).scorer(tuning.queries) for name in parameters]
    excluded = models.excluded(tuning.queries, repeats)
    weights, ndcg, tried = choose_weights(candidates(scorers, tuning.queries.user_count, excluded), tuning.truth)
    return models.Choice(
        {name: weight for name, weight in zip(parameters, weights, strict=True) if weight}, ndcg, tried
    )


def choose_winner(report: Evaluation, names: list[str], blend: dict[str, float], seed: int) -> dict[str, float]:
    """Return the members to ship with their weights: one model, or the blend; GateRefused if no model passes."""
    quality, ndcg = report.quality, report.ndcg
    passed = [name for name in names if quality[name]["ndcg"] > quality[RECENT]["ndcg"]]
    if not passed:
        best = max(names, key=lambda name: quality[name]["ndcg"])
        raise GateRefused(
            f"No model beats recent popularity on the test window (nDCG@10 {quality[RECENT]['ndcg']:.4f}; the best, "
            f"{best}, {quality[best]['ndcg']:.4f}), so none ships; check the interactions, or keep the last model."
        )
    if BLEND in quality and beats(ndcg[BLEND], [ndcg[RECENT], *(ndcg[name] for name in passed)], seed):
        return blend
    return {max(passed, key=lambda name: report.choices[name]["tuning_ndcg"]): 1.0}


def beats(ndcg: np.ndarray, others: list[np.ndarray], seed: int) -> bool:
    """Return True if the mean over users exceeds that of each other, beyond the 95 % interval of the differences."""
    return all(evaluation.interval(ndcg - other, seed)[0] > 0 for other in others)


def cold_users(pairs: History, truth: Truth, trending: np.ndarray) -> dict[str, Any]:
    """Return the number of users without a history who bought in the window, and the quality of default rows."""
    rows = np.flatnonzero((pairs.lengths == 0) & (truth.counts > 0))
    queries = pairs.rows(rows)
    figures: dict[str, Any] = {"users": len(rows)}
    for name, scores in {"": trending, "all_time_": popularity(pairs)}.items():
        result = evaluation.quality(models.popular_ranking(scores, queries, True), Truth(truth.bought[rows]))
        figures |= {f"{name}{key}": round(value, 5) for key, value in result.means().items()}
    return figures


def main(task: Task) -> None:
    repeats, data = task.parameters["repeats"], read_data(task)
    report = Evaluation(task, data)
    half_life, trending = evaluate_popularity(data, report, repeats)
    planned = plan(task, models.Size.of(data.now.pairs))
    blend = evaluate_models(task, data, report, planned)
    cold = cold_users(data.at_test.pairs, data.test_truth, trending)
    task.metrics |= {
        "users": data.users,
        "items": len(data.items),
        "pairs": len(data.now.pairs.indices),
        "tuning_users": data.tuning.queries.user_count,
        "test_users": data.test.queries.user_count,
        "models": report.quality,
        "new_items": {name: details["new_items"] for name, details in report.details.items()},
        "cold_users": cold,
    }
    members = choose_winner(report, list(planned.heads), blend, task.parameters["seed"])
    winner = BLEND if len(members) > 1 else next(iter(members))
    task.metrics["model"] = winner
    task.progress(f"fitting {winner} on all data", len(planned.heads), len(planned.heads))
    fitted = [
        models.fit(name, data.now.pairs, report.choices[name]["parameters"], planned.heads[name]) for name in members
    ]
    arrays, descriptions = models.to_arrays(fitted, list(members.values()))
    arrays |= {
        **string_arrays("items", data.items),
        "trending": popularity(data.now.pairs, half_life),
        "last_event": data.now.last_event.astype(np.int64),
    }
    document = {
        "model": winner,
        "members": [{"name": name, **member} for name, member in zip(members, descriptions, strict=True)],
        "repeats": repeats,
        "as_of": int(data.now.moment.astype(np.int64)),
        "models": {
            name: {**report.choices[name], **report.quality[name], **report.details[name]} for name in report.ndcg
        },
        "cold_users": cold,
    }
    write_arrays(task, "model", arrays, document)


if __name__ == "__main__":
    run(main)

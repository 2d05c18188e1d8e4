"""Recommendation models: chosen on the tuning window, judged on the test window, and the best fitted on everything.

Only goods of the catalogue (curated/items) take part. Parameters come from the tuning window alone; on the test window
each model is looked at once, with those. A model passes the gate if its nDCG@10 there is higher than that of recent
popularity; of those that pass, the one that was best on the tuning window is shipped. A blend of them, its weights from
the tuning window, is shipped instead if on the test window it beats all of them beyond the noise of a bootstrap.
"""

import time
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp

from common.engines import arrow
from common.engines.arrays import string_arrays, write_arrays
from common.engines.interactions import Interactions, read_interactions
from common.errors import GateRefused, InputError
from common.handover import Task, run
from common.recommending import evaluation, models
from common.recommending.blend import Blend, candidates, choose_weights
from common.recommending.evaluation import Quality, Truth
from common.recommending.histories import History, history
from common.recommending.popularity import popularity
from common.recommending.ranking import Ranking

MOMENTS = {"now": "", "test": "_before_test", "tuning": "_before_tuning"}  # suffixes of the columns as of each
NEW = np.timedelta64(28, "D")  # an item counts as new until so long after its first sale
RECENT = "recent popularity"
BLEND = "blend"
MICROSECONDS_A_DAY = 86_400e6


@dataclass(frozen=True)
class Snapshot:
    """What was known at a moment: histories (all users x catalogue), last sale of each item (NaT: none yet)."""

    moment: np.datetime64
    pairs: History
    last_sold: np.ndarray


@dataclass(frozen=True)
class Window:
    """What is asked of a model: to rank for the rows of `asked` what they bought next, told by `truth`, row by row."""

    asked: History
    truth: Truth


def catalogue(interactions: Interactions, goods: pa.Array) -> tuple[pa.Array, Interactions]:
    """The items that take part, and the interactions with positions among them: -1 for what is no good."""
    known = pc.is_in(interactions.items, value_set=goods).to_numpy(zero_copy_only=False)
    places = np.where(known, np.cumsum(known) - 1, -1).astype(np.int32)
    return interactions.items.filter(pa.array(known)), interactions._replace(indices=places[interactions.indices])


def snapshot(interactions: Interactions, suffix: str, items: int) -> Snapshot:
    """The pairs that existed as of a moment, which is the last purchase among them."""
    values, indices = interactions.values, interactions.indices
    exists = (values[f"weight{suffix}"] > 0) & (indices >= 0)
    times = values[f"last_time{suffix}"]
    moment = times[exists].max() if exists.any() else np.datetime64("1970-01-01T00:00:00", "us")
    pairs = history(
        interactions.indptr,
        indices,
        exists,
        values[f"events{suffix}"],
        (moment - times).astype(np.int64) / MICROSECONDS_A_DAY,
        items,
    )
    last_sold = np.full(items, np.datetime64("NaT"), dtype="datetime64[us]")
    np.fmax.at(last_sold, indices[exists], times[exists])
    return Snapshot(moment, pairs, last_sold)


def bought_between(interactions: Interactions, later: str, earlier: str, items: int) -> Truth:
    """The pairs with more purchases as of the later moment than as of the earlier one."""
    grew = interactions.values[f"events{later}"] > interactions.values[f"events{earlier}"]
    grew &= interactions.indices >= 0
    before = np.concatenate(([0], np.cumsum(grew)))
    columns = interactions.indices[grew]
    shape = (len(interactions.users), items)
    return Truth(sp.csr_matrix((np.ones(len(columns), np.int8), columns, before[interactions.indptr]), shape=shape))


def window(pairs: History, truth: Truth, most: int, seed: int, what: str) -> Window:
    """Users with purchases before and in the window, at most `most`, drawn by the seed; InputError if there is none."""
    rows = np.flatnonzero((pairs.lengths > 0) & (truth.counts > 0))
    if not len(rows):
        raise InputError(
            f"No user bought goods both before and in the {what} window, so nothing can be measured; choose windows of "
            "build_interactions with purchases on both sides, and fill curated/items with these goods."
        )
    if len(rows) > most:
        rows = np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))
    return Window(pairs.rows(rows), Truth(truth.bought[rows]))


def report(
    ranking: Ranking, test: Window, sold: int, new: np.ndarray, seed: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Figures of a ranking on the test window: those for the metrics, and more for the document."""
    result: Quality = evaluation.quality(ranking, test.truth)
    low, high = evaluation.interval(result.ndcg, seed)
    on_new = evaluation.quality(ranking, test.truth.only(new))
    figures = {
        **result.means(),
        "ndcg_low": low,
        "ndcg_high": high,
        "coverage": evaluation.coverage(ranking, sold),
    }
    details = {
        "by_length": evaluation.by_length(result, test.asked.lengths),
        "new_items": {"users": len(on_new.rows), **on_new.means()},
    }
    return figures, details


def popular(scores: np.ndarray, window: Window, repeats: bool) -> Ranking:
    return models.popular_ranking(scores, window.asked, repeats)


class Plan(NamedTuple):
    """Which models run: names with the head items of each, and the seconds that each may take to choose parameters."""

    heads: dict[str, int]
    seconds: float


def plan(task: Task, size: models.Size, head: int, repeats: bool) -> Plan:
    """The models of which four fits (to choose, to blend, to judge, to ship) fit into an equal share of the budget.

    EASE gets fewer head items until it fits. The first in MODELS always runs. All by estimates, so that the same data
    give the same plan anywhere.
    """
    share = task.parameters["seconds"] / len(models.MODELS)
    heads: dict[str, int] = {}
    estimates, left_out = {}, {}
    for name in models.MODELS:
        parameters = models.defaults(name, repeats)
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


def main(task: Task) -> None:
    repeats, seed = task.parameters["repeats"], task.parameters["seed"]
    columns = [f"{name}{suffix}" for suffix in MOMENTS.values() for name in ("weight", "events", "last_time")]
    interactions = read_interactions(task, "interactions", [*columns, "first_time"])
    goods = arrow.read(task, "items", ["item_id"])["item_id"].combine_chunks()
    items, interactions = catalogue(interactions, goods)
    count = len(items)
    now, at_test, at_tuning = (snapshot(interactions, suffix, count) for suffix in MOMENTS.values())
    task.log("read", users=len(interactions.users), items=count, pairs=len(now.pairs.indices))

    tuning_truth = bought_between(interactions, "_before_test", "_before_tuning", count)
    test_truth = bought_between(interactions, "", "_before_test", count)
    if not repeats:
        tuning_truth, test_truth = tuning_truth.new_to_users(at_tuning.pairs), test_truth.new_to_users(at_test.pairs)
    most = task.parameters["evaluation_users"]
    tuning = window(at_tuning.pairs, tuning_truth, most, seed, "tuning")
    test = window(at_test.pairs, test_truth, most, seed, "test")

    first_sold = np.full(count, np.datetime64("NaT"), dtype="datetime64[us]")
    np.fmin.at(
        first_sold,
        interactions.indices[interactions.indices >= 0],
        interactions.values["first_time"][interactions.indices >= 0],
    )
    new = first_sold > at_test.moment - NEW
    judge = partial(report, test=test, sold=int((~np.isnat(at_test.last_sold)).sum()), new=new, seed=seed)

    chosen: dict[str, dict[str, Any]] = {}
    quality: dict[str, dict[str, Any]] = {}
    details: dict[str, dict[str, Any]] = {}
    ndcg: dict[str, np.ndarray] = {}  # of each user of the test window

    def judged(name: str, choice: models.Choice, ranking: Ranking, started: float) -> None:
        chosen[name] = {"parameters": choice.parameters, "tuning_ndcg": choice.ndcg, "tried": choice.tried}
        quality[name], details[name] = judge(ranking)
        ndcg[name] = evaluation.quality(ranking, test.truth).ndcg
        quality[name] = {key: round(value, 5) for key, value in {"tuning_ndcg": choice.ndcg, **quality[name]}.items()}
        task.log(
            "judged",
            model=f"'{name}'",
            seconds=round(time.monotonic() - started, 1),
            tried=choice.tried,
            **quality[name],
            **choice.parameters,
        )

    started = time.monotonic()
    tuned = evaluation.quality(popular(popularity(at_tuning.pairs), tuning, repeats), tuning.truth).means()["ndcg"]
    judged("popularity", models.Choice({}, tuned, 1), popular(popularity(at_test.pairs), test, repeats), started)
    recent = models.choose_recent_popularity(at_tuning.pairs, tuning.asked, tuning.truth, repeats)
    trending = popularity(at_test.pairs, recent.parameters["half_life"])
    judged(RECENT, recent, popular(trending, test, repeats), started)
    plans = plan(task, models.Size.of(now.pairs), task.parameters["head_items"], repeats)
    heads, fitted = plans.heads, {}
    for number, (name, head) in enumerate(heads.items()):
        task.progress(f"choosing and judging models, now {name}", number, len(heads))
        started = time.monotonic()
        choice = models.choose(name, at_tuning.pairs, tuning.asked, tuning.truth, repeats, head, plans.seconds)
        fitted[name] = models.fit(name, at_test.pairs, choice.parameters, head)
        judged(name, choice, models.ranking_of(fitted[name], test.asked, repeats), started)
    started = time.monotonic()
    weights = blend_weights(
        at_tuning.pairs, tuning, {name: chosen[name]["parameters"] for name in heads}, heads, repeats
    )
    if len(weights.parameters) > 1:
        members = [fitted[name] for name in weights.parameters]
        ranking = models.ranking_of(Blend(members, list(weights.parameters.values())), test.asked, repeats)
        judged(BLEND, weights, ranking, started)
        del members
    del fitted  # before as much is fitted again
    cold = cold_users(at_test.pairs, test_truth, trending)

    task.metrics |= {
        "users": len(interactions.users),
        "items": count,
        "pairs": len(now.pairs.indices),
        "tuning_users": tuning.asked.user_count,
        "test_users": test.asked.user_count,
        "models": quality,
        "new_items": {name: details[name]["new_items"] for name in details},
        "cold_users": cold,
    }
    passed = [name for name in heads if quality[name]["ndcg"] > quality[RECENT]["ndcg"]]
    if not passed:
        best = max(heads, key=lambda name: quality[name]["ndcg"])
        raise GateRefused(
            f"No model beats recent popularity on the test window (nDCG@10 {quality[RECENT]['ndcg']:.4f}; the best, "
            f"{best}, {quality[best]['ndcg']:.4f}), so none ships; look at the interactions, or keep the last model."
        )
    winner = max(passed, key=lambda name: chosen[name]["tuning_ndcg"])
    shipped = {winner: 1.0}
    if BLEND in quality and beats(ndcg[BLEND], [ndcg[RECENT], *(ndcg[name] for name in passed)], seed):
        winner, shipped = BLEND, weights.parameters
    task.metrics["model"] = winner
    task.progress(f"fitting {winner} on everything", len(heads), len(heads))
    made = [models.fit(name, now.pairs, chosen[name]["parameters"], heads[name]) for name in shipped]
    arrays, described = models.to_arrays(made, list(shipped.values()))
    arrays |= {
        **string_arrays("items", items),
        "trending": popularity(now.pairs, recent.parameters["half_life"]),
        "last_sold": now.last_sold.astype(np.int64),
    }
    document = {
        "model": winner,
        "members": [{"name": name, **member} for name, member in zip(shipped, described, strict=True)],
        "repeats": repeats,
        "as_of": int(now.moment.astype(np.int64)),
        "models": {name: {**chosen[name], **quality[name], **details[name]} for name in quality},
        "cold_users": cold,
    }
    write_arrays(task, "model", arrays, document)


def blend_weights(
    pairs: History, tuning: Window, parameters: dict[str, models.Parameters], heads: dict[str, int], repeats: bool
) -> models.Choice:
    """Weights of the models that are worth blending by the tuning window, and the blend's nDCG@10 there."""
    sizes = {name: min(head, models.MAX_TUNING_HEAD) for name, head in heads.items()}
    scorers = [models.fit(name, pairs, parameters[name], sizes[name]).scorer(tuning.asked) for name in parameters]
    among = candidates(scorers, tuning.asked.user_count, models.excluded(tuning.asked, repeats))
    weights, ndcg, tried = choose_weights(among, tuning.truth)
    return models.Choice(
        {name: weight for name, weight in zip(parameters, weights, strict=True) if weight}, ndcg, tried
    )


def beats(ndcg: np.ndarray, others: list[np.ndarray], seed: int) -> bool:
    """Whether the mean over users is higher than that of each other, beyond the 95 % interval of the differences."""
    return all(evaluation.interval(ndcg - other, seed)[0] > 0 for other in others)


def cold_users(pairs: History, truth: Truth, trending: np.ndarray) -> dict[str, Any]:
    """Number of users without a history who bought in the window, and what default rows are worth to them."""
    rows = np.flatnonzero((pairs.lengths == 0) & (truth.counts > 0))
    asked = pairs.rows(rows)
    found: dict[str, Any] = {"users": len(rows)}
    for name, scores in {"": trending, "all_time_": popularity(pairs)}.items():
        result = evaluation.quality(models.popular_ranking(scores, asked, True), Truth(truth.bought[rows]))
        found |= {f"{name}{key}": round(value, 5) for key, value in result.means().items()}
    return found


if __name__ == "__main__":
    run(main)

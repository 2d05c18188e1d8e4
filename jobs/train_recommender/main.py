"""Train recommendation models: choose on the tuning window, evaluate on the test window, fit the winners on all data.

Only items of the catalogue (curated/items) take part, if there is one. Models learn from all events of positive weight;
the truth is the target events of the tracking plan. Parameters come from the tuning window; on the test window each
model is evaluated once, with those. A model passes the gate if its nDCG@10 there is higher than that of recent
popularity. Of those that pass, the simplest ships that is as good as the best over both windows; a blend of models
ships instead if it beats that one on the test window beyond the noise of a bootstrap. Each style (all items, those
that the user had, those that are new for the user) has its own parameters, weights and winner. Where no
model passes, or nobody has events on both sides of a window, trending items ship instead.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from common.engines import arrow
from common.engines.arrays import string_arrays, write_arrays
from common.engines.catalogue import check_listed
from common.engines.interactions import Interactions, max_pairs, read_interactions, take_files, target_events
from common.errors import GateRefused
from common.handover import Task, run
from common.recommending import choice, evaluation, models
from common.recommending.blend import Blend, candidates, choose_weights
from common.recommending.blocks import one_thread
from common.recommending.choice import Choice
from common.recommending.evaluation import Numbers, Truth
from common.recommending.histories import History
from common.recommending.models import MIXED, NEW, STYLES, Fitted, Fitting, fitting_of
from common.recommending.popularity import momentum, popularity
from common.recommending.ranking import Ranking
from common.recommending.windows import Snapshot, Window, first_events, snapshot, targets_between, window
from common.sources import tracking_plan

MOMENTS = {"now": "", "test": "_before_test", "tuning": "_before_tuning"}  # suffixes of the columns as of each
RECENT = "recent popularity"
BLEND = "blend"
TRENDING = "trending"
Result = TypeVar("Result")


@dataclass(frozen=True)
class Data:
    """Snapshots of the interactions with items of the catalogue, and the windows between them."""

    users: int
    items: pa.Array
    now: Snapshot
    at_test: Snapshot
    at_tuning: Snapshot
    tuning: Window
    test: Window
    test_truth: Truth  # of all users
    new: np.ndarray  # marks the items whose first event is after the tuning window's begin


@dataclass
class Evaluation:
    """Figures of the models of one style, by name."""

    task: Task
    style: str
    tuning: Window
    test: Window
    data: Data
    choices: dict[str, Choice] = field(default_factory=dict)
    quality: dict[str, dict[str, Any]] = field(default_factory=dict)
    details: dict[str, dict[str, Any]] = field(default_factory=dict)
    ndcg: dict[str, Numbers] = field(default_factory=dict)  # of each user of the test window

    @property
    def possible(self) -> bool:
        """True if both windows have users."""
        return bool(self.tuning.queries.user_count and self.test.queries.user_count)

    def add(self, name: str, chosen: Choice, ranking: Ranking, seconds: float) -> None:
        """Evaluate a model by its ranking on the test window, and log its figures."""
        test, seed = self.test, self.task.parameters["seed"]
        result = evaluation.quality(ranking, test.truth)
        on_new = evaluation.quality(ranking, test.truth.only(self.data.new))
        low, high = evaluation.interval(result.ndcg, seed)
        figures = {
            "tuning_ndcg": chosen.ndcg,
            **result.means(),
            "ndcg_low": low,
            "ndcg_high": high,
            "coverage": evaluation.coverage(ranking, int((~np.isnat(self.data.at_test.last_event)).sum())),
        }
        self.choices[name] = chosen
        self.quality[name] = {key: round(value, 5) for key, value in figures.items()}
        self.details[name] = {
            "parameters": chosen.parameters,
            "tried": chosen.tried,
            "by_length": evaluation.by_length(result, test.queries.lengths),
            "new_items": {"users": len(on_new.rows), **on_new.means()},
        }
        self.ndcg[name] = result.ndcg
        self.task.log(
            "evaluated",
            model=f"'{name}'",
            style=self.style,
            seconds=round(seconds, 1),
            tried=chosen.tried,
            **self.quality[name],
            **chosen.parameters,
        )


def read_data(task: Task) -> Data:
    """Read the interactions with items of the catalogue, and cut them into snapshots and windows."""
    task.metrics["sample"] = take_files(task, "interactions", max_pairs(task))
    columns = [f"{name}{suffix}" for suffix in MOMENTS.values() for name in ("weight", "events", "last_time")]
    items, interactions = select_listed(task, read_interactions(task, "interactions", [*columns, "first_time"]))
    count, most = len(items), task.parameters["max_user_items"]
    now, at_test, at_tuning = (snapshot(interactions, suffix, count, most) for suffix in MOMENTS.values())
    task.log("read", users=len(interactions.users), items=count, pairs=len(now.pairs.indices))
    tuning_truth = targets_between(interactions, "_before_test", "_before_tuning", count)
    test_truth = targets_between(interactions, "", "_before_test", count)
    if not task.parameters["repeats"]:
        tuning_truth, test_truth = tuning_truth.new_to_users(at_tuning.pairs), test_truth.new_to_users(at_test.pairs)
    limits = task.parameters["evaluation_users"], task.parameters["seed"]
    tuning = window(at_tuning.pairs, tuning_truth, *limits)
    test = window(at_test.pairs, test_truth, *limits)
    new = first_events(interactions, count) > at_tuning.moment
    return Data(len(interactions.users), items, now, at_test, at_tuning, tuning, test, test_truth, new)


def select_listed(task: Task, interactions: Interactions) -> tuple[pa.Array, Interactions]:
    """Return the items that take part, and the interactions with positions among them: -1 for other items.

    Those of the catalogue take part; all if there is none. GateRefused if no item remains, or too few interactions.
    """
    items, indices = interactions.items, interactions.indices
    if task.input("items").rows:
        catalogue = arrow.read(task, "items", ["item_id"])["item_id"]
        known = pc.is_in(items, value_set=catalogue).to_numpy(zero_copy_only=False)
        indices = np.where(known, np.cumsum(known) - 1, -1).astype(np.int32)[indices]
        check_listed(task, "interactions", items.take(pa.array(interactions.indices[indices < 0])), len(indices))
        items = items.filter(pa.array(known))
    if not len(items):
        raise GateRefused("No interaction is with an item of curated/items, so nothing can be shown; deliver items.")
    return items, interactions._replace(indices=indices)


class Plan(NamedTuple):
    """Models to run: names with the head items of each, and the seconds that each has to choose parameters."""

    heads: dict[str, int]
    seconds: float


def plan(task: Task, size: models.Size) -> Plan:
    """Select the models of which four fits (two to choose, evaluate, ship) fit into an equal share of the budget.

    EASE gets fewer head items until it fits. The first in MODELS always runs. All by estimates, so that the same data
    give the same plan anywhere.
    """
    share = task.parameters["seconds"] / len(models.MODELS)
    head = task.parameters["head_items"]
    heads: dict[str, int] = {}
    estimates, left_out = {}, {}
    for name in models.MODELS:
        parameters = models.defaults(name)
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


def evaluate_popularity(data: Data, report: Evaluation) -> float:
    """Evaluate all-time and recent popularity; return the half-life of the latter."""
    started = time.monotonic()
    tuning, test, style = report.tuning, report.test, report.style
    ranking = models.popular_ranking(popularity(data.at_tuning.pairs), tuning.queries, style)
    per_user = evaluation.quality(ranking, tuning.truth).ndcg
    ranking = models.popular_ranking(popularity(data.at_test.pairs), test.queries, style)
    report.add("popularity", Choice({}, choice.mean(per_user), 1, per_user), ranking, time.monotonic() - started)
    chosen = choice.choose_recent_popularity(data.at_tuning.pairs, tuning.queries, tuning.truth, style)
    half_life = chosen.parameters["half_life"]
    recent = popularity(data.at_test.pairs, half_life)
    report.add(RECENT, chosen, models.popular_ranking(recent, test.queries, style), time.monotonic() - started)
    return half_life


def tune_models(task: Task, data: Data, reports: list[Evaluation], planned: Plan) -> dict[str, dict[str, Choice]]:
    """Choose the parameters of each model and style, and the weights of the blends, on the tuning window."""
    window, pairs = reports[0].tuning, data.at_tuning.fitted
    truths = {report.style: models.of_style(window.truth, window.queries, report.style) for report in reports}
    chosen: dict[str, dict[str, Choice]] = {report.style: {} for report in reports}
    members: dict[str, dict[str, models.Fit]] = {report.style: {} for report in reports}

    def choose(name: str) -> dict[str, choice.Chosen]:
        return choice.choose(name, pairs, window.queries, truths, planned.heads[name], planned.seconds)

    task.progress("models with parameters", 0, len(planned.heads))
    for number, (name, found) in enumerate(by_model(choose, planned, data), 1):
        task.progress("models with parameters", number, len(planned.heads))
        for style, each in found.items():
            chosen[style][name] = each.choice
            members[style][name] = each.fitted.scored(each.choice.parameters)
    for report in reports:
        chosen[report.style][BLEND] = blend_weights(members[report.style], report)
    return chosen


def by_model(function: Callable[[str], Result], planned: Plan, data: Data) -> Iterator[tuple[str, Result]]:
    """Yield the result of a function for each model, of two at a time: most of EASE's work takes one core.

    Of one at a time for a large catalogue, because the fits of two may not fit into memory.
    """
    with one_thread(), ThreadPoolExecutor(2 if len(data.items) <= choice.OWN_FITS else 1) as pool:
        yield from zip(planned.heads, pool.map(function, planned.heads), strict=True)


def blend_weights(members: dict[str, models.Fit], report: Evaluation) -> Choice:
    """Choose the weights of the models, without those of weight 0, on the tuning window."""
    queries = report.tuning.queries
    scorers = [member.scorer(queries) for member in members.values()]
    among = candidates(scorers, queries.user_count, **models.limits(queries, report.style))
    weights, ndcg, tried = choose_weights(among, report.tuning.truth)
    return Choice({name: weight for name, weight in zip(members, weights, strict=True) if weight}, ndcg, tried)


def evaluate_models(
    task: Task, data: Data, reports: list[Evaluation], planned: Plan, chosen: dict[str, dict[str, Choice]]
) -> None:
    """Evaluate each model and the blend on the test window, for each style."""
    members: dict[str, dict[str, models.Fit]] = {report.style: {} for report in reports}

    def evaluate(name: str) -> list[tuple[models.Fit, Ranking, float]]:
        fits: dict[Fitting, Fitted] = {}
        found = []
        for report in reports:
            started, parameters = time.monotonic(), chosen[report.style][name].parameters
            fitting = fitting_of(parameters)
            if fitting not in fits:
                fits[fitting] = models.fit_once(name, data.at_test.fitted, parameters, planned.heads[name])
            model = fits[fitting].scored(parameters)
            ranking = models.ranking_of(model, report.test.queries, report.style)
            found.append((model, ranking, time.monotonic() - started))
        return found

    task.progress("models evaluated", 0, len(planned.heads))
    for number, (name, found) in enumerate(by_model(evaluate, planned, data), 1):
        task.progress("models evaluated", number, len(planned.heads))
        for report, (model, ranking, seconds) in zip(reports, found, strict=True):
            members[report.style][name] = model
            report.add(name, chosen[report.style][name], ranking, seconds)
    for report in reports:
        blend = chosen[report.style][BLEND]
        if len(blend.parameters) > 1:
            started, of_style = time.monotonic(), members[report.style]
            blended = Blend([of_style[name] for name in blend.parameters], list(blend.parameters.values()))
            ranking = models.ranking_of(blended, report.test.queries, report.style)
            report.add(BLEND, blend, ranking, time.monotonic() - started)


class Shipped(NamedTuple):
    """The members to ship for a style, with their weights, and the figures of the choice."""

    members: dict[str, float]
    figures: dict[str, Any]

    @property
    def name(self) -> str:
        """The name of the model."""
        return BLEND if len(self.members) > 1 else next(iter(self.members))


def choose_winner(report: Evaluation, names: list[str], seed: int) -> Shipped | None:
    """Return the members to ship: one model, or the blend; None if no model beats recent popularity."""
    quality, ndcg = report.quality, report.ndcg
    passed = [name for name in names if quality[name]["ndcg"] > quality[RECENT]["ndcg"]]
    if not passed:
        return None
    winner = choice.choose_winner({name: (report.choices[name].per_user, ndcg[name]) for name in passed}, seed)
    figures: dict[str, Any] = {"best": winner.best, "single": winner.name, "behind_best": rounded(winner.behind)}
    if BLEND in quality:
        lead = evaluation.interval(ndcg[BLEND] - ndcg[winner.name], seed)
        figures["blend_ahead_of_single"] = rounded(lead)
        if lead[0] > 0 and quality[BLEND]["ndcg"] > quality[RECENT]["ndcg"]:
            return Shipped(dict(report.choices[BLEND].parameters), figures)
    return Shipped({winner.name: 1.0}, figures)


def rounded(interval: tuple[float, float]) -> list[float]:
    """Return the bounds of an interval with five digits."""
    return [round(bound, 5) for bound in interval]


def cold_users(pairs: History, truth: Truth, trending: np.ndarray) -> dict[str, Any]:
    """Return the number of users without a history with target events in the window, and the default rows' quality."""
    rows = np.flatnonzero((pairs.lengths == 0) & (truth.counts > 0))
    queries = pairs.rows(rows)
    figures: dict[str, Any] = {"users": len(rows)}
    for name, scores in {"": trending, "all_time_": popularity(pairs)}.items():
        result = evaluation.quality(models.popular_ranking(scores, queries, MIXED), Truth(truth.items[rows]))
        figures |= {f"{name}{key}": round(value, 5) for key, value in result.means().items()}
    return figures


def ship(
    task: Task, data: Data, half_life: float, document: dict[str, Any], fits: Sequence[tuple[str, models.Fit]] = ()
) -> None:
    """Write the model: the arrays of the fits, those of the items, and the document."""
    arrays, descriptions = models.to_arrays([fit for _, fit in fits])
    arrays |= {
        **string_arrays("items", data.items),
        "trending": popularity(data.now.pairs, half_life),
        "last_event": data.now.last_event.astype(np.int64),
        "momentum": momentum(data.now.fitted),
    }
    named = [{"name": name, **each} for (name, _), each in zip(fits, descriptions, strict=True)]
    as_of = int(data.now.moment.astype(np.int64))
    write_arrays(task, "model", arrays, {"as_of": as_of, "verb": verb(task), "fits": named, **document})


def verb(task: Task) -> str:
    """Return the verb for reasons: that of the most frequent type of the targets that became interactions."""
    return tracking_plan.load().verb_of(target_events(task, "interactions"))


def ship_trending(task: Task, data: Data, half_life: float, because: str, document: dict[str, Any]) -> None:
    """Ship trending items for everyone."""
    task.metrics |= {"model": TRENDING, "because": because}
    task.log("trending", note=f"'{because}'")
    ship(task, data, half_life, {"model": TRENDING, "because": because, "styles": {}, **document})


def describe(reports: list[Evaluation]) -> dict[str, Any]:
    """Return the figures of each style and model for the document."""
    return {
        report.style: {name: {**report.quality[name], **report.details[name]} for name in report.quality}
        for report in reports
    }


def winners(task: Task, reports: list[Evaluation], names: list[str]) -> dict[str, tuple[Shipped, Evaluation]]:
    """Return the members that ship for each style, and the report with their parameters; none without a main winner.

    The main style is the first. Its winner serves the styles that have none of their own, or no users to evaluate on.
    """
    main = choose_winner(reports[0], names, task.parameters["seed"])
    if main is None:
        return {}
    shipped = dict.fromkeys(STYLES if task.parameters["repeats"] else [NEW], (main, reports[0]))
    for report in reports[1:]:
        if own := choose_winner(report, names, task.parameters["seed"]):
            shipped[report.style] = own, report
    return shipped


def ship_models(
    task: Task,
    data: Data,
    half_life: float,
    planned: Plan,
    shipped: dict[str, tuple[Shipped, Evaluation]],
    document: dict[str, Any],
) -> None:
    """Fit the winners on all data and ship them."""
    (main, _), *_ = shipped.values()
    fits: dict[tuple[str, Fitting], Fitted] = {}
    styles = {}
    for style, (each, source) in shipped.items():
        members = []
        for name, weight in each.members.items():
            parameters = source.choices[name].parameters
            key = name, fitting_of(parameters)
            if key not in fits:
                task.progress(f"fitting {name} on all data", len(planned.heads), len(planned.heads))
                fits[key] = models.fit_once(name, data.now.fitted, parameters, planned.heads[name])
            scoring = fits[key].scored(parameters).scoring.numbers()
            members.append({"fit": list(fits).index(key), "weight": weight, "scoring": scoring})
        styles[style] = {"model": each.name, "members": members, "choice": each.figures}
    task.metrics["model"] = main.name
    task.log("chosen", **{style: each["model"] for style, each in styles.items()})
    named = [(name, fitted.model) for (name, _), fitted in fits.items()]
    ship(task, data, half_life, {"model": main.name, "styles": styles, **document}, named)


def main(task: Task) -> None:
    data = read_data(task)
    styles = STYLES if task.parameters["repeats"] else [NEW]
    reports = [
        Evaluation(task, style, data.tuning.of_style(style), data.test.of_style(style), data) for style in styles
    ]
    task.metrics |= {
        "users": data.users,
        "items": len(data.items),
        "pairs": len(data.now.pairs.indices),
        "tuning_users": reports[0].tuning.queries.user_count,
        "test_users": reports[0].test.queries.user_count,
    }
    if not reports[0].possible:
        because = "nobody has items before a window and target events in it, for both windows"
        ship_trending(task, data, choice.RECENT_HALF_LIVES[0], because, {"quality": {}})
        return
    reports = [report for report in reports if report.possible]
    half_life, *_ = [evaluate_popularity(data, report) for report in reports]
    planned = plan(task, models.Size.of(data.now.fitted))
    chosen = tune_models(task, data, reports, planned)
    evaluate_models(task, data, reports, planned, chosen)
    cold = cold_users(data.at_test.pairs, data.test_truth, popularity(data.at_test.pairs, half_life))
    shipped = winners(task, reports, list(planned.heads))
    task.metrics |= {"models": reports[0].quality, "cold_users": cold, "styles": figures_of(reports, shipped)}
    task.metrics["new_items"] = {name: details["new_items"] for name, details in reports[0].details.items()}
    document = {"quality": describe(reports), "cold_users": cold}
    if shipped:
        ship_models(task, data, half_life, planned, shipped, document)
    else:
        ship_trending(task, data, half_life, "no model beats recent popularity on the test window", document)


def figures_of(reports: list[Evaluation], shipped: dict[str, tuple[Shipped, Evaluation]]) -> dict[str, dict[str, Any]]:
    """Return the users, the quality of the models and the choice of each style, for the metrics."""
    found: dict[str, dict[str, Any]] = {}
    for report in reports:
        found[report.style] = {"users": report.test.queries.user_count, "models": report.quality}
        found[report.style] |= groups_of(report)
        if shipped:
            winner, _ = shipped[report.style]
            found[report.style] |= {"model": winner.name, **winner.figures}
    return found


def groups_of(report: Evaluation) -> dict[str, Any]:
    """Return the nDCG of the models by items in the users' history, and on new items, with the numbers of users."""
    first, *_ = report.details.values()
    return {
        "users_by_history": {group: each["users"] for group, each in first["by_length"].items()},
        "by_history": {
            name: {group: round(each["ndcg"], 5) for group, each in details["by_length"].items()}
            for name, details in report.details.items()
        },
        "users_with_new_items": first["new_items"]["users"],
        "on_new_items": {name: round(details["new_items"]["ndcg"], 5) for name, details in report.details.items()},
    }


if __name__ == "__main__":
    run(main)

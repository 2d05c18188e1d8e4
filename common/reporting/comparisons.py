"""Models of a training side by side, and its choice and gate in words. Each function knows the metrics of one job."""

import math
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from common.reporting.record import Comparison, Model
from common.reporting.results import Result, as_number

RECENT, BLEND, TRENDING = "recent popularity", "blend", "trending"
RULE = "recency rule"
STYLES = ("mixed", "again", "new")  # the main one first
IN_PLACE = "model in place"
CHURN_FIGURES = ["auc", "average_precision", "log_loss", "calibration_error"]
CONFIDENT = 1.96  # standard errors of a 95 % interval
DRIFTING = 10  # features shown
Metrics = dict[str, Any]


def comparisons(results: list[Result], sentence: str | None) -> list[Comparison]:
    """Return the comparisons of all trainings; `sentence` is that of the run's failure."""
    return [each for result in results if result.job in COMPARED for each in COMPARED[result.job](result, sentence)]


def recommenders(result: Result, sentence: str | None) -> Iterator[Comparison]:
    """Yield the comparison of each style; without users to judge on, only the words."""
    styles = result.metrics.get("styles")
    if not isinstance(styles, dict):
        if because := result.metrics.get("because"):
            yield Comparison(result.task, "", "ndcg", 0, [], f"Trending items ship for everyone: {because}.")
        return
    for style in sorted(styles, key=lambda each: (STYLES.index(each) if each in STYLES else len(STYLES), each)):
        found = dictionary(styles, style)
        models = [recommender(name, figures, found) for name, figures in dictionary(found, "models").items()]
        models.sort(key=lambda model: -model.figures.get("ndcg", 0))
        words = choice(found, {model.name: model.figures.get("ndcg", 0.0) for model in models})
        yield Comparison(result.task, style, "ndcg", int(found.get("users", 0)), models, words)


def recommender(name: str, figures: Metrics, found: Metrics) -> Model:
    """Return a model of a style with its figures, by length of history and on new items."""
    users = dictionary(found, "users_by_history")
    by_history = dictionary(dictionary(found, "by_history"), name)
    shown = sorted((group for group in by_history if users.get(group)), key=first_number)
    groups = {in_words(group): by_history[group] for group in shown}
    if found.get("users_with_new_items") and name in dictionary(found, "on_new_items"):
        groups["on new items"] = found["on_new_items"][name]
    return Model(
        name=name,
        chosen=found.get("model") == name,
        figures=numbers(figures, ["ndcg", "recall", "map", "coverage", "tuning_ndcg"]),
        low=as_number(figures.get("ndcg_low")),
        high=as_number(figures.get("ndcg_high")),
        groups=groups,
    )


def first_number(group: str) -> int:
    """Return the number that a group begins with, such as 20 of 20-99."""
    found = re.match(r"\d+", group)
    return int(found[0]) if found else 0


def in_words(group: str) -> str:
    """Return the label of a group of users by items in their history, such as 1-4 or 100+."""
    return f"{group[:-1]} items and more" if group.endswith("+") else f"{group.replace('-', ' to ')} items"


def choice(found: Metrics, ndcg: dict[str, float]) -> str:
    """Return why a model ships for a style, and how it passed the gate."""
    model, recent = found.get("model"), ndcg.get(RECENT, 0.0)
    if model is None:
        return f"No model beats recent popularity (nDCG@10 {recent:.4f}) on the test window, so trending items ship."
    if ndcg.get(model, 0.0) <= recent:
        return f"No model of this style beats recent popularity ({recent:.4f}), so the winner of the first style ships."
    passed = f"It passes the gate, because recent popularity has {recent:.4f} on the test window."
    if model == BLEND:
        low, high = found.get("blend_ahead_of_single", [0.0, 0.0])
        return (
            f"The blend ships with nDCG@10 {ndcg[model]:.4f}: it is {low:.4f} to {high:.4f} ahead of the best single "
            f"model, {found.get('single')}, which is more than noise. {passed}"
        )
    if "blend_ahead_of_single" in found:
        low, high = found["blend_ahead_of_single"]
        passed += f" The blend's lead of {low:.4f} to {high:.4f} may be noise."
    best = found.get("best", model)
    if best == model:
        return f"{model} ships with nDCG@10 {ndcg[model]:.4f}: it is the best over both windows. {passed}"
    low, high = found.get("behind_best", [0.0, 0.0])
    return (
        f"{model} ships with nDCG@10 {ndcg[model]:.4f}: it is the simplest model whose lag behind the best, {best} "
        f"({low:.4f} to {high:.4f}), may be noise. {passed}"
    )


def churn(result: Result, sentence: str | None) -> Iterator[Comparison]:
    """Yield the comparison of churn models on the newest labelled cut."""
    metrics, judged = result.metrics, result.count("judged_rows")
    winner, quality = metrics.get("model"), dictionary(metrics, "models")
    if not quality:
        return
    models = [churner(result, name, figures) for name, figures in quality.items()]
    for model in models:
        model.chosen = result.succeeded and model.name == winner
    if in_place := dictionary(metrics, "in_place"):
        models.append(churner(result, IN_PLACE, in_place))
    models.sort(key=lambda model: -model.figures.get("auc", 0))
    bins = [
        {"predicted": each["probability"], "observed": each["churned"], "count": each["rows"]}
        for each in metrics.get("reliability", [])
    ]
    drift = sorted(numbers(dictionary(metrics, "drift")).items(), key=lambda each: -each[1])[:DRIFTING]
    words = churn_choice(result, {model.name: model.figures.get("auc", 0.0) for model in models}, sentence)
    yield Comparison(result.task, "churn", "auc", judged, models, words, bins, dict(drift))


def churner(result: Result, name: str, figures: Metrics) -> Model:
    """Return a churn model with the interval of its AUC."""
    low, high = interval(float(figures.get("auc", 0.5)), result.count("judged_churned"), result.count("judged_rows"))
    return Model(name, figures=numbers(figures, CHURN_FIGURES), low=low, high=high)


def interval(auc: float, churned: int, rows: int) -> tuple[float | None, float | None]:
    """Return the 95 % interval of an AUC by the numbers of both outcomes (Hanley and McNeil 1982)."""
    stayed = rows - churned
    if churned < 1 or stayed < 1:
        return None, None
    of_churned, of_stayed = auc / (2 - auc) - auc**2, 2 * auc**2 / (1 + auc) - auc**2
    variance = (auc * (1 - auc) + (churned - 1) * of_churned + (stayed - 1) * of_stayed) / (churned * stayed)
    margin = CONFIDENT * math.sqrt(variance)
    return round(max(0.0, auc - margin), 5), round(min(1.0, auc + margin), 5)


def churn_choice(result: Result, auc: dict[str, float], sentence: str | None) -> str:
    """Return why a churn model ships, or why it was refused."""
    winner = str(result.metrics.get("model"))
    if not result.succeeded:
        return f"No model ships. {sentence or ''}".strip()
    words = [
        f"The {winner} ships: it was the best on held-out users, and its AUC on the newest labelled cut is "
        f"{auc.get(winner, 0.0):.4f}, that of the recency rule {auc.get(RULE, 0.0):.4f}."
    ]
    if IN_PLACE in auc:
        loss = result.parameters.get("max_auc_loss", 0.0)
        words.append(f"The model in place has {auc[IN_PLACE]:.4f} there; the new one may have {loss:g} less.")
    calibrated = "agree with" if result.metrics.get("calibrated") else "were not close enough to"
    words.append(f"Its probabilities {calibrated} the shares that churned in the newest two judged cuts.")
    return " ".join(words)


COMPARED: dict[str, Callable[[Result, str | None], Iterator[Comparison]]] = {
    "train_recommender": recommenders,
    "train_churn": churn,
}


def dictionary(metrics: Metrics, name: str) -> Metrics:
    """Return a metric that is a table; an empty one if it is something else."""
    found = metrics.get(name)
    return found if isinstance(found, dict) else {}


def numbers(metrics: Metrics, names: Iterable[str] = ()) -> dict[str, float]:
    """Return the metrics that are numbers, of some names or all."""
    return {name: number for name in names or metrics if (number := as_number(metrics.get(name))) is not None}

"""Train churn models: choose on users held out of the older cuts, evaluate and calibrate on the newest labelled cut.

Each model is fitted on four fifths of the users of the older cuts, its setting chosen by the log loss on the others.
With that setting it is fitted on all older cuts, and calibrated and evaluated on the newest, each row by a calibration
that has not seen it. The model that was best on the held-out users ships if it beats the recency rule and is not much
worse than the incumbent model, which is evaluated on the same rows.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from sklearn.metrics import log_loss

from common.churn import calibration, encoding, fitting, models
from common.churn.calibration import Churned
from common.churn.encoding import Encoding, Floats
from common.churn.models import Blend, Calibration, Model
from common.engines import arrow
from common.engines.arrays import read_arrays, write_arrays
from common.engines.interactions import shard_of
from common.errors import GateRefused, InputError
from common.handover import Task, run, storage

NO_FEATURES = ["user_id", "cut", "at_risk", "churned"]
RECENCY = Encoding(["recency_days"], [None])
RULE = "recency rule"
STRENGTHS = (0.1, 0.01, 1.0)
LEAVES = (8, 24)
Progress = Callable[[str, int, int], None]
HELD_OUT = 5  # one user in five


@dataclass(frozen=True)
class Rows:
    """Users as of one or more cuts: their features, and whether they churned."""

    features: pa.Table
    churned: Churned

    def where(self, chosen: Churned) -> "Rows":
        return Rows(self.features.filter(pa.array(chosen)), self.churned[chosen])


def labelled(task: Task) -> pa.Table:
    """Return the rows with a known outcome: all, or those of as many users as fit into training_rows."""
    shards = -(-task.input("features").rows // task.parameters["training_rows"])
    kept = []
    for batch in arrow.batches(task, "features"):
        known = batch.filter(batch["churned"].is_valid())
        kept.append(known.filter(pa.array(shard_of(known["user_id"], shards) == 0)))
    return pa.Table.from_batches(kept, kept[0].schema) if kept else arrow.read(task, "features")


def check_outcomes(rows: Rows, which: str) -> Rows:
    """Raise InputError unless at least two of the rows churned, and two did not; return the rows."""
    churned = int(rows.churned.sum())
    if not 2 <= churned <= len(rows.churned) - 2:
        raise InputError(
            f"Of the {len(rows.churned)} users at risk {which} {churned} churned, so nothing can be learned; expected "
            "at least two that churned and two that did not: choose other cuts, or a longer window, in "
            "build_user_features."
        )
    return rows


def fit(name: str, setting: float, matrix: Floats, churned: Churned, seed: int) -> Model:
    if name == "boosted trees":
        return fitting.fit_trees(matrix, churned, int(setting), seed)
    return fitting.fit_regression(matrix, churned, setting)


def choose_settings(training: Rows, held_out: Churned, seed: int, progress: Progress) -> dict[str, dict[str, float]]:
    """Return by model its best setting, and its log loss on the held-out users."""
    fitting, held = training.where(~held_out), training.where(held_out)
    columns = encoding.fit_encoding(fitting.features)
    if not columns.features:
        raise InputError(
            "Every feature is constant, so nothing can be learned; check build_user_features and its input."
        )
    matrix, held_matrix = columns.matrix(fitting.features), columns.matrix(held.features)

    def loss(odds: Floats) -> float:
        return float(log_loss(held.churned, models.probability(odds), labels=[False, True]))

    best: dict[str, dict[str, float]] = {}
    odds: dict[str, Floats] = {}
    for name, settings in (("logistic regression", STRENGTHS), ("boosted trees", LEAVES)):
        for setting in settings:
            progress(f"models tried, now {name} with {setting:g},", len(odds), 2)
            tried = models.log_odds(fit(name, setting, matrix, fitting.churned, seed), held_matrix)
            if name not in best or loss(tried) < best[name]["held_out_log_loss"]:
                best[name], odds[name] = {"setting": setting, "held_out_log_loss": loss(tried)}, tried
    mean = (odds["logistic regression"] + odds["boosted trees"]) / 2
    best["blend"] = {"held_out_log_loss": loss(mean)}
    return best


class Evaluation(NamedTuple):
    """Models fitted on the training rows, and their quality on the evaluation rows, by name.

    `calibrated` are log-odds of each row by a calibration that has not seen it. The winner was best on held-out users.
    """

    winner: str
    columns: Encoding
    fitted: dict[str, Model]
    odds: dict[str, Floats]
    calibrated: dict[str, Floats]
    quality: dict[str, dict[str, float]]


def fit_and_evaluate(training: Rows, newest: Rows, held_out: Churned, seed: int, progress: Progress) -> Evaluation:
    """Choose settings on held-out users, fit on all training rows, and evaluate on the newest next to the rule."""
    chosen = choose_settings(training, held_out, seed, progress)
    columns = encoding.fit_encoding(training.features)
    matrix, newest_matrix = columns.matrix(training.features), columns.matrix(newest.features)
    fitted: dict[str, Model] = {
        name: fit(name, best["setting"], matrix, training.churned, seed)
        for name, best in chosen.items()
        if "setting" in best
    }
    fitted["blend"] = Blend(fitted["logistic regression"], fitted["boosted trees"])
    odds = {name: models.log_odds(model, newest_matrix) for name, model in fitted.items()}
    rule = fitting.fit_regression(RECENCY.matrix(training.features), training.churned, 1.0)
    odds[RULE] = models.log_odds(rule, RECENCY.matrix(newest.features))
    calibrated = {name: calibration.cross_calibrated(each, newest.churned, seed) for name, each in odds.items()}
    quality = {
        name: calibration.quality(odds[name], each, newest.churned) | chosen.get(name, {})
        for name, each in calibrated.items()
    }
    winner = min(chosen, key=lambda name: chosen[name]["held_out_log_loss"])
    return Evaluation(winner, columns, fitted, odds, calibrated, quality)


def evaluate_incumbent(task: Task, newest: Rows, predicts: dict[str, Any]) -> dict[str, float]:
    """Return the incumbent's quality on the same rows; empty without one, or if it predicts another churn."""
    if not task.input("in_place").files:
        return {}
    arrays, document = read_arrays(task, "in_place")
    if any(document[name] != value for name, value in predicts.items()):
        task.log("not_compared", note="'the incumbent model predicts another kind of churn'")
        return {}
    matrix = Encoding(document["features"], document["words"]).matrix(newest.features)
    odds = models.log_odds(models.from_arrays(arrays), matrix)
    calibrated = Calibration(document["slope"], document["shift"])(odds)
    return calibration.quality(odds, calibrated, newest.churned)


def refuse_unless_better(
    winner: str, quality: dict[str, dict[str, float]], incumbent: dict[str, float], max_auc_loss: float
) -> None:
    """Raise GateRefused if the winner does not beat the recency rule, or is much worse than the incumbent model."""
    auc, rule = quality[winner]["auc"], quality[RULE]["auc"]
    if auc <= rule:
        raise GateRefused(
            f"The {winner} does not beat the recency rule on the newest window (AUC {auc:.4f} against {rule:.4f}), "
            "so no model ships; check the features, or keep the last model."
        )
    if incumbent and auc < incumbent["auc"] - max_auc_loss:
        raise GateRefused(
            f"The {winner} is worse than the incumbent model on the newest window (AUC {auc:.4f} against "
            f"{incumbent['auc']:.4f}, at most {max_auc_loss:g} less is allowed), so it does not replace it; check the "
            "features, or raise max_auc_loss."
        )


def main(task: Task) -> None:
    seed = task.parameters["seed"]
    table = labelled(task)
    cuts = pc.unique(table["cut"]).sort() if table.num_rows else []
    if len(cuts) < 2:
        raise InputError(
            f"Training needs at least two snapshot dates with labelled at-risk users, the features have {len(cuts)}; "
            "raise labelled_cuts of build_user_features, or lengthen its window."
        )
    cut = cuts[-1]
    everyone = Rows(table.drop_columns(NO_FEATURES), table["churned"].to_numpy())
    is_newest = pc.equal(table["cut"], cut).to_numpy()
    held_out = shard_of(table["user_id"].combine_chunks(), HELD_OUT) == 0
    training = check_outcomes(everyone.where(~is_newest), f"before {cut}")
    newest = check_outcomes(everyone.where(is_newest), f"as of {cut}")
    held_out = held_out[~is_newest]
    for part, which in ((~held_out, "to fit on"), (held_out, "held out to choose settings")):
        check_outcomes(training.where(part), which)
    task.log("read", training=len(training.churned), newest=len(newest.churned))

    evaluation = fit_and_evaluate(training, newest, held_out, seed, task.progress)
    for name, figures in evaluation.quality.items():
        task.log("evaluated", model=f"'{name}'", **figures)
    winner = evaluation.winner
    used = task.input("features").manifests[0].document["parameters"]
    predicts = {name: used.get(name) for name in ("churn", "horizon_days")}
    incumbent = evaluate_incumbent(task, newest, predicts)
    task.metrics |= {
        "model": winner,
        "cut": str(cut),
        "training_rows": len(training.churned),
        "judged_rows": len(newest.churned),
        "models": evaluation.quality,
        "in_place": incumbent,
    }
    refuse_unless_better(winner, evaluation.quality, incumbent, task.parameters["max_auc_loss"])

    bins = calibration.reliability(models.probability(evaluation.calibrated[winner]), newest.churned)
    document = {
        "model": winner,
        **asdict(evaluation.columns),
        **calibration.fit_calibration(evaluation.odds[winner], newest.churned)._asdict(),
        **predicts,
        "cut": str(cut),
        "models": evaluation.quality,
        "reliability": bins,
    }
    plot = calibration.plot(bins, f"{winner}, {len(newest.churned):,} users as of {cut}")
    storage.write(f"{task.folder('model')}/calibration.svg", plot.encode())
    for role in ("model", "next_in_place"):
        write_arrays(task, role, evaluation.fitted[winner].arrays(), document)


if __name__ == "__main__":
    run(main)

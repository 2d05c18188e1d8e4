"""Churn models: chosen on users held out of the older cuts, then judged and calibrated on the newest labelled cut.

Each model is fitted on four fifths of the users of the older cuts, its setting chosen by the log loss on the others.
With that it is fitted on all older cuts, calibrated on the newest and judged there, each row by a calibration that has
not seen it. The one that was best on the held-out users ships, as it was judged, if it is better than the recency rule
and not much worse than the model in place, which is judged on the same rows.
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
HELD_OUT = 5  # one user in so many


@dataclass(frozen=True)
class Rows:
    """Users as of one or more cuts: their features, and whether they churned."""

    features: pa.Table
    churned: Churned

    def where(self, chosen: Churned) -> "Rows":
        return Rows(self.features.filter(pa.array(chosen)), self.churned[chosen])


def labelled(task: Task) -> pa.Table:
    """The rows of which is known whether they churned: all, or those of as many users as fit into training_rows."""
    parts = -(-task.input("features").rows // task.parameters["training_rows"])
    kept = []
    for batch in arrow.batches(task, "features"):
        known = batch.filter(batch["churned"].is_valid())
        kept.append(known.filter(pa.array(shard_of(known["user_id"], parts) == 0)))
    return pa.Table.from_batches(kept, kept[0].schema) if kept else arrow.read(task, "features")


def of_both_kinds(rows: Rows, what: str) -> Rows:
    churned = int(rows.churned.sum())
    if not 2 <= churned <= len(rows.churned) - 2:
        raise InputError(
            f"Of the {len(rows.churned)} users at risk {what} {churned} churned, so nothing can be learned; expected "
            "at least two who did and two who did not: choose other cuts in build_user_features, or a longer window."
        )
    return rows


def fit(name: str, setting: float, matrix: Floats, churned: Churned, seed: int) -> Model:
    if name == "boosted trees":
        return fitting.fit_trees(matrix, churned, int(setting), seed)
    return fitting.fit_regression(matrix, churned, setting)


def chosen_settings(training: Rows, held_out: Churned, seed: int, progress: Progress) -> dict[str, dict[str, float]]:
    """By model: its best setting, and the log loss with it on the held-out users."""
    fitting, asked = training.where(~held_out), training.where(held_out)
    columns = encoding.fit_encoding(fitting.features)
    if not columns.features:
        raise InputError(
            "Every feature is constant, so nothing can be learned; look at build_user_features and its input."
        )
    matrix, asked_matrix = columns.matrix(fitting.features), columns.matrix(asked.features)

    def loss(odds: Floats) -> float:
        return float(log_loss(asked.churned, models.probability(odds), labels=[False, True]))

    found: dict[str, dict[str, float]] = {}
    odds: dict[str, Floats] = {}
    for name, settings in (("logistic regression", STRENGTHS), ("boosted trees", LEAVES)):
        for setting in settings:
            progress(f"models tried, now {name} with {setting:g},", len(odds), 2)
            tried = models.log_odds(fit(name, setting, matrix, fitting.churned, seed), asked_matrix)
            if name not in found or loss(tried) < found[name]["held_out_log_loss"]:
                found[name], odds[name] = {"setting": setting, "held_out_log_loss": loss(tried)}, tried
    mean = (odds["logistic regression"] + odds["boosted trees"]) / 2
    found["blend"] = {"held_out_log_loss": loss(mean)}
    return found


class Judged(NamedTuple):
    """Models fitted on the training rows, and by model's name what they are worth on the rows to judge on.

    `calibrated` are log-odds of each row by a calibration that has not seen it. The winner was best on held-out users.
    """

    winner: str
    columns: Encoding
    fitted: dict[str, Model]
    odds: dict[str, Floats]
    calibrated: dict[str, Floats]
    quality: dict[str, dict[str, float]]


def fit_and_judge(training: Rows, judged: Rows, held_out: Churned, seed: int, progress: Progress) -> Judged:
    """Settings from the held-out users of the training rows, models of all training rows, judged beside the rule."""
    chosen = chosen_settings(training, held_out, seed, progress)
    columns = encoding.fit_encoding(training.features)
    matrix, judged_matrix = columns.matrix(training.features), columns.matrix(judged.features)
    fitted: dict[str, Model] = {
        name: fit(name, found["setting"], matrix, training.churned, seed)
        for name, found in chosen.items()
        if "setting" in found
    }
    fitted["blend"] = Blend(fitted["logistic regression"], fitted["boosted trees"])
    odds = {name: models.log_odds(model, judged_matrix) for name, model in fitted.items()}
    rule = fitting.fit_regression(RECENCY.matrix(training.features), training.churned, 1.0)
    odds[RULE] = models.log_odds(rule, RECENCY.matrix(judged.features))
    calibrated = {name: calibration.cross_calibrated(each, judged.churned, seed) for name, each in odds.items()}
    quality = {
        name: calibration.quality(odds[name], each, judged.churned) | chosen.get(name, {})
        for name, each in calibrated.items()
    }
    winner = min(chosen, key=lambda name: chosen[name]["held_out_log_loss"])
    return Judged(winner, columns, fitted, odds, calibrated, quality)


def in_place(task: Task, judged: Rows, predicts: dict[str, Any]) -> dict[str, float]:
    """The quality of the model in place on the same rows; none if there is none or it predicts another churn."""
    if not task.input("in_place").files:
        return {}
    arrays, document = read_arrays(task, "in_place")
    if any(document[name] != value for name, value in predicts.items()):
        task.log("not_compared", note="'the model in place predicts another kind of churn'")
        return {}
    matrix = Encoding(document["features"], document["words"]).matrix(judged.features)
    odds = models.log_odds(models.from_arrays(arrays), matrix)
    calibrated = Calibration(document["slope"], document["shift"])(odds)
    return calibration.quality(odds, calibrated, judged.churned)


def refuse_unless_better(
    winner: str, quality: dict[str, dict[str, float]], former: dict[str, float], max_auc_loss: float
) -> None:
    """GateRefused if the winner is not better than the recency rule, or much worse than the model in place."""
    found, rule = quality[winner]["auc"], quality[RULE]["auc"]
    if found <= rule:
        raise GateRefused(
            f"The {winner} does not beat the recency rule on the newest window (AUC {found:.4f} against {rule:.4f}), "
            "so no model ships; look at the features, or keep the last model."
        )
    if former and found < former["auc"] - max_auc_loss:
        raise GateRefused(
            f"The {winner} is worse than the model in place on the newest window (AUC {found:.4f} against "
            f"{former['auc']:.4f}, at most {max_auc_loss:g} less is allowed), so it does not replace it; look at the "
            "features, or raise max_auc_loss."
        )


def main(task: Task) -> None:
    seed = task.parameters["seed"]
    table = labelled(task)
    cuts = pc.unique(table["cut"]).sort() if table.num_rows else []
    if len(cuts) < 2:
        raise InputError(
            f"The features have {len(cuts)} cuts with users at risk of whom is known whether they churned, expected "
            "two or more, to learn from and to judge on: raise labelled_cuts of build_user_features, or lengthen its "
            "window."
        )
    newest = cuts[-1]
    everyone = Rows(table.drop_columns(NO_FEATURES), table["churned"].to_numpy())
    is_newest = pc.equal(table["cut"], newest).to_numpy()
    held_out = shard_of(table["user_id"].combine_chunks(), HELD_OUT) == 0
    training = of_both_kinds(everyone.where(~is_newest), f"before {newest}")
    judged = of_both_kinds(everyone.where(is_newest), f"as of {newest}")
    held_out = held_out[~is_newest]
    for part, what in ((~held_out, "to fit on"), (held_out, "held out to choose settings")):
        of_both_kinds(training.where(part), what)
    task.log("read", training=len(training.churned), judged=len(judged.churned))

    found = fit_and_judge(training, judged, held_out, seed, task.progress)
    for name, figures in found.quality.items():
        task.log("judged", model=f"'{name}'", **figures)
    winner = found.winner
    used = task.input("features").manifests[0].document["parameters"]
    predicts = {name: used.get(name) for name in ("churn", "horizon_days")}
    former = in_place(task, judged, predicts)
    task.metrics |= {
        "model": winner,
        "cut": str(newest),
        "training_rows": len(training.churned),
        "judged_rows": len(judged.churned),
        "models": found.quality,
        "in_place": former,
    }
    refuse_unless_better(winner, found.quality, former, task.parameters["max_auc_loss"])

    bins = calibration.reliability(models.probability(found.calibrated[winner]), judged.churned)
    document = {
        "model": winner,
        **asdict(found.columns),
        **calibration.fit_calibration(found.odds[winner], judged.churned)._asdict(),
        **predicts,
        "cut": str(newest),
        "models": found.quality,
        "reliability": bins,
    }
    plot = calibration.drawing(bins, f"{winner}, {len(judged.churned):,} users as of {newest}")
    storage.write(f"{task.folder('model')}/calibration.svg", plot.encode())
    for role in ("model", "next_in_place"):
        write_arrays(task, role, found.fitted[winner].arrays(), document)


if __name__ == "__main__":
    run(main)

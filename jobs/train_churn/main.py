"""Train churn models: judge them on the newest labelled cut, then ship the best, refitted with that cut.

Each model is fitted on four fifths of the users of the older cuts, its setting chosen by the log loss on the others.
With that setting it is fitted before each cut and predicts it, so that each calibration is judged on the cut after
(`common.churn.forward`). The model that was best on the held-out users ships if it beats the recency rule and is not
much worse than the incumbent, of which the product keeps the model that had not seen the newest cut either.
"""

import datetime
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from common.churn import calibration, forward, models, training
from common.churn.calibration import Churned
from common.churn.drift import drift
from common.churn.encoding import Encoding
from common.churn.forward import Judged, Labelled, Walk
from common.churn.models import Calibration
from common.churn.training import RULE, Rows
from common.engines import arrow
from common.engines.arrays import read_arrays, write_arrays
from common.engines.arrow import bucket_of
from common.engines.interactions import take_files
from common.errors import GateRefused, InputError
from common.handover import Task, run

NO_FEATURES = ["user_id", "cut", "at_risk", "churned"]
HELD_OUT = 5  # one user in five
JUDGED = "judged_"  # begins the names of arrays of the model that has not seen the newest cut


class History(NamedTuple):
    """Rows with a known outcome, of as many users as are read; the cut of now, and days since the first known user."""

    rows: pa.Table
    now: datetime.date | None
    days: int

    def of(self, cut: datetime.date) -> pa.Table:
        return self.rows.filter(pc.equal(self.rows["cut"], pa.scalar(cut)))


def read_history(task: Task) -> History:
    """Read the features of all users, or of the first buckets of them that fit into training_rows."""
    task.metrics["sample"] = take_files(task, "features", task.parameters["training_rows"])
    kept, cuts, oldest = [], [], []
    for batch in arrow.batches(task, "features"):
        kept.append(batch.filter(batch["churned"].is_valid()))
        cuts.append(pc.max(batch["cut"]).as_py())
        oldest.append(pc.max(batch.filter(pc.equal(batch["cut"], cuts[-1]))["tenure_days"]).as_py())
    rows = pa.Table.from_batches(kept, kept[0].schema) if kept else arrow.read(task, "features")
    now = max(cuts, default=None)
    days = [tenure or 0 for cut, tenure in zip(cuts, oldest, strict=True) if cut == now]
    return History(rows, now, int(max(days, default=0)))


def label(history: History) -> Labelled:
    """Return the users by labelled cut."""
    cuts = {}
    for cut in pc.unique(history.rows["cut"]).sort().to_pylist() if history.rows.num_rows else []:
        rows = history.of(cut)
        cuts[cut] = Rows(rows.drop_columns(NO_FEATURES), rows["churned"].to_numpy())
    days = (history.now - max(cuts)).days if history.now and cuts else 0
    return Labelled(cuts, max(1, days))


def remedy(history: History, horizon_days: int, cuts: int) -> str:
    """Return how to get a number of labelled cuts from the history, or how long it has to be."""
    if history.days > cuts * horizon_days:
        return (
            f"set labelled_cuts of build_user_features to {cuts} or more and cut_spacing_days to {horizon_days}, for "
            f"which the history of {history.days} days is long enough"
        )
    return (
        f"{cuts} cuts with a horizon_days of {horizon_days} need {cuts * horizon_days + 1} days of history instead of "
        f"{history.days}: lengthen the window of build_user_features, or lower horizon_days to at most "
        f"{max(1, (history.days - 1) // cuts)}"
    )


def split(history: History, labelled: Labelled, horizon_days: int) -> tuple[Rows, Churned]:
    """Return the rows known as of the newest labelled cut, and the mask of their held-out users.

    Raises InputError if there are none, or if they, or those of the newest cut, have one outcome only.
    """
    newest = max(labelled.cuts, default=None)
    older = labelled.known(newest) if newest else []
    if not newest or not older:
        raise InputError(
            f"Training needs two labelled cuts, the outcome of one known as of the other; the features have "
            f"{len(labelled.cuts)} labelled, {len(older)} of them known as of the newest: "
            f"{remedy(history, horizon_days, 2)}."
        )
    training = labelled.rows(older)
    held_out = np.concatenate([bucket_of(history.of(cut)["user_id"].combine_chunks(), HELD_OUT) == 0 for cut in older])
    for rows, which in (
        (training, f"before {newest}"),
        (labelled.cuts[newest], f"as of {newest}"),
        (training.where(~held_out), "to fit on"),
        (training.where(held_out), "held out to choose settings"),
    ):
        if not rows.teaches:
            raise InputError(
                f"Of the {len(rows.churned)} users at risk {which} {int(rows.churned.sum())} churned, so nothing can "
                "be learned; expected at least two that churned and two that did not: choose other cuts, or a longer "
                "window, in build_user_features."
            )
    return training, held_out


class Evaluation(NamedTuple):
    """Settings of the models, their walk over the labelled cuts, and by model its figures on each predicted cut."""

    settings: training.Settings
    walked: Walk
    judged: dict[str, dict[datetime.date, Judged]]

    @property
    def winner(self) -> str:
        """Return the model that was best on the held-out users."""
        return min(self.settings, key=lambda name: self.settings[name]["held_out_log_loss"])

    @property
    def quality(self) -> dict[str, dict[str, float]]:
        """Return by model its quality on the newest cut."""
        newest = max(self.walked.odds)
        return {name: of_cuts[newest].quality | self.settings.get(name, {}) for name, of_cuts in self.judged.items()}


def evaluate(older: Rows, held_out: Churned, labelled: Labelled, seed: int, progress: training.Progress) -> Evaluation:
    """Choose settings on held-out users before the newest cut, then judge all models on all cuts they can predict."""
    settings = training.choose_settings(older, held_out, seed, progress)
    walked = forward.walk(labelled, settings, seed, progress)
    names = walked.odds[max(labelled.cuts)]
    return Evaluation(settings, walked, {name: forward.judge(walked, name) for name in names})


def evaluate_incumbent(task: Task, walked: Walk, predicts: dict[str, Any]) -> dict[str, float]:
    """Return the incumbent's quality on the newest cut; empty without one, or if it cannot be compared.

    Of the incumbent this takes the model that was judged, before the refit: it has seen no outcome after its own newest
    cut, which must not be later than this one.
    """
    if not task.input("in_place").files:
        return {}
    arrays, document = read_arrays(task, "in_place")
    newest = max(walked.odds)
    if any(document[name] != value for name, value in predicts.items()):
        task.log("not_compared", note="'the incumbent model predicts another kind of churn'")
        return {}
    if datetime.date.fromisoformat(document["cut"]) > newest:
        task.log("not_compared", note=f"'the incumbent model was judged on a later cut, {document['cut']}'")
        return {}
    model = models.from_arrays({name.removeprefix(JUDGED): arrays[name] for name in arrays if name.startswith(JUDGED)})
    judged, rows = document["judged"], walked.labelled.cuts[newest]
    odds = models.log_odds(model, Encoding(judged["features"], judged["words"]).matrix(rows.features))
    return calibration.quality(odds, Calibration(judged["slope"], judged["shift"])(odds), rows.churned)


def refuse_unless_better(
    winner: str, quality: dict[str, dict[str, float]], incumbent: dict[str, float], max_auc_loss: float, more: str
) -> None:
    """Raise GateRefused if the winner does not beat the recency rule, or is much worse than the incumbent model."""
    auc, rule = quality[winner]["auc"], quality[RULE]["auc"]
    if auc <= rule:
        raise GateRefused(
            f"The {winner} does not beat the recency rule on the newest labelled cut (AUC {auc:.4f} against "
            f"{rule:.4f}), so no model ships and a live one stays; check that the features differ between users, or "
            f"learn from more cuts: {more}."
        )
    if incumbent and auc < incumbent["auc"] - max_auc_loss:
        raise GateRefused(
            f"The {winner} is worse than the incumbent model on the newest labelled cut (AUC {auc:.4f} against "
            f"{incumbent['auc']:.4f}, at most {max_auc_loss:g} less is allowed), so it does not replace it; check the "
            "features, or raise max_auc_loss."
        )


def ship(task: Task, evaluation: Evaluation, document: dict[str, Any]) -> None:
    """Write the winner, refitted on all labelled cuts and calibrated for now, and the judged one."""
    settings, walked, _ = evaluation
    name, labelled, newest = evaluation.winner, walked.labelled, max(walked.odds)
    judged = evaluation.judged[name]
    refitted = training.fit_models(labelled.rows(list(labelled.cuts)), settings, task.parameters["seed"])
    correction, calibrate = forward.choose_correction(walked, name, labelled.next, judged)
    document |= {
        **asdict(refitted.columns),
        **calibrate._asdict(),
        "correction": correction,
        "judged": {**asdict(walked.fitted.columns), **judged[newest].calibration._asdict()},
    }
    arrays = refitted.models[name].arrays()
    arrays |= {f"{JUDGED}{part}": array for part, array in walked.fitted.models[name].arrays().items()}
    for role in task.job.outputs:
        write_arrays(task, role, arrays, document)


def report(task: Task, evaluation: Evaluation) -> dict[str, Any]:
    """Log the figures of all models and the winner's on each judged cut; return those of the document."""
    winner, newest = evaluation.winner, max(evaluation.walked.odds)
    for name, figures in evaluation.quality.items():
        task.log(
            "evaluated", model=f"'{name}'", correction=f"'{evaluation.judged[name][newest].correction}'", **figures
        )
    calibrated, cuts = forward.judge_calibration(evaluation.walked, evaluation.judged[winner])
    for cut, figures in cuts.items():
        task.log("judged", cut=cut, **{name: figures[name] for name in ("calibration_error", "max_calibration_error")})
    task.log("calibration", model=f"'{winner}'", calibrated=calibrated)
    churned = evaluation.walked.labelled.cuts[newest].churned
    bins = calibration.reliability(models.probability(evaluation.judged[winner][newest].odds), churned)
    return {
        "model": winner,
        "cut": str(newest),
        "reliability": bins,
        "models": evaluation.quality,
        "calibrated": calibrated,
        "judged_cuts": cuts,
    }


def main(task: Task) -> None:
    used = task.input("features").manifests[0].document["parameters"]
    predicts = {name: used.get(name) for name in ("churn", "horizon_days")}
    history = read_history(task)
    labelled = label(history)
    horizon_days = predicts["horizon_days"] or labelled.days
    older, held_out = split(history, labelled, horizon_days)
    newest = labelled.cuts[max(labelled.cuts)]
    rows = {"training_rows": len(older.churned), "judged_rows": len(newest.churned)}
    task.log("read", cuts=len(labelled.cuts), **rows)
    task.metrics |= {"judged_churned": int(newest.churned.sum()), "drift": drift(older.features, newest.features)}

    evaluation = evaluate(older, held_out, labelled, task.parameters["seed"], task.progress)
    document = report(task, evaluation)
    incumbent = evaluate_incumbent(task, evaluation.walked, predicts)
    task.metrics |= {**document, **rows, "in_place": incumbent}
    more = remedy(history, horizon_days, len(labelled.cuts) + 1)
    refuse_unless_better(evaluation.winner, evaluation.quality, incumbent, task.parameters["max_auc_loss"], more)
    ship(task, evaluation, document | predicts)


if __name__ == "__main__":
    run(main)

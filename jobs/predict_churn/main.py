"""Churn probability of each user of one shard, with the three strongest features, and an activity segment.

The contribution of a feature is its addition to the log-odds of the average user, after calibration: the sum of the
changes along the paths through the trees, and weight times distance from the mean in the regression. All contributions
and the average add up to the user's log-odds. Only one batch of the features is in memory at a time.

Segments, by the last target event: `not started` without any; else `new` first seen in the last `active_within_days`;
`active` with one in these days; `cooling` in the last `cooling_within_days`; `lapsed` before that. The metrics repeat
if training found the probabilities calibrated.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from common.churn import models
from common.churn.encoding import Encoding
from common.churn.models import Calibration, Model
from common.engines import arrow
from common.engines.arrays import read_arrays
from common.handover import Task, run

TOP_FEATURES = 3


def segments(rows: pa.Table, active_within_days: int, cooling_within_days: int) -> np.ndarray:
    """Return the activity segment of each row."""
    recency, tenure = (rows[name].to_numpy() for name in ("recency_days", "tenure_days"))
    tests = {
        "not started": np.isnan(recency),
        "new": tenure <= active_within_days,
        "active": recency <= active_within_days,
        "cooling": recency <= cooling_within_days,
    }
    return np.select(list(tests.values()), list(tests), "lapsed")


def top_features(names: list[str], contributions: np.ndarray, at_risk: np.ndarray) -> dict[str, pa.Array]:
    """Return the columns of the features with the largest contributions per row, largest first; null for zero."""
    order = np.argsort(-np.abs(contributions), axis=1, kind="stable")[:, :TOP_FEATURES]
    columns = {}
    for rank in range(TOP_FEATURES):
        exists = rank < order.shape[1]
        feature = order[:, rank] if exists else np.zeros(len(contributions), dtype=np.int64)
        rows = np.arange(len(contributions))
        contribution = contributions[rows, feature] if exists else np.zeros(len(contributions))
        nothing = ~at_risk | (contribution == 0)
        columns[f"top_feature_{rank + 1}"] = pa.array(
            np.asarray(names, dtype=object)[feature], pa.string(), mask=nothing
        )
        columns[f"contribution_{rank + 1}"] = pa.array(contribution, mask=nothing)
    return columns


def predict(rows: pa.Table, model: Model, document: dict[str, Any], days: tuple[int, int]) -> pa.Table:
    """Return rows of churn_predictions@2, one per row of features; `days` bound the segments."""
    calibration = Calibration(document["slope"], document["shift"])
    columns = Encoding(document["features"], document["words"])
    names, contributions = columns.by_feature(model.contributions(columns.matrix(rows)))
    probabilities = models.probability(calibration(model.average + contributions.sum(axis=1)))
    at_risk = rows["at_risk"].to_numpy()
    return pa.table(
        {
            "user_id": rows["user_id"],
            "segment": pa.array(segments(rows, *days).tolist(), pa.string()),
            "churn_probability": pa.array(probabilities, mask=~at_risk),
            **top_features(names, calibration.slope * contributions, at_risk),
            "model": pa.repeat(document["model"], rows.num_rows),
        }
    )


def main(task: Task) -> None:
    arrays, document = read_arrays(task, "model")
    model = models.from_arrays(arrays)
    days = task.parameters["active_within_days"], task.parameters["cooling_within_days"]
    counts = {"users": 0, "at_risk": 0, "expected_churn": 0.0}

    def predictions() -> Iterator[pa.Table]:
        for batch in arrow.batches(task, "features"):
            rows = pa.table(batch.filter(batch["churned"].is_null()))  # of the newest cut: its outcome is not known yet
            predicted = predict(rows, model, document, days)
            counts["users"] += rows.num_rows
            counts["at_risk"] += rows.num_rows - predicted["churn_probability"].null_count
            counts["expected_churn"] += pc.sum(predicted["churn_probability"]).as_py() or 0.0
            yield predicted

    arrow.write(task, "predictions", predictions())
    judged = document["models"][document["model"]]
    task.metrics |= {**counts, "model": document["model"], "calibrated": document["calibrated"]}
    task.metrics["calibration_error"] = judged["calibration_error"]
    task.log("predicted", **task.metrics)


if __name__ == "__main__":
    run(main)

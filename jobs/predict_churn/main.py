"""How likely each user of one shard is to churn, with the three features that moved it most, and an activity segment.

A feature's effect is what it adds to the log-odds of the average user, after calibration: the sum of the changes along
the paths through the trees, and weight times distance from the mean in the regression. All effects and the average add
up to the user's log-odds. Block after block: in memory is one batch of the features, never all.

Segments, by the last purchase: `new` first seen in the last 28 days; `active` bought in the last 28; `cooling` in the
last 90; `lapsed` before that; `without purchases` never.
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
from common.engines.interactions import shard_of
from common.handover import Task, run

REASONS = 3
ACTIVE_DAYS, COOLING_DAYS = 28, 90


def segments(rows: pa.Table) -> np.ndarray:
    """The activity segment of each row."""
    recency, tenure = (rows[name].to_numpy() for name in ("recency_days", "tenure_days"))
    tests = {
        "without purchases": np.isnan(recency),
        "new": tenure <= ACTIVE_DAYS,
        "active": recency <= ACTIVE_DAYS,
        "cooling": recency <= COOLING_DAYS,
    }
    return np.select(list(tests.values()), list(tests), "lapsed")


def reasons(names: list[str], effects: np.ndarray, at_risk: np.ndarray) -> dict[str, pa.Array]:
    """The columns of the features with the largest effects of each row, largest first; null where nothing moved."""
    order = np.argsort(-np.abs(effects), axis=1, kind="stable")[:, :REASONS]
    columns = {}
    for place in range(REASONS):
        feature = order[:, place] if place < order.shape[1] else np.zeros(len(effects), dtype=np.int64)
        effect = effects[np.arange(len(effects)), feature] if place < order.shape[1] else np.zeros(len(effects))
        nothing = ~at_risk | (effect == 0)
        columns[f"top_feature_{place + 1}"] = pa.array(
            np.asarray(names, dtype=object)[feature], pa.string(), mask=nothing
        )
        columns[f"contribution_{place + 1}"] = pa.array(effect, mask=nothing)
    return columns


def predict(rows: pa.Table, model: Model, document: dict[str, Any]) -> pa.Table:
    """Rows of churn_predictions@2, one for each row of features."""
    calibration = Calibration(document["slope"], document["shift"])
    columns = Encoding(document["features"], document["words"])
    names, parts = columns.by_feature(model.parts(columns.matrix(rows)))
    probabilities = models.probability(calibration(model.average + parts.sum(axis=1)))
    at_risk = rows["at_risk"].to_numpy()
    return pa.table(
        {
            "user_id": rows["user_id"],
            "segment": pa.array(segments(rows).tolist(), pa.string()),
            "churn_probability": pa.array(probabilities, mask=~at_risk),
            **reasons(names, calibration.slope * parts, at_risk),
            "model": pa.repeat(document["model"], rows.num_rows),
        }
    )


def main(task: Task) -> None:
    arrays, document = read_arrays(task, "model")
    model = models.from_arrays(arrays)
    shards, shard = task.parameters["shards"], task.map_index or 0
    seen = {"users": 0, "at_risk": 0, "expected_churn": 0.0}

    def predictions() -> Iterator[pa.Table]:
        for batch in arrow.batches(task, "features"):
            now = batch.filter(batch["churned"].is_null())  # nobody knows yet: these rows are as of the newest cut
            rows = pa.table(now.filter(pa.array(shard_of(now["user_id"], shards) == shard)))
            found = predict(rows, model, document)
            seen["users"] += rows.num_rows
            seen["at_risk"] += rows.num_rows - found["churn_probability"].null_count
            seen["expected_churn"] += pc.sum(found["churn_probability"]).as_py() or 0.0
            yield found

    arrow.write(task, "predictions", predictions())
    task.metrics |= {**seen, "model": document["model"]}
    task.log("predicted", **task.metrics)


if __name__ == "__main__":
    run(main)

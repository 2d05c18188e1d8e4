"""Recommend the best items of each style to the users of one shard, by the models that training shipped.

A hash of the user ID determines the shard, so that it does not depend on the order of the interactions. In memory are
this shard's pairs, the model, and one block of scores per core; never users x items.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from common.engines import arrow
from common.engines.arrays import read_arrays, strings_of
from common.engines.arrow import bucket_of
from common.handover import Task, run
from common.recommending import MICROSECONDS_PER_DAY, models
from common.recommending.histories import History

COLUMNS = ["user_id", "item_id", "weight", "events", "last_time"]


def rows_of_shard(batch: pa.RecordBatch, shard: int, shards: int, items: pa.Array) -> pa.RecordBatch:
    """Return the existing pairs of the shard's users with items of the model, item IDs replaced by positions."""
    users = batch["user_id"].dictionary_encode()
    in_shard = bucket_of(users.dictionary, shards) == shard
    kept = in_shard[users.indices.to_numpy()] & pc.greater(batch["weight"], 0).to_numpy(zero_copy_only=False)
    batch = batch.filter(pa.array(kept))
    batch = batch.set_column(1, "item_id", pc.index_in(batch["item_id"], value_set=items))
    return batch.filter(batch["item_id"].is_valid())


def histories(rows: pa.Table, as_of: int, items: int) -> tuple[pa.Array, History]:
    """Return users, sorted by ID, and their histories; `as_of` in microseconds since 1970."""
    users = pc.unique(rows["user_id"])
    users = users.take(pc.sort_indices(users))
    row = pc.index_in(rows["user_id"], value_set=users).to_numpy()
    item = rows["item_id"].to_numpy()
    order = np.lexsort((item, row))
    age = (as_of - rows["last_time"].cast(pa.int64()).to_numpy()[order]) / MICROSECONDS_PER_DAY
    indptr = np.concatenate(([0], np.cumsum(np.bincount(row, minlength=len(users)))))
    events, weight = (rows[name].to_numpy()[order].astype(np.float32) for name in ("events", "weight"))
    return users, History(
        indptr, item[order].astype(np.int32), events, weight, np.maximum(age, 0).astype(np.float32), items
    )


def predictions(
    task: Task,
    arrays: dict[str, np.ndarray],
    document: dict[str, Any],
    users: pa.Array,
    pairs: History,
    items: pa.Array,
) -> Iterator[pa.Table]:
    """Yield tables of predictions@3, one per style and block of users; none by a model of trending items only."""
    for style, settings in document["styles"].items():
        scorer = models.from_arrays(arrays, document["fits"], settings["members"]).scorer(pairs)
        for block in models.recommend(scorer, pairs, task.parameters["candidates"], style):
            explained_by, _ = scorer.reasons(block)
            done = int(block.rows[-1]) + 1 if len(block.rows) else 0
            task.progress(f"users with items of style {style}", done, len(users))
            yield pa.table(
                {
                    "user_id": users.take(pa.array(block.rows)),
                    "style": pa.repeat(style, len(block.rows)),
                    "rank": block.ranks + 1,
                    "item_id": items.take(pa.array(block.items)),
                    "score": block.scores.astype(np.float64),
                    "explained_by_item_id": items.take(pa.array(explained_by, mask=explained_by < 0)),
                    "model": pa.repeat(settings["model"], len(block.rows)),
                }
            )


def main(task: Task) -> None:
    arrays, document = read_arrays(task, "model")
    items = strings_of("items", arrays)
    shards, shard = task.parameters["shards"], task.map_index or 0
    batches = [rows_of_shard(batch, shard, shards, items) for batch in arrow.batches(task, "interactions", COLUMNS)]
    schema = pa.schema(
        {
            "user_id": pa.string(),
            "item_id": pa.int32(),
            "weight": pa.float32(),
            "events": pa.int64(),
            "last_time": arrow.TYPES["timestamp"],
        }
    )
    users, pairs = histories(pa.Table.from_batches(batches, schema), document["as_of"], len(items))
    task.log("read", users=len(users), pairs=len(pairs.indices), items=len(items))
    task.metrics |= {"users": len(users), "model": document["model"]}
    arrow.write(task, "predictions", predictions(task, arrays, document, users, pairs, items))


if __name__ == "__main__":
    run(main)

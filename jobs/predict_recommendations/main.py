"""Recommend the best items of each style to the users of one shard, by the models that training shipped.

A shard reads only the files of its users. In memory are their pairs, the model, one block of scores per core, and the
predictions for a block of users; never users x items.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from common.engines import arrow
from common.engines.arrays import read_arrays, strings_of
from common.engines.catalogue import positions
from common.engines.interactions import Interactions, read_interactions
from common.handover import Task, run
from common.recommending import MICROSECONDS_PER_DAY, models
from common.recommending.blend import Model
from common.recommending.blocks import blocks
from common.recommending.histories import History
from common.recommending.ranking import Ranking, concatenate

USERS_PER_BLOCK = 16_384  # all styles of their predictions are in memory, and are written together


def histories(found: Interactions, as_of: int, items: pa.Array) -> tuple[pa.Array, History]:
    """Return the users and their pairs with items of the model; `as_of` in microseconds since 1970."""
    item = positions(found.items, items)[found.indices]
    kept = (item >= 0) & (found.values["weight"] > 0)
    row = np.repeat(np.arange(len(found.users)), np.diff(found.indptr))[kept]
    order = np.lexsort((item[kept], row))
    lengths = np.bincount(row, minlength=len(found.users))
    indptr = np.concatenate(([0], np.cumsum(lengths[lengths > 0])))
    events, weight, last_time = (found.values[name][kept][order] for name in ("events", "weight", "last_time"))
    age = np.maximum((as_of - last_time.astype(np.int64)) / MICROSECONDS_PER_DAY, 0).astype(np.float32)
    users = found.users.filter(pa.array(lengths > 0))
    indices = item[kept][order].astype(np.int32)
    return users, History(indptr, indices, events.astype(np.float32), weight.astype(np.float32), age, len(items))


def predictions(
    task: Task,
    arrays: dict[str, np.ndarray],
    document: dict[str, Any],
    users: pa.Array,
    pairs: History,
    items: pa.Array,
) -> Iterator[pa.Table]:
    """Yield tables of predictions@3, one per block of users; none by a model of trending items only."""
    styles = document["styles"]
    if not styles:
        return
    made = {
        style: models.from_arrays(arrays, document["fits"], settings["members"]) for style, settings in styles.items()
    }
    for block in blocks(len(users), USERS_PER_BLOCK):
        of_block = pairs.rows(block)
        ranked = {style: rank(model, of_block, task.parameters["candidates"], style) for style, model in made.items()}
        rows = np.concatenate([ranking.rows for ranking, _ in ranked.values()])
        order = np.argsort(rows, kind="stable")  # all rows of a user follow each other
        names = [(style, styles[style]["model"], len(ranking.rows)) for style, (ranking, _) in ranked.items()]
        of_style = np.repeat(np.arange(len(names)), [count for *_, count in names])[order]
        rank_of, item, score = (
            np.concatenate([getattr(ranking, name) for ranking, _ in ranked.values()])[order]
            for name in ("ranks", "items", "scores")
        )
        explained_by = np.concatenate([source for _, source in ranked.values()])[order]
        yield pa.table(
            {
                "user_id": users.take(pa.array(rows[order] + block.start)),
                "style": pa.array([style for style, *_ in names]).take(pa.array(of_style)),
                "rank": rank_of + 1,
                "item_id": items.take(pa.array(item)),
                "score": score.astype(np.float64),
                "explained_by_item_id": items.take(pa.array(explained_by, mask=explained_by < 0)),
                "model": pa.array([model for _, model, _ in names]).take(pa.array(of_style)),
            }
        )
        task.progress("users with predictions", block.stop, len(users))


def rank(model: Model, pairs: History, count: int, style: str) -> tuple[Ranking, np.ndarray]:
    """Return the ranking of some users, and for each entry the item of the user that explains it, or -1."""
    scorer = model.scorer(pairs)
    found = [(ranking, scorer.reasons(ranking)[0]) for ranking in models.recommend(scorer, pairs, count, style)]
    return concatenate([ranking for ranking, _ in found]), np.concatenate([source for _, source in found])


def main(task: Task) -> None:
    arrays, document = read_arrays(task, "model")
    items = strings_of("items", arrays)
    found = read_interactions(task, "interactions", ["weight", "events", "last_time"])
    users, pairs = histories(found, document["as_of"], items)
    task.log("read", users=len(users), pairs=len(pairs.indices), items=len(items))
    task.metrics |= {"users": len(users), "model": document["model"]}
    arrow.write(task, "predictions", predictions(task, arrays, document, users, pairs, items))


if __name__ == "__main__":
    run(main)

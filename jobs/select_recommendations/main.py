"""Select recommendations: predictions of goods still sold, few per family, each with its reason, re-ranked.

The default rows, without a user, are the trending goods under the same rules: for users without a history, and for
those without a remaining prediction.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from common.engines import arrow
from common.engines.arrays import read_arrays, strings_of
from common.errors import GateRefused
from common.handover import Task, run
from common.recommending import MICROSECONDS_PER_DAY
from common.recommending.ranking import cumcount


class Goods(NamedTuple):
    """The catalogue by position: IDs, names, number of the family, whether it is still sold."""

    ids: pa.Array
    names: pa.Array
    families: np.ndarray
    sold: np.ndarray


def goods(items: pa.Table, model_items: pa.Array, last_sold: np.ndarray, as_of: int, within_days: int) -> Goods:
    """Return the items, and if they were sold in the `within_days` days up to `as_of`, in microseconds since 1970."""
    items = items.combine_chunks()
    ids, names = items["item_id"].chunk(0), items["name"].chunk(0)
    position = pc.index_in(ids, value_set=model_items)
    known = position.is_valid().to_numpy(zero_copy_only=False)
    sales = last_sold[position.fill_null(0).to_numpy()] if len(last_sold) else np.zeros(len(ids))
    families = items["family"].chunk(0).dictionary_encode().indices.to_numpy()
    return Goods(ids, names, families, known & (sales >= as_of - within_days * MICROSECONDS_PER_DAY))


def select(
    users: np.ndarray, ranks: np.ndarray, families: np.ndarray, max_per_family: int, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the kept entries, by user and rank, and their new ranks from 1.

    Keeps the first `max_per_family` of each user and family, then the first `count` of each user. All arrays have one
    value per entry. O(entries log entries) time.
    """
    by_family = np.lexsort((ranks, families, users))
    few = cumcount(users[by_family], families[by_family]) < max_per_family
    kept = by_family[few]
    kept = kept[np.lexsort((ranks[kept], users[kept]))]
    new_ranks = cumcount(users[kept]) + 1
    first = new_ranks <= count
    return kept[first], new_ranks[first]


def reasons(items: np.ndarray, explained_by: np.ndarray, names: pa.Array) -> pa.Array:
    """Return the reasons by positions of the items and of the purchases that explain them (-1: none, no reason)."""
    text = pc.binary_join_element_wise("bought with ", names.take(pa.array(np.maximum(explained_by, 0))), "")
    text = pc.if_else(pa.array(explained_by == items), "bought before", text)
    return pc.if_else(pa.array(explained_by >= 0), text, pa.scalar(None, pa.string()))


def positions(ids: pa.ChunkedArray, known: pa.Array) -> np.ndarray:
    """Return the position of each ID among the known ones, -1 for others and for null."""
    indices = pc.index_in(ids, value_set=known, skip_nulls=True)
    numbers: np.ndarray = indices.fill_null(-1).to_numpy().astype(np.int64)
    return numbers


def for_users(task: Task, catalogue: Goods) -> pa.Table:
    """Return rows of recommendations@1 with a user."""
    table = arrow.read(task, "predictions", ["user_id", "rank", "item_id", "score", "explained_by_item_id"])
    users = table["user_id"].combine_chunks().dictionary_encode()
    items, explained_by = (positions(table[name], catalogue.ids) for name in ("item_id", "explained_by_item_id"))
    shown = np.flatnonzero((items >= 0) & catalogue.sold[items]) if len(catalogue.ids) else np.zeros(0, np.int64)
    user, rank = users.indices.to_numpy()[shown], table["rank"].to_numpy()[shown]
    limits = task.parameters["max_per_family"], task.parameters["count"]
    kept, ranks = select(user, rank, catalogue.families[items[shown]], *limits)
    entry = shown[kept]
    with_rows = len(np.unique(user[kept]))
    task.metrics |= {
        "predictions": table.num_rows,
        "no_longer_sold": table.num_rows - len(shown),
        "users": with_rows,
        "users_with_default_rows_only": len(users.dictionary) - with_rows,
    }
    return rows(
        users.dictionary.take(pa.array(users.indices.to_numpy()[entry])),
        ranks,
        items[entry],
        table["score"].to_numpy()[entry],
        reasons(items[entry], explained_by[entry], catalogue.names),
        catalogue,
    )


def for_all_others(task: Task, catalogue: Goods, model_items: pa.Array, trending: np.ndarray) -> pa.Table:
    """Return rows of recommendations@1 without a user: trending goods."""
    items = positions(model_items, catalogue.ids)
    order = np.argsort(-trending, kind="stable")
    shown = order[(items[order] >= 0) & (trending[order] > 0)]
    shown = shown[catalogue.sold[items[shown]]] if len(shown) else shown
    one_user, ranks = np.zeros(len(shown), dtype=np.int64), np.arange(len(shown))
    limits = task.parameters["max_per_family"], task.parameters["count"]
    kept, ranks = select(one_user, ranks, catalogue.families[items[shown]], *limits)
    entry = shown[kept]
    no_user, reason = pa.nulls(len(entry), pa.string()), pa.repeat("trending", len(entry))
    return rows(no_user, ranks, items[entry], trending[entry], reason, catalogue)


def rows(
    users: pa.Array, ranks: np.ndarray, items: np.ndarray, scores: np.ndarray, reason: pa.Array, catalogue: Goods
) -> pa.Table:
    position = pa.array(items)
    return pa.table(
        {
            "user_id": users,
            "rank": ranks,
            "item_id": catalogue.ids.take(position),
            "item_name": catalogue.names.take(position),
            "score": scores,
            "reason": reason,
        }
    )


def main(task: Task) -> None:
    arrays, document = read_arrays(task, "model")
    model_items = strings_of("items", arrays)
    within = task.parameters["sold_within_days"]
    catalogue = goods(arrow.read(task, "items"), model_items, arrays["last_sold"], document["as_of"], within)
    default = for_all_others(task, catalogue, model_items, np.asarray(arrays["trending"]))
    if not default.num_rows:
        raise GateRefused(
            f"No item of curated/items was sold in the last {within} days, so no rows can be shown to users "
            "without a history; check the interactions, or raise sold_within_days."
        )
    task.metrics |= {
        "goods": len(catalogue.ids),
        "goods_still_sold": int(catalogue.sold.sum()),
        "default_rows": default.num_rows,
    }
    arrow.write(task, "recommendations", [default, for_users(task, catalogue)])
    task.log("selected", **task.metrics)


if __name__ == "__main__":
    run(main)

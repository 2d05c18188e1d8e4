"""Similar items: cosine of names (TF-IDF) blended with cosine of buyers, with a fallback for every item.

score of i for j = trust * buyers(i, j) / strongest of j + (1 - trust) * names(i, j), trust = n / (n + prior_strength)
with n the buyers of j: a new item is compared by its name, an item of many buyers by their other purchases. An item
without similar ones gets those with most buyers. Only items that are still sold are shown, for any item of the
catalogue.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp
from sklearn.feature_extraction.text import TfidfVectorizer

from common.engines import arrow
from common.errors import InputError
from common.handover import Task, run
from common.recommending import MICROSECONDS_PER_DAY
from common.recommending.neighbours import cosine
from common.recommending.ranking import cumcount

SHRINKAGE = 10.0  # of the cosine of buyers: two common buyers do not make two items similar
COMMON_WORD = 0.05  # share of names above which a part of a word is ignored; at least 100 of them
REASONS = np.array(["similar name", "bought by the same users", "popular"], dtype=object)


class Sales(NamedTuple):
    """Purchases, users x items, and the last sale of each item: microseconds since 1970, 0 if never."""

    bought: sp.csr_matrix
    last: np.ndarray


def read_sales(task: Task, items: pa.Array) -> Sales:
    """Return the purchases of items of the catalogue; those without a user count only as sales."""
    last = np.zeros(len(items), dtype=np.int64)
    users, positions = [pa.array([], pa.string())], [np.zeros(0, dtype=np.int64)]
    for batch in arrow.batches(task, "events", ["user_id", "item_id", "type", "time"]):
        batch = batch.filter(pc.equal(batch["type"], "purchase"))
        position = pc.index_in(batch["item_id"], value_set=items)
        known = pc.and_(position.is_valid(), batch["user_id"].is_valid())
        users.append(batch["user_id"].filter(known))
        positions.append(position.filter(known).to_numpy())
        sold = position.is_valid()
        np.maximum.at(last, position.filter(sold).to_numpy(), batch["time"].filter(sold).cast(pa.int64()).to_numpy())
        task.progress("events read", sum(map(len, positions)), task.input("events").rows)
    codes = pa.concat_arrays(users).dictionary_encode()
    rows, columns = codes.indices.to_numpy(), np.concatenate(positions)
    shape = (len(codes.dictionary), len(items))
    bought = sp.csr_matrix((np.ones(len(rows), dtype=np.float32), (rows, columns)), shape=shape)
    bought.sum_duplicates()
    bought.data[:] = 1
    return Sales(bought, last)


def compare_names(names: list[str]) -> sp.csr_matrix:
    """Return items x items: cosine of names as weighted parts of words, the strongest 100 of each column."""
    if not any(name.strip() for name in names):
        return sp.csr_matrix((len(names), len(names)), dtype=np.float32)
    parts = TfidfVectorizer(
        analyzer="char_wb",
        ngram_range=(3, 5),
        sublinear_tf=True,
        max_df=max(COMMON_WORD, min(1.0, 100 / len(names))),
        dtype=np.float32,
    )
    try:
        return cosine(parts.fit_transform(names).T.tocsr(), 0.0)
    except ValueError:  # every part of every word is common, as in names such as ITEM 1, ITEM 2
        return sp.csr_matrix((len(names), len(names)), dtype=np.float32)


def blend(by_name: sp.csr_matrix, by_buyers: sp.csr_matrix, trust: np.ndarray) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Return the scores (from row to column), and the share of them from buyers. `trust` has one value per column."""
    strongest = by_buyers.max(axis=0).toarray().ravel()
    bought = by_buyers @ sp.diags(trust / np.where(strongest > 0, strongest, 1))
    return (bought + by_name @ sp.diags(1 - trust)).tocsc(), bought.tocsc()


def best(scores: sp.csc_matrix, shown: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return column, row and score of the `count` highest of each column among the shown rows, best first."""
    entries = scores.tocoo()
    kept = shown[entries.row] & (entries.data > 0)
    column, row, score = entries.col[kept], entries.row[kept], entries.data[kept]
    order = np.lexsort((row, -score, column))
    column, row, score = column[order], row[order], score[order]
    few = cumcount(column) < count
    return column[few], row[few], score[few]


def similar_items(
    ids: pa.Array, names: pa.Array, sales: Sales, shown: np.ndarray, prior_strength: float, count: int
) -> pa.Table:
    """Return rows of similar_items@1, at least one per item if two are shown; `shown` marks the items to show."""
    buyers = np.asarray(sales.bought.sum(axis=0)).ravel()
    trust = buyers / (buyers + prior_strength)
    scores, by_buyers = blend(compare_names(names.to_pylist()), cosine(sales.bought, SHRINKAGE), trust)
    column, row, score = best(scores, shown, count)
    reason = (np.asarray(by_buyers[row, column]).ravel() > score / 2).astype(int)

    without = np.setdiff1d(np.arange(len(ids)), column)
    popular = np.flatnonzero(shown)[np.argsort(-buyers[shown], kind="stable")][: count + 1]
    to, of = (grid.ravel() for grid in np.meshgrid(without, popular, indexing="ij"))
    to, of = to[to != of], of[to != of]
    few = cumcount(to) < count
    to, of = to[few], of[few]
    columns = (column, to), (row, of), (score, np.zeros(len(to))), (reason, np.full(len(to), 2))
    column, row, score, reason = (np.concatenate(both) for both in columns)

    order = np.argsort(column, kind="stable")
    column, row = column[order], row[order]
    return pa.table(
        {
            "item_id": ids.take(pa.array(column)),
            "rank": cumcount(column) + 1,
            "similar_item_id": ids.take(pa.array(row)),
            "similar_item_name": names.take(pa.array(row)),
            "score": score[order].astype(np.float64),
            "reason": pa.array(REASONS[reason[order]], pa.string()),
        }
    )


def main(task: Task) -> None:
    items = arrow.read(task, "items").combine_chunks()
    ids, names = (items[name].combine_chunks() for name in ("item_id", "name"))
    sales = read_sales(task, ids)
    within = task.parameters["sold_within_days"]
    shown = (sales.last > 0) & (sales.last >= sales.last.max(initial=0) - within * MICROSECONDS_PER_DAY)
    if shown.sum() < 2:
        raise InputError(
            f"{int(shown.sum())} items of curated/items were sold in the last {within} days of the events, expected "
            "at least two; check the events and the catalogue, or raise sold_within_days."
        )
    similar = similar_items(ids, names, sales, shown, task.parameters["prior_strength"], task.parameters["count"])
    reasons = {entry["values"]: entry["counts"] for entry in pc.value_counts(similar["reason"]).to_pylist()}
    task.metrics |= {
        "items": len(ids),
        "items_shown": int(shown.sum()),
        "items_sold": int((sales.last > 0).sum()),
        "items_with_rows": len(pc.unique(similar["item_id"])),
        "rows_by_reason": reasons,
    }
    task.log("similar", **task.metrics)
    arrow.write(task, "similar", similar)


if __name__ == "__main__":
    run(main)

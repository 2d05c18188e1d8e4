"""Similar items: cosine of names (TF-IDF) blended with cosine of users, with a fallback for every item.

score of i for j = trust * users(i, j) / strongest of j + (1 - trust) * names(i, j), trust = n / (n + prior_strength)
with n the users of j: a new item is compared by its name, an item of many users by their other items. An item
without similar ones gets those with most users. Only available items are shown, for any item of the catalogue; without
a catalogue, of the interactions.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp
from sklearn.feature_extraction.text import TfidfVectorizer

from common.engines import arrow
from common.engines.catalogue import NEVER, check_listed, positions, read_catalogue
from common.engines.interactions import Interactions, max_pairs, read_interactions, take_files, target_events
from common.errors import InputError
from common.handover import Task, run
from common.recommending import MICROSECONDS_PER_DAY
from common.recommending.neighbours import cosine
from common.recommending.ranking import cumcount
from common.sources import tracking_plan

SHRINKAGE = 10.0  # of the cosine of users: two common users do not make two items similar
COMMON_WORD = 0.05  # share of names above which a part of a word is ignored; at least 100 of them


class Uses(NamedTuple):
    """Which user had which item, users x items; the last event of each item: microseconds since 1970, or NEVER."""

    had: sp.csr_matrix
    last: np.ndarray


def liked_items(pairs: Interactions) -> pa.Array:
    """Return the items of the pairs with a weight: the catalogue, if there is no other."""
    liked = np.bincount(pairs.indices, pairs.values["weight"] > 0, minlength=len(pairs.items)) > 0
    return pairs.items.filter(pa.array(liked))


def uses_of(task: Task, pairs: Interactions, items: pa.Array) -> Uses:
    """Return the uses of items of the catalogue, from pairs with a weight."""
    liked, column = pairs.values["weight"] > 0, positions(pairs.items, items)[pairs.indices]
    kept = liked & (column >= 0)
    check_listed(task, "interactions", pairs.items.take(pa.array(pairs.indices[liked & ~kept])), int(liked.sum()))
    last = np.full(len(items), NEVER)
    np.maximum.at(last, column[kept], pairs.values["last_time"][kept].astype(np.int64))
    indptr = np.concatenate(([0], np.cumsum(kept)))[pairs.indptr]
    had = sp.csr_matrix(
        (np.ones(indptr[-1], np.float32), column[kept].astype(np.int32), indptr), shape=(len(pairs.users), len(items))
    )
    had.sort_indices()
    return Uses(had, last)


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


def blend(by_name: sp.csr_matrix, by_users: sp.csr_matrix, trust: np.ndarray) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Return the scores (from row to column), and the share of them from users. `trust` has one value per column."""
    strongest = by_users.max(axis=0).toarray().ravel()
    shared = by_users @ sp.diags(trust / np.where(strongest > 0, strongest, 1))
    return (shared + by_name @ sp.diags(1 - trust)).tocsc(), shared.tocsc()


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
    ids: pa.Array, names: pa.Array, had: sp.csr_matrix, shown: np.ndarray, prior_strength: float, count: int
) -> tuple[pa.Table, np.ndarray]:
    """Return rows of similar_items@1 without reasons, at least one per item if two are shown, and their reasons.

    `shown` marks the items to show. Reasons: 0 for names, 1 for users, 2 for popular items.
    """
    users = np.asarray(had.sum(axis=0)).ravel()
    trust = users / (users + prior_strength)
    described = pc.if_else(pc.equal(names, ids), "", names)  # IDs that look alike say nothing
    scores, by_users = blend(compare_names(described.to_pylist()), cosine(had, SHRINKAGE), trust)
    column, row, score = best(scores, shown, count)
    reason = (np.asarray(by_users[row, column]).ravel() > score / 2).astype(int)

    without = np.setdiff1d(np.arange(len(ids)), column)
    popular = np.flatnonzero(shown)[np.argsort(-users[shown], kind="stable")][: count + 1]
    to, of = (grid.ravel() for grid in np.meshgrid(without, popular, indexing="ij"))
    to, of = to[to != of], of[to != of]
    few = cumcount(to) < count
    to, of = to[few], of[few]
    columns = (column, to), (row, of), (score, np.zeros(len(to))), (reason, np.full(len(to), 2))
    column, row, score, reason = (np.concatenate(both) for both in columns)

    order = np.argsort(column, kind="stable")
    column, row = column[order], row[order]
    table = pa.table(
        {
            "item_id": ids.take(pa.array(column)),
            "rank": cumcount(column) + 1,
            "similar_item_id": ids.take(pa.array(row)),
            "similar_item_name": names.take(pa.array(row)),
            "score": score[order].astype(np.float64),
        }
    )
    return table, reason[order]


def main(task: Task) -> None:
    task.metrics["sample"] = take_files(task, "interactions", max_pairs(task))
    pairs = read_interactions(task, "interactions", ["weight", "last_time"])
    others = pa.array([], pa.string()) if task.input("items").rows else liked_items(pairs)
    catalogue = read_catalogue(task, "items", others)
    uses = uses_of(task, pairs, catalogue.ids)
    within, newest = task.parameters["available_within_days"], int(uses.last.max(initial=0))
    shown = catalogue.available(uses.last, newest - within * MICROSECONDS_PER_DAY, newest)
    if shown.sum() < 2:
        raise InputError(
            f"{int(shown.sum())} items of curated/items are available, by their dates or by an event in the last "
            f"{within} days of the interactions, expected at least two; check the events and the catalogue, or raise "
            "available_within_days."
        )
    limits = task.parameters["prior_strength"], task.parameters["count"]
    similar, reason = similar_items(catalogue.ids, catalogue.names, uses.had, shown, *limits)
    verb = tracking_plan.load().verb_of(target_events(task, "interactions"))
    texts = np.array(["similar name", f"{verb} by the same users", "popular"], dtype=object)
    similar = similar.append_column("reason", pa.array(texts[reason], pa.string()))
    task.metrics |= {
        "items": len(catalogue.ids),
        "items_shown": int(shown.sum()),
        "items_with_events": int((uses.last > NEVER).sum()),
        "items_with_rows": len(pc.unique(similar["item_id"])),
        "rows_by_reason": {
            entry["values"]: entry["counts"] for entry in pc.value_counts(similar["reason"]).to_pylist()
        },
    }
    task.log("similar", **task.metrics)
    arrow.write(task, "similar", similar)


if __name__ == "__main__":
    run(main)

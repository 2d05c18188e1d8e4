"""Similar items: cosine of names (TF-IDF) blended with cosine of users, with a fallback for every item.

score of i for j = trust * users(i, j) / strongest of j + (1 - trust) * names(i, j), trust = n / (n + prior_strength)
with n the users of j: a new item is compared by its name, an item of many users by their other items. An item
without similar ones gets those with most users. Only available items are shown, for any item of the catalogue; without
a catalogue, of the events.
"""

from collections import Counter
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp
from sklearn.feature_extraction.text import TfidfVectorizer

from common.engines import arrow
from common.engines.catalogue import NEVER, check_listed, positions, read_catalogue
from common.errors import InputError
from common.handover import Task, run
from common.recommending import MICROSECONDS_PER_DAY
from common.recommending.neighbours import cosine
from common.recommending.ranking import cumcount
from common.sources import tracking_plan

SHRINKAGE = 10.0  # of the cosine of users: two common users do not make two items similar
COMMON_WORD = 0.05  # share of names above which a part of a word is ignored; at least 100 of them


class Uses(NamedTuple):
    """Which user had which item, users x items; the last event of each item: microseconds since 1970, or NEVER.

    `types` has the number of events by type.
    """

    had: sp.csr_matrix
    last: np.ndarray
    types: Counter[str]


def interest(batch: pa.RecordBatch, types: pa.Array) -> pa.RecordBatch:
    """Return the events that show interest in an item: of types of positive weight."""
    return batch.filter(pc.and_(pc.is_in(batch["type"], value_set=types), batch["item_id"].is_valid()))


def items_of_events(task: Task, types: pa.Array) -> pa.Array:
    """Return the items of the events in the order of their bytes: the catalogue, if there is no other."""
    found = pa.array([], pa.string())
    for batch in arrow.batches(task, "events", ["item_id", "type"]):
        found = pc.unique(pa.concat_arrays([found, interest(batch, types)["item_id"]]))
    return found.take(pc.sort_indices(found))


def read_uses(task: Task, items: pa.Array, types: pa.Array) -> Uses:
    """Return the uses of items of the catalogue by users, or by sessions where an event has no user."""
    last = np.full(len(items), NEVER)
    users, columns = [pa.array([], pa.string())], [np.zeros(0, dtype=np.int64)]
    unlisted, total, counts = [pa.array([], pa.string())], 0, Counter[str]()
    for batch in arrow.batches(task, "events", ["user_id", "session_id", "item_id", "type", "time"]):
        batch = interest(batch, types)
        counts.update({each["values"]: each["counts"] for each in pc.value_counts(batch["type"]).to_pylist()})
        session = pc.binary_join_element_wise("\n", batch["session_id"], "")  # no ID of a user begins with a newline
        user, position = pc.coalesce(batch["user_id"], session), positions(batch["item_id"], items)
        known = pa.array(position >= 0)
        unlisted.append(batch["item_id"].filter(pc.invert(known)))
        total += batch.num_rows
        np.maximum.at(last, position[position >= 0], batch["time"].filter(known).cast(pa.int64()).to_numpy())
        known = pc.and_(known, user.is_valid())
        users.append(user.filter(known))
        columns.append(position[known.to_numpy(zero_copy_only=False)])
        task.progress("events read", sum(map(len, columns)), task.input("events").rows)
    check_listed(task, "events", pa.concat_arrays(unlisted), total)
    codes = pa.concat_arrays(users).dictionary_encode()
    rows, column = codes.indices.to_numpy(), np.concatenate(columns)
    shape = (len(codes.dictionary), len(items))
    had = sp.csr_matrix((np.ones(len(rows), dtype=np.float32), (rows, column)), shape=shape)
    had.sum_duplicates()
    had.data[:] = 1
    return Uses(had, last, counts)


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
    plan = tracking_plan.load()
    types = pa.array(plan.positive_types, pa.string())
    others = pa.array([], pa.string()) if task.input("items").rows else items_of_events(task, types)
    catalogue = read_catalogue(task, "items", others)
    uses = read_uses(task, catalogue.ids, types)
    within, newest = task.parameters["available_within_days"], int(uses.last.max(initial=0))
    shown = catalogue.available(uses.last, newest - within * MICROSECONDS_PER_DAY, newest)
    if shown.sum() < 2:
        raise InputError(
            f"{int(shown.sum())} items of curated/items are available, by their dates or by an event in the last "
            f"{within} days of the events, expected at least two; check the events and the catalogue, or raise "
            "available_within_days."
        )
    limits = task.parameters["prior_strength"], task.parameters["count"]
    similar, reason = similar_items(catalogue.ids, catalogue.names, uses.had, shown, *limits)
    texts = np.array(["similar name", f"{plan.verb_of(uses.types)} by the same users", "popular"], dtype=object)
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

"""Select recommendations: predictions of available items by style, few per family, each with its reason.

The default rows, without a user, are the trending items under the same rules: for users without a history, and for
those without a remaining prediction; the first shard writes them. Without a catalogue, all items of the model take
part. A shard has the predictions of some users in memory at a time, whose rows follow each other.
"""

import itertools
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from common.engines import arrow
from common.engines.arrays import read_arrays, strings_of
from common.engines.catalogue import NEVER, Catalogue, positions, read_catalogue
from common.engines.interactions import has_duplicates
from common.errors import ArgumentError, GateRefused, InputError
from common.handover import Task, run
from common.protocol import nearest
from common.recommending import MICROSECONDS_PER_DAY
from common.recommending.models import STYLES
from common.recommending.ranking import cumcount

TRENDING = "trending"  # style and reason of the default rows
STYLE = "style "  # prefix of the counts of rows by style
ROWS_AT_ONCE = 1_000_000


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


def reasons(items: np.ndarray, explained_by: np.ndarray, names: pa.Array, verb: str) -> pa.Array:
    """Return the reasons by positions of the items and of the user's items that explain them (-1: none, no reason)."""
    text = pc.binary_join_element_wise(f"{verb} with ", names.take(pa.array(np.maximum(explained_by, 0))), "")
    text = pc.if_else(pa.array(explained_by == items), f"{verb} before", text)
    return pc.if_else(pa.array(explained_by >= 0), text, pa.scalar(None, pa.string()))


def wanted_styles(task: Task) -> list[str]:
    """Return the styles to publish; ArgumentError for an unknown one, or none."""
    styles: list[str] = task.parameters["styles"].replace(",", " ").split()
    for style in styles:
        if style not in STYLES:
            raise ArgumentError(f"There is no style '{style}'{nearest(style, STYLES)}.")
    if not styles:
        raise ArgumentError(f"The parameter styles is empty, expected at least one of {', '.join(STYLES)}.")
    return styles


def whole_users(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Yield the rows in tables of about ROWS_AT_ONCE, each with all rows of its users, which follow each other."""
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        waiting.append(batch)
        if sum(each.num_rows for each in waiting) >= ROWS_AT_ONCE:
            rows = pa.Table.from_batches(waiting).combine_chunks()
            others = np.flatnonzero(pc.not_equal(rows["user_id"], rows["user_id"][-1]).to_numpy(zero_copy_only=False))
            end = int(others[-1]) + 1 if len(others) else 0
            yield rows.slice(0, end)
            waiting = rows.slice(end).to_batches()
    if waiting:
        yield pa.Table.from_batches(waiting).combine_chunks()


def for_users(
    task: Task, catalogue: Catalogue, available: np.ndarray, styles: list[str], verb: str, counts: Counter[str]
) -> Iterator[pa.Table]:
    """Yield rows of recommendations@2 with a user, and count them; InputError for a user with rows apart."""
    names = ["user_id", "style", "rank", "item_id", "score", "explained_by_item_id"]
    seen = [pa.array([], pa.string())]
    for table in whole_users(arrow.batches(task, "predictions", names)):
        wanted = table.filter(pc.is_in(table["style"], value_set=pa.array(styles)))
        seen.append(pc.unique(wanted["user_id"]))
        yield select_for_users(task, wanted, catalogue, available, styles, verb, counts)
    if has_duplicates(pa.concat_arrays(seen)):
        raise InputError("The rows of a user do not follow each other in the predictions; rerun their task.")


def select_for_users(
    task: Task,
    table: pa.Table,
    catalogue: Catalogue,
    available: np.ndarray,
    styles: list[str],
    verb: str,
    counts: Counter[str],
) -> pa.Table:
    """Return the recommendations of all users of a table of predictions, the styles of a user in their given order."""
    users = table["user_id"].combine_chunks().dictionary_encode()
    items, explained_by = (positions(table[name], catalogue.ids) for name in ("item_id", "explained_by_item_id"))
    shown = np.flatnonzero((items >= 0) & available[items]) if len(catalogue.ids) else np.zeros(0, np.int64)
    user, rank = users.indices.to_numpy()[shown].astype(np.int64), table["rank"].to_numpy()[shown]
    style = positions(table["style"], pa.array(styles))[shown]
    limits = task.parameters["max_per_family"], task.parameters["count"]
    kept, _ = select(user * len(styles) + style, rank, catalogue.families[items[shown]], *limits)
    entry = shown[kept]
    with_rows = len(np.unique(user[kept]))
    counts["predictions"] += table.num_rows
    counts["no_longer_available"] += table.num_rows - len(shown)
    counts["users"] += with_rows
    counts["users_with_default_rows_only"] += len(users.dictionary) - with_rows
    for name, count in zip(styles, np.bincount(style[kept], minlength=len(styles)).tolist(), strict=True):
        counts[f"{STYLE}{name}"] += count
    return rows(
        users.dictionary.take(pa.array(user[kept])),
        pa.array(styles).take(pa.array(style[kept])),
        cumcount(user[kept]) + 1,
        items[entry],
        table["score"].to_numpy()[entry],
        reasons(items[entry], explained_by[entry], catalogue.names, verb),
        catalogue,
    )


def for_all_others(
    task: Task, catalogue: Catalogue, available: np.ndarray, model_items: pa.Array, trending: np.ndarray
) -> pa.Table:
    """Return rows of recommendations@2 without a user: trending items."""
    items = positions(model_items, catalogue.ids)
    order = np.argsort(-trending, kind="stable")
    shown = order[(items[order] >= 0) & (trending[order] > 0)]
    shown = shown[available[items[shown]]] if len(shown) else shown
    one_user, ranks = np.zeros(len(shown), dtype=np.int64), np.arange(len(shown))
    limits = task.parameters["max_per_family"], task.parameters["count"]
    kept, ranks = select(one_user, ranks, catalogue.families[items[shown]], *limits)
    entry = shown[kept]
    no_user, reason = pa.nulls(len(entry), pa.string()), pa.repeat(TRENDING, len(entry))
    return rows(no_user, reason, ranks, items[entry], trending[entry], reason, catalogue)


def rows(
    users: pa.Array,
    styles: pa.Array,
    ranks: np.ndarray,
    items: np.ndarray,
    scores: np.ndarray,
    reason: pa.Array,
    catalogue: Catalogue,
) -> pa.Table:
    position = pa.array(items)
    return pa.table(
        {
            "user_id": users,
            "style": styles,
            "rank": ranks,
            "item_id": catalogue.ids.take(position),
            "item_name": catalogue.names.take(position),
            "score": scores,
            "reason": reason,
        }
    )


def available_items(
    task: Task, catalogue: Catalogue, model_items: pa.Array, last_event: np.ndarray, as_of: int
) -> np.ndarray:
    """Mark the items of the catalogue that may be recommended as of a moment, in microseconds since 1970."""
    position = positions(catalogue.ids, model_items)
    newest = np.full(len(catalogue.ids), NEVER)
    newest[position >= 0] = last_event[position[position >= 0]]
    return catalogue.available(newest, as_of - task.parameters["available_within_days"] * MICROSECONDS_PER_DAY, as_of)


def main(task: Task) -> None:
    styles = wanted_styles(task)
    arrays, document = read_arrays(task, "model")
    model_items = strings_of("items", arrays)
    catalogue = read_catalogue(task, "items", model_items)
    available = available_items(task, catalogue, model_items, arrays["last_event"], document["as_of"])
    default = for_all_others(task, catalogue, available, model_items, np.asarray(arrays["trending"]))
    if not default.num_rows:
        raise GateRefused(
            "No item with interactions is available in curated/items, by its dates or by an event in the last "
            f"{task.parameters['available_within_days']} days, so no rows can be shown to users without a history; "
            "check the catalogue, or raise available_within_days."
        )
    default = default.slice(0, 0 if task.map_index else None)
    counts = Counter[str]()
    selected = for_users(task, catalogue, available, styles, document["verb"], counts)
    arrow.write(task, "recommendations", itertools.chain([default], selected))
    task.metrics |= {
        "items": len(catalogue.ids),
        "items_available": int(available.sum()),
        "default_rows": default.num_rows,
        "predictions": counts["predictions"],
        "no_longer_available": counts["no_longer_available"],
        "users": counts["users"],
        "users_with_default_rows_only": counts["users_with_default_rows_only"],
        "rows_by_style": {style: counts[f"{STYLE}{style}"] for style in styles},
    }
    task.log("selected", **task.metrics)


if __name__ == "__main__":
    run(main)

"""Quality of the models on Online Retail II: fitted before 2011-06-01, scored on what was bought until 2011-08-31.

Parameters are chosen on the three months before (fitted before 2011-03-01, scored from there to 2011-05-31); the test
window is looked at once. Repeat purchases are recommended and count; a second table counts only items new to the user.
"""

import argparse
import time
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import scipy.sparse as sp

from common.recommending import evaluation, models
from common.recommending.evaluation import Truth
from common.recommending.histories import History
from common.recommending.item_model import ItemModel
from common.recommending.popularity import popularity
from common.recommending.ranking import Ranking

SOURCE = Path(__file__).parents[1] / "sample_data" / "online-retail-ii" / "transactions.parquet"
TUNING, TEST, END = datetime(2011, 3, 1), datetime(2011, 6, 1), datetime(2011, 9, 1)
HARNESS = {7.0: 0.1617, 30.0: 0.1545, models.FOREVER: 0.1221}


def purchases(source: Path) -> pa.Table:
    """user, item (codes, in the order of names) and time of each purchase; equal rows once."""
    rows = pq.read_table(source, columns=["invoice", "stock_code", "quantity", "invoice_date", "price", "customer_id"])
    rows = rows.filter(
        pc.is_valid(pc.field("customer_id"))
        & (pc.field("quantity") > 0)
        & (pc.field("price") > 0)
        & ~pc.starts_with(pc.field("invoice"), "C")
        & pc.match_substring_regex(pc.field("stock_code"), r"^\d{5}")
    )
    columns = {"user": rows["customer_id"], "item": pc.utf8_upper(rows["stock_code"]), "time": rows["invoice_date"]}
    return pa.table(columns).group_by(["user", "item", "time"]).aggregate([])


def split(table: pa.Table, cut: datetime, end: datetime) -> tuple[History, Truth]:
    """Histories before the cut and purchases from it to the end; rows: users of either, columns: items of either."""
    codes = {
        name: np.unique(table[name].to_numpy(zero_copy_only=False), return_inverse=True) for name in ("user", "item")
    }
    shape = (len(codes["user"][0]), len(codes["item"][0]))
    pair = codes["user"][1] * np.int64(shape[1]) + codes["item"][1]
    times = table["time"].to_numpy()
    before = times < np.datetime64(cut)
    pairs, where, events = np.unique(pair[before], return_inverse=True, return_counts=True)
    last = np.zeros(len(pairs), dtype="datetime64[us]")
    np.maximum.at(last, where, times[before])
    indptr = np.searchsorted(pairs, np.arange(shape[0] + 1) * shape[1])
    age = (np.datetime64(cut) - last).astype(np.int64) / 86_400e6
    history = History(
        indptr, (pairs % shape[1]).astype(np.int32), events.astype(np.float32), age.astype(np.float32), shape[1]
    )
    inside = np.unique(pair[~before & (times < np.datetime64(end))])
    bought = sp.csr_matrix((np.ones(len(inside), dtype=np.int8), divmod(inside, shape[1])), shape=shape)
    return history, Truth(bought)


def own_history(pairs: History) -> ItemModel:
    """The baseline that recommends what the user bought most often."""
    nothing = sp.csr_matrix((pairs.item_count, pairs.item_count), dtype=np.float32)
    every = np.arange(pairs.item_count)
    return ItemModel(nothing, every, np.ones(len(every), dtype=np.float32), 1, models.FOREVER)


def asked(history: History, truth: Truth) -> tuple[History, Truth]:
    """The users with purchases on both sides of the cut."""
    rows = np.flatnonzero((history.lengths > 0) & (truth.counts > 0))
    return history.rows(rows), Truth(truth.bought[rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--source", type=Path, default=SOURCE, help="transactions.parquet of the sample")
    table = purchases(parser.parse_args().source)
    for repeats in (True, False):
        print("\nRepeat purchases " + ("count" if repeats else "do not count: items new to the user only"))
        compare(table, repeats)


def compare(table: pa.Table, repeats: bool) -> None:
    tuning, tuning_truth = split(table, TUNING, TEST)
    test, test_truth = split(table, TEST, END)
    if not repeats:
        tuning_truth, test_truth = tuning_truth.new_to_users(tuning), test_truth.new_to_users(test)
    tuning_asked, tuning_truth = asked(tuning, tuning_truth)
    test_asked, test_truth = asked(test, test_truth)
    print(f"{test.user_count:,} users, {test_asked.user_count:,} scored; {len(test.indices):,} pairs before the cut\n")
    print(f"{'model':32} {'tuning':>7} {'nDCG@10':>8}  {'95 %':15} {'recall':>7} {'MAP':>7} {'coverage':>8} {'s':>6}")

    def line(name: str, found: float | None, ranking: Ranking, seconds: float) -> None:
        result = evaluation.quality(ranking, test_truth)
        means, (low, high) = result.means(), evaluation.interval(result.ndcg, seed=1)
        known = int((np.bincount(test.indices, minlength=test.item_count) > 0).sum())
        print(
            f"{name:32} {'' if found is None else f'{found:.4f}':>7} {means['ndcg']:8.4f}  {low:.4f} - {high:.4f} "
            f"{means['recall']:7.4f} {means['map']:7.4f} {evaluation.coverage(ranking, known):8.3f} {seconds:6.1f}",
            flush=True,
        )
        if repeats and name in harness and round(means["ndcg"], 4) != harness[name]:
            raise SystemExit(f"{name} must have nDCG@10 {harness[name]}: the protocol is not the one that it was.")

    harness = {}
    for half_life, expected in HARNESS.items():
        name = "popularity, all-time" if half_life == models.FOREVER else f"popularity, {half_life:g} days"
        harness[name] = expected
        score = popularity(test, np.inf if half_life == models.FOREVER else half_life)
        line(name, None, models.popular_ranking(score, test_asked, repeats), 0)
    if repeats:
        line("what the user bought most often", None, models.ranking_of(own_history(test), test_asked, True), 0)
    for name in models.MODELS:
        started = time.perf_counter()
        parameters, found = models.choose(name, tuning, tuning_asked, tuning_truth, repeats)
        ranking = models.ranking_of(models.fit(name, test, parameters), test_asked, repeats)
        line(name, found, ranking, time.perf_counter() - started)
        if repeats:
            without = models.fit(name, test, {**parameters, "own": 0})
            line(f"{name}, nothing for itself", None, models.ranking_of(without, test_asked, True), 0)
        print("    " + ", ".join(f"{key} {value:g}" for key, value in parameters.items()))


if __name__ == "__main__":
    main()

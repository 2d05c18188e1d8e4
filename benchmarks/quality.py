"""Quality of the models on MovieLens 100K and on Online Retail II, parameters chosen without the test.

Online Retail II: fitted before 2011-06-01, scored on purchases until 2011-08-31; parameters from the three months
before (fitted before 2011-03-01, scored from there to 2011-05-31). One table per style, and one of the users without a
history. MovieLens: parameters from a split of the training part.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import scipy.sparse as sp

from benchmarks import movielens
from common.recommending import choice, evaluation, models
from common.recommending.blend import Blend, candidates, choose_weights
from common.recommending.evaluation import Truth
from common.recommending.histories import History
from common.recommending.item_model import ItemModel
from common.recommending.models import MIXED, NEW, STYLES
from common.recommending.popularity import popularity
from common.recommending.ranking import Ranking
from common.recommending.scoring import Scoring
from common.recommending.windows import Window

SOURCE = Path(__file__).parents[1] / "sample_data" / "online-retail-ii" / "transactions.parquet"
TUNING, TEST, END = datetime(2011, 3, 1), datetime(2011, 6, 1), datetime(2011, 9, 1)
HARNESS = {7.0: 0.1617, 30.0: 0.1545, models.FOREVER: 0.1221}


def purchases(source: Path) -> pa.Table:
    """Return user, item (codes, in the order of names) and time of each purchase; equal rows once."""
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
    """Return histories before the cut and purchases from it to the end, as users of either x items of either."""
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
        indptr,
        (pairs % shape[1]).astype(np.int32),
        events.astype(np.float32),
        np.log1p(events).astype(np.float32),
        age.astype(np.float32),
        shape[1],
    )
    inside = np.unique(pair[~before & (times < np.datetime64(end))])
    bought = sp.csr_matrix((np.ones(len(inside), dtype=np.int8), divmod(inside, shape[1])), shape=shape)
    return history, Truth(bought)


def most_bought(pairs: History) -> ItemModel:
    """Return the baseline that recommends the user's most frequent purchases."""
    head = np.zeros(0, dtype=np.int64)
    itself = sp.eye(pairs.item_count, format="csr", dtype=np.float32)
    return ItemModel(itself, np.zeros((0, 0), dtype=np.float32), head, Scoring(models.FOREVER))


@dataclass(frozen=True)
class Problem:
    """Data to fit models on, the histories of the scored users, and their later purchases."""

    pairs: History
    scored: History
    truth: Truth

    def of_style(self, style: str) -> "Problem":
        """Return the users with later purchases that a style can reach, and these."""
        reached = Window(self.scored, self.truth).of_style(style)
        return Problem(self.pairs, reached.queries, reached.truth)


def online_retail(table: pa.Table, cut: datetime, end: datetime) -> Problem:
    """Score the users with purchases on both sides of the cut."""
    pairs, truth = split(table, cut, end)
    rows = np.flatnonzero((pairs.lengths > 0) & (truth.counts > 0))
    return Problem(pairs, pairs.rows(rows), Truth(truth.items[rows]))


class Report:
    """Print one line per model: nDCG@10 on tuning and test data, and further figures of the test."""

    def __init__(self, test: Problem) -> None:
        self.test = test
        print(f"{test.scored.user_count:,} users scored; {len(test.pairs.indices):,} pairs to fit on\n")
        print(
            f"{'model':32} {'tuning':>7} {'nDCG@10':>8}  {'95 %':15} {'recall':>7} {'MAP':>7} {'coverage':>8} {'s':>6}"
        )

    def line(self, name: str, found: float | None, ranking: Ranking, seconds: float = 0) -> evaluation.Quality:
        result = evaluation.quality(ranking, self.test.truth)
        means, (low, high) = result.means(), evaluation.interval(result.ndcg, seed=1)
        known = int((np.bincount(self.test.pairs.indices, minlength=self.test.pairs.item_count) > 0).sum())
        print(
            f"{name:32} {'' if found is None else f'{found:.4f}':>7} {means['ndcg']:8.4f}  {low:.4f} - {high:.4f} "
            f"{means['recall']:7.4f} {means['map']:7.4f} {evaluation.coverage(ranking, known):8.3f} {seconds:6.1f}",
            flush=True,
        )
        return result


Choices = dict[str, dict[str, choice.Chosen]]  # by model and style


def choose(tuning: Problem, styles: Sequence[str]) -> Choices:
    """Choose the parameters of every model for all styles at once, as `train_recommender` does."""
    truths = {style: models.of_style(tuning.truth, tuning.scored, style) for style in styles}
    started, cpu = time.perf_counter(), time.process_time()
    chosen = {name: choice.choose(name, tuning.pairs, tuning.scored, truths) for name in models.MODELS}
    print(f"parameters chosen in {time.perf_counter() - started:.0f} s, {time.process_time() - cpu:.0f} s of CPU")
    return chosen


def compare(chosen: Choices, tuning: Problem, test: Problem, style: str, report: Report) -> None:
    """Evaluate every model and their blend once on the test of a style; parameters and weights are of the tuning."""
    members, rows, ndcg = {}, {}, {}
    for name in models.MODELS:
        started = time.perf_counter()
        best, fitted = chosen[name][style]
        rows[name] = fitted.scored(best.parameters).scorer(tuning.scored)
        members[name] = models.fit(name, test.pairs, best.parameters)
        ranking = models.ranking_of(members[name], test.scored, style)
        ndcg[name] = report.line(name, best.ndcg, ranking, time.perf_counter() - started).ndcg
        print("    " + ", ".join(f"{key} {value:g}" for key, value in best.parameters.items()))
    started = time.perf_counter()
    among = candidates(list(rows.values()), tuning.scored.user_count, **models.limits(tuning.scored, style))
    weights, found, _ = choose_weights(among, tuning.truth)
    used = {name: weight for name, weight in zip(members, weights, strict=True) if weight}
    blend = Blend([members[name] for name in used], list(used.values()))
    ranking = models.ranking_of(blend, test.scored, style)
    blended = report.line("blend", found, ranking, time.perf_counter() - started).ndcg
    leader = max(ndcg, key=lambda name: ndcg[name].mean())
    low, high = evaluation.interval(blended - ndcg[leader], seed=1)
    print("    " + ", ".join(f"{name} {weight:g}" for name, weight in used.items()))
    print(f"    blend less {leader}, per user: {(blended - ndcg[leader]).mean():+.4f}, 95 % {low:+.4f} to {high:+.4f}")


def on_online_retail(source: Path) -> None:
    table = purchases(source)
    tuning, everything = online_retail(table, TUNING, TEST), online_retail(table, TEST, END)
    print("\nOnline Retail II")
    chosen = choose(tuning, STYLES)
    for style in STYLES:
        print(f"\nstyle {style}")
        test = everything.of_style(style)
        report = Report(test)
        for half_life, expected in HARNESS.items():
            score = popularity(test.pairs, np.inf if half_life == models.FOREVER else half_life)
            name = "popularity, all-time" if half_life == models.FOREVER else f"popularity, {half_life:g} days"
            result = report.line(name, None, models.popular_ranking(score, test.scored, style))
            if style == MIXED and round(result.means()["ndcg"], 4) != expected:
                raise SystemExit(f"{name} has another nDCG@10, expected {expected}: the protocol differs.")
        if style == MIXED:
            baseline = most_bought(test.pairs)
            report.line("most frequent purchases", None, models.ranking_of(baseline, test.scored, MIXED))
        compare(chosen, tuning.of_style(style), test, style, report)
    pairs, truth = split(table, TEST, END)
    cold = np.flatnonzero((pairs.lengths == 0) & (truth.counts > 0))
    print("\nOnline Retail II, users without a history: non-personalized items")
    report = Report(Problem(pairs, pairs.rows(cold), Truth(truth.items[cold])))
    earlier, bought = split(table, TUNING, TEST)
    newcomers = np.flatnonzero((earlier.lengths == 0) & (bought.counts > 0))
    scored, later = earlier.rows(newcomers), Truth(bought.items[newcomers])
    recent = choice.choose_recent_popularity(earlier, scored, later, MIXED)
    trending = popularity(pairs, recent.parameters["half_life"])
    for name, scores in {"popularity, all-time": popularity(pairs), "trending": trending}.items():
        report.line(
            name, recent.ndcg if name == "trending" else None, models.popular_ranking(scores, report.test.scored, MIXED)
        )


def on_movielens(source: Path) -> None:
    print("\nMovieLens 100K, protocol of the recommenders project; published: BiVAE .4687, LightGCN .4164, SAR .3938")
    table = movielens.ratings(source)
    shape = (int(table[:, 0].max()) + 1, int(table[:, 1].max()) + 1)
    train, rest = movielens.split(table, 42)
    tuning_pairs, tuning_truth = movielens.problem(*movielens.split(train, 1), shape)
    pairs, truth = movielens.problem(train, rest, shape)
    found = movielens.harness(train, pairs, truth)
    print(", ".join(f"{name} {ndcg:.4f}" for name, ndcg in found.items()) + ": the published figures are reproduced")
    test = Problem(pairs, pairs, truth)
    tuning = Problem(tuning_pairs, tuning_pairs, tuning_truth)
    compare(choose(tuning, [NEW]), tuning, test, NEW, Report(test))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--source", type=Path, default=SOURCE, help="transactions.parquet of the sample")
    parser.add_argument("--movielens", type=Path, help="u.data of MovieLens 100K; only the sample if absent")
    arguments = parser.parse_args()
    if arguments.movielens:
        on_movielens(arguments.movielens)
    on_online_retail(arguments.source)


if __name__ == "__main__":
    main()

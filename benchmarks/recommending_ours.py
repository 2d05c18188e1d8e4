"""One case of benchmarks.recommending with the project's algorithms; the last line has the times."""

import json
import sys
import time
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from common.recommending.als import als
from common.recommending.evaluation import Truth, quality
from common.recommending.factor_model import FactorModel
from common.recommending.histories import History
from common.recommending.item_model import ItemModel
from common.recommending.models import NEW, UNSCORED, recommend
from common.recommending.neighbours import cosine, rp3beta
from common.recommending.ranking import Ranking

COUNTS = {"top": 100, "als": 10, "large": 10}


def main() -> None:
    case, folder = sys.argv[1], Path(sys.argv[2])
    train = sp.load_npz(folder / "train.npz")
    values = train.data, train.data, np.zeros_like(train.data)
    pairs = History(train.indptr.astype(np.int64), train.indices, *values, train.shape[1])
    count = COUNTS[case]
    started, cpu = time.perf_counter(), time.process_time()
    if case == "als":
        factors = als(train, 64, 10.0, 10.0, 10)
        model: FactorModel | ItemModel = FactorModel(factors, factors, UNSCORED, 10.0, 10.0)
    else:
        # implicit keeps the neighbours of each source item, we of each target item: for a cosine, the transpose
        weights = cosine(train, 0).T.tocsr() if case == "top" else rp3beta(train, 0.8, 0.4)
        model = ItemModel(weights, np.zeros((0, 0), dtype=np.float32), np.zeros(0, dtype=np.int64), UNSCORED)
    fitted, cpu_fitted = time.perf_counter(), time.process_time()
    best = np.full((train.shape[0], count), -1, dtype=np.int32)
    for block in recommend(model.scorer(pairs), pairs, count, NEW):
        best[block.rows, block.ranks] = block.items
    ranked, cpu_ranked = time.perf_counter(), time.process_time()
    np.save(folder / "ours.npy", best[:2000])
    times = {
        "fit": fitted - started,
        "fit_cpu": cpu_fitted - cpu,
        "rank": ranked - fitted,
        "rank_cpu": cpu_ranked - cpu_fitted,
        "users_per_second": len(best) / (ranked - fitted),
    }
    print(json.dumps({**times, "ndcg": ndcg(best, sp.load_npz(folder / "test.npz"))}))


def ndcg(best: np.ndarray, test: sp.csr_matrix) -> float:
    """Return nDCG@10 over the users with pairs in the test set."""
    rows, ranks = np.nonzero(best >= 0)
    ranking = Ranking(rows, ranks, best[rows, ranks].astype(np.int64), np.ones(len(rows), np.float32))
    return quality(ranking, Truth(test)).means()["ndcg"]


if __name__ == "__main__":
    main()

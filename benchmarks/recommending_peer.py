"""One case of benchmarks.recommending with the library implicit; the last line has the times."""

import json
import os
import sys
import time
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # implicit recommends it: its own threads use the cores

import numpy as np
import scipy.sparse as sp
from implicit.als import AlternatingLeastSquares
from implicit.nearest_neighbours import CosineRecommender

THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def main() -> None:
    case, folder = sys.argv[1], Path(sys.argv[2])
    train = sp.load_npz(folder / "train.npz")
    count = {"top": 100, "als": 10}[case]
    started, cpu = time.perf_counter(), time.process_time()
    if case == "als":
        confidence = train * np.float32(11)  # 1 + 10 for each pair
        model = AlternatingLeastSquares(
            factors=64, regularization=10.0, alpha=1.0, iterations=10, num_threads=THREADS, random_state=1
        )
        model.fit(confidence, show_progress=False)
    else:
        model = CosineRecommender(K=101, num_threads=THREADS)  # an item is among its own neighbours
        model.fit(train, show_progress=False)
    fitted, cpu_fitted = time.perf_counter(), time.process_time()
    users = np.arange(train.shape[0])
    best, _ = model.recommend(users, train, N=count, filter_already_liked_items=True)
    ranked, cpu_ranked = time.perf_counter(), time.process_time()
    np.save(folder / "implicit.npy", best[:2000])
    times = {
        "fit": fitted - started,
        "fit_cpu": cpu_fitted - cpu,
        "rank": ranked - fitted,
        "rank_cpu": cpu_ranked - cpu_fitted,
        "users_per_second": len(best) / (ranked - fitted),
    }
    print(json.dumps({**times, "ndcg": ndcg(best[:, :10], sp.load_npz(folder / "test.npz"))}))


def ndcg(best: np.ndarray, test: sp.csr_matrix) -> float:
    """Return nDCG@10 over users with test pairs, as common.recommending.evaluation does, not installed here."""
    items = test.shape[1]
    expected = np.repeat(np.arange(len(best)), np.diff(test.indptr)) * items + test.indices
    hits = np.isin(np.arange(len(best))[:, None] * items + best, expected) & (best >= 0)
    discounts = 1 / np.log2(np.arange(10) + 2)
    counts = np.diff(test.indptr)
    ideal = np.cumsum(discounts)[np.minimum(np.maximum(counts, 1), 10) - 1]
    return float(((hits * discounts).sum(axis=1) / ideal)[counts > 0].mean())


if __name__ == "__main__":
    main()

"""One case of benchmarks.recommending with the library implicit; the last line says the times."""

import json
import os
import sys
import time
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # as implicit asks for: its own threads have the cores

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
        "users_a_second": len(best) / (ranked - fitted),
    }
    print(json.dumps({**times, "ndcg": ndcg(best[:, :10], sp.load_npz(folder / "apart.npz"))}))


def ndcg(best: np.ndarray, apart: sp.csr_matrix) -> float:
    """nDCG@10 over the users with pairs set apart; as common.recommending.evaluation, which is not installed here."""
    items = apart.shape[1]
    wanted = np.repeat(np.arange(len(best)), np.diff(apart.indptr)) * items + apart.indices
    hits = np.isin(np.arange(len(best))[:, None] * items + best, wanted) & (best >= 0)
    discounts = 1 / np.log2(np.arange(10) + 2)
    counts = np.diff(apart.indptr)
    ideal = np.cumsum(discounts)[np.minimum(np.maximum(counts, 1), 10) - 1]
    return float(((hits * discounts).sum(axis=1) / ideal)[counts > 0].mean())


if __name__ == "__main__":
    main()

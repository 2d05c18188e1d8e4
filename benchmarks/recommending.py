"""Fitting and ranking compared with implicit, on the same synthetic purchases, in alternating fresh processes."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from benchmarks import measure
from benchmarks.measure import Measurement

ROOT = Path(__file__).parents[1]
PEERS = ROOT / ".venv-peers" / "bin" / "python"
SIZES = {  # users, items, pairs of users and items
    "top": {False: (20_000, 2_000, 600_000), True: (196_000, 20_000, 6_150_000)},
    "als": {False: (20_000, 2_000, 600_000), True: (196_000, 20_000, 6_150_000)},
    "large": {False: (50_000, 5_000, 1_300_000), True: (1_000_000, 100_000, 26_500_000)},
}
GROUPS = 200


def purchases(users: int, items: int, pairs: int, seed: int) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Draw a users x items matrix of ones with a long tail and tastes: 200 groups prefer items in their own order.

    Return it, and a random tenth of the pairs as a test set.
    """
    random = np.random.default_rng(seed)
    popularity = np.cumsum(1 / np.arange(10, items + 10) ** 0.9)
    lengths = random.lognormal(0, 0.8, users)
    rows = np.repeat(np.arange(users), np.maximum(2, lengths * 1.25 * pairs / lengths.sum()).astype(np.int64))
    position = np.searchsorted(popularity, random.random(len(rows)) * popularity[-1])
    by_taste = random.random(len(rows)) < 0.7
    step = next(step for step in range(items * 5 // 8, items) if np.gcd(step, items) == 1)
    group = np.where(by_taste, rows % GROUPS + 1, 0)
    columns = (position * np.where(by_taste, step, 1) + group * (items // (GROUPS + 1))) % items
    keys = np.unique(rows * items + columns)
    keys = np.sort(random.permutation(keys)[:pairs])
    held_out = random.random(len(keys)) < 0.1
    matrices = []
    for pairs_of in (keys[~held_out], keys[held_out]):
        indptr = np.searchsorted(pairs_of, np.arange(users + 1) * items).astype(np.int32)
        ones = np.ones(len(pairs_of), dtype=np.float32)
        matrices.append(sp.csr_matrix((ones, (pairs_of % items).astype(np.int32), indptr), shape=(users, items)))
    return matrices[0], matrices[1]


def agreement(ours: Path, theirs: Path) -> str:
    """Return the share of items that two rankings (users x ranks, item positions) have in common."""
    one, other = np.load(ours), np.load(theirs)
    same = [len(np.intersect1d(a, b)) / max(1, len(b)) for a, b in zip(one, other, strict=True)]
    return f"{np.mean(same):.4f} of the items are the same, of {len(one):,} users"


def compare(case: str, large: bool, runs: int, folder: Path) -> None:
    """Run one case: generate the data, run both alternately, record a table of their figures."""
    users, items, pairs = SIZES[case][large]
    data = folder / case
    data.mkdir()
    train, test = purchases(users, items, pairs, seed=1)
    sp.save_npz(data / "train.npz", train, compressed=False)
    sp.save_npz(data / "test.npz", test, compressed=False)
    print(f"{case}: {users:,} users x {items:,} items, {train.nnz:,} pairs", file=sys.stderr)
    commands = {"ours": [sys.executable, "-m", "benchmarks.recommending_ours", case, str(data)]}
    if case != "large":
        commands["implicit"] = [str(PEERS), "-m", "benchmarks.recommending_peer", case, str(data)]
    found = measure.alternate(commands, runs)
    columns = {
        "fit, s": figure("fit"),
        "fit, CPU s": figure("fit_cpu"),
        "rank all users, s": figure("rank"),
        "rank, CPU s": figure("rank_cpu"),
        "users/s": figure("users_per_second"),
        "nDCG@10, %": lambda one: 100 * float(one.figures["ndcg"]),
    }
    table = measure.table(found, columns)
    if case == "top":
        table += "\n\n" + agreement(data / "ours.npy", data / "implicit.npy")
    title = {
        "top": "Item cosine, 100 neighbours, top 100 of each user",
        "als": "iALS, 64 factors, 10 iterations, top 10",
        "large": "RP3beta, top 10 of each user",
    }[case]
    command = "make bench-recommending" + (" LARGE=1" if large else "")
    sizes = f"{users:,} users x {items:,} items, {train.nnz:,} pairs; {runs} runs; "
    measure.record(title, command, f"{sizes}{measure.versions('numpy', 'scipy')}\n\n{table}")


def figure(name: str) -> measure.Column:
    def of(one: Measurement) -> float:
        return float(one.figures[name])

    return of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", action="store_true", help="large sizes: about 20 minutes")
    parser.add_argument("--runs", type=int, default=3, help="of each command")
    parser.add_argument("--case", choices=list(SIZES), action="append", help="only this case")
    arguments = parser.parse_args()
    for case in arguments.case or SIZES:
        with tempfile.TemporaryDirectory() as folder:
            compare(case, arguments.large, arguments.runs, Path(folder))


if __name__ == "__main__":
    main()

"""Fitting and ranking beside implicit, on the same made-up purchases, in fresh processes that take turns."""

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
    """Users x items of ones with a long tail and tastes: 200 groups of users prefer items of their own order.

    And a tenth of the pairs, drawn by chance, apart: to compare models by what they find of it.
    """
    random = np.random.default_rng(seed)
    popularity = np.cumsum(1 / np.arange(10, items + 10) ** 0.9)
    lengths = random.lognormal(0, 0.8, users)
    rows = np.repeat(np.arange(users), np.maximum(2, lengths * 1.25 * pairs / lengths.sum()).astype(np.int64))
    place = np.searchsorted(popularity, random.random(len(rows)) * popularity[-1])
    own = random.random(len(rows)) < 0.7
    step = next(step for step in range(items * 5 // 8, items) if np.gcd(step, items) == 1)
    group = np.where(own, rows % GROUPS + 1, 0)
    columns = (place * np.where(own, step, 1) + group * (items // (GROUPS + 1))) % items
    keys = np.unique(rows * items + columns)
    keys = np.sort(random.permutation(keys)[:pairs])
    apart = random.random(len(keys)) < 0.1
    made = []
    for part in (keys[~apart], keys[apart]):
        indptr = np.searchsorted(part, np.arange(users + 1) * items).astype(np.int32)
        ones = np.ones(len(part), dtype=np.float32)
        made.append(sp.csr_matrix((ones, (part % items).astype(np.int32), indptr), shape=(users, items)))
    return made[0], made[1]


def agreement(ours: Path, theirs: Path) -> str:
    """How much two rankings (users x ranks, item positions) have in common."""
    one, other = np.load(ours), np.load(theirs)
    same = [len(np.intersect1d(a, b)) / max(1, len(b)) for a, b in zip(one, other, strict=True)]
    return f"{np.mean(same):.4f} of the items are the same, of {len(one):,} users"


def compare(case: str, large: bool, runs: int, folder: Path) -> None:
    """One case: the data made, both run in turns, a table with the figures of either."""
    users, items, pairs = SIZES[case][large]
    data = folder / case
    data.mkdir()
    train, apart = purchases(users, items, pairs, seed=1)
    sp.save_npz(data / "train.npz", train, compressed=False)
    sp.save_npz(data / "apart.npz", apart, compressed=False)
    print(f"{case}: {users:,} users x {items:,} items, {train.nnz:,} pairs", file=sys.stderr)
    commands = {"ours": [sys.executable, "-m", "benchmarks.recommending_ours", case, str(data)]}
    if case != "large":
        commands["implicit"] = [str(PEERS), "-m", "benchmarks.recommending_peer", case, str(data)]
    found = measure.alternate(commands, runs)
    columns = {
        "fit, s": said("fit"),
        "fit, CPU s": said("fit_cpu"),
        "rank all users, s": said("rank"),
        "rank, CPU s": said("rank_cpu"),
        "users/s": said("users_a_second"),
        "nDCG@10, %": lambda one: 100 * float(one.said["ndcg"]),
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


def said(name: str) -> measure.Column:
    def of(one: Measurement) -> float:
        return float(one.said[name])

    return of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", action="store_true", help="the sizes of the goals: about 20 minutes")
    parser.add_argument("--runs", type=int, default=3, help="of each command")
    parser.add_argument("--case", choices=list(SIZES), action="append", help="only this one")
    arguments = parser.parse_args()
    for case in arguments.case or SIZES:
        with tempfile.TemporaryDirectory() as folder:
            compare(case, arguments.large, arguments.runs, Path(folder))


if __name__ == "__main__":
    main()

"""The quality that training on a part of the users costs: Online Retail II, the first half and quarter of 32 buckets.

The parameters, the weights of the blend and the models come from the users of these buckets only, as with
`max_training_pairs`; all users are scored, those whom training never saw too.
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.quality import END as END_OF_TEST
from benchmarks.quality import SOURCE, TEST, TUNING, Problem, Report, choose, compare, online_retail, purchases, split
from common.engines.arrow import bucket_of
from common.handover.buckets import MIN_BUCKETS
from common.recommending.models import MIXED, NEW


def in_buckets(users: pa.Array, parts: int) -> np.ndarray:
    """Mark the users in the first buckets, one of `parts` equal parts."""
    marked: np.ndarray = bucket_of(users.cast(pa.string()), MIN_BUCKETS) < MIN_BUCKETS // parts
    return marked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--source", type=Path, default=SOURCE, help="transactions.parquet of the sample")
    table = purchases(parser.parse_args().source)
    everything = online_retail(table, TEST, END_OF_TEST)
    pairs, _ = split(table, TEST, END_OF_TEST)
    users = pa.array(np.unique(table["user"].to_numpy(zero_copy_only=False)))
    for parts in (2, 4):
        rows = np.flatnonzero(in_buckets(users, parts))
        sampled = table.filter(pa.array(in_buckets(table["user"].combine_chunks(), parts)))
        tuning = online_retail(sampled, TUNING, TEST)
        print(f"\n1/{parts}: {len(rows):,} of {len(users):,} users")
        chosen = choose(tuning, (MIXED, NEW))
        for style in (MIXED, NEW):
            print(f"\n1/{parts}, style {style}")
            test = Problem(pairs.rows(rows), everything.scored, everything.truth).of_style(style)
            compare(chosen, tuning.of_style(style), test, style, Report(test))


if __name__ == "__main__":
    main()

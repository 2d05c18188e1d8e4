"""Parts of the sample data, for tests that run whole pipelines."""

import datetime
from pathlib import Path

import pyarrow.parquet as pq

from tools.data import load_sample


def five_months(folder: Path) -> Path:
    """Write the first five months of the shop's transactions into a folder; return the file."""
    file = folder / "transactions.parquet"
    until = datetime.datetime(2010, 5, 1)
    pq.write_table(pq.read_table(load_sample.SOURCE, filters=[("invoice_date", "<", until)]), file)
    return file

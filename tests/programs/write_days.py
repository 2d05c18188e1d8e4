"""A job that writes a row for each of five days."""

import pyarrow as pa
import pyarrow.parquet as pq

from common.contracts import load
from common.engines import arrow
from common.handover import partitions, run, storage


def main(task):
    contract = load("quarantine@2")
    rows = pa.table([["x"], [1], ["x"], [1], ["x"]], arrow.arrow_schema(contract, list(contract.columns)))
    for number in range(1, 6):
        folder, seen = task.partition("table", f"date=2011-01-0{number}")
        with storage.stream(f"{folder}/{task.version}/part-0.parquet") as file:
            pq.write_table(rows, file)
        partitions.register(folder.rpartition("/")[0], {f"2011-01-0{number}"})
        task.publish_partition("table", folder, seen, 1, storage.files(folder))


if __name__ == "__main__":
    run(main)

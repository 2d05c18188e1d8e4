"""The hand-over of interactions from Spark to a CSR matrix in Python: through files, and by collecting in the driver.

Users and items are strings, as in our contracts; one row per pair, sorted by user. Ours: Spark writes Parquet and
ends, and another process reads it with `read_interactions`. The peers collect in the driver's process and build a
CSR there. Seconds are without Spark's start; memory is of the whole process tree.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import measure
from common.contracts import Column, Contract
from common.engines.interactions import read_interactions
from common.handover.inputs import Input
from common.handover.storage import File

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".tandem" / "benchmarks"
CONTRACT = Contract(
    "pairs@1", "", {"user_id": Column("string"), "item_id": Column("string"), "weight": Column("float32")}
)
ROWS_PER_FILE = 2_500_000
PAIRS_PER_USER = 26
ITEMS = 20_000


def pairs(rows: int) -> Path:
    """Return a folder with `rows` pairs, as Parquet files sorted by user and item; created if missing."""
    folder = FOLDER / f"pairs-{rows}"
    for number in range(-(-rows // ROWS_PER_FILE)):
        file = folder / f"part-{number:05}.parquet"
        if file.exists():
            continue
        random = np.random.default_rng([rows, number])
        size = min(ROWS_PER_FILE, rows - number * ROWS_PER_FILE)
        user = np.sort(random.integers(0, -(-size // PAIRS_PER_USER), size)) + number * ROWS_PER_FILE
        # Items ascend within a user, so that no pair is repeated.
        start = np.searchsorted(user, user)
        item = (random.integers(0, ITEMS // 200, size) + 1 + (np.arange(size) - start) * (ITEMS // 200)) % ITEMS
        item = item[np.lexsort((item, user))]
        folder.mkdir(parents=True, exist_ok=True)
        names = pa.array([f"{10_000 + number // 4}{' ABC'[number % 4].strip()}" for number in range(ITEMS)])
        users, codes = np.unique(user, return_inverse=True)
        table = pa.table(
            {
                "user_id": pa.array([f"u{name:08}" for name in users.tolist()]).take(pa.array(codes)),
                "item_id": names.take(pa.array(item)),
                "weight": random.random(size, np.float32) + np.float32(0.01),
            }
        )
        pq.write_table(table, f"{file}.part", compression="zstd", store_schema=False)
        Path(f"{file}.part").rename(file)
    return folder


def session(memory: str, **more: str) -> Any:
    """Start Spark with the settings of our jobs; it exits when out of memory, because by default it hangs."""
    from pyspark.sql import SparkSession

    from common.engines.spark.session import LOCAL_SETTINGS, SETTINGS, WITHOUT_CHECKSUMS

    settings = {**SETTINGS, **LOCAL_SETTINGS, **WITHOUT_CHECKSUMS, **more}
    settings |= {"spark.driver.memory": memory, "spark.driver.extraJavaOptions": "-XX:+ExitOnOutOfMemoryError"}
    return SparkSession.builder.master("local[*]").config(map=settings).getOrCreate()


def write(source: Path, memory: str) -> dict[str, Any]:
    from common.engines.spark.files import parquet_writer

    spark = session(memory)
    started = time.perf_counter()
    target = source.with_name(f"{source.name}-handed-over")
    parquet_writer(spark.read.parquet(f"file://{source}")).mode("overwrite").save(f"file://{target}")
    return {"seconds": time.perf_counter() - started}


def read(source: Path) -> dict[str, Any]:
    """Read the files into a CSR with our reader, as a container does."""
    started = time.perf_counter()
    paths = sorted(source.glob("*.parquet"))
    files = [File(f"file://{file}", file.stat().st_size) for file in paths]
    rows = sum(pq.ParquetFile(file).metadata.num_rows for file in paths)
    task: Any = SimpleNamespace(input=lambda _: Input("pairs", CONTRACT, files, rows), log=print)
    interactions = read_interactions(task, "pairs", ["weight"])
    size = interactions.indptr.nbytes + interactions.indices.nbytes + interactions.values["weight"].nbytes
    names = interactions.users.nbytes + interactions.items.nbytes
    seconds = time.perf_counter() - started
    checks = checksums(interactions.indptr, interactions.indices, interactions.values["weight"])
    return {"seconds": seconds, "csr_bytes": size, "names_bytes": names, **checks}


def checksums(indptr: np.ndarray, indices: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    """Return figures that identify a matrix up to the order of users; in pieces, to save memory."""
    pieces = [slice(start, start + 1_000_000) for start in range(0, len(indices), 1_000_000)]
    item_weight = sum(float(indices[piece].astype(np.float64) @ weights[piece].astype(np.float64)) for piece in pieces)
    return {
        "users": len(indptr) - 1,
        "longest_row": int(np.diff(indptr).max()),
        "items": int(indices.max()) + 1,
        "pairs": len(indices),
        "weight": round(float(weights.sum(dtype=np.float64)), 1),
        "item_weight": round(item_weight, -3),
    }


def to_csr(users: Any, items: Any, weights: np.ndarray) -> dict[str, float]:
    """Convert columns of codes, users in any order, to a CSR."""
    from scipy.sparse import coo_matrix

    matrix = coo_matrix((weights, (users, items))).tocsr()
    return checksums(matrix.indptr, matrix.indices, matrix.data)


def to_pandas(source: Path, memory: str, arrow: bool) -> dict[str, Any]:
    import pandas as pd

    settings = {"spark.sql.execution.arrow.pyspark.enabled": str(arrow).lower(), "spark.driver.maxResultSize": "0"}
    spark = session(memory, **settings)
    started = time.perf_counter()
    frame = spark.read.parquet(f"file://{source}").toPandas()
    users, _ = pd.factorize(frame["user_id"])
    items, _ = pd.factorize(frame["item_id"], sort=True)
    weights = frame["weight"].to_numpy()
    del frame
    checks = to_csr(users, items, weights)
    return {"seconds": time.perf_counter() - started, **checks}


def to_arrow(source: Path, memory: str) -> dict[str, Any]:
    import pyarrow.compute as pc

    spark = session(memory, **{"spark.driver.maxResultSize": "0"})
    started = time.perf_counter()
    table = spark.read.parquet(f"file://{source}").toArrow()
    users = table["user_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    items = table["item_id"].combine_chunks().dictionary_encode()
    rank = np.empty(len(items.dictionary), np.int32)
    rank[pc.sort_indices(items.dictionary).to_numpy()] = np.arange(len(rank))
    codes, weights = rank[items.indices.to_numpy()], table["weight"].to_numpy()
    del table
    checks = to_csr(users, codes, weights)
    return {"seconds": time.perf_counter() - started, **checks}


VARIANTS = {
    "write": write,
    "read": lambda source, _: read(source),
    "read_sorted": lambda source, _: read(source),
    "pandas": lambda source, memory: to_pandas(source, memory, False),
    "pandas_arrow": lambda source, memory: to_pandas(source, memory, True),
    "arrow": to_arrow,
}


def both(source: Path, memory: str) -> dict[str, Any]:
    """Run ours: one process writes, then another reads."""
    written = measure.run(command_of("write", source, memory))
    found = measure.run(command_of("read", source.with_name(f"{source.name}-handed-over"), memory))
    steps = {"write": written.figures["seconds"], "read": found.figures["seconds"]}
    return {**found.figures, **steps, "seconds": sum(steps.values())}


def command_of(variant: str, source: Path, memory: str) -> list[str]:
    names = ["--variant", variant, "--source", str(source), "--memory", memory]
    return [sys.executable, "-m", "benchmarks.handover", *names]


def try_command(name: str, command: list[str]) -> str:
    """Run a command; return a line of the report on success or failure."""
    try:
        one = measure.run(command)
    except RuntimeError as error:
        out_of_memory = "OutOfMemory" in str(error) or "heap space" in str(error)
        return f"- {name}: fails{' with out of memory' if out_of_memory else ''}"
    return f"- {name}: works, {one.figures['seconds']:.1f} s, {one.peak / 2**20:,.0f} MiB"


def compare(rows: int, runs: int, command: str, slow: bool) -> None:
    source = pairs(rows)
    heap = 4 if rows <= 10_000_000 else 12  # GiB, for the peers
    commands = {
        "ours, 1 GiB heap": command_of("both", source, "1g"),
        f"toPandas with Arrow, {heap} GiB": command_of("pandas_arrow", source, f"{heap}g"),
        f"toArrow, {heap} GiB": command_of("arrow", source, f"{heap}g"),
    }
    if slow:
        commands[f"toPandas without Arrow, {heap} GiB"] = command_of("pandas", source, f"{heap}g")
    commands["reading alone, files sorted by user"] = command_of("read_sorted", source, "1g")
    found = measure.alternate(commands, runs)
    seconds: dict[str, measure.Column] = {"without start, s": lambda one: one.figures["seconds"]}
    lines = [measure.table(found, seconds), ""]
    ours, alone = (found[name][-1] for name in ("ours, 1 GiB heap", "reading alone, files sorted by user"))
    lines.append(f"- ours: {ours.figures['write']:.1f} s writing, {ours.figures['read']:.1f} s reading")
    size, names = alone.figures["csr_bytes"], alone.figures["names_bytes"]
    lines.append(
        f"- reading alone: peak {alone.peak / size:.2f} times the CSR's {size / 2**20:,.0f} MiB "
        f"(the names of users and items are {names / 2**20:,.0f} MiB more)"
    )
    checked = ("users", "longest_row", "items", "pairs", "weight", "item_weight")
    results = {tuple(many[-1].figures[name] for name in checked) for many in found.values()}
    lines.append("- all matrices agree" if len(results) == 1 else f"- the matrices differ: {sorted(results)}")
    for variant, name in (("pandas_arrow", "toPandas with Arrow"), ("arrow", "toArrow")):
        for smaller in (size for size in (1, 4) if size < heap):
            lines.append(try_command(f"{name}, {smaller} GiB heap", command_of(variant, source, f"{smaller}g")))
    lines.append(measure.versions("pyspark", "pyarrow", "pandas"))
    measure.record(f"hand-over of {rows:,} pairs to a CSR", command, "\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--large", action="store_true", help="10 and 50 million pairs instead of 1 million")
    parser.add_argument("--runs", type=int, default=3, help="of each variant")
    parser.add_argument("--without-slowest", action="store_true", help="leave out toPandas without Arrow")
    parser.add_argument("--rows", type=int, nargs="*", help="other sizes")
    parser.add_argument("--variant", choices=[*VARIANTS, "both"], help=argparse.SUPPRESS)
    parser.add_argument("--source", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.variant:
        print(
            json.dumps(
                (both if arguments.variant == "both" else VARIANTS[arguments.variant])(
                    arguments.source, arguments.memory
                )
            )
        )
        return
    for rows in arguments.rows or ([10_000_000, 50_000_000] if arguments.large else [1_000_000]):
        # Without Arrow 50 million rows take more memory than most machines have.
        command = " ".join(["python -m benchmarks.handover", *sys.argv[1:]])
        compare(rows, arguments.runs, command, slow=rows <= 10_000_000 and not arguments.without_slowest)


if __name__ == "__main__":
    main()

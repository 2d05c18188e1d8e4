"""One of 32 shards of 10 million users, 100,000 items and 200 million pairs: predicted, selected and written.

Each job is a process. Only the buckets of the first shard are generated; the manifest names all. The model is of 100
neighbours per item. The figures are those of one shard: seconds, CPU, peak memory, bytes read. First the bytes that all
shards read together.
Writing goes to moto's server, which takes some milliseconds per item: with 10 million users most of an hour.
"""

import argparse
import json
import os
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks import measure
from common import contracts, protocol
from common.engines import arrow
from common.engines.arrays import string_arrays, write_arrays
from common.engines.arrow_checks import Checks
from common.handover import manifest, storage
from common.handover.buckets import buckets_for, shard_of_bucket
from common.handover.inputs import resolve
from common.handover.job_toml import Job, Table, load
from common.handover.task import Task
from tools.sandbox import local_dynamodb

ROOT = Path(__file__).parents[1]
SHARDS, PAIRS_PER_USER, NEIGHBOURS = 32, 20, 100
AS_OF = 1_750_000_000_000_000  # microseconds since 1970
DAY = 86_400_000_000
OUTPUTS = {
    "interactions": Table("interactions@2"),
    "model": Table("recommender_model@5"),
    "items": Table("items@2", dataset="curated/items"),
}


def task_of(job: Job, lake: Path, name: str, shard: int | None, *settings: tuple[str, str]) -> Task:
    """Return a task of a job without running it."""
    predecessors = [(role, role) for role, table in job.inputs.items() if table.handed_over]
    arguments = argparse.Namespace(
        lake=f"file://{lake}", dag_id="d", run_id="r", task_id=name, attempt=1, run_started=None, map_index=shard,
        predecessors=predecessors, settings=settings,
    )  # fmt: skip
    return Task(job, ROOT / "benchmarks", arguments)


def publish(task: Task) -> None:
    manifest.publish(protocol.manifest_uri(task.key), task.document(task.outputs), None)


def pairs_of(users: list[str], items: pa.Array, random: np.random.Generator) -> pa.Table:
    """Return rows of interactions@2 of some users, sorted; popular items are in more of them."""
    lengths = random.geometric(1 / PAIRS_PER_USER, len(users))
    popularity = np.cumsum((np.arange(len(items)) + 10.0) ** -0.8)
    item = np.searchsorted(popularity, random.random(lengths.sum()) * popularity[-1])
    item = item * 7919 % len(items)  # popular ones anywhere in the order of the IDs
    codes = np.unique(np.repeat(np.arange(len(users)), lengths) * len(items) + item)
    age = random.integers(0, 365, len(codes)) * DAY
    table = {
        "user_id": pa.array(users).take(pa.array(codes // len(items))),
        "item_id": items.take(pa.array(codes % len(items))),
        "first_time": pa.array(AS_OF - age, arrow.TYPES["timestamp"]),
    }
    for suffix, before in (("", 0), ("_before_test", 30), ("_before_tuning", 60)):
        known = age >= before * DAY
        table[f"weight{suffix}"] = pa.array(np.where(known, 0.69, 0).astype(np.float32))
        table[f"events{suffix}"] = pa.array(known.astype(np.int64))
        table[f"last_time{suffix}"] = pa.array(AS_OF - age, arrow.TYPES["timestamp"], mask=~known)
    return pa.table(table)


def generate(lake: Path, users: int, items: pa.Array, shards: int) -> dict[str, int]:
    """Write the hand-over of interactions of the first of some shards; return its users and pairs, and bytes of all."""
    task = task_of(Job("generated", "", "python", outputs=OUTPUTS), lake, "interactions", None)
    rows = users * PAIRS_PER_USER
    buckets = buckets_for(rows)
    members: dict[int, list[str]] = {bucket: [] for bucket in range(buckets)}
    for number in range(users):
        user = f"u{number:08}"
        members[zlib.crc32(user.encode()) % buckets].append(user)
    files: list[dict[str, Any]] = []
    pairs = seen = 0
    checks = Checks(task, "interactions", arrow.contract_of_output(task, "interactions"))
    for bucket, ids in members.items():
        uri = f"{task.folder('interactions')}/part-{bucket:05}.parquet"
        if shard_of_bucket(bucket, shards, buckets) == 0:
            seen += len(ids)
            rows_of_users = pairs_of(ids, items, np.random.default_rng(bucket))
            pairs += arrow.write_file(task, "interactions", uri, rows_of_users, checks)
        size = storage.local(uri).stat().st_size if storage.local(uri).exists() else files[0]["bytes"]
        files.append({"path": uri.removeprefix(f"{task.key}/"), "bytes": size, "bucket": bucket})
    total: int = sum(file["bytes"] for file in files)
    entry = {"contract": "interactions@2", "rows": rows, "bytes": total, "buckets": buckets, "files": files}
    task.outputs = {"interactions": entry}
    publish(task)
    return {"users": seen, "pairs": pairs, "bytes_of_all_shards": total}


def generate_model(lake: Path, items: pa.Array) -> None:
    """Write a model of neighbours with all styles, and the catalogue."""
    job = Job("generated", "", "python", outputs=OUTPUTS)
    random, count = np.random.default_rng(1), len(items)
    columns = np.sort(random.integers(0, count, (count, NEIGHBOURS), dtype=np.int32), axis=1)
    arrays = {
        **string_arrays("items", items),
        "0_dense": np.zeros((0, 0), np.float32),
        "0_head": np.zeros(0, np.int64),
        "0_sparse_data": random.random(columns.size, np.float32),
        "0_sparse_indices": columns.ravel(),
        "0_sparse_indptr": np.arange(count + 1, dtype=np.int64) * NEIGHBOURS,
        "momentum": np.ones(count, np.float32),
        "trending": random.random(count),
        "last_event": np.full(count, AS_OF),
    }
    scoring = {"half_life": 90.0, "counting": 1.0, "self_weight": 0.5, "momentum": 0.0}
    style = {"model": "cosine", "members": [{"fit": 0, "weight": 1.0, "scoring": scoring}]}
    fits = [{"name": "cosine", "kind": "items", "numbers": {}}]
    styles = dict.fromkeys(("mixed", "again", "new"), style)
    document = {"model": "cosine", "fits": fits, "styles": styles, "as_of": AS_OF, "verb": "bought"}
    task = task_of(job, lake, "model", None)
    write_arrays(task, "model", arrays, document)
    publish(task)
    catalogue = task_of(job, lake, "items", None)
    catalogue.load_replaced()
    names = pa.array([f"Item {number} of a large catalogue" for number in range(count)])
    families = pa.array([f"family {number // 20}" for number in range(count)])
    columns_of = {
        name: pa.nulls(count, arrow.TYPES[each.type]) for name, each in contracts.load("items@2").columns.items()
    }
    arrow.write(catalogue, "items", pa.table({**columns_of, "item_id": items, "name": names, "family": families}))


def run(lake: Path, job: str, *arguments: str) -> measure.Measurement:
    """Run the first shard of a job as a process."""
    identity = ["--lake", f"file://{lake}", "--dag-id", "d", "--run-id", "r", "--task-id", job, "--attempt", "1"]
    command = [sys.executable, f"{ROOT}/jobs/{job}/main.py", *identity, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return measure.run([*command, "--map-index", "0", "--set", f"shards={SHARDS}"], environment)


def add_other_shards(lake: Path, job: str) -> None:
    """Publish manifests of the other shards, without files."""
    first = json.loads(storage.read(manifest_of(lake, job, 0))[0])
    for shard in range(1, SHARDS):
        outputs = {role: {**output, "files": [], "bytes": 0, "rows": 0} for role, output in first["outputs"].items()}
        document = {**first, "task": {**first["task"], "map_index": shard}, "outputs": outputs}
        storage.write(manifest_of(lake, job, shard), manifest.to_json(document))


def manifest_of(lake: Path, job: str, shard: int) -> str:
    return protocol.manifest_uri(protocol.task_key(f"file://{lake}", "d", "r", job, shard))


def bytes_read_by_all(lake: Path, items: pa.Array) -> dict[str, Any]:
    """Return the bytes of the files that all shards of predictions read, and of the hand-over: of a smaller one."""
    total = generate(lake, 800_000, items, 1)["bytes_of_all_shards"]
    job, read = load(ROOT / "jobs" / "predict_recommendations"), 0
    for shard in range(SHARDS):
        task = task_of(job, lake, "predict", shard, ("shards", str(SHARDS)))
        read += sum(file.bytes for file in resolve(task, "interactions", job.inputs["interactions"]).files)
    return {"shards": SHARDS, "read": read, "hand_over": total, "times": round(read / total, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=10_000_000)
    parser.add_argument("--items", type=int, default=100_000)
    arguments = parser.parse_args()
    items = pa.array([f"i{number:06}" for number in range(arguments.items)])
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=ROOT / ".tandem") as small:
        figures["read_by_all_shards"] = bytes_read_by_all(Path(small), items)
    with tempfile.TemporaryDirectory(dir=ROOT / ".tandem") as name:
        lake = Path(name)
        figures["first_shard"] = generate(lake, arguments.users, items, SHARDS)
        generate_model(lake, items)
        jobs = {
            "predict_recommendations": "--from interactions=interactions --from model=model",
            "select_recommendations": "--from predictions=predict_recommendations --from model=model",
            "write_product": "--from product=select_recommendations --set tables=tandem-laptop-",
        }
        for job, options in jobs.items():
            with local_dynamodb.running():
                measured = run(lake, job, *options.split())
            add_other_shards(lake, job)
            (output,) = json.loads(storage.read(manifest_of(lake, job, 0))[0])["outputs"].values()
            figures[job] = {
                "seconds": round(measured.wall, 1),
                "cpu_seconds": round(measured.cpu, 1),
                "peak_gib": round(measured.peak / 2**30, 2),
                "rows": output["rows"],
                "bytes": output["bytes"],
                "cpu_hours_of_all_shards": round(measured.cpu * SHARDS / 3600, 2),
            }
            print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()

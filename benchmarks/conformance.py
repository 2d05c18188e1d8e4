"""Each Spark job on both engines, Spark and DuckDB, over the same lakes: outputs, manifests and errors compared.

Texts, integers, times, booleans and maps must be equal to the bit, floats within a unit in the last place.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks import conformance_broken as broken
from benchmarks import conformance_lakes as lakes
from benchmarks import conformance_sources
from benchmarks.job import ROOT, environment

PROGRAM = str(ROOT / "benchmarks" / "conformance_tasks.py")
ENGINES = {"Spark": [PROGRAM], "DuckDB": ["-m", "common.engines.light.submit", PROGRAM]}
JOBS = {  # the Spark jobs that read curated events, with more arguments
    "build_interactions": (),
    "build_user_features": ("--set", "horizon_days=5", "--set", "active_days=14", "--set", "cut_spacing_days=2"),
    "build_trending_items": ("--set", "dimensions=country,platform,family", "--set", "min_people=1"),
    "join_characteristics": ("--from", "predictions=predicted"),
}
INGESTION = {  # jobs before them, by data
    "sample": ["ingest_items", "ingest_events"],
    "generated shop": ["ingest_items", "ingest_users", "ingest_events"],
    "lines at the edges": ["ingest_events"],
    "random sources": ["ingest_events"],
}
RAW: dict[str, Callable[[Path], None]] = {
    "sample": lakes.sample,
    "generated shop": lakes.shop,
    "lines at the edges": lakes.raw_edges,
    "random sources": conformance_sources.fill,
}
SPOILT = {"lines at the edges", "random sources"}


class Run(NamedTuple):
    """A task that both engines run: the data that it reads, which is its lake's folder, and its arguments."""

    data: str
    job: str
    more: tuple[str, ...]

    def arguments(self, folder: Path) -> list[str]:
        identity = ["--lake", f"file://{folder / self.data}", "--dag-id", "dag", "--run-id", "run", "--attempt", "1"]
        return [*identity, "--task-id", self.job, *self.more]


class Result(NamedTuple):
    """The comparison of a task's results: rows compared, the largest distance of floats, the first difference."""

    run: Run
    code: int
    rows: int
    distance: int
    difference: str


def runs() -> Iterator[Run]:
    """Yield the tasks to compare, in the order in which each engine runs them."""
    for data in RAW:
        for job in INGESTION[data]:
            yield Run(data, job, ("--set", "max_quarantined_share=1.0") if data in SPOILT else ())
    for data in ["sample", "generated shop", *lakes.ENDS]:
        for job, more in JOBS.items():
            yield Run(data, job, more)
    for data, case in broken.CASES.items():
        yield Run(data, "build_interactions", ("--set", case.parameter))


def fill(folder: Path) -> None:
    """Fill the lakes of all runs below a folder."""
    for data, make in RAW.items():
        make(folder / data)
    for data, newest in lakes.ENDS.items():
        lakes.edges(folder / data, newest)
    for data, case in broken.CASES.items():
        broken.fill(folder / data, case)


def compare(folder: Path) -> list[Result]:
    """Run all tasks on both engines, at the same time, in lakes below a folder; return what differs."""
    fill(folder / "Spark")
    shutil.copytree(folder / "Spark", folder / "DuckDB")
    tasks, started = list(runs()), {}
    for engine, program in ENGINES.items():
        file = folder / f"{engine}.json"
        file.write_text(json.dumps([(run.job, run.arguments(folder / engine)) for run in tasks]))
        command = [sys.executable, *program, str(file)]
        started[engine] = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True)
    ended = {
        engine: [json.loads(line) for line in process.communicate()[0].splitlines() if line.startswith("{")]
        for engine, process in started.items()
    }
    return [
        compared(run, *[Outcome(folder / engine, run, **ended[engine][number]) for engine in ENGINES])
        for number, run in enumerate(tasks)
    ]


class Outcome:
    """The end of a task on an engine, and all that it wrote."""

    def __init__(self, folder: Path, run: Run, code: int, last: str) -> None:
        self.folder, self.lake, self.run, self.code = folder, folder / run.data, run, code
        self.last = re.sub(
            r"can't be read by its contract \(.*\);", "can't be read by its contract;", last.replace(f"{folder}/", "")
        )
        manifests = [self.lake / "intermediate/dag/run" / run.job / "manifest.json"]
        if run.job.startswith("ingest_"):
            manifests += sorted((self.lake / "curated" / run.job.removeprefix("ingest_")).glob("*/manifest.json"))
        self.manifests = [file for file in manifests if file.exists()]

    def document(self) -> dict[str, Any]:
        """Return the parts of the manifests that do not depend on files, names of attempts and clocks."""
        return {str(file.relative_to(self.lake)): self.part(json.loads(file.read_text())) for file in self.manifests}

    @staticmethod
    def part(document: dict[str, Any]) -> dict[str, Any]:
        named = ("outputs", "metrics", "warnings", "parameters")
        parts: dict[str, Any] = without_files({name: document.get(name) for name in named})
        return parts

    def tables(self) -> dict[str, pa.Table]:
        """Return the rows of each output, those of a dataset's partition with their day, those of a bucket with it."""
        found: dict[str, list[pa.Table]] = {}
        for manifest in self.manifests:
            for role, output in json.loads(manifest.read_text())["outputs"].items():
                for file in output.get("files", []):
                    table = pq.read_table(manifest.parent / file["path"], partitioning=None)
                    place = pa.array([f"{manifest.parent.name} {file.get('bucket', '')}"] * len(table), pa.string())
                    schema = pa.schema([field.remove_metadata().with_nullable(True) for field in table.schema])
                    found.setdefault(role, []).append(table.cast(schema).append_column("place", place))
        return {role: plain(pa.concat_tables(tables), f"{self.folder}/") for role, tables in found.items()}


def without_files(value: Any) -> Any:
    """Return a part of a manifest without files and their bytes, which are each engine's own."""
    if not isinstance(value, dict):
        return value
    return {name: without_files(each) for name, each in value.items() if name not in ("files", "bytes", "manifest")}


def plain(table: pa.Table, folder: str) -> pa.Table:
    """Return a table sorted by all columns, floats last, with maps as text, and paths without their folder."""
    for position, field in enumerate(table.schema):
        if pa.types.is_map(field.type):
            texts = [None if each is None else json.dumps(sorted(each)) for each in table[field.name].to_pylist()]
            table = table.set_column(position, field.name, pa.array(texts, pa.string()))
        elif field.name == "file":
            table = table.set_column(position, field.name, pc.replace_substring(table["file"], folder, ""))
    floats = [field.name for field in table.schema if pa.types.is_floating(field.type)]
    others = [name for name in table.column_names if name not in floats]
    return table.sort_by([(name, "ascending") for name in [*others, *floats]])


def compared(run: Run, spark: Outcome, duck: Outcome) -> Result:
    """Compare the outcomes of a task on both engines."""
    rows = distance = 0
    if (spark.code, spark.last) != (duck.code, duck.last):
        return Result(
            run, spark.code, 0, 0, f"exit code {spark.code}, on DuckDB {duck.code}: {spark.last} | {duck.last}"
        )
    difference = first_difference(spark.document(), duck.document())
    tables, others = spark.tables(), duck.tables()
    for role in sorted({*tables, *others}):
        if role not in tables or role not in others:
            difference = difference or f"{role} is written by one engine only"
            continue
        found, most = difference_of(tables[role], others[role])
        rows, distance, difference = (
            rows + len(tables[role]),
            max(distance, most),
            difference or (found and f"{role}: {found}"),
        )
    return Result(run, spark.code, rows, distance, difference)


def first_difference(one: Any, other: Any, path: str = "") -> str:
    """Return the first place at which two documents differ, with both values; '' if none."""
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            return f"{path} has {sorted(one)}, on DuckDB {sorted(other)}"
        return next((found for key in one if (found := first_difference(one[key], other[key], f"{path}/{key}"))), "")
    close = isinstance(one, float) and isinstance(other, float) and abs(one - other) <= np.spacing(abs(one))
    return "" if close or (type(one), one) == (type(other), other) else f"{path} is {one!r}, on DuckDB {other!r}"


def difference_of(one: pa.Table, other: pa.Table) -> tuple[str, int]:
    """Return the first difference of two tables, and the largest distance of their floats."""
    if one.schema != other.schema:
        return f"columns {one.schema}, on DuckDB {other.schema}", 0
    if len(one) != len(other):
        return f"{len(one)} rows, on DuckDB {len(other)}", 0
    most = 0
    for name in one.column_names:
        column, matching = one[name].combine_chunks(), other[name].combine_chunks()
        if pa.types.is_floating(column.type) and column.is_null().equals(matching.is_null()):
            steps = distances(column, matching)
            most = max(most, int(steps.max(initial=0)))
            wrong = steps > 1
        else:
            wrong = np.array(
                []
                if column.equals(matching)
                else [a != b for a, b in zip(column.to_pylist(), matching.to_pylist(), strict=True)]
            )
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            whole, value = one.slice(row, 1).to_pylist()[0], other[name][row].as_py()
            return f"{name} differs in {wrong.sum()} rows: {whole}, on DuckDB {value!r}", most
    return "", most


def distances(one: pa.Array, other: pa.Array) -> np.ndarray:
    """Return by how many units in the last place numbers differ; NaN is equal to NaN, and 0 to -0."""
    kind = np.int64 if one.type == pa.float64() else np.int32
    places = []
    for column in (one, other):
        bits = pc.fill_null(column, 0.0).to_numpy(zero_copy_only=False).view(kind).astype(object)
        places.append(np.array([each if each >= 0 else np.iinfo(kind).min - each for each in bits], dtype=object))
    both_nan = np.isnan(pc.fill_null(one, 0.0).to_numpy(zero_copy_only=False)) & np.isnan(
        pc.fill_null(other, 0.0).to_numpy(zero_copy_only=False)
    )
    return np.where(both_nan, 0, np.abs(places[0] - places[1])).astype(float)


def table_of(results: list[Result]) -> str:
    """Return the results as a table in Markdown."""
    lines = ["| job | data | exit code | rows | largest distance of floats | result |", "|---|---|---|---|---|---|"]
    for run, code, rows, distance, difference in results:
        lines.append(f"| `{run.job}` | {run.data} | {code} | {rows:,} | {distance} | {difference or 'equal'} |")
    return "\n".join(lines)


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = compare(Path(folder))
    print(table_of(results))
    sys.exit(any(result.difference for result in results))


if __name__ == "__main__":
    main()

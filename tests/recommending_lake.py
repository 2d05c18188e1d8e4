"""Lake for tests of the recommendation jobs: hand-overs from rows, jobs run in this process."""

import contextlib
import datetime
import importlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.contracts import load
from common.engines import arrow
from common.engines.arrays import write_arrays
from common.handover import Task, partitions, storage
from common.handover.runner import exit_code

JOBS = Path(__file__).parents[1] / "jobs"


@contextlib.contextmanager
def killed_before(role: str) -> Iterator[None]:
    """Kill each task in this block when it is about to write an output of this role."""
    write = arrow.write

    def killed(task: Task, written: str, *content: Any) -> None:
        if written == role:
            raise KeyboardInterrupt
        write(task, written, *content)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrow, "write", killed)
        yield


class Lake:
    """Tasks of one DAG run in a lake below a folder, and their outputs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = f"file://{folder}/lake"

    def run(self, job: str, *arguments: str, map_index: int | None = None, task: str | None = None) -> int:
        """Run a job's `main` as a task, by default of the job's name; return its exit code."""
        module = importlib.import_module(f"jobs.{job}.main")
        mapped = [] if map_index is None else ["--map-index", str(map_index)]
        return exit_code(module.main, JOBS / job, [*self.identity(task or job), *arguments, *mapped])

    def identity(self, task: str) -> list[str]:
        return ["--lake", self.root, "--dag-id", "dag", "--run-id", "run", "--task-id", task, "--attempt", "1"]

    def put(self, task: str, contract: str, rows: pa.Table, dataset: str | None = None) -> None:
        """Publish rows of a contract's columns, without checks, as the output of a task, or as a dataset."""
        schema = arrow.arrow_schema(load(contract), list(load(contract).columns))

        def main(writer: Task) -> None:
            folder, publish = arrow.destination(writer, "rows")
            Path(folder.removeprefix("file://")).mkdir(parents=True, exist_ok=True)
            pq.write_table(rows.select(schema.names).cast(schema), f"{folder}/part-0.parquet".removeprefix("file://"))
            publish(rows.num_rows)

        self.write(task, contract, main, dataset)

    def put_buckets(self, task: str, contract: str, rows: pa.Table) -> None:
        """Publish rows in buckets of their users, as the output of a task."""
        self.write(task, contract, lambda writer: arrow.write_buckets(writer, "rows", rows, "user_id"))

    def put_day(self, task: str, contract: str, rows: pa.Table, dataset: str, date: datetime.date) -> None:
        """Publish rows as the partition of a day in a dataset."""

        def main(writer: Task) -> None:
            folder, seen = writer.partition("rows", f"date={date}")
            file = Path(f"{folder}/{writer.version}/part-0.parquet".removeprefix("file://"))
            file.parent.mkdir(parents=True)
            pq.write_table(rows, file)
            files = storage.files(f"{folder}/{writer.version}")
            partitions.register(folder.rpartition("/")[0], {str(date)})
            writer.publish_partition("rows", folder, seen, rows.num_rows, files)

        self.write(task, contract, main, dataset)

    def put_model(self, task: str, arrays: dict[str, np.ndarray], document: dict[str, Any]) -> None:
        """Publish a model as the output of a task."""
        self.write(task, "recommender_model@5", lambda writer: write_arrays(writer, "rows", arrays, document))

    def write(self, task: str, contract: str, main: Callable[[Task], None], dataset: str | None = None) -> None:
        folder = self.folder / "writers" / task
        folder.mkdir(parents=True)
        where = f'dataset = "{dataset}"\n' if dataset else ""
        (folder / "job.toml").write_text(
            f'[job]\ndescription = "writes"\nengine = "python"\n[outputs.rows]\n{where}contract = "{contract}"\n'
        )
        assert exit_code(main, folder, self.identity(task)) == 0

    def raw_items(self, day: str, text: str) -> None:
        file = self.folder / "lake" / "raw" / "items" / f"arrival={day}" / "items.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def manifest(self, task: str) -> dict:
        return json.loads((self.folder / "lake" / "intermediate" / "dag" / "run" / task / "manifest.json").read_text())

    def rows(self, task: str) -> pa.Table:
        """Return all rows that a task wrote, in all its map instances."""
        base = self.folder / "lake" / "intermediate" / "dag" / "run" / task
        return pa.concat_tables([pq.read_table(file) for file in sorted(base.rglob("*.parquet"))])

    def dataset(self, name: str) -> pa.Table:
        """Return the rows of a dataset, as its manifests list them."""
        files = [
            manifest.parent / file["path"]
            for manifest in sorted((self.folder / "lake" / name).glob("*/manifest.json"))
            for output in json.loads(manifest.read_text())["outputs"].values()
            for file in output["files"]
        ]
        return pa.concat_tables([pq.read_table(file) for file in files])

    def model(self, task: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return arrays and document that a task wrote."""
        base = self.folder / "lake" / "intermediate" / "dag" / "run" / task
        files = [base / file["path"] for file in self.manifest(task)["outputs"]["model"]["files"]]
        arrays = {file.stem: np.load(file) for file in files if file.suffix == ".npy"}
        (document,) = (file for file in files if file.name == "document.json")
        return arrays, json.loads(document.read_text())["document"]

    def bytes_of(self, task: str) -> dict[str, bytes]:
        base = self.folder / "lake" / "intermediate" / "dag" / "run" / task
        return {file.name: file.read_bytes() for file in base.rglob("*.npy")}


def table(contract: str, rows: list[dict]) -> pa.Table:
    schema = arrow.arrow_schema(load(contract), list(load(contract).columns))
    return pa.Table.from_pylist(rows, schema)

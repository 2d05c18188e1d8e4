"""A lake with manifests as tasks write them: of hand-overs, of partitions of datasets, with their parents."""

import io
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from common import protocol
from common.engines import arrow
from common.handover import manifest, storage

ENDED = "2011-09-01T02:00:00.000+00:00"


class RunLake:
    """A lake that tests fill; every method returns the URI of the manifest that it writes."""

    def __init__(self, root: str) -> None:
        self.root = root

    def task(
        self,
        name: str,
        parents: Iterable[str] = (),
        outputs: dict[str, Any] | None = None,
        map_index: int | None = None,
        shards: int | None = None,
        role: str = "of",
        **more: Any,
    ) -> str:
        """Publish the manifest of a task, named DAG/RUN/TASK; parents by their URIs, with the digests of now."""
        dag_id, run_id, task_id = name.split("/")
        identity = {"dag_id": dag_id, "run_id": run_id, "task_id": task_id, "map_index": map_index, "attempt": 1}
        document = {
            "format": 1,
            "task": {**identity, "map_count": shards},
            "ended": ENDED,
            "outputs": outputs or {},
            "metrics": {},
            "parents": [{"role": role, "uri": uri, "digest": self.digest(uri)} for uri in parents],
            **more,
        }
        uri = protocol.manifest_uri(protocol.task_key(self.root, dag_id, run_id, task_id, map_index))
        storage.write(uri, manifest.to_json(document))
        return uri

    def partition(self, name: str, task: str, output: dict[str, Any]) -> str:
        """Publish the manifest of a dataset's partition by a task, named DAG/RUN/TASK."""
        identity = dict(zip(("dag_id", "run_id", "task_id"), task.split("/")))
        document = {"task": {**identity, "map_index": None, "attempt": 1}, "ended": ENDED, "outputs": {"rows": output}}
        uri = protocol.manifest_uri(f"{self.root}/{name}")
        storage.write(uri, manifest.to_json(document))
        return uri

    def rows(self, folder: str, contract: str, *files: list[dict[str, Any]], buckets: bool = False) -> dict[str, Any]:
        """Write files of rows below a folder of the lake; return their entry in a manifest's outputs."""
        schema = arrow.schema_of(contract)
        entries = []
        for number, rows in enumerate(files):
            sink, name = io.BytesIO(), f"attempt-1/rows/part-{number:05}.parquet"
            pq.write_table(pa.Table.from_pylist(rows, schema), sink)
            storage.write(f"{self.root}/{folder}/{name}", sink.getvalue())
            entries.append({"path": name, "bytes": len(sink.getvalue()), **({"bucket": number} if buckets else {})})
        of_buckets = {"buckets": len(files)} if buckets else {}
        return {"contract": contract, "rows": sum(map(len, files)), "bytes": 0, "files": entries, **of_buckets}

    def digest(self, uri: str) -> str:
        found = manifest.load_or_none(uri)
        return found.digest if found else "sha256:gone"

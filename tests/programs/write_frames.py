"""Writes to a lake by frames: a hand-over, two appends to a day, a file that is refused; prints what it reads."""

import argparse
import json
import pathlib
import sys

from pyspark.sql import functions as F

from common import contracts
from common.engines import frames
from common.handover import inputs, job_toml, storage, task

DAY = "2011-01-05"
CONTRACT = "quarantine@2"


def work(attempt: int) -> task.Task:
    """Return an attempt of a task that writes a table, and adds to a dataset."""
    tables = {"rows": job_toml.Table(CONTRACT), "days": job_toml.Table(CONTRACT, dataset="curated/days")}
    toy = job_toml.Job("toy", "A toy.", "spark", outputs=tables)
    names = {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": None, "run_started": None}
    arguments = argparse.Namespace(lake=sys.argv[1], predecessors=[], settings=[], attempt=attempt, **names)
    return task.Task(toy, pathlib.Path(__file__).parent, arguments)


first, second, sentence = work(1), work(2), ""
with frames.session(first) as session:
    columns = {"file": "string", "line": "bigint", "reason": "string", "bytes": "bigint", "content": "string"}
    rows = frames.small_table(session, columns, [(f"f{line % 3}", line, "r", line, "c") for line in range(1, 8)])
    frames.write_buckets(first, "rows", rows, ["file", "line"], 7)
    written = storage.files(first.folder("rows"))
    first.inputs["rows"] = inputs.Input("rows", contracts.load(CONTRACT), written)
    read = sorted(row.line for row in frames.read(first, "rows").collect())
    dated = rows.withColumn("date", F.lit(DAY).cast("date"))
    frames.append(first, "days", dated, {DAY: None})
    partition = second.partition("days", f"date={DAY}")[1]
    frames.append(second, "days", dated, {DAY: partition})
    appended = second.partition("days", f"date={DAY}")[1].document["outputs"]["days"]
    frames.write(second, "rows", rows)
    expired = [file.uri for file in storage.files(second.folder("rows"))]
    try:
        frames.scan(expired, contracts.load(CONTRACT)).collect()
    except Exception as error:
        sentence = str(storage.explain(error, sys.argv[1]) or repr(error))
found = {"read": read, "files": len(written), "appended": [appended["rows"], len(appended["files"])]}
print(json.dumps({**found, "sentence": sentence}))

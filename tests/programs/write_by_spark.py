"""Writes tables to a lake by Spark, as the job of a folder; prints its observations as JSON."""

import argparse
import json
import pathlib
import sys

from pyspark.sql import functions as F

from common.contracts import load
from common.engines import frames
from common.engines.spark.files import parquet_writer
from common.handover import inputs, job_toml, storage, task

folder, lake = sys.argv[1:]
days = job_toml.Table("quarantine@2", dataset="curated/days")
tables = {"quarantine": job_toml.Table("quarantine@2"), "days": days}
toy = job_toml.Job("toy", "A toy.", "spark", outputs=tables)
names = {"dag_id": "d", "run_id": "r", "task_id": "t", "attempt": 1, "map_index": None, "run_started": None}
arguments = argparse.Namespace(lake=lake, predecessors=[], settings=[], **names)
work = task.Task(toy, pathlib.Path(folder), arguments)
with frames.session(work) as session:
    columns = ["'f' AS file", "id AS line", "'r' AS reason", "id AS bytes", "'c' AS content"]
    rows = session.range(1, 8, 1, 1).selectExpr(*columns)
    frames.write(work, "quarantine", rows)
    files = storage.files(work.folder("quarantine"))
    frames.append(work, "days", rows.withColumn("date", F.lit("2011-01-05").cast("date")), {"2011-01-05": None})
    parquet_writer(rows).save(f"{lake}/faulty")
    faulty = storage.files(f"{lake}/faulty")
    work.inputs["faulty"] = inputs.Input("faulty", load("quarantine@2"), faulty)
    read = sorted(row.line for row in frames.read(work, "faulty").collect())
    marked = {"mapreduce.fileoutputcommitter.marksuccessfuljobs": "true"}
    parquet_writer(rows).options(**marked).save(f"{lake}/marked")
    try:
        parquet_writer(rows).save(f"{lake}/after")
    except Exception as error:
        sentence = str(storage.explain(error, work.lake))
marker = json.loads(storage.read(f"{lake}/marked/_SUCCESS")[0])
left = [name for name, *_ in storage.entries(f"{lake}/curated") if "_temporary" in name or "__magic" in name]
counts = {"files": len(files), "rows": work.outputs["quarantine"]["rows"]}
print(json.dumps({"marker": marker, **counts, "read": read, "left": left, "sentence": sentence}))

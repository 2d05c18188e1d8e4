"""Writes tables to S3 by Spark, as the argument's job; prints its observations as JSON."""

import argparse
import json
import pathlib
import sys

from common.contracts import load
from common.engines import spark
from common.engines.spark.io import parquet_writer
from common.handover import inputs, job_toml, s3, storage, task

toy = job_toml.Job("toy", "A toy.", "spark", outputs={"quarantine": job_toml.Table("quarantine@2")})
names = {"dag_id": "d", "run_id": "r", "task_id": "t", "attempt": 1, "map_index": None, "run_started": None}
arguments = argparse.Namespace(lake="s3://tandem-lake/committer", predecessors=[], settings=[], **names)
work = task.Task(toy, pathlib.Path(sys.argv[1]), arguments)
with spark.session(work) as session:
    columns = ["'f' AS file", "id AS line", "'r' AS reason", "id AS bytes", "'c' AS content"]
    rows = session.range(1, 8, 1, 1).selectExpr(*columns)
    spark.write(work, "quarantine", rows)
    files = storage.files(work.folder("quarantine"))
    parquet_writer(rows).save("s3://tandem-lake/committer/faulty")
    faulty = storage.files("s3://tandem-lake/committer/faulty")
    work.inputs["faulty"] = inputs.Input("faulty", load("quarantine@2"), faulty)
    read = sorted(row.line for row in spark.read(work, "faulty").collect())
    marked = {"mapreduce.fileoutputcommitter.marksuccessfuljobs": "true"}
    parquet_writer(rows).options(**marked).save("s3://tandem-lake/committer/marked")
    try:
        parquet_writer(rows).save("s3://tandem-lake/committer/after")
    except Exception as error:
        sentence = str(s3.explain(error, work.lake))
marker = json.loads(storage.read("s3://tandem-lake/committer/marked/_SUCCESS")[0])
counts = {"files": len(files), "rows": work.outputs["quarantine"]["rows"]}
print(json.dumps({"marker": marker, **counts, "read": read, "sentence": sentence}))

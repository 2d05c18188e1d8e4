"""How Spark writes to a lake on S3: to where the files belong, without a rename."""

import json
import os
import subprocess
import sys

PROGRAM = """
import argparse, pathlib, sys
from common import job, spark, storage, task

toy = job.Job("toy", "A toy.", "spark", outputs={"quarantine": job.Table("quarantine@1")})
names = {"dag_id": "d", "run_id": "r", "task_id": "t", "attempt": 1, "map_index": None}
arguments = argparse.Namespace(lake="s3://tandem-lake/committer", predecessors=[], settings=[], **names)
work = task.Task(toy, pathlib.Path(sys.argv[1]), arguments)
with spark.session(work) as session:
    rows = session.range(1, 8).selectExpr("'f' AS file", "id AS line", "'r' AS reason", "'c' AS content")
    spark.write(work, "quarantine", rows)
    marked = {"mapreduce.fileoutputcommitter.marksuccessfuljobs": "true"}
    spark.parquet_writer(rows).options(**marked).save("s3://tandem-lake/committer/marked")
print(storage.read("s3://tandem-lake/committer/marked/_SUCCESS")[0].decode())
print(len(storage.files(work.folder("quarantine"))), work.outputs["quarantine"]["rows"])
"""


def test_files_are_committed_by_the_committer_that_renames_nothing(s3_server, tmp_path):
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, env={**os.environ, **s3_server}
    )
    assert process.returncode == 0, process.stderr[-3000:]
    marker, files = process.stdout.strip().rsplit("\n", 1)
    told = json.loads(marker[marker.index("{") :])
    assert told["committer"] == "magic"
    count, rows = map(int, files.split())
    assert count == len(told["filenames"]) >= 1
    assert rows == 7

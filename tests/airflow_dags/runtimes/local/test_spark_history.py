"""Event logs of Spark jobs: in the environment's folder, read by Spark's own history server, with links from tasks."""

import contextlib
import json
import os
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from tools.sandbox import local_airflow

ROOT = Path(__file__).parents[4]
COUNT = """
    from common.engines.spark.session import session
    with session(task) as spark:
        spark.range(1000).groupBy("id").count().count()
        raise_at_the_end = task.attempt == 1
    if raise_at_the_end: raise ValueError("the first attempt fails")"""


@contextlib.contextmanager
def history_server(folder, output):
    """Spark's history server of a folder of event logs, by its address."""
    port = local_airflow.free_port()
    options = {"fs.logDirectory": f"file://{folder}", "ui.port": port, "fs.update.interval": "1s"}
    flags = " ".join(f"-Dspark.history.{name}={value}" for name, value in options.items())
    (home,) = (ROOT / ".venv/lib").glob("python*/site-packages/pyspark")
    environment = {**os.environ, "SPARK_HISTORY_OPTS": flags, "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_HOME": str(home)}
    command = [home / "bin/spark-class", "org.apache.spark.deploy.history.HistoryServer"]
    with output.open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def applications(address, expected):
    """The IDs of the completed applications that a history server lists, as soon as they are as many as expected."""
    for _ in range(240):
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/api/v1/applications") as response:
            if len(found := [each for each in json.load(response) if each["attempts"][0]["completed"]]) == expected:
                return {each["id"] for each in found}
        time.sleep(0.5)
    raise TimeoutError("The history server lists no applications.")


@pytest.mark.system
def test_history_server_lists_every_attempt_and_task_links_to_it(workshop, tmp_path):
    events = tmp_path / "kept" / "events"  # made by the runtime
    file = workshop.dags / "environments" / "laptop.toml"
    table, rest = file.read_text().split("[spark.spark_submit]\n")
    real = 'event_log = "file://{{ code }}/../kept/events"\nhistory = "https://history.example.com/"\n'
    rest = rest.replace(str(tmp_path / "spark-submit"), str(ROOT / ".venv/bin/spark-submit"))
    file.write_text(f"{table}[spark.spark_submit]\n{real}{rest}")
    workshop.job("count", COUNT, engine="spark")
    workshop.pipeline("p", 'dag.spark("count")', count={}, cluster={})
    ran = workshop.run("p")
    assert ran.states["count"] == "success", ran.log
    (key,) = (workshop.lake / "intermediate/p").glob("*/count")
    linked = [json.loads((key / f"attempt-{number}/scheduler.json").read_text())["links"] for number in (1, 2)]
    ids = [links["Spark history"].split("/")[-2] for links in linked]
    assert linked[1] == {"Spark history": f"https://history.example.com/history/{ids[1]}/"}
    with history_server(events, tmp_path / "server.log") as address:
        assert applications(address, 2) == set(ids)

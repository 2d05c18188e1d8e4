"""The processes in which a local Airflow runs its tasks."""

import subprocess

from tools.airflow_api import quote_id


def worker(airflow, dag, run, task):
    """The process that runs a task."""
    instances = airflow.call(f"/api/v2/dags/{dag}/dagRuns/{quote_id(run)}/taskInstances")["task_instances"]
    (title,) = [f"airflow worker -- {each['id']}" for each in instances if each["task_id"] == task]
    listed = subprocess.run(["ps", "-A", "-o", "pid=,args="], capture_output=True, text=True, check=True).stdout
    (line,) = [line for line in listed.splitlines() if line.rstrip().endswith(title)]
    return int(line.split()[0])

"""The processes of this machine, and those in which a local Airflow runs its tasks, or waits for them."""

import contextlib
import subprocess

import psutil

from tools.airflow_api import quote_id


def commands():
    """The command lines of all processes of this machine."""
    return subprocess.run(["ps", "-A", "-o", "args="], capture_output=True, text=True, check=True).stdout.splitlines()


def worker(airflow, dag, run, task):
    """The process that runs a task."""
    instances = airflow.call(f"/api/v2/dags/{dag}/dagRuns/{quote_id(run)}/taskInstances")["task_instances"]
    (title,) = [f"airflow worker -- {each['id']}" for each in instances if each["task_id"] == task]
    listed = subprocess.run(["ps", "-A", "-o", "pid=,args="], capture_output=True, text=True, check=True).stdout
    (line,) = [line for line in listed.splitlines() if line.rstrip().endswith(title)]
    return int(line.split()[0])


@contextlib.contextmanager
def restarted_triggerer():
    """Stop the triggerer that this process started, as a deployment does; run one like it during this block."""
    own = psutil.Process().children()
    (old,) = [each for each in own if any("triggerer" in word for word in each.cmdline())]
    environment = old.environ()
    old.terminate()
    old.wait(60)
    new = subprocess.Popen(["airflow", "triggerer"], env=environment, stdout=subprocess.DEVNULL)
    yield
    new.terminate()
    new.wait()

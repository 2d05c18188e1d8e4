"""Airflow on this machine: start its components, wait until they are healthy, stop them all."""

import contextlib
import datetime
import errno
import fcntl
import hashlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from tools.airflow_api import Airflow, AirflowError, poll
from tools.command_line import exit_on_task_error

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ROOT / ".venv-airflow" / "bin"
EXECUTOR = Path(__file__).parent / "executor"  # a folder of its own: PYTHONPATH must not lead to packages of this repo
GRACE_SECONDS = 3  # between SIGTERM and SIGKILL: the scheduler does not always exit
COMPONENTS = ("api-server", "scheduler", "dag-processor", "triggerer")
# Maximum wait for a write lock of the database. With the default of 5 s, scheduler and DAG processor fail on a busy
# machine: "database is locked". The API server logs each action in its event loop: while that waits for the lock, no
# other request of the server can end and release it. So it fails soon, and its clients repeat the request.
LOCK_SECONDS = {"api-server": 2, "scheduler": 30, "dag-processor": 30, "triggerer": 30}
DATABASE = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"
# Short intervals for a single user, and settings that a local Airflow needs. Demos and tests start each run themselves.
SETTINGS = {
    "CORE__EXECUTOR": "resuming_executor.ResumingExecutor",
    "CORE__PARALLELISM": "4",
    "CORE__LOAD_EXAMPLES": "False",
    "CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
    "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
    "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
    "SCHEDULER__USE_JOB_SCHEDULE": "False",
    "WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
    "WORKERS__EXECUTION_API_TIMEOUT": "30",  # a busy machine answers late; asking again would only add work
    "DAG_PROCESSOR__REFRESH_INTERVAL": "30",
    "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "30",
    "DAG_PROCESSOR__PRINT_STATS_INTERVAL": "0",
    "API__HOST": "127.0.0.1",
}
ON_SCHEDULE = {"SCHEDULER__USE_JOB_SCHEDULE": "True"}  # start the pipelines by themselves, too


@contextlib.contextmanager
def start(
    lake: str | None = None,
    home: Path = ROOT / ".tandem" / "airflow",
    dags: Path = ROOT / "airflow_dags",
    port: int = 0,
    report: Callable[[str], None] = lambda line: None,
    options: Mapping[str, str] | None = None,
    prepare: Callable[[Airflow], None] | None = None,
) -> Iterator[Airflow]:
    """Run Airflow with all pipelines loaded during this block. `lake` overrides the URI of the default lake.

    `options` are further settings of Airflow, named like those of SETTINGS. `prepare` is called before the scheduler
    starts.

    Raises AirflowError if another one runs in the same home, or if it does not become healthy.
    """
    signal.signal(signal.SIGTERM, end)
    home.mkdir(parents=True, exist_ok=True)
    with open_lock(home), contextlib.ExitStack() as stack:
        port = port or free_port()
        environment = settings(home, dags, port) | {f"AIRFLOW__{name}": v for name, v in (options or {}).items()}
        if lake:
            environment["AIRFLOW_VAR_LAKE"] = lake
        migrate(home, environment, report)
        began = time.time()
        components: dict[str, subprocess.Popen[bytes]] = {}
        stack.callback(stop, components)
        url = f"http://127.0.0.1:{port}"
        if prepare:
            for component in ("api-server", "dag-processor"):
                components[component] = launch(component, environment, home)
            prepare(wait_until_healthy(url, components, home, dags, began))
        for component in COMPONENTS:
            if component not in components:
                components[component] = launch(component, environment, home)
        yield wait_until_healthy(url, components, home, dags, began)


def launch(component: str, environment: Mapping[str, str], home: Path) -> "subprocess.Popen[bytes]":
    """Start a component of Airflow, with its output in a file of its home."""
    locked = {DATABASE: f"{environment[DATABASE]}?timeout={LOCK_SECONDS[component]}"}
    with (home / f"{component}.log").open("wb") as output:
        return subprocess.Popen(
            [PROGRAMS / "airflow", component],
            env={**environment, **locked},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches only the caller, which stops the components in order
        )


def end(*_: Any) -> None:
    """Exit on SIGTERM after the components have stopped; make forwards the signal, so it may come twice."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(128 + signal.SIGTERM)


def open_lock(home: Path) -> Any:
    """Lock a home for one Airflow at a time."""
    lock = (home / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise AirflowError(f"Another Airflow runs in {home}; stop that one first.") from None
    return lock


def settings(home: Path, dags: Path, port: int) -> dict[str, str]:
    """Return the environment variables of Airflow's components."""
    url = f"http://127.0.0.1:{port}"
    values = {
        **SETTINGS,
        "CORE__DAGS_FOLDER": str(dags),
        "CORE__PLUGINS_FOLDER": str(dags / "plugins"),
        "DAG_PROCESSOR__DAG_BUNDLE_STORAGE_PATH": str(home / "bundles"),
        "CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "API__BASE_URL": url,
        "API__PORT": str(port),
        "API_AUTH__JWT_SECRET": secrets.token_hex(32),
    }
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW__")}
    return {
        **inherited,
        **{f"AIRFLOW__{name}": value for name, value in values.items()},
        DATABASE: f"sqlite:///{home.absolute()}/airflow.db",
        "AIRFLOW_HOME": str(home),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(EXECUTOR), os.environ.get("PYTHONPATH")])),
        "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}",
    }


def deployed(uri: str) -> dict[str, str]:
    """Return the options of an Airflow whose DAGs are the deployed versions at a URI, instead of a folder's."""
    bundle = {"name": "tandem", "classpath": "tandem_bundle.VersionedDags", "kwargs": {"uri": uri}}
    return {
        "DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps([bundle]),
        "DAG_PROCESSOR__REFRESH_INTERVAL": "1",
        "DAG_PROCESSOR__BUNDLE_REFRESH_CHECK_INTERVAL": "1",
        # By default Airflow keeps a changed structure from new runs for 30 s, but not the changed code.
        "CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": "0",
    }


def migrate(home: Path, environment: dict[str, str], report: Callable[[str], None]) -> None:
    """Migrate the database to this Airflow's version, which takes half a minute, unless already done."""
    requirements = ROOT / "requirements" / "airflow.txt"
    version = hashlib.sha256(requirements.read_bytes()).hexdigest()
    marker = home / "migrated"
    if marker.exists() and marker.read_text() == version:
        return
    report("creating Airflow's database")
    ran = subprocess.run([PROGRAMS / "airflow", "db", "migrate"], env=environment, capture_output=True, text=True)
    if ran.returncode:
        raise AirflowError(f"airflow db migrate failed; its last output:\n{ran.stdout[-2000:]}{ran.stderr[-2000:]}")
    marker.write_text(version)


def wait_until_healthy(
    url: str, components: dict[str, subprocess.Popen[bytes]], home: Path, dags: Path, began: float
) -> Airflow:
    """Wait until scheduler and triggerer, if started, are alive, and every pipeline of the folder was parsed."""
    expected = {file.parent.name for file in dags.glob("*/dag.py")}
    airflow = None
    for _ in poll(180, f"Airflow is not healthy after 180 s; its logs are in {home}"):
        for component, process in components.items():
            if process.poll() is not None:
                lines = (home / f"{component}.log").read_text(errors="replace").splitlines()[-10:]
                raise AirflowError(f"Airflow's {component} exited; its last lines:\n" + "\n".join(lines))
        with contextlib.suppress(OSError):  # includes URLError: nothing listens yet
            airflow = airflow or Airflow(url, Airflow(url, "").call("/auth/token")["access_token"])
            airflow.call("/execution/health")  # makes the server build its execution API, seconds before the first one
            for broken in airflow.call("/api/v2/importErrors")["import_errors"]:
                if seconds_of(broken["timestamp"]) >= began:
                    raise AirflowError(f"{broken['filename']} does not import:\n{broken['stack_trace'].strip()}")
            health = airflow.call("/api/v2/monitor/health")
            started = components.keys() & {"scheduler", "triggerer"}
            alive = all(health[component]["status"] == "healthy" for component in started)
            dags_read = airflow.call("/api/v2/dags?limit=100")["dags"]
            read = {dag["dag_id"] for dag in dags_read if seconds_of(dag["last_parsed_time"]) >= began}
            if alive and read >= expected:
                return airflow
    raise AssertionError


def stop(components: dict[str, subprocess.Popen[bytes]]) -> None:
    """Stop the components and their children; the API server last, because ending tasks report to it."""
    interrupted = signal.signal(signal.SIGINT, signal.SIG_IGN)  # after a second Ctrl-C nothing may keep running
    descendants = [child for process in components.values() for child in children(process.pid)]
    working = [process for component, process in components.items() if component != "api-server"]
    for process in working:
        process.terminate()
    deadline = time.monotonic() + GRACE_SECONDS
    for process in working:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0, deadline - time.monotonic()))
    for process in components.values():
        process.kill()  # the API server, too: it has no unsaved state and would wait for its clients
        process.wait()
    for child in descendants:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    signal.signal(signal.SIGINT, interrupted)


def children(pid: int) -> list[psutil.Process]:
    """Return all descendants of a process."""
    try:
        processes: list[psutil.Process] = psutil.Process(pid).children(recursive=True)
        return processes
    except psutil.NoSuchProcess:
        return []


def seconds_of(moment: str | None) -> float:
    return datetime.datetime.fromisoformat(moment).timestamp() if moment else 0


def free_port(address: str = "127.0.0.1") -> int:
    """Return a port that nothing uses, below those that the system gives to connections, so that none takes it."""
    while True:
        port = 20_000 + secrets.randbelow(10_000)
        with socket.socket() as probe:
            try:
                probe.bind((address, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                return port


@exit_on_task_error()
def main() -> None:
    try:
        from tools.sandbox import local_dynamodb  # here, so that importing this module needs no moto

        port = int(os.environ.get("PORT", "0"))
        with local_dynamodb.running(), start(port=port, report=print, options=ON_SCHEDULE) as airflow:
            print(f"Airflow is at {airflow.url} with the pipelines of airflow_dags; Ctrl-C stops it.", flush=True)
            signal.pause()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()

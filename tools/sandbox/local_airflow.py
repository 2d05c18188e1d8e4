"""Airflow on this machine: starts its parts, waits until they are healthy, ends them all."""

import contextlib
import datetime
import fcntl
import hashlib
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

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ROOT / ".venv-airflow" / "bin"
GRACE_SECONDS = 3  # between TERM and KILL: the scheduler does not always end by itself
LOCK_SECONDS = 30  # for which a part waits until another one has written to the database
PARTS = ("api-server", "scheduler", "dag-processor")  # no triggerer: no pipeline defers
# Short intervals, because this is one person's machine; the rest is what a local Airflow has to be told.
SETTINGS = {
    "CORE__EXECUTOR": "LocalExecutor",
    "CORE__PARALLELISM": "4",
    "CORE__LOAD_EXAMPLES": "False",
    "CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
    "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
    "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
    "WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
    "DAG_PROCESSOR__REFRESH_INTERVAL": "30",
    "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "30",
    "DAG_PROCESSOR__PRINT_STATS_INTERVAL": "0",
    "API__HOST": "127.0.0.1",
}


@contextlib.contextmanager
def start(
    lake: str | None = None,
    home: Path = ROOT / ".tandem" / "airflow",
    dags: Path = ROOT / "airflow_dags",
    port: int = 0,
    say: Callable[[str], None] = lambda line: None,
    options: Mapping[str, str] | None = None,
) -> Iterator[Airflow]:
    """Airflow with all pipelines loaded, until the block ends. `lake` is the URI of another lake than the default.

    `options` are further settings of Airflow, named like those of SETTINGS.

    Raises AirflowError if another one runs in the same home, or if it does not become healthy.
    """
    signal.signal(signal.SIGTERM, end)
    home.mkdir(parents=True, exist_ok=True)
    with open_lock(home), contextlib.ExitStack() as ended_at_last:
        port = port or free_port()
        environment = settings(home, dags, port) | {f"AIRFLOW__{name}": v for name, v in (options or {}).items()}
        if lake:
            environment["AIRFLOW_VAR_LAKE"] = lake
        migrate(home, environment, say)
        began = time.time()
        parts: dict[str, subprocess.Popen[bytes]] = {}
        ended_at_last.callback(stop, parts)
        for part in PARTS:
            with (home / f"{part}.log").open("wb") as output:
                parts[part] = subprocess.Popen(
                    [PROGRAMS / "airflow", part],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C is for the one who started this, who ends the parts in order
                )
        url = f"http://127.0.0.1:{port}"
        yield wait_until_healthy(url, parts, home, dags, began)


def end(*_: Any) -> None:
    """End by SIGTERM, but not before the parts have ended: make hands the signal on, so that it may come twice."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(128 + signal.SIGTERM)


def open_lock(home: Path) -> Any:
    """Holds a home for one Airflow at a time."""
    lock = (home / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise AirflowError(f"Another Airflow runs in {home}; end that one first.") from None
    return lock


def settings(home: Path, dags: Path, port: int) -> dict[str, str]:
    """The environment of Airflow's parts."""
    url = f"http://127.0.0.1:{port}"
    own = {
        **SETTINGS,
        "CORE__DAGS_FOLDER": str(dags),
        # The default of 5 s ends scheduler and DAG processor on a busy machine: "database is locked".
        "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home.absolute()}/airflow.db?timeout={LOCK_SECONDS}",
        "CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "API__BASE_URL": url,
        "API__PORT": str(port),
        "API_AUTH__JWT_SECRET": secrets.token_hex(32),
    }
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW__")}
    return {
        **inherited,
        **{f"AIRFLOW__{name}": value for name, value in own.items()},
        "AIRFLOW_HOME": str(home),
        "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}",
    }


def migrate(home: Path, environment: dict[str, str], say: Callable[[str], None]) -> None:
    """Bring the database to this Airflow's version, which takes half a minute, unless that was done before."""
    requirements = ROOT / "requirements" / "airflow.txt"
    version = hashlib.sha256(requirements.read_bytes()).hexdigest()
    done = home / "migrated"
    if done.exists() and done.read_text() == version:
        return
    say("making Airflow's database")
    ran = subprocess.run([PROGRAMS / "airflow", "db", "migrate"], env=environment, capture_output=True, text=True)
    if ran.returncode:
        raise AirflowError(f"airflow db migrate failed; it said last:\n{ran.stdout[-2000:]}{ran.stderr[-2000:]}")
    done.write_text(version)


def wait_until_healthy(
    url: str, parts: dict[str, subprocess.Popen[bytes]], home: Path, dags: Path, began: float
) -> Airflow:
    """Wait until the scheduler is alive and every pipeline of the folder was read since the start."""
    expected = {file.parent.name for file in dags.glob("*/dag.py")}
    airflow = None
    for _ in poll(180, f"Airflow is not healthy after 180 s; its logs are in {home}"):
        for part, process in parts.items():
            if process.poll() is not None:
                lines = (home / f"{part}.log").read_text(errors="replace").splitlines()[-10:]
                raise AirflowError(f"Airflow's {part} ended by itself; it said last:\n" + "\n".join(lines))
        with contextlib.suppress(OSError):  # URLError is one: nothing listens yet
            airflow = airflow or Airflow(url, Airflow(url, "").call("/auth/token")["access_token"])
            airflow.call("/execution/health")  # makes the server build what tasks talk to, seconds before the first one
            for broken in airflow.call("/api/v2/importErrors")["import_errors"]:
                if seconds_of(broken["timestamp"]) >= began:
                    raise AirflowError(f"{broken['filename']} does not import:\n{broken['stack_trace'].strip()}")
            health = airflow.call("/api/v2/monitor/health")
            found = airflow.call("/api/v2/dags?limit=100")["dags"]
            read = {dag["dag_id"] for dag in found if seconds_of(dag["last_parsed_time"]) >= began}
            if health["scheduler"]["status"] == "healthy" and read >= expected:
                return airflow
    raise AssertionError


def stop(parts: dict[str, subprocess.Popen[bytes]]) -> None:
    """End what was started, and all that came of it; the API server last, because tasks that end report to it."""
    interrupted = signal.signal(signal.SIGINT, signal.SIG_IGN)  # another Ctrl-C must leave nothing running
    family = [child for process in parts.values() for child in children(process.pid)]
    working = [process for part, process in parts.items() if part != "api-server"]
    for process in working:
        process.terminate()
    deadline = time.monotonic() + GRACE_SECONDS
    for process in working:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0, deadline - time.monotonic()))
    for process in parts.values():
        process.kill()  # the API server too, which holds nothing that could be lost and would wait for its readers
        process.wait()
    for child in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    signal.signal(signal.SIGINT, interrupted)


def children(pid: int) -> list[psutil.Process]:
    """The processes that a process started, and those that they started."""
    try:
        found: list[psutil.Process] = psutil.Process(pid).children(recursive=True)
        return found
    except psutil.NoSuchProcess:
        return []


def seconds_of(moment: str | None) -> float:
    return datetime.datetime.fromisoformat(moment).timestamp() if moment else 0


def free_port(address: str = "127.0.0.1") -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def main() -> None:
    try:
        from tools.sandbox import local_dynamodb  # here, because what only starts an Airflow runs without moto, too

        with local_dynamodb.running(), start(port=int(os.environ.get("PORT", "0")), say=print) as airflow:
            print(f"Airflow is at {airflow.url} with the pipelines of airflow_dags; Ctrl-C ends it.", flush=True)
            signal.pause()
    except KeyboardInterrupt:
        pass
    except AirflowError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()

"""The hybrid pipeline under Airflow while processes are killed, servers fail and people intervene, for some time.

After each round an independent reader (chaos_check.py) checks all promises of the documents.
"""

import argparse
import contextlib
import datetime
import gzip
import json
import os
import random
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import psutil
from botocore.config import Config
from rich.console import Console
from rich.table import Table

from benchmarks import chaos_check, chaos_plan, chaos_processes
from benchmarks.chaos_check import Ledger, Reader
from benchmarks.chaos_plan import Operation, Round, Strike
from benchmarks.chaos_processes import JobProcess
from benchmarks.chaos_servers import DynamoDBProxy, Publications, S3Proxy
from common import protocol
from tools import tables
from tools.airflow_api import Airflow, AirflowError, poll
from tools.data import generate_data
from tools.data.shop_model import Settings
from tools.sandbox import local_airflow, local_dynamodb, local_s3
from tools.sandbox.faulty_proxy import proxy

ROOT = Path(__file__).resolve().parent.parent
PREFIX = "chaos"
SKIPPED_DAYS = 60  # of the shop, which has few users until then
FIRST_DAYS = 40  # of events that exist before the first round
SHOP = {"users": 300, "items": 120, "events": 60_000, "days": 200, "start": datetime.date(2025, 1, 1)}
PIPELINES = (*chaos_plan.TASKS,)
RETRIES = 4
MAX_ROUND_SECONDS = 1800  # until the runs of a round end
MAX_STOPPED_SECONDS = 300  # of a process that has to be late
AIRFLOW = {  # dead processes are detected soon
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "3",
    "SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "15",
    "SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "10",
    "DAG_PROCESSOR__REFRESH_INTERVAL": "5",
    "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "5",
}
DIRT = (  # lines that are quarantined; {n} makes them unique
    '{{"event_id":"dirt-{n}","item_id":"10000","type":"purchase","quantity":1,"unit_price":1.0,"time":"2025-0',
    '{{"event_id":"","item_id":"10000","type":"purchase","quantity":1,"unit_price":1.0,"time":"{day}T10:00:00Z"}}',
    '{{"event_id":"dirt-{n}","type":"purchase","quantity":1,"unit_price":1.0,"time":"{day}T10:00:00Z"}}',
    '{{"event_id":"dirt-{n}","item_id":"10000","type":"refund","quantity":1,"unit_price":1.0,"time":"{day}T10:00:00Z"}}',
    '{{"event_id":"dirt-{n}","item_id":"10000","type":"purchase","quantity":0,"unit_price":1.0,"time":"{day}T10:00:00Z"}}',
    '{{"event_id":"dirt-{n}","item_id":"10000","type":"purchase","quantity":1,"unit_price":-1,"time":"{day}T10:00:00Z"}}',
    '{{"event_id":"dirt-{n}","item_id":"10000","type":"purchase","quantity":1,"unit_price":1.0,"time":"2034-01-01T00:00:00Z"}}',
    '{{"event_id":"dirt-{n}","item_id":"10000","type":"purchase","quantity":1,"unit_price":1.0,"time":"yesterday"}}',
    "[1, 2, 3]",
)


@dataclass
class Chaos:
    """The components of a chaos run, and its state."""

    seed: int
    folder: Path
    root: str
    shop: Path
    s3: Any
    airflow: Airflow
    reader: Reader
    publications: Publications
    proxies: dict[str, Any]
    components: dict[str, tuple[list[str], dict[str, str]]]  # command and environment of Airflow's components
    ledger: Ledger = field(default_factory=Ledger)
    counts: Counter[str] = field(default_factory=Counter)
    round: Round = field(default_factory=lambda: Round(-1, 0, (), ()))
    calm: bool = True  # no strikes
    days: list[str] = field(default_factory=list)  # of arrival, not delivered yet
    delivered: list[str] = field(default_factory=list)
    versions: int = 0
    seen: set[int] = field(default_factory=set)
    planned: dict[tuple[Any, ...], tuple[Strike, JobProcess]] = field(default_factory=dict)
    stopped: dict[tuple[Any, ...], tuple[JobProcess, threading.Event]] = field(default_factory=dict)
    triggered: set[tuple[str, str]] = field(default_factory=set)
    runs: dict[str, tuple[str, list[str]]] = field(default_factory=dict)  # by ID: pipeline, deliveries before the run
    former: set[tuple[str, str]] = field(default_factory=set)  # runs of earlier rounds
    quarantined: set[tuple[str, int]] = field(default_factory=set)  # files and lines, by runs of all rounds
    checked: float = 0  # time until which outputs were searched for secrets
    others: list[subprocess.Popen[bytes]] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)
    restarted: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)
    requesting: threading.Lock = field(default_factory=threading.Lock)
    ended: threading.Event = field(default_factory=threading.Event)

    def log(self, text: str) -> None:
        """Log an event with its time, to explain violations."""
        with self.lock, (self.folder / "events.log").open("a") as file:
            file.write(f"{datetime.datetime.now(datetime.UTC):%H:%M:%S.%f} {text}\n")

    # Deliveries

    def deliver(self, name: str, content: bytes) -> None:
        key = f"{PREFIX}/raw/{name}"
        self.ledger.deliver(key, content)
        self.s3.put_object(Bucket=local_s3.BUCKET, Key=key, Body=content)
        self.delivered.append(key)

    def deliver_days(self, count: int) -> None:
        """Deliver the next days of events and of users' changes, and a catalogue of two new items."""
        chosen, self.days = self.days[:count], self.days[count:]
        for day in chosen:
            for level in ("events/generated_shop", "users"):
                for file in sorted((self.shop / "raw" / level / f"arrival={day}").glob("*")):
                    self.deliver(f"{level}/arrival={day}/{file.name}", file.read_bytes())
        number = self.round.number + 2
        items = [
            f"{9_0000 + number}{letter},NEW LUNCH BAG {number}{letter},{chosen[-1]}T00:00:00Z\n" for letter in "AB"
        ]
        content = "item_id,description,seen\n" + "".join(items)
        self.deliver(f"items/generated_shop/arrival={chosen[-1]}/items-{number}.csv", content.encode())

    def redeliver(self, number: int) -> None:
        """Deliver a file of earlier events, mixed with the next day's and a few malformed lines."""
        draw = random.Random(number)
        day, before = self.days.pop(0), draw.sample([key for key in self.delivered if "/raw/events/" in key], 2)
        folder = self.shop / "raw" / "events" / "generated_shop" / f"arrival={day}"
        packed = [self.s3.get_object(Bucket=local_s3.BUCKET, Key=key)["Body"].read() for key in before]
        packed += [file.read_bytes() for file in sorted(folder.glob("*"))]
        lines = [line for content in packed for line in gzip.decompress(content).decode().splitlines()]
        dirt = [draw.choice(DIRT).format(n=f"{number}-{each}", day=day) for each in range(len(lines) // 60)]
        for line in dirt:
            lines.insert(draw.randrange(len(lines)), line)
        self.deliver(
            f"events/generated_shop/arrival={day}/again-{number}.jsonl.gz",
            gzip.compress("\n".join([*lines, ""]).encode()),
        )

    # Processes

    def watch(self) -> None:
        """Detect new processes of jobs, until the end."""
        revived = time.monotonic()
        while not self.ended.wait(0.1):
            if time.monotonic() > revived + 3:
                self.revive()
                revived = time.monotonic()
            for process in chaos_processes.running(self.root):
                if process.pid not in self.seen:
                    self.seen.add(process.pid)
                    self.on_start(process)

    def on_start(self, process: JobProcess) -> None:
        """Run the operations planned for the start of a process, and plan its strike."""
        self.counts["processes of jobs"] += 1
        self.log(f"starts: {process.identity}, process {process.pid}")
        run = self.name_of(process.run)
        with self.lock:
            for operation in self.round.operations:
                if (operation.run, operation.task) == (run, process.task):
                    self.in_background(self.operate, operation)
            for other in self.round.runs:
                if other.after == (run, process.task):
                    self.in_background(self.trigger, other.name, other.dag)
        if self.calm:
            return
        chosen = chaos_plan.strike(self.seed, self.round.number, run, process.task, process.shard, process.attempt)
        if chosen:
            self.planned[process.identity] = chosen, process
            if chosen.moment == "start":
                threading.Timer(chosen.seconds, self.strike, (process, chosen)).start()

    def name_of(self, run: str) -> str:
        """Return the name of a run in its round."""
        return run.split("-", 2)[2]

    def strike(self, process: JobProcess, chosen: Strike) -> None:
        if self.calm or not process.alive():
            return
        self.log(f"{chosen.kind} at {chosen.moment} + {chosen.seconds} s: {process.identity}, process {process.pid}")
        self.counts[f"process: {chosen.kind}"] += 1
        self.counts[f"moment: {chosen.moment}"] += 1
        if chosen.kind in ("kill", "term"):
            process.signal(signal.SIGKILL if chosen.kind == "kill" else signal.SIGTERM)
        elif chosen.kind == "pause":
            process.signal(signal.SIGSTOP)
            threading.Timer(1 + chosen.seconds, process.signal, (signal.SIGCONT,)).start()
        elif chosen.kind == "orphan":
            process.orphan()
        elif chosen.kind == "late":
            self.stopped[process.identity] = process, threading.Event()
            process.signal(signal.SIGSTOP)
            process.orphan()
            threading.Timer(MAX_STOPPED_SECONDS, self.wake, (process.identity,)).start()
        elif chosen.kind == "twin":
            output = self.folder / "twins" / f"{process.pid}.log"
            if started := chaos_processes.twin(process, output):
                self.seen.add(started.pid)
                self.others.append(started)

    def wake(self, identity: tuple[Any, ...]) -> None:
        """Resume a stopped process."""
        if entry := self.stopped.pop(identity, None):
            process, released = entry
            self.log(f"resumes: {identity}")
            process.signal(signal.SIGCONT)
            released.set()

    def on_publication(self, kind: str, when: str, task: dict[str, Any]) -> bool:
        """Strike a process at its publication, and resume processes that it has overtaken; True cuts its connection."""
        moment = f"{when} {kind}"
        with self.lock:
            if kind == "pointer":
                own = [
                    identity
                    for identity in self.planned
                    if protocol.encode(identity[1]) == task["run"] and identity[2] == chaos_plan.PUBLISH
                ]
            else:
                own = [tuple(task[name] for name in ("dag_id", "run_id", "task_id", "map_index", "attempt"))]
                if when == "after" and kind == "manifest":
                    overtaken = [each for each in self.stopped if each[:4] == own[0][:4] and each[4] < own[0][4]]
                    for each in overtaken:
                        threading.Timer(0.5, self.wake, (each,)).start()
            due = [identity for identity in own if identity in self.planned]
            due = [identity for identity in due if self.planned[identity][0].moment == moment][:1]
            if not due:
                return False
            chosen, process = self.planned.pop(due[0])
        self.strike(process, chosen)
        if chosen.kind == "late" and (held := self.stopped.get(due[0])):
            held[1].wait(MAX_STOPPED_SECONDS)
        return chosen.kind == "kill" and when == "before"

    # People

    def in_background(self, action: Callable[..., None], *arguments: Any) -> None:
        """Run an action once in this round, in the background."""
        key = (action.__name__, repr(arguments))
        if key not in self.triggered:
            self.triggered.add(key)
            thread = threading.Thread(target=self.guarded, args=(action, *arguments), daemon=True)
            self.threads.append(thread)
            thread.start()

    def guarded(self, action: Callable[..., None], *arguments: Any) -> None:
        """Run an action; an exception is a violation, too: it must not end faults or checks silently."""
        problem = ""
        try:
            action(*arguments)
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        if not self.ended.is_set():
            self.reader.expect("the chaos run itself works", not problem, f"{action.__name__}{arguments}", problem)

    def operate(self, operation: Operation) -> None:
        self.counts[f"operator: {operation.kind}"] += 1
        self.log(f"operator: {operation}")
        if operation.kind == "deliver":
            self.redeliver(operation.number)
        elif operation.kind == "roll back":
            self.roll_back()
        elif operation.kind == "clear":
            self.clear_selection()
        elif operation.kind == "deploy":
            self.deploy()
        else:
            self.restart_scheduler(jobs_too=operation.number % 2 == 0)

    def roll_back(self) -> None:
        people = self.proxies["people"]
        people.rollback_started = time.time()
        command = [
            sys.executable,
            "-m",
            "tools.deploy.rollback",
            "--product",
            "recommendations",
            "--environment",
            "laptop",
        ]
        environment = {**os.environ, "DYNAMODB_ENDPOINT": people.url}
        ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
        self.counts["rollbacks done" if ran.returncode == 0 else "rollbacks refused"] += 1
        self.log(f"rollback ended in {ran.returncode}: {ran.stdout}{ran.stderr}".rstrip())

    def clear_selection(self) -> None:
        """Clear selection and publication of the newest two ended runs, which then rerun concurrently."""
        response = self.request(f"/api/v2/dags/{chaos_plan.RECOMMEND}/dagRuns?order_by=-run_after&limit=30")
        ended = [each["dag_run_id"] for each in response["dag_runs"] if each["state"] in ("success", "failed")]
        for run in ended[:2]:
            self.former.discard((chaos_plan.RECOMMEND, run))
            body = {"dry_run": False, "dag_run_id": run, "only_failed": False, "reset_dag_runs": True}
            body |= {"task_ids": ["select_recommendations"], "include_downstream": True}
            self.request(f"/api/v2/dags/{chaos_plan.RECOMMEND}/clearTaskInstances", body)

    def deploy(self) -> None:
        """Switch to another version of code and DAGs, atomically, and set a new release."""
        self.versions += 1
        deploy_version(self.folder, self.versions)
        release = {"key": "release", "value": json.dumps({"deployed": self.versions})}
        self.request("/api/v2/variables", release)
        self.request("/api/v2/variables/release", release, "PATCH")

    def restart_scheduler(self, jobs_too: bool) -> None:
        """Kill the scheduler with its workers, as a node failure does, and start another one; jobs may survive."""
        with self.lock:
            scheduler = running_component("scheduler")
            if scheduler is None:
                return
            jobs = {process.pid for process in chaos_processes.running(self.root)}
            for job in jobs:
                chaos_processes.keep_reading(job)
            for member in [scheduler, *scheduler.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                    if jobs_too or os.getpgid(member.pid) not in jobs:
                        member.kill()
            self.start_component("scheduler")

    def start_component(self, name: str) -> None:
        """Restart a component of Airflow."""
        command, environment = self.components[name]
        with (self.folder / f"{name}.log").open("ab") as output:
            self.restarted[name] = subprocess.Popen(
                command, env=environment, stdout=output, stderr=output, start_new_session=True
            )

    def revive(self) -> None:
        """Restart components of Airflow that exited, as a service manager does: SQLite may be locked for too long."""
        with self.lock:
            for name in self.components:
                if running_component(name) is None and not self.ended.is_set():
                    self.counts[f"Airflow's {name} exited"] += 1
                    self.log(f"Airflow's {name} exited")
                    self.start_component(name)

    # Rounds

    def trigger(self, name: str, dag: str) -> None:
        run = f"chaos-{self.round.number:04}-{name}"
        self.runs[run] = dag, list(self.delivered)
        self.request(f"/api/v2/dags/{dag}/dagRuns", {"logical_date": None, "dag_run_id": run})

    def request(self, path: str, body: Any = None, method: str | None = None) -> Any:
        """Send a request until Airflow responds, for at most three minutes: the machine is busy."""
        for _ in poll(180, f"Airflow does not answer {path}"):
            with contextlib.suppress(TimeoutError, ConnectionError, urllib.error.URLError):
                try:
                    with self.requesting:  # two concurrent writes block each other on SQLite
                        return self.airflow.call(path, body, method)
                except urllib.error.HTTPError as error:
                    if error.code == 409:  # the response to the first request was lost
                        return None
                    raise
        raise AssertionError

    def states(self) -> dict[tuple[str, str], str]:
        """Return the state of each run of this round, by pipeline and ID."""
        found = {}
        for dag in PIPELINES:
            for run in self.request(f"/api/v2/dags/{dag}/dagRuns?order_by=-run_after&limit=30")["dag_runs"]:
                found[dag, run["dag_run_id"]] = run["state"]
        return {run: state for run, state in found.items() if run not in self.former}

    def settle(self) -> dict[tuple[str, str], str]:
        """Wait until no run is in progress or about to begin; return the states of the round's runs."""
        quiet = 0
        for _ in poll(MAX_ROUND_SECONDS, f"The runs of round {self.round.number} did not end"):
            states = self.states()
            busy = [run for run, state in states.items() if state not in ("success", "failed")]
            busy += [thread for thread in self.threads if thread.is_alive()]  # type: ignore[misc]
            quiet = 0 if busy else quiet + 1
            if quiet == 6:
                return states
        raise AssertionError

    def recommend(self) -> None:
        """Make recommendations once new events were ingested, as the next scheduled run would."""
        states = self.settle()
        if any(dag == chaos_plan.INGEST_EVENTS and state == "success" for (dag, _), state in states.items()):
            self.in_background(self.trigger, "recommend", chaos_plan.RECOMMEND)

    def run_round(self, number: int) -> None:
        """Run one round: deliveries, runs with faults, failed tasks cleared without faults, then the checks."""
        self.round = chaos_plan.round_of(self.seed, number)
        self.triggered.clear()
        self.runs.clear()
        self.planned.clear()
        self.deliver_days(self.round.days)
        for name, each in self.proxies.items():
            server = "s3" if name == "s3" else "dynamodb"
            each.start(lambda request, server=server: chaos_plan.request_fault(self.seed, number, server, request))
        self.calm = False
        for run in self.round.runs:
            if run.after is None:
                self.trigger(run.name, run.dag)
        self.recommend()
        self.settle()
        self.reader.expect("the chaos run itself works", bool(self.seen), "watch", "no process of a job was found")
        for operation in self.round.operations:  # whose task never started
            self.in_background(self.operate, operation)
        for run in self.round.runs:
            if run.after:
                self.in_background(self.trigger, run.name, run.dag)
        states = self.settle()
        self.calm = True
        for identity in list(self.stopped):
            self.wake(identity)
        for each in self.proxies.values():
            each.start(lambda request: None)
        failed = [run for run, state in states.items() if state == "failed"]
        self.counts["runs that failed at first"] += len(failed)
        self.log(f"all runs have ended, cleared are {failed}")
        for dag, identifier in failed:
            body = {"dry_run": False, "dag_run_id": identifier, "only_failed": True, "reset_dag_runs": True}
            self.request(f"/api/v2/dags/{dag}/clearTaskInstances", body)
        self.recommend()
        states = self.settle()
        self.check(states)
        self.former |= states.keys()

    def check(self, states: dict[tuple[str, str], str]) -> None:
        """Run all checks of the independent reader after the end of a round."""
        self.wait_for_processes()
        reader, ledger = self.reader, self.ledger
        listing = reader.listing()
        found = chaos_check.manifests(reader, listing)
        chaos_check.check_files(reader, listing, found)
        chaos_check.check_history(reader, self.publications.manifests)
        chaos_check.check_days(reader, found)
        before: dict[str, set[str]] = {dag: set() for dag in PIPELINES}
        for (dag, run), state in states.items():
            self.counts["runs, cleared ones counted again"] += 1
            self.counts[f"runs that ended in {state}"] += 1
            for instance in self.airflow.instances(dag, run):
                if instance.task_id in ("look_for_input", "watcher"):  # run no job
                    continue
                self.counts["tasks"] += 1
                self.counts["attempts"] += max(instance.try_number, 1)
                shard = None if instance.map_index < 0 else instance.map_index
                key = protocol.task_key(PREFIX, dag, run, instance.task_id, shard)
                chaos_check.check_instance(reader, found, key, instance.state, instance.try_number)
                if instance.state == "failed" and instance.task_id != protocol.REPORT_TASK:  # its end changes no run
                    self.check_end(key, instance.try_number, self.airflow.log(dag, run, instance))
            if state == "success":
                folder = f"{protocol.encode(dag)}/{protocol.encode(run)}"
                chaos_check.check_chain(reader, found, folder, self.publications.manifests)
                delivered = self.runs.get(run, (dag, []))[1]
                before[dag] |= set(delivered)
                manifest = f"{PREFIX}/intermediate/{folder}/ingest_events/manifest.json"
                if manifest in found:
                    content = found[manifest]
                    self.quarantined |= chaos_check.check_quarantine(
                        reader, listing, manifest, content, ledger, self.delivered
                    )
        events = only(before[chaos_plan.INGEST_EVENTS], "events")
        chaos_check.check_events(reader, listing, found, ledger, events, self.delivered)
        chaos_check.check_quarantined(reader, ledger, events, self.quarantined)
        for dataset in ("users", "items"):
            if delivered := only(before[f"ingest_{dataset}"], dataset):
                chaos_check.check_replaced(reader, listing, found, ledger, dataset, delivered)
        chaos_check.check_switches(reader, self.publications.switches)
        if item := chaos_check.pointer(reader):
            chaos_check.check_version(reader, item)
            chaos_check.check_listed(reader, item)
            chaos_check.check_product(reader, listing, found, item)
        held = [manifest.rpartition("/")[0] for manifest in found]
        processes = [f"{each.identity} is process {each.pid}" for each in chaos_processes.running(self.root)]
        named = {f"{folder}/{file['path']}" for folder, file in chaos_check.files_of(found)}
        unnamed = [key for key in listing if key.startswith(f"{PREFIX}/curated/") and key not in named | found.keys()]
        kept = [key for key in unnamed if key.endswith("/days.json") or "/ingested/" in key]
        self.counts["objects left for make retention"] = len(unnamed) - len(kept)
        chaos_check.check_left(reader, listing, processes, held)
        chaos_check.check_secrets(reader, [self.folder], [os.environ["AWS_SECRET_ACCESS_KEY"]], self.checked)
        self.checked = time.time() - 5

    def wait_for_processes(self) -> None:
        """Wait for orphaned processes, for at most two minutes."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and (list(chaos_processes.running(self.root)) or self.stopped):
            time.sleep(0.5)
        for other in self.others:
            with contextlib.suppress(subprocess.TimeoutExpired):
                other.wait(0)

    def check_end(self, key: str, attempt: int, log: list[str]) -> None:
        """Check that a task that fails without faults was overtaken by a newer result, or refused by the guard."""
        end = "\n".join(log[-12:])
        match = re.search(r"exit code (\d+)", end)
        code = match[1] if match else "none"
        self.counts[f"tasks that ended in exit code {code}"] += 1
        self.reader.expect("runs recover", code in ("4", "5"), f"{key} attempt {attempt}", end)

    # Frontends

    def read_frontends(self) -> None:
        """Read buckets of the live version repeatedly: the number of items is constant, and none expires."""
        reader, draw = self.reader, random.Random(self.seed)
        sizes: dict[str, int] = {}
        while not self.ended.wait(0.3):
            item = chaos_check.pointer(reader)
            if item is None:
                continue
            buckets = int(item["buckets"]["N"])
            bucket = f"{item['version']['S']}/{draw.randrange(buckets)}"
            items = chaos_check.items_of(reader, bucket)
            ending = [each for each in items if "expires" in each or "content" not in each]
            reader.expect(
                "frontends read complete versions", not ending, bucket, f"{len(ending)} items expire or are empty"
            )
            size = sizes.setdefault(bucket, len(items))
            text = f"{len(items)} items where {size} were"
            reader.expect("frontends read complete versions", len(items) == size, bucket, text)


def running_component(name: str) -> psutil.Process | None:
    """Return the process of a component of Airflow, None if it has ended."""
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if child.cmdline()[-1:] == [name] and child.status() != psutil.STATUS_ZOMBIE:
                return child
    return None


def only(delivered: Any, level: str) -> list[str]:
    return [key for key in delivered if f"/raw/{level}/" in key]


def deploy_version(folder: Path, number: int) -> None:
    """Copy the code of this checkout, mark it as another version, and point the link at it."""
    version = folder / "versions" / str(number)
    for name in ("airflow_dags", "jobs", "common", "sources"):
        shutil.copytree(ROOT / name, version / name, ignore=shutil.ignore_patterns("__pycache__"))
    (version / ".venv").symlink_to(ROOT / ".venv")
    dags = version / "airflow_dags"
    for pipeline in dags.glob("*/dag.py"):
        if pipeline.parent.name not in PIPELINES:
            shutil.rmtree(pipeline.parent)
    shared = dags / "environments" / "shared.toml"
    tables = "".join(f"[pipelines.{name}]\n" for name in PIPELINES)  # without schedules: the plan starts all runs
    shared.write_text(f"{shared.read_text().partition('[pipelines.')[0]}{tables}")
    windows = dags / chaos_plan.RECOMMEND / "build_interactions.json"
    settings = json.loads(windows.read_text())
    settings["parameters"] = {**settings.get("parameters", {}), "test_days": 7, "tuning_days": 7}  # few days of data
    windows.write_text(json.dumps(settings))
    laptop = dags / "environments" / "laptop.toml"
    laptop.write_text(laptop.read_text().replace("retries = 1\n", f"retries = {RETRIES}\n"))
    with (version / "common" / "__init__.py").open("a") as file:
        file.write(f"# version {number} of the chaos run\n")  # another fingerprint of all jobs
    with (dags / chaos_plan.RECOMMEND / "README.md").open("a") as file:
        file.write(f"\nVersion {number} of the chaos run.\n")
    link = folder / "next"
    link.symlink_to(version)
    link.replace(folder / "current")


@contextlib.contextmanager
def start(seed: int, folder: Path, report_line: Callable[[str], None]) -> Iterator[Chaos]:
    """Start all components of a chaos run in a new folder; they are stopped after the block."""
    root = f"s3://{local_s3.BUCKET}/{PREFIX}"
    for name in ("tmp", "twins", "versions"):
        (folder / name).mkdir()
    shop = folder / "shop"
    generate_data.generate(Settings(seed=seed, **SHOP), "raw", f"file://{shop}", 2)  # type: ignore[arg-type]
    deploy_version(folder, 0)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(local_s3.running(folder / "s3"))
        os.environ.update(server)
        s3 = boto3.Session().client("s3", config=Config(s3={"addressing_style": "path"}))
        direct = stack.enter_context(local_dynamodb.served())
        dynamodb = boto3.Session().client("dynamodb", endpoint_url=direct, config=Config(max_pool_connections=20))
        os.environ["DYNAMODB_ENDPOINT"] = direct
        list(tables.create("laptop"))
        table = f"{tables.delivery('laptop')['tables']}recommendations"
        reader, publications = Reader(s3, local_s3.BUCKET, PREFIX, dynamodb, table), Publications()

        def make_dynamodb(url: str) -> DynamoDBProxy:
            return DynamoDBProxy(url, publications=publications, reader=reader)

        proxies = {
            "s3": stack.enter_context(
                proxy(server["AWS_ENDPOINT_URL"], lambda url: S3Proxy(url, publications=publications))
            ),
            "jobs": stack.enter_context(proxy(direct, make_dynamodb)),
            "people": stack.enter_context(proxy(direct, make_dynamodb)),
        }
        os.environ["AWS_ENDPOINT_URL"] = proxies["s3"].url
        os.environ["DYNAMODB_ENDPOINT"] = proxies["jobs"].url
        os.environ["TMPDIR"] = str(folder / "tmp")
        dags = folder / "current" / "airflow_dags"
        airflow = stack.enter_context(
            local_airflow.start(root, folder / "airflow", dags, report=report_line, options=AIRFLOW)
        )
        processes = {name: running_component(name) for name in ("scheduler", "dag-processor")}
        components = {name: (each.cmdline(), each.environ()) for name, each in processes.items() if each}
        chaos = Chaos(seed, folder, root, shop, s3, airflow, reader, publications, proxies, components)
        publications.hook = chaos.on_publication
        stack.callback(end, chaos)
        for target in (chaos.watch, chaos.read_frontends):
            threading.Thread(target=chaos.guarded, args=(target,), daemon=True).start()
        days = sorted(
            path.name.removeprefix("arrival=") for path in (shop / "raw" / "events" / "generated_shop").iterdir()
        )
        chaos.days = days[SKIPPED_DAYS:]
        chaos.deliver_days(FIRST_DAYS)
        catalogue = next((shop / "raw" / "items").glob("*/*/*.csv"))
        chaos.deliver(f"items/generated_shop/{catalogue.parent.name}/{catalogue.name}", catalogue.read_bytes())
        yield chaos


def end(chaos: Chaos) -> None:
    """Stop the processes of this run other than Airflow."""
    chaos.ended.set()
    chaos.calm = True
    for identity in list(chaos.stopped):
        chaos.wake(identity)
    local_airflow.stop(chaos.restarted)
    for process in chaos_processes.running(chaos.root):
        process.signal(signal.SIGKILL)
    for other in chaos.others:
        other.kill()
        other.wait()


def report(chaos: Chaos, console: Console, rounds: int, took: float) -> None:
    """Print the counts of faults and checks, and all violations."""
    counts = chaos.counts
    for name, each in chaos.proxies.items():
        server = "S3" if name == "s3" else "DynamoDB"
        for kind, number in each.counts.items():
            counts[f"{server} requests" if kind == "requests" else f"{server}: {kind}"] += number
    table = Table(title=f"{rounds} rounds in {took:.0f} s, seed {chaos.seed}", title_justify="left")
    table.add_column("event")
    table.add_column("count", justify="right")
    for event, number in sorted(counts.items()):
        table.add_row(event, f"{number:,}")
    console.print(table)
    broken = Counter(violation.promise for violation in chaos.reader.violations)
    checked = Table(title="Promises", title_justify="left")
    for heading in ("promise", "checks", "violations"):
        checked.add_column(heading, justify="left" if heading == "promise" else "right")
    for promise, number in sorted(chaos.reader.checks.items()):
        checked.add_row(promise, f"{number:,}", str(broken[promise]))
    console.print(checked)
    for violation in chaos.reader.violations:
        console.print(f"{violation.promise}: {violation.where}: {violation.found}", style="red", highlight=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="duration; no round begins that would exceed it")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 31), help="of the schedule")
    arguments = parser.parse_args()
    console, began = Console(width=None if sys.stdout.isatty() else 140), time.monotonic()

    def print_line(text: str) -> None:
        console.print(f"[dim]{time.monotonic() - began:5.0f} s[/]  {text}", highlight=False)

    folder = Path(tempfile.mkdtemp(prefix="tandem-chaos-"))
    rounds, problem = 0, ""
    print_line(f"seed {arguments.seed}; all files are in {folder}")
    with start(arguments.seed, folder, print_line) as chaos:
        first = time.monotonic()
        try:
            while rounds == 0 or time.monotonic() - began + (time.monotonic() - first) / rounds < arguments.seconds:
                chaos.run_round(rounds)
                rounds += 1
                broken = len(chaos.reader.violations)
                print_line(f"round {rounds}: {chaos.reader.checks.total():,} checks so far, {broken} violations")
        except (AirflowError, KeyboardInterrupt) as error:
            problem = f"Round {rounds + 1} was aborted: {error or 'interrupted'}."
        report(chaos, console, rounds, time.monotonic() - first)
    console.print(f"schedule of {rounds} rounds: {chaos_plan.digest(arguments.seed, rounds)}")
    if problem or chaos.reader.violations:
        console.print(f"{problem} {len(chaos.reader.violations)} violations; all files are in {folder}.", style="red")
        sys.exit(1)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()

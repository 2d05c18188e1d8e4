"""The hybrid pipeline under Airflow while processes are killed, servers fail and people intervene, for some time.

After each round an independent reader (chaos_check.py) looks whether all promises of the documents held.
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
from benchmarks.chaos_servers import DynamoDBProxy, Notes, S3Proxy
from common import protocol
from tools import tables
from tools.airflow_api import Airflow, AirflowError, poll
from tools.data import generate_data
from tools.data.shop_model import Settings
from tools.sandbox import local_airflow, local_dynamodb, local_s3
from tools.sandbox.faulty_proxy import proxy

ROOT = Path(__file__).resolve().parent.parent
PREFIX = "chaos"
DAYS_LEFT_OUT = 60  # of the shop: until then it has few users
FIRST_DAYS = 40  # of events that lie there before the first round
SHOP = {"users": 300, "items": 120, "events": 60_000, "days": 200, "start": datetime.date(2025, 1, 1)}
PIPELINES = (*chaos_plan.TASKS,)
RETRIES = 4
PATIENCE = 1800  # seconds in which the runs of a round end
HELD = 300  # seconds for which a process that is to come late is stopped at most
AIRFLOW = {  # what died is missed soon
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "3",
    "SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "15",
    "SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "10",
    "DAG_PROCESSOR__REFRESH_INTERVAL": "5",
    "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "5",
}
DIRT = (  # lines that cannot be used; {n} makes them differ
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
    """The parts of a chaos run, and what has happened so far."""

    seed: int
    folder: Path
    root: str
    shop: Path
    s3: Any
    airflow: Airflow
    reader: Reader
    notes: Notes
    proxies: dict[str, Any]
    parts: dict[str, tuple[list[str], dict[str, str]]]  # command and environment of Airflow's parts
    ledger: Ledger = field(default_factory=Ledger)
    counts: Counter[str] = field(default_factory=Counter)
    round: Round = field(default_factory=lambda: Round(-1, 0, (), ()))
    calm: bool = True  # no strikes
    days: list[str] = field(default_factory=list)  # of arrival, still to come
    delivered: list[str] = field(default_factory=list)
    versions: int = 0
    seen: set[int] = field(default_factory=set)
    planned: dict[tuple[Any, ...], tuple[Strike, JobProcess]] = field(default_factory=dict)
    stopped: dict[tuple[Any, ...], tuple[JobProcess, threading.Event]] = field(default_factory=dict)
    triggered: set[tuple[str, str]] = field(default_factory=set)
    runs: dict[str, tuple[str, list[str]]] = field(default_factory=dict)  # by ID: pipeline, what was delivered before
    former: set[tuple[str, str]] = field(default_factory=set)  # runs of earlier rounds
    checked: float = 0  # until when outputs were searched for secrets
    others: list[subprocess.Popen[bytes]] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)
    restarted: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)
    asking: threading.Lock = field(default_factory=threading.Lock)
    ended: threading.Event = field(default_factory=threading.Event)

    def note(self, text: str) -> None:
        """Write down what happens, with the time, for who looks for the cause of a violation."""
        with self.lock, (self.folder / "events.log").open("a") as file:
            file.write(f"{datetime.datetime.now(datetime.UTC):%H:%M:%S.%f} {text}\n")

    # Deliveries

    def deliver(self, name: str, content: bytes) -> None:
        key = f"{PREFIX}/raw/{name}"
        self.ledger.deliver(key, content)
        self.s3.put_object(Bucket=local_s3.BUCKET, Key=key, Body=content)
        self.delivered.append(key)

    def deliver_days(self, count: int) -> None:
        """The next days of events and of users' changes, and a catalogue of two more goods."""
        chosen, self.days = self.days[:count], self.days[count:]
        for day in chosen:
            for level in ("events", "users"):
                for file in sorted((self.shop / "raw" / level / f"arrival={day}").glob("*")):
                    self.deliver(f"{level}/arrival={day}/{file.name}", file.read_bytes())
        number = self.round.number + 2
        goods = [
            f"{9_0000 + number}{letter},NEW LUNCH BAG {number}{letter},{chosen[-1]}T00:00:00Z\n" for letter in "AB"
        ]
        content = "item_id,description,seen\n" + "".join(goods)
        self.deliver(f"items/arrival={chosen[-1]}/items-{number}.csv", content.encode())

    def deliver_again(self, number: int) -> None:
        """A file of events that came before, with the next day's and a few broken lines among them."""
        draw = random.Random(number)
        day, before = self.days.pop(0), draw.sample([key for key in self.delivered if "/raw/events/" in key], 2)
        folder = self.shop / "raw" / "events" / f"arrival={day}"
        packed = [self.s3.get_object(Bucket=local_s3.BUCKET, Key=key)["Body"].read() for key in before]
        packed += [file.read_bytes() for file in sorted(folder.glob("*"))]
        lines = [line for content in packed for line in gzip.decompress(content).decode().splitlines()]
        dirt = [draw.choice(DIRT).format(n=f"{number}-{each}", day=day) for each in range(len(lines) // 60)]
        for line in dirt:
            lines.insert(draw.randrange(len(lines)), line)
        self.deliver(f"events/arrival={day}/again-{number}.jsonl.gz", gzip.compress("\n".join([*lines, ""]).encode()))

    # Processes

    def watch(self) -> None:
        """Find processes of jobs as they start, until the end."""
        looked = time.monotonic()
        while not self.ended.wait(0.1):
            if time.monotonic() > looked + 3:
                self.revive()
                looked = time.monotonic()
            for process in chaos_processes.running(self.root):
                if process.pid not in self.seen:
                    self.seen.add(process.pid)
                    self.met(process)

    def met(self, process: JobProcess) -> None:
        """Let happen what is planned for the start of a process, and note what is planned for it later."""
        self.counts["processes of jobs"] += 1
        self.note(f"starts: {process.identity}, process {process.pid}")
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
        chosen = chaos_plan.strike(self.seed, self.round.number, run, process.task, process.part, process.attempt)
        if chosen:
            self.planned[process.identity] = chosen, process
            if chosen.moment == "start":
                threading.Timer(chosen.seconds, self.strike, (process, chosen)).start()

    def name_of(self, run: str) -> str:
        """The name of a run in its round."""
        return run.split("-", 2)[2] if run.startswith("chaos-") else "asset"

    def strike(self, process: JobProcess, chosen: Strike) -> None:
        if self.calm or not process.alive():
            return
        self.note(f"{chosen.kind} at {chosen.moment} + {chosen.seconds} s: {process.identity}, process {process.pid}")
        self.counts[f"process: {chosen.kind}"] += 1
        self.counts[f"moment: {chosen.moment}"] += 1
        if chosen.kind in ("kill", "term"):
            process.signal(signal.SIGKILL if chosen.kind == "kill" else signal.SIGTERM)
        elif chosen.kind == "pause":
            process.signal(signal.SIGSTOP)
            threading.Timer(1 + chosen.seconds, process.signal, (signal.SIGCONT,)).start()
        elif chosen.kind == "orphan":
            process.cut_off()
        elif chosen.kind == "late":
            self.stopped[process.identity] = process, threading.Event()
            process.signal(signal.SIGSTOP)
            process.cut_off()
            threading.Timer(HELD, self.wake, (process.identity,)).start()
        elif chosen.kind == "twin":
            output = self.folder / "twins" / f"{process.pid}.log"
            if started := chaos_processes.twin(process, output):
                self.seen.add(started.pid)
                self.others.append(started)

    def wake(self, identity: tuple[Any, ...]) -> None:
        """Let a stopped process go on."""
        if found := self.stopped.pop(identity, None):
            process, released = found
            self.note(f"wakes up: {identity}")
            process.signal(signal.SIGCONT)
            released.set()

    def on_publication(self, what: str, when: str, task: dict[str, Any]) -> bool:
        """Strike a process at its publication, and wake up what its successors have overtaken; True cuts it off."""
        moment = f"{when} {what}"
        with self.lock:
            if what == "pointer":
                mine = [
                    identity
                    for identity in self.planned
                    if protocol.encode(identity[1]) == task["run"] and identity[2] == chaos_plan.PUBLISH
                ]
            else:
                mine = [tuple(task[name] for name in ("dag_id", "run_id", "task_id", "map_index", "attempt"))]
                if when == "after" and what == "manifest":
                    overtaken = [each for each in self.stopped if each[:4] == mine[0][:4] and each[4] < mine[0][4]]
                    for each in overtaken:
                        threading.Timer(0.5, self.wake, (each,)).start()
            due = [identity for identity in mine if identity in self.planned]
            due = [identity for identity in due if self.planned[identity][0].moment == moment][:1]
            if not due:
                return False
            chosen, process = self.planned.pop(due[0])
        self.strike(process, chosen)
        if chosen.kind == "late" and (held := self.stopped.get(due[0])):
            held[1].wait(HELD)
        return chosen.kind == "kill" and when == "before"

    # People

    def in_background(self, action: Callable[..., None], *arguments: Any) -> None:
        """Do something once in this round, beside what goes on."""
        key = (action.__name__, repr(arguments))
        if key not in self.triggered:
            self.triggered.add(key)
            thread = threading.Thread(target=self.told, args=(action, *arguments), daemon=True)
            self.threads.append(thread)
            thread.start()

    def told(self, action: Callable[..., None], *arguments: Any) -> None:
        """Do something; an exception is a violation, too: it must not end faults or checks in silence."""
        problem = ""
        try:
            action(*arguments)
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        if not self.ended.is_set():
            self.reader.expect("the chaos run itself works", not problem, f"{action.__name__}{arguments}", problem)

    def operate(self, operation: Operation) -> None:
        self.counts[f"operator: {operation.kind}"] += 1
        self.note(f"operator: {operation}")
        if operation.kind == "deliver":
            self.deliver_again(operation.number)
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
        self.note(f"rollback ended in {ran.returncode}: {ran.stdout}{ran.stderr}".rstrip())

    def clear_selection(self) -> None:
        """Let the newest two runs that have ended select and publish again, side by side."""
        found = self.patiently(f"/api/v2/dags/{chaos_plan.RECOMMEND}/dagRuns?order_by=-run_after&limit=30")
        ended = [each["dag_run_id"] for each in found["dag_runs"] if each["state"] in ("success", "failed")]
        for run in ended[:2]:
            self.former.discard((chaos_plan.RECOMMEND, run))
            body = {"dry_run": False, "dag_run_id": run, "only_failed": False, "reset_dag_runs": True}
            body |= {"task_ids": ["select_recommendations"], "include_downstream": True}
            self.patiently(f"/api/v2/dags/{chaos_plan.RECOMMEND}/clearTaskInstances", body)

    def deploy(self) -> None:
        """Put another version of code and DAGs in place, in one step, and name a new release."""
        self.versions += 1
        deploy_version(self.folder, self.versions)
        release = {"key": "release", "value": json.dumps({"deployed": self.versions})}
        self.patiently("/api/v2/variables", release)
        self.patiently("/api/v2/variables/release", release, "PATCH")

    def restart_scheduler(self, jobs_too: bool) -> None:
        """Kill the scheduler with its workers, as when its node goes away, and start another; jobs may survive."""
        with self.lock:
            scheduler = running_part("scheduler")
            if scheduler is None:
                return
            jobs = {process.pid for process in chaos_processes.running(self.root)}
            for job in jobs:
                chaos_processes.keep_reading(job)
            for member in [scheduler, *scheduler.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                    if jobs_too or os.getpgid(member.pid) not in jobs:
                        member.kill()
            self.start_part("scheduler")

    def start_part(self, name: str) -> None:
        """Start a part of Airflow in place of the one that ended."""
        command, environment = self.parts[name]
        with (self.folder / f"{name}.log").open("ab") as output:
            self.restarted[name] = subprocess.Popen(
                command, env=environment, stdout=output, stderr=output, start_new_session=True
            )

    def revive(self) -> None:
        """Start what ended by itself of Airflow, as a service manager does: SQLite may be locked for too long."""
        with self.lock:
            for name in self.parts:
                if running_part(name) is None and not self.ended.is_set():
                    self.counts[f"Airflow's {name} ended by itself"] += 1
                    self.note(f"Airflow's {name} ended by itself")
                    self.start_part(name)

    # Rounds

    def trigger(self, name: str, dag: str) -> None:
        run = f"chaos-{self.round.number:04}-{name}"
        self.runs[run] = dag, list(self.delivered)
        self.patiently(f"/api/v2/dags/{dag}/dagRuns", {"logical_date": None, "dag_run_id": run})

    def patiently(self, path: str, body: Any = None, method: str | None = None) -> Any:
        """Ask Airflow until it responds, for three minutes at most: the machine is busy."""
        for _ in poll(180, f"Airflow does not answer {path}"):
            with contextlib.suppress(TimeoutError, ConnectionError, urllib.error.URLError):
                try:
                    with self.asking:  # two writes at once make Airflow's server wait for itself on SQLite
                        return self.airflow.call(path, body, method)
                except urllib.error.HTTPError as error:
                    if error.code == 409:  # the answer to the first try was lost
                        return None
                    raise
        raise AssertionError

    def states(self) -> dict[tuple[str, str], str]:
        """The state of each run of this round, by pipeline and ID."""
        found = {}
        for dag in PIPELINES:
            for run in self.patiently(f"/api/v2/dags/{dag}/dagRuns?order_by=-run_after&limit=30")["dag_runs"]:
                found[dag, run["dag_run_id"]] = run["state"]
        return {run: state for run, state in found.items() if run not in self.former}

    def settle(self) -> dict[tuple[str, str], str]:
        """Wait until no run is under way, and none is about to begin; the states of the round's runs."""
        quiet = 0
        enough = 16 if any(run.dag == chaos_plan.INGEST_EVENTS for run in self.round.runs) else 6  # assets take time
        for _ in poll(PATIENCE, f"The runs of round {self.round.number} did not end"):
            states = self.states()
            busy = [run for run, state in states.items() if state not in ("success", "failed")]
            busy += [thread for thread in self.threads if thread.is_alive()]  # type: ignore[misc]
            quiet = 0 if busy else quiet + 1
            if quiet == enough:
                return states
        raise AssertionError

    def work(self, number: int) -> None:
        """One round: deliveries, runs with all that befalls them, failed tasks cleared in calm, then the checks."""
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
        self.settle()
        self.reader.expect("the chaos run itself works", bool(self.seen), "watch", "it found no process of a job")
        for operation in self.round.operations:  # that waited for a task which never started
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
        self.note(f"all runs have ended, cleared are {failed}")
        for dag, identifier in failed:
            body = {"dry_run": False, "dag_run_id": identifier, "only_failed": True, "reset_dag_runs": True}
            self.patiently(f"/api/v2/dags/{dag}/clearTaskInstances", body)
        states = self.settle()
        self.check(states)
        self.former |= states.keys()

    def check(self, states: dict[tuple[str, str], str]) -> None:
        """All that the independent reader checks once a round has come to rest."""
        self.no_process_left()
        reader, ledger = self.reader, self.ledger
        listing = reader.listing()
        found = chaos_check.manifests(reader, listing)
        chaos_check.check_files(reader, listing, found)
        chaos_check.check_history(reader, self.notes.manifests)
        chaos_check.check_days(reader, found)
        before: dict[str, set[str]] = {dag: set() for dag in PIPELINES}
        for (dag, run), state in states.items():
            self.counts["runs, cleared ones counted again"] += 1
            self.counts[f"runs that ended in {state}"] += 1
            for instance in self.airflow.instances(dag, run):
                self.counts["tasks"] += 1
                self.counts["attempts"] += max(instance.try_number, 1)
                part = None if instance.map_index < 0 else instance.map_index
                key = protocol.task_key(PREFIX, dag, run, instance.task_id, part)
                chaos_check.check_instance(reader, found, key, instance.state, instance.try_number)
                if instance.state == "failed":
                    self.check_end(key, instance.try_number, self.airflow.log(dag, run, instance))
            if state == "success":
                folder = f"{protocol.encode(dag)}/{protocol.encode(run)}"
                chaos_check.check_chain(reader, found, folder, self.notes.manifests)
                delivered = self.runs.get(run, (dag, []))[1]
                before[dag] |= set(delivered)
                manifest = f"{PREFIX}/intermediate/{folder}/ingest_events/manifest.json"
                if manifest in found:
                    content = found[manifest]
                    chaos_check.check_quarantine(
                        reader, listing, manifest, content, ledger, only(delivered, "events"), self.delivered
                    )
        events = only(before[chaos_plan.INGEST_EVENTS], "events")
        chaos_check.check_events(reader, listing, found, ledger, events, self.delivered)
        for dataset in ("users", "items"):
            if delivered := only(before[f"ingest_{dataset}"], dataset):
                chaos_check.check_replaced(reader, listing, found, ledger, dataset, delivered)
        chaos_check.check_switches(reader, self.notes.switches)
        if item := chaos_check.pointer(reader):
            chaos_check.check_version(reader, item)
            chaos_check.check_listed(reader, item)
            chaos_check.check_product(reader, listing, found, item)
        held = [manifest.rpartition("/")[0] for manifest in found]
        processes = [f"{each.identity} is process {each.pid}" for each in chaos_processes.running(self.root)]
        named = {f"{folder}/{file['path']}" for folder, file in chaos_check.files_of(found)}
        unnamed = [key for key in listing if key.startswith(f"{PREFIX}/curated/") and key not in named | found.keys()]
        self.counts["objects left for make retention"] = len(unnamed) - 1  # days.json
        chaos_check.check_left(reader, listing, processes, held)
        chaos_check.check_secrets(reader, [self.folder], [os.environ["AWS_SECRET_ACCESS_KEY"]], self.checked)
        self.checked = time.time() - 5

    def no_process_left(self) -> None:
        """Wait for processes that nobody waits for any more, but not for ever."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and (list(chaos_processes.running(self.root)) or self.stopped):
            time.sleep(0.5)
        for other in self.others:
            with contextlib.suppress(subprocess.TimeoutExpired):
                other.wait(0)

    def check_end(self, key: str, attempt: int, log: list[str]) -> None:
        """A task that fails even in calm has been overtaken by a newer result, or the guard refused its product."""
        end = "\n".join(log[-12:])
        found = re.search(r"exit code (\d+)", end)
        code = found[1] if found else "none"
        self.counts[f"tasks that ended in exit code {code}"] += 1
        self.reader.expect("runs recover", code in ("4", "5"), f"{key} attempt {attempt}", end)

    # Frontends

    def read_as_frontends_do(self) -> None:
        """Read a part of the version in place, again and again: it holds the same as ever, and nothing of it ends."""
        reader, draw = self.reader, random.Random(self.seed)
        sizes: dict[str, int] = {}
        while not self.ended.wait(0.3):
            item = chaos_check.pointer(reader)
            if item is None:
                continue
            buckets = int(item["buckets"]["N"])
            part = f"{item['version']['S']}/{draw.randrange(buckets)}"
            items = chaos_check.items_of(reader, part)
            ending = [each for each in items if "expires" in each or "content" not in each]
            reader.expect("frontends read whole versions", not ending, part, f"{len(ending)} items end or are empty")
            size = sizes.setdefault(part, len(items))
            text = f"{len(items)} items where {size} were"
            reader.expect("frontends read whole versions", len(items) == size, part, text)


def running_part(name: str) -> psutil.Process | None:
    """The process of a part of Airflow, None if it has ended."""
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if child.cmdline()[-1:] == [name] and child.status() != psutil.STATUS_ZOMBIE:
                return child
    return None


def only(delivered: Any, level: str) -> list[str]:
    return [key for key in delivered if f"/raw/{level}/" in key]


def deploy_version(folder: Path, number: int) -> None:
    """Copy the code of this checkout, mark it as another version, and let the link lead to it."""
    version = folder / "versions" / str(number)
    for name in ("airflow_dags", "jobs", "common"):
        shutil.copytree(ROOT / name, version / name, ignore=shutil.ignore_patterns("__pycache__"))
    (version / ".venv").symlink_to(ROOT / ".venv")
    dags = version / "airflow_dags"
    for pipeline in dags.glob("*/dag.py"):
        if pipeline.parent.name not in PIPELINES:
            shutil.rmtree(pipeline.parent)
    windows = dags / chaos_plan.RECOMMEND / "build_interactions.json"
    settings = json.loads(windows.read_text())
    settings["parameters"] = {**settings.get("parameters", {}), "test_days": 7, "tuning_days": 7}  # of few days
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
def started(seed: int, folder: Path, say: Callable[[str], None]) -> Iterator[Chaos]:
    """All parts of a chaos run in a folder of its own; what runs ends with the block."""
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
        reader, notes = Reader(s3, local_s3.BUCKET, PREFIX, dynamodb, table), Notes()

        def make_dynamodb(url: str) -> DynamoDBProxy:
            return DynamoDBProxy(url, notes=notes, reader=reader)

        proxies = {
            "s3": stack.enter_context(proxy(server["AWS_ENDPOINT_URL"], lambda url: S3Proxy(url, notes=notes))),
            "jobs": stack.enter_context(proxy(direct, make_dynamodb)),
            "people": stack.enter_context(proxy(direct, make_dynamodb)),
        }
        os.environ["AWS_ENDPOINT_URL"] = proxies["s3"].url
        os.environ["DYNAMODB_ENDPOINT"] = proxies["jobs"].url
        os.environ["TMPDIR"] = str(folder / "tmp")
        dags = folder / "current" / "airflow_dags"
        airflow = stack.enter_context(local_airflow.start(root, folder / "airflow", dags, report=say, options=AIRFLOW))
        found = {name: running_part(name) for name in ("scheduler", "dag-processor")}
        parts = {name: (part.cmdline(), part.environ()) for name, part in found.items() if part}
        chaos = Chaos(seed, folder, root, shop, s3, airflow, reader, notes, proxies, parts)
        notes.hook = chaos.on_publication
        stack.callback(end, chaos)
        for target in (chaos.watch, chaos.read_as_frontends_do):
            threading.Thread(target=chaos.told, args=(target,), daemon=True).start()
        days = sorted(path.name.removeprefix("arrival=") for path in (shop / "raw" / "events").iterdir())
        chaos.days = days[DAYS_LEFT_OUT:]
        chaos.deliver_days(FIRST_DAYS)
        catalogue = next((shop / "raw" / "items").glob("*/*.csv"))
        chaos.deliver(f"items/{catalogue.parent.name}/{catalogue.name}", catalogue.read_bytes())
        yield chaos


def end(chaos: Chaos) -> None:
    """End what this run started beside Airflow."""
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
    table.add_column("what")
    table.add_column("times", justify="right")
    for what, number in sorted(counts.items()):
        table.add_row(what, f"{number:,}")
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
    parser.add_argument("--seconds", type=float, default=600, help="how long; no round begins that would take longer")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 31), help="of the schedule")
    arguments = parser.parse_args()
    console, began = Console(width=None if sys.stdout.isatty() else 140), time.monotonic()

    def say(text: str) -> None:
        console.print(f"[dim]{time.monotonic() - began:5.0f} s[/]  {text}", highlight=False)

    folder = Path(tempfile.mkdtemp(prefix="tandem-chaos-"))
    rounds, problem = 0, ""
    say(f"seed {arguments.seed}; all files are in {folder}")
    with started(arguments.seed, folder, say) as chaos:
        first = time.monotonic()
        try:
            while rounds == 0 or time.monotonic() - began + (time.monotonic() - first) / rounds < arguments.seconds:
                chaos.work(rounds)
                rounds += 1
                broken = len(chaos.reader.violations)
                say(f"round {rounds}: {chaos.reader.checks.total():,} checks so far, {broken} violations")
        except (AirflowError, KeyboardInterrupt) as error:
            problem = f"Round {rounds + 1} did not end: {error or 'interrupted'}."
        report(chaos, console, rounds, time.monotonic() - first)
    console.print(f"schedule of {rounds} rounds: {chaos_plan.digest(arguments.seed, rounds)}")
    if problem or chaos.reader.violations:
        console.print(f"{problem} {len(chaos.reader.violations)} violations; everything is in {folder}.", style="red")
        sys.exit(1)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()

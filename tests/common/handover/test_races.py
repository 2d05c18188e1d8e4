"""Attempts, twins and runs that overlap, or are killed, at every storage operation."""

import contextlib
import itertools
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import botocore.httpsession
import pytest
import requests.adapters

from common import protocol
from common.engines import arrow
from common.handover import Task, manifest, partitions, storage
from common.handover.inputs import check_files
from common.handover.runner import exit_code
from common.handover.storage import File
from tests.lakes import forget_clients

REPLACES = """
[job]
description = "Replaces a dataset by the names of all deliveries, and hands them over."
engine = "python"
[inputs.deliveries]
raw = "raw/names"
[outputs.dataset]
contract = "quarantine@2"
dataset = "curated/names"
[outputs.copy]
contract = "quarantine@2"
"""
APPENDS = """
[job]
description = "Adds a row to each of two days that lack one."
engine = "python"
[outputs.dataset]
contract = "quarantine@2"
dataset = "curated/rows"
"""
OPERATIONS = ("read", "replace", "write", "stream", "files", "files_of", "sizes", "folders")
DAYS = ("2011-01-01", "2011-01-02")


def replace_by_deliveries(task: Task) -> None:
    names = [file.uri.rpartition("/")[2] for file in task.input("deliveries").files]
    for role in ("dataset", "copy"):
        folder, publish = arrow.destination(task, role)
        with storage.stream(f"{folder}/names") as file:  # not Parquet: Arrow's threads do not survive a fork
            file.write(json.dumps(names).encode())
        publish(len(names))


def append_to_days(task: Task) -> None:
    for day in DAYS:
        folder, seen = task.partition("dataset", f"date={day}")
        former = seen.document["outputs"]["dataset"] if seen else {"rows": 0, "files": []}
        if former["rows"]:
            continue
        storage.write(f"{folder}/{task.version}/names", json.dumps([day]).encode())
        partitions.register(f"{task.lake}/curated/rows", {day})
        task.publish_partition("dataset", folder, seen, 1, storage.files(f"{folder}/{task.version}"))


@dataclass
class Job:
    """A job in a lake; each run is a process."""

    lake: str
    folder: Path
    main: Callable[[Task], None]

    def start(
        self,
        hook: Callable[[str], None] = lambda lake: None,
        run: str = "run",
        attempt: int = 1,
        task: str = "task",
        more: tuple[str, ...] = (),
    ) -> int:
        child = os.fork()
        if child:
            return child
        forget_clients()  # they do not survive a fork
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.stderr = (self.folder / "stderr").open("w")
        names = f"--lake={self.lake} --dag-id=dag --run-id={run} --task-id={task} --attempt={attempt}"
        hook(self.lake)
        os._exit(exit_code(self.main, self.folder, [*names.split(), *more]))

    def run(self, **names) -> int:
        return ended(self.start(**names))

    def deliver(self, name: str) -> None:
        storage.write(f"{self.lake}/raw/names/arrival=2011-01-01/{name}", name.encode())

    def published(self, run: str = "run") -> manifest.Manifest | None:
        """Return the task's manifest after checking its files."""
        return self.checked(protocol.task_key(self.lake, "dag", run, "task"), "copy")

    def names(self) -> list[str]:
        """Return the names that a reader of the dataset finds."""
        found = self.checked(f"{self.lake}/curated/names/all", "dataset")
        return names_in(found) if found else []

    def checked(self, folder: str, role: str) -> manifest.Manifest | None:
        found = manifest.load_or_none(protocol.manifest_uri(folder))
        if found:
            files = found.document["outputs"][role].get("files", [])
            check_files([File(f"{folder}/{file['path']}", file["bytes"]) for file in files])
        return found


def names_in(found: manifest.Manifest) -> list[str]:
    (output,) = (each for each in found.document["outputs"].values() if "files" in each)
    folder = found.uri.rpartition("/")[0]
    return [name for file in output["files"] for name in json.loads(storage.read(f"{folder}/{file['path']}")[0])]


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def described(folder: Path, description: str) -> Path:
    folder.mkdir()
    (folder / "job.toml").write_text(description)
    return folder


@pytest.fixture
def replacing(any_lake: str, tmp_path: Path) -> Job:
    job = Job(any_lake, described(tmp_path / "job", REPLACES), replace_by_deliveries)
    job.deliver("first")
    return job


@pytest.fixture
def appending(any_lake: str, tmp_path: Path) -> Job:
    return Job(any_lake, described(tmp_path / "job", APPENDS), append_to_days)


@dataclass
class Pause:
    """Stop a process before its n-th storage operation until it is released."""

    number: int

    def __post_init__(self) -> None:
        self.reached, self.tell_reached = os.pipe()
        self.go, self.tell_go = os.pipe()
        self.inside = threading.local()

    def __call__(self, lake: str) -> None:
        for end in (self.reached, self.tell_go):
            os.close(end)
        counter = itertools.count(1)

        def counted(function):
            def call(*arguments):
                outermost = not getattr(self.inside, "yes", False)
                if outermost and next(counter) == self.number:
                    os.write(self.tell_reached, b"x")
                    os.read(self.go, 1)
                self.inside.yes = True
                try:
                    return function(*arguments)
                finally:
                    self.inside.yes = not outermost

            return call

        for name in OPERATIONS:
            setattr(storage, name, counted(getattr(storage, name)))

    def wait(self) -> bool:
        """Return True once the process has stopped, False if it ended before."""
        os.close(self.tell_reached)
        os.close(self.go)
        return os.read(self.reached, 1) == b"x"

    def release(self) -> None:
        os.write(self.tell_go, b"x")
        os.close(self.tell_go)
        os.close(self.reached)


def interleaved(job: Job, other: dict, between: Callable[[int], None] = lambda number: None) -> Iterator[tuple]:
    """For each operation: stop one process before it, run another from beginning to end, resume the first.

    Yields the number, which also names the run, and the exit codes of both, until the first never stops.
    """
    for number in itertools.count(1):
        pause = Pause(number)
        names = {"run": f"run-{number}", "attempt": 1}
        stopped = job.start(hook=pause, **names)
        if not pause.wait():
            assert ended(stopped) == 0
            assert number > 10
            return
        between(number)
        code = job.run(**{**names, **{name: value.format(number) for name, value in other.items()}})
        pause.release()
        yield number, ended(stopped), code


def test_attempt_resumed_at_any_operation_changes_nothing(replacing):
    """A first attempt sleeps while the second, with one more delivery, publishes."""

    def deliver(number):
        replacing.deliver(f"later-{number}")

    def seen_by(number):
        return sorted(["first", *(f"later-{each}" for each in range(1, number + 1))])

    for number, resumed, second in interleaved(replacing, {"attempt": "2"}, deliver):
        assert second == 0
        assert resumed == 5, (number, (replacing.folder / "stderr").read_text())
        found = replacing.published(f"run-{number}")
        assert found.document["task"]["attempt"] == 2
        assert names_in(found) == replacing.names() == seen_by(number)
        left = storage.files(f"{replacing.lake}/intermediate/dag/run-{number}/task/attempt-1")
        assert not [file.uri for file in left if file.uri.endswith("failure.json")]


def test_twins_of_one_attempt_publish_once_and_keep_their_files(replacing):
    for number, first, second in interleaved(replacing, {}):
        assert sorted([first, second]) == [0, 5], number
        assert names_in(replacing.published(f"run-{number}")) == replacing.names() == ["first"]


def test_older_run_never_removes_a_newer_delivery(replacing):
    def deliver(number):
        replacing.deliver(f"later-{number:03}")

    for number, older, newer in interleaved(replacing, {"run": "newer-{}"}, deliver):
        assert newer == 0
        assert older in (0, 5), (number, (replacing.folder / "stderr").read_text())
        assert replacing.names() == sorted(["first", *(f"later-{each:03}" for each in range(1, number + 1))])


@dataclass
class Cut:
    """Kill a process before its n-th step on the lake: a system call on a file system, a request on a store."""

    number: int

    def __call__(self, lake: str) -> None:
        counter = itertools.count(1)

        def count(*_, **__) -> None:
            if next(counter) == self.number:
                os.kill(os.getpid(), signal.SIGKILL)

        if storage.is_remote(lake):
            for session in (botocore.httpsession.URLLib3Session, requests.adapters.HTTPAdapter):
                send_after(count, session)
            return
        root = lake.removeprefix("file://")

        def audit(event: str, arguments: tuple) -> None:
            if event.partition(".")[0] in ("open", "os", "shutil", "fcntl") and any(
                str(each).startswith(root) for each in arguments
            ):
                count()

        sys.addaudithook(audit)


def send_after(count: Callable[[], None], session: type) -> None:
    """Count the requests of a kind of clients before they are sent."""
    send = session.send

    def counted(*arguments, **options):
        count()
        return send(*arguments, **options)

    session.send = counted


def killed_everywhere(job: Job) -> Iterator[int]:
    """Kill a first attempt at its n-th step for all n; yield n, which names the run."""
    for number in itertools.count(1):
        code = job.run(hook=Cut(number), run=f"run-{number}")
        yield number
        if code == 0:
            assert number > 10
            return
        assert code == -signal.SIGKILL, (job.folder / "stderr").read_text()


def test_readers_of_a_replaced_dataset_see_before_or_after_a_kill(replacing):
    assert replacing.run() == 0
    before = ["first"]
    for number in killed_everywhere(replacing):
        seen = names_of(replacing)
        assert replacing.names() in (before, seen)
        published = replacing.published(f"run-{number}")
        assert published is None or names_in(published) == seen
        assert replacing.run(run=f"run-{number}", attempt=2) == 0
        assert replacing.names() == names_in(replacing.published(f"run-{number}")) == seen
        before = seen
        replacing.deliver(f"later-{number:03}")


def names_of(job: Job) -> list[str]:
    return sorted(file.uri.rpartition("/")[2] for file in storage.files(f"{job.lake}/raw/names"))


def test_days_are_complete_and_registered_after_any_kill(appending):
    lake = appending.lake
    for number in killed_everywhere(appending):
        appending.lake = f"{lake}/{number + 1}"  # for the next one
        dataset = f"{lake}/{number}/curated/rows" if number > 1 else f"{lake}/curated/rows"
        with contextlib.suppress(FileNotFoundError):
            storage.read(partitions.index_uri(dataset))
            assert published_days(appending, dataset) <= set(partitions.registered(dataset))
        retry = Job(dataset.removesuffix("/curated/rows"), appending.folder, appending.main)
        assert retry.run(run=f"run-{number}", attempt=2) == 0
        assert published_days(retry, dataset) == set(partitions.registered(dataset)) == set(DAYS)


def published_days(job: Job, dataset: str) -> set[str]:
    found = {day: job.checked(f"{dataset}/date={day}", "dataset") for day in DAYS}
    assert all(names_in(each) == [day] for day, each in found.items() if each)
    return {day for day, each in found.items() if each}


TRAINS = """
[job]
description = "Replaces a dataset by a hand-over."
engine = "python"
[inputs.copy]
contract = "quarantine@2"
[outputs.dataset]
contract = "quarantine@2"
dataset = "curated/model"
"""


def train(task: Task) -> None:
    folder, publish = arrow.destination(task, "dataset")
    storage.write(f"{folder}/names", storage.read(task.input("copy").files[0].uri)[0])
    publish(1)


def test_retry_on_older_handover_does_not_replace_newer_model(replacing, tmp_path):
    """Features of Monday and of Tuesday; Monday's training is retried on Wednesday, after Tuesday's."""
    trains = Job(replacing.lake, described(tmp_path / "trains", TRAINS), train)
    trained = {"task": "train", "more": ("--from=copy=task",)}
    assert replacing.run(run="monday") == 0
    replacing.deliver("tuesday")
    assert replacing.run(run="tuesday") == 0
    assert trains.run(run="tuesday", **trained) == 0
    assert trains.run(run="monday", attempt=2, **trained) == 5
    assert "was published by run 'tuesday' from input of" in (trains.folder / "stderr").read_text()
    model = trains.checked(f"{trains.lake}/curated/model/all", "dataset")
    assert names_in(model) == ["first", "tuesday"]
    assert replacing.run(run="wednesday") == 0
    assert trains.run(run="wednesday", **trained) == 0


def test_recreated_run_replaces_and_fences_the_deleted_one(replacing):
    deleted, recreated = ("--run-started=2011-01-01T00:00:00Z",), ("--run-started=2011-01-02T02:00:00+02:00",)
    assert replacing.run(attempt=3, more=deleted) == 0
    replacing.deliver("later")
    assert replacing.run(attempt=1, more=recreated) == 0
    assert replacing.run(attempt=4, more=deleted) == 5
    found = replacing.published()
    assert (found.document["task"]["attempt"], names_in(found)) == (1, ["first", "later"])
    assert replacing.run(attempt=2, more=("--run-started=2011-01-05T00:00:00Z",)) == 0, "the run was cleared"


def test_clock_that_was_ahead_does_not_block_a_dataset(replacing):
    assert replacing.run(run="ahead") == 0
    uri = protocol.manifest_uri(f"{replacing.lake}/curated/names/all")
    found = manifest.load_or_none(uri)
    storage.replace(uri, manifest.to_json({**found.document, "basis": "2999-01-01T00:00:00+00:00"}), found.tag)
    replacing.deliver("later")
    assert replacing.run(run="next") == 0
    assert replacing.names() == ["first", "later"]

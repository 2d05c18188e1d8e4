"""Publishing: one of two racing attempts wins, a late one is fenced, a killed writer leaves nothing incomplete."""

import datetime
import json
import math
import multiprocessing
import os
import random
import signal
import sys
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest

from common import protocol
from common.errors import InputError, StaleAttempt, TaskError
from common.handover import manifest, storage
from common.handover.inputs import check_files
from common.handover.runner import exit_code
from common.handover.storage import File
from tests.lakes import forget_clients

ROUNDS = 500
KILLS = 200


def document(attempt, task_id="task", **more):
    return {
        "task": {"dag_id": "dag", "run_id": "run", "task_id": task_id, "map_index": None, "attempt": attempt},
        **more,
    }


def race(lake, attempt, barrier, results):
    forget_clients()  # they do not survive a fork
    for number in range(ROUNDS):
        uri = f"{lake}/key-{number}/manifest.json"
        barrier.wait()
        try:
            manifest.publish(uri, document(attempt, writer=os.getpid()), None)
            results.put((number, os.getpid(), "won"))
        except StaleAttempt:
            results.put((number, os.getpid(), "fenced"))


def run_race(lake, attempts):
    fork = multiprocessing.get_context("fork")
    barrier, results = fork.Barrier(2), fork.Queue()
    processes = [fork.Process(target=race, args=(lake, attempt, barrier, results)) for attempt in attempts]
    for process in processes:
        process.start()
    found = [results.get() for _ in range(2 * ROUNDS)]
    for process in processes:
        process.join()
    return processes, found


def test_same_attempt_raced_twice_has_one_winner(any_lake):
    _, found = run_race(any_lake, [1, 1])
    for number in range(ROUNDS):
        outcomes = {outcome: pid for key, pid, outcome in found if key == number}
        assert sorted(outcomes) == ["fenced", "won"]
        there = manifest.load_or_none(f"{any_lake}/key-{number}/manifest.json")
        assert there.document["writer"] == outcomes["won"]


def test_newer_of_two_racing_attempts_stays(any_lake):
    processes, _ = run_race(any_lake, [1, 2])
    for number in range(ROUNDS):
        there = manifest.load_or_none(f"{any_lake}/key-{number}/manifest.json")
        assert there.document["writer"] == processes[1].pid


def test_late_attempt_is_fenced_and_changes_nothing(any_lake):
    uri = f"{any_lake}/key/manifest.json"
    seen = manifest.load_or_none(uri)
    manifest.publish(uri, document(2), manifest.load_or_none(uri))
    with pytest.raises(StaleAttempt, match=r"attempt 2 has\s+published already .* --attempt 3"):
        manifest.publish(uri, document(1), seen)
    assert manifest.load_or_none(uri).document["task"]["attempt"] == 2


def test_concurrently_changed_partition_is_not_replaced(any_lake):
    uri = f"{any_lake}/curated/events/date=2011-06-01/manifest.json"
    seen = manifest.load_or_none(uri)
    manifest.publish_partition(uri, document(1, "other"), seen)
    with pytest.raises(TaskError, match="changed while") as failure:
        manifest.publish_partition(uri, document(1), seen)
    assert failure.value.exit_code == 1
    with pytest.raises(StaleAttempt):
        manifest.publish_partition(uri, document(1, "other", writer=2), seen)


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (math.nan, None),
        ([1.5, -math.inf], [1.5, None]),
        ({"a": {"b": np.float32("nan")}}, {"a": {"b": None}}),
        (np.float64("inf"), None),
        (np.int64(7), 7),
        (np.float32(0.5), 0.5),
        (np.bool_(True), True),
        ({1: "one", "2": "two", None: "none"}, {"1": "one", "2": "two", "None": "none"}),
        ({datetime.date(2011, 1, 1): 1}, {"2011-01-01": 1}),
        (datetime.date(2011, 1, 1), "2011-01-01"),
        (("a", 1), ["a", 1]),
        ("half \ud83d of a pair", "half \ud83d of a pair"),
        ({"\ud83d": 1}, {"\ud83d": 1}),
        (2**70, 2**70),
    ],
)
def test_documents_are_json_for_any_values(value, read):
    def forbid(constant):
        raise ValueError(constant)

    assert json.loads(manifest.to_json({"value": value}).decode(), parse_constant=forbid) == {"value": read}


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((None, 1), (None, 2), -1),
        ((None, 2), (None, 2), 0),
        (("2011-01-02", 1), ("2011-01-01", 3), 1),
        (("2011-01-01", 3), ("2011-01-02", 1), -1),
        (("2011-01-01", 2), ("2011-01-01", 2), 0),
        (("2011-01-01", 2), (None, 1), 1),
        ((None, 1), ("2011-01-01", 2), -1),
    ],
)
def test_attempts_compare_by_start_of_run_then_number(one, other, expected):
    first, second = ({"run_started": began, "attempt": attempt} for began, attempt in (one, other))
    assert manifest.compare_attempts(first, second) == expected


def write_and_publish(task):
    for part in range(3):
        storage.write(f"{task.folder('table')}/part-{part}", b"x" * 1000)
    task.record_output("table", 3)


class KilledAtLine:
    """Trace function that kills the process after N lines of Python."""

    def __init__(self, lines: int) -> None:
        self.left = lines

    def __call__(self, frame, event, argument):
        self.left -= event == "line"
        if self.left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return self


def count_lines(main, folder, lake):
    """Count the lines of Python that a job runs from its arguments to its manifest."""
    counter = KilledAtLine(sys.maxsize)
    arguments = f"--lake {lake} --dag-id dag --run-id run --task-id task --attempt 1"
    sys.settrace(counter)
    try:
        assert exit_code(main, folder, arguments.split()) == 0
    finally:
        sys.settrace(None)
    return sys.maxsize - counter.left


def test_killed_writer_leaves_nothing_incomplete(tmp_path, lake):
    """Kill 200 attempts at one key, each at a random line: a reader finds a complete result or none."""
    folder = tmp_path / "killed"
    folder.mkdir()
    (folder / "job.toml").write_text(
        '[job]\ndescription = "Writes three files."\nengine = "python"\n[outputs.table]\ncontract = "interactions@2"\n'
    )
    small = multiprocessing.get_context("spawn")  # a fork copies the page tables of its parent, here of all tests
    with ProcessPoolExecutor(1, small) as executor:
        outcomes = executor.submit(kill_attempts, folder, lake).result()
    assert min(outcomes.values()) > 0, outcomes
    key = protocol.task_key(lake, "dag", "run", "task")
    arguments = f"--lake {lake} --dag-id dag --run-id run --task-id task --attempt {KILLS + 1}"
    assert exit_code(write_and_publish, folder, arguments.split()) == 0
    assert manifest.load_or_none(protocol.manifest_uri(key)).document["task"]["attempt"] == KILLS + 1


def kill_attempts(folder, lake):
    """Kill attempts, check what each left, and count those that were killed and those that published."""
    randomness = random.Random(7)
    lines = count_lines(write_and_publish, folder, f"{lake}-counted")
    outcomes = {"published": 0, "killed": 0}
    key = protocol.task_key(lake, "dag", "run", "task")
    for attempt in range(1, KILLS + 1):
        last = randomness.randrange(1, lines * 6 // 5)
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sys.settrace(KilledAtLine(last))
            arguments = f"--lake {lake} --dag-id dag --run-id run --task-id task --attempt {attempt}"
            os._exit(exit_code(write_and_publish, folder, arguments.split()))
        _, status = os.waitpid(child, 0)
        outcomes["killed" if os.WIFSIGNALED(status) else "published"] += 1
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
        if found := manifest.load_or_none(protocol.manifest_uri(key)):
            table = found.document["outputs"]["table"]
            assert len(table["files"]) == 3
            check_files([File(f"{key}/{file['path']}", file["bytes"]) for file in table["files"]])
    return outcomes


@pytest.mark.parametrize(
    ("path", "safe"),
    [
        ("attempt-1/rows/part-0.parquet", True),
        ("version=0f-1/date=2011-06-01/part-0.c000.snappy.parquet", True),
        ("attempt-1/rows/..part", True),
        ("attempt-1/rows/country=A%3AB/part", True),
        ("", False),
        (".", False),
        ("..", False),
        ("../other/part", False),
        ("rows/../../other/part", False),
        ("rows/..", False),
        ("./part", False),
        ("rows/./part", False),
        ("/etc/passwd", False),
        ("//host/part", False),
        ("rows//part", False),
        ("rows/", False),
        ("s3://bucket/part", False),
        ("file:///etc/passwd", False),
        ("rows\\..\\part", False),
        ("rows/part\n", False),
        ("rows/part\0", False),
        ("rows/*", False),
        ("rows/part-[0-9]", False),
        ("{rows,other}/part", False),
        (7, False),
        (None, False),
    ],
)
def test_paths_outside_the_manifests_folder_are_refused(lake, path, safe):
    uri = f"{lake}/curated/items/all/manifest.json"
    outputs = {"items": {"contract": "items@2", "rows": 1, "bytes": 1, "files": [{"path": path, "bytes": 1}]}}
    storage.write(uri, manifest.to_json({"outputs": outputs}))
    if safe:
        assert manifest.load_or_none(uri).document["outputs"] == outputs
    else:
        with pytest.raises(InputError, match="expected a path below its own folder"):
            manifest.load_or_none(uri)

"""Command line of every job, exit codes, inputs and outputs, failure document, result."""

import fcntl
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from common.handover import storage

ROOT = Path(__file__).parents[3]
OUTPUT = '[outputs.table]\ncontract = "interactions@2"\n'
INPUT = '[inputs.table]\ncontract = "interactions@2"\n'
PARAMETER = '[parameters.factors]\ntype = "integer"\ndefault = 16\nrange = [1, 512]\nhelp = "How many."\n'
START = """import os, sys, time
from common.handover import storage
from common.errors import *
from common.handover import Task, run
"""
END = "\nif __name__ == '__main__':\n    run(main)\n"
WRITE = (
    START
    + """
def main(task):
    storage.write(f"{task.folder('table')}/part-0", b"12345")
    task.metrics["size"] = 5
    task.record_output("table", 1)
"""
    + END
)
READ = (
    START
    + """
def main(task):
    task.metrics["files"] = [file.uri.rpartition("/")[2] for file in task.input("table").files]
    task.metrics["rows"] = task.input("table").rows
"""
    + END
)


def program(body):
    return START + f"\ndef main(task):\n    {body}\n" + END


def last_line(process):
    return process.stderr.strip().splitlines()[-1]


@pytest.fixture
def writer(make_job):
    return make_job(OUTPUT + PARAMETER, WRITE, "writer")


@pytest.fixture
def reader(make_job):
    return make_job(INPUT, READ, "reader")


def test_manifest_records_output_task_and_parents(writer, reader):
    assert writer.run("--set", "factors=3", task="one").returncode == 0
    assert reader.run("--from", "table=one", task="two").returncode == 0
    written, read = writer.document("manifest.json", "one"), reader.document("manifest.json", "two")
    assert written["outputs"]["table"] == {
        "contract": "interactions@2",
        "rows": 1,
        "bytes": 5,
        "files": [{"path": f"attempt-1/{written['task']['process']}/table/part-0", "bytes": 5}],
    }
    assert re.fullmatch(r"[0-9a-f]{8}", written["task"]["process"])
    assert written["parameters"] == {"factors": 3}
    assert written["task"]["attempt"] == 1
    assert written["peak_memory_bytes"] > 1_000_000
    assert re.fullmatch(r"checkout-[0-9a-f]{16}", written["fingerprint"])
    assert read["metrics"] == {"files": ["part-0"], "rows": 1}
    assert [parent["uri"] for parent in read["parents"]] == [f"{writer.key('one')}/manifest.json"]
    assert read["inputs"] == {"table": {"contract": "interactions@2", "rows": 1, "bytes": 5, "files": 1}}


def test_build_records_its_name_and_fingerprint(writer):
    (writer.folder / "fingerprint").write_text("0123456789abcdef real_name\n")
    assert writer.run().returncode == 0
    document = writer.document("manifest.json")
    assert (document["job"], document["fingerprint"]) == ("real_name", "0123456789abcdef")


def test_hand_over_works_on_object_stores(writer, reader, remote):
    writer.lake = reader.lake = remote.root
    assert writer.run(task="one", environment=remote.environment).returncode == 0
    assert writer.run(task="one", environment=remote.environment).returncode == 5
    second = reader.run("--from", "table=one", task="two", environment=remote.environment)
    assert second.returncode == 0, second.stderr


def test_same_attempt_publishes_once(writer):
    assert writer.run().returncode == 0
    before = writer.document("manifest.json")
    second = writer.run()
    assert second.returncode == 5
    assert last_line(second).endswith("run the task with --attempt 2.")
    assert writer.document("manifest.json") == before
    assert writer.run(attempt=2).returncode == 0


def test_files_of_another_process_are_not_published(make_job):
    leaves = program("storage.write(f\"{task.folder('table')}/left\", b'x'); raise TaskError('No.')")
    job = make_job(OUTPUT, leaves)
    assert job.run().returncode == 1
    (job.folder / "main.py").write_text(WRITE)
    assert job.run().returncode == 0
    manifest = job.document("manifest.json")
    assert [file["path"] for file in manifest["outputs"]["table"]["files"]] == [
        f"attempt-1/{manifest['task']['process']}/table/part-0"
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--set", "factor=3"], "The parameter 'factor' is unknown to writer; did you mean 'factors'."),
        (["--set", "factors=0"], "The parameter 'factors' is '0', expected a value from 1 to 512."),
        (["--set", "factors=many"], "The parameter 'factors' is 'many', expected an integer."),
        (["--set", "factors"], "'factors' is not a pair, expected NAME=VALUE"),
        (["--from", "events=one"], "writer has no input 'events' that a task hands over; expected none."),
        (["--map-index", "0"], "writer is not mapped, expected no --map-index."),
        (["--run-id="], "argument --run-id: an ID is empty, expected at least one character"),
        (["--lake", "hdfs://x"], "Unsupported URI 'hdfs://x'"),
        (["--colour"], "unrecognized arguments: --colour"),
    ],
)
def test_wrong_arguments_exit_with_2_and_touch_nothing(writer, arguments, sentence, tmp_path):
    process = writer.run(*arguments)
    assert process.returncode == 2
    assert sentence in last_line(process)
    assert process.stderr.count("\n") == 1
    assert not (tmp_path / "lake").exists()


def test_role_without_predecessor_is_named(reader):
    process = reader.run()
    assert process.returncode == 2
    assert last_line(process) == "The predecessor of input 'table' is missing; give it as --from table=TASK_ID."


def test_unknown_key_in_job_toml_is_named_with_the_nearest(make_job):
    process = make_job("[parameters.x]\ntype = 'integer'\nhelp = 'x'\nrnage = [0, 1]\n", READ).run()
    assert process.returncode == 2
    assert last_line(process) == "The key 'rnage' in [parameters.x] of toy/job.toml is unknown; did you mean 'range'."


@pytest.mark.parametrize(
    ("body", "code", "sentence"),
    [
        ("raise InputError('Nothing came.')", 3, "Nothing came."),
        ("raise GateRefused('Too bad.')", 4, "Too bad."),
        ("1 / 0", 1, "ZeroDivisionError at main.py:7: division by zero; the stack is above, a retry may help."),
        (
            "class OutOfMemoryException(Exception): pass\n    raise ValueError('x') from OutOfMemoryException()",
            6,
            "The job ran out of memory; raise its memory in [resources] of job.toml, or reduce its input.",
        ),
        ("sys.exit(3)", 1, "SystemExit at main.py:7: 3; the stack is above, a retry may help."),
        ("pass", 1, "The job ended without writing its output 'table', expected every output of job.toml."),
    ],
)
def test_failure_has_exit_code_and_last_line(make_job, body, code, sentence):
    job = make_job(OUTPUT, program(body))
    process = job.run()
    assert process.returncode == code
    assert last_line(process) == sentence
    failure = job.document("attempt-1/failure.json")
    assert (failure["exit_code"], failure["sentence"]) == (code, sentence)
    assert failure["peak_memory_bytes"] > 0
    assert failure["seconds"] >= 0
    assert not Path(f"{job.key()}/manifest.json".removeprefix("file://")).exists()


def test_fenced_process_leaves_no_failure_document(make_job):
    job = make_job(OUTPUT, program("raise StaleAttempt('Too late.')"))
    process = job.run()
    assert (process.returncode, last_line(process)) == (5, "Too late.")
    assert storage.files(job.key()) == []


def test_failure_document_has_the_chain_of_exceptions(make_job):
    chained = "try: {}['user']\n    except KeyError as error: raise InputError('No user.') from error"
    job = make_job(OUTPUT, program(chained))
    assert job.run().returncode == 3
    chain = job.document("attempt-1/failure.json")["exceptions"]
    assert [link["type"] for link in chain] == ["InputError", "KeyError"]
    assert chain[1] == {"type": "KeyError", "message": "'user'", "where": "main.py:7 main"}


def test_warnings_are_in_the_log_and_in_the_document_of_the_end(make_job):
    body = """for number in range(60):
        task.warn(f"Item {number} is\\nodd." + "!" * 600)
    if task.attempt == 1:
        raise InputError("No.")"""
    job = make_job("", program(body))
    failed, done = job.run(attempt=1), job.run(attempt=2)
    assert (failed.returncode, done.returncode) == (3, 0)
    for document in (job.document("attempt-1/failure.json"), job.document("manifest.json")):
        first, *others, last = document["warnings"]
        assert first.startswith("Item 0 is\\nodd.!!!")
        assert (len(first), len(others), last) == (501, 49, "10 more warnings are in the task's log.")
    assert done.stdout.count(" warning: Item ") == 60


@pytest.mark.parametrize(("number", "document"), [(signal.SIGTERM, True), (signal.SIGKILL, False)])
def test_killed_task_publishes_nothing(make_job, any_lake, number, document):
    job = make_job(
        OUTPUT,
        WRITE.replace("    task.metrics", "    print('here', flush=True); time.sleep(600)\n    task.metrics"),
    )
    job.lake = any_lake
    process = subprocess.Popen(job.command(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while "here" not in process.stdout.readline():
        pass
    process.send_signal(number)
    process.communicate()
    assert process.returncode in (143, -signal.SIGKILL)
    left = {file.uri.removeprefix(f"{job.key()}/") for file in storage.files(job.key())}
    assert "manifest.json" not in left
    assert ("attempt-1/failure.json" in left) == document


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (lambda uri: storage.delete_files([uri]), "part-0 is missing, though its manifest lists it"),
        (lambda uri: storage.write(uri, b"123"), "part-0 has 3 bytes, its manifest lists 5"),
    ],
)
def test_missing_or_shorter_file_stops_the_reader(writer, reader, any_lake, harm, sentence):
    writer.lake = reader.lake = any_lake
    assert writer.run(task="one").returncode == 0
    (file,) = writer.document("manifest.json", "one")["outputs"]["table"]["files"]
    harm(f"{writer.key('one')}/{file['path']}")
    process = reader.run("--from", "table=one", task="two")
    assert process.returncode == 3
    assert sentence in last_line(process)


def test_other_contract_stops_the_reader(writer, make_job):
    assert writer.run(task="one").returncode == 0
    process = make_job(INPUT.replace("interactions@2", "events@2"), READ).run("--from", "table=one", task="two")
    assert process.returncode == 3
    assert "events@2" in last_line(process)
    assert "interactions@2" in last_line(process)


def test_missing_lake_stops_the_reader(reader):
    process = reader.run("--from", "table=one", task="two")
    assert process.returncode == 3
    assert last_line(process) == f"There is no lake at {reader.lake}; mount it there, or correct --lake."


def test_missing_manifest_stops_the_reader(reader):
    storage.local(reader.lake).mkdir()
    process = reader.run("--from", "table=one", task="two")
    assert process.returncode == 3
    assert "Task 'one' (input 'table') has published nothing" in last_line(process)


MAPPED = 'mapped_by = "shards"\n' + OUTPUT + PARAMETER.replace("factors", "shards").replace("16", "3")


def test_reader_of_mapped_task_gets_all_shards_or_stops(make_job, reader):
    mapped = make_job(MAPPED, WRITE, "mapped")
    for index in (0, 2):
        assert mapped.run("--map-index", str(index), task="one").returncode == 0
    process = reader.run("--from", "table=one", task="two")
    assert process.returncode == 3
    assert "map-1/manifest.json" in last_line(process)
    assert mapped.run("--map-index", "1", task="one").returncode == 0
    assert reader.run("--from", "table=one", task="two").returncode == 0
    assert reader.document("manifest.json", "two")["metrics"] == {"files": ["part-0"] * 3, "rows": 3}
    assert len(reader.document("manifest.json", "two")["parents"]) == 3


SEED = '[parameters.seed]\ntype = "integer"\ndefault = 1\nhelp = "A number."\n'


@pytest.mark.parametrize(
    ("rerun_tasks", "settings", "stale"),
    [
        ([], [], None),
        (["model"], [], "0, 2"),  # the model was retrained, then shard 1 remade
        ([], ["--set", "seed=2"], "0, 2"),
    ],
)
def test_shards_of_different_origin_stop_the_reader(make_job, reader, writer, rerun_tasks, settings, stale):
    shards = make_job(MAPPED + INPUT + SEED, WRITE, "mapped")

    def make(index, *more):
        process = shards.run("--map-index", str(index), "--from", "table=model", *more, task="one", attempt=attempt)
        assert process.returncode == 0, process.stderr

    attempt = 1
    assert writer.run(task="model").returncode == 0
    for index in range(3):
        make(index)
    attempt = 2
    for task in rerun_tasks:
        assert writer.run(task=task, attempt=2).returncode == 0
    make(1, *settings)
    process = reader.run("--from", "table=one", task="two")
    if stale is None:
        assert process.returncode == 0
        return
    assert process.returncode == 3
    assert last_line(process).endswith(f"rerun task 'one' with map index {stale}.")


def test_newer_of_mapped_and_unmapped_try_is_read(make_job, writer, reader):
    mapped = make_job(MAPPED, WRITE, "mapped")

    def map_it(attempt):
        for index in (0, 1):
            number = ["--map-index", str(index), "--set", "shards=2"]
            assert mapped.run(*number, task="one", attempt=attempt).returncode == 0

    def read(attempt):
        assert reader.run("--from", "table=one", task="two", attempt=attempt).returncode == 0
        return reader.document("manifest.json", "two")["metrics"]["rows"]

    assert writer.run(task="one").returncode == 0
    assert read(1) == 1
    map_it(1)
    assert read(2) == 2
    assert writer.run(task="one", attempt=2).returncode == 0
    assert read(3) == 1
    map_it(2)
    assert read(4) == 2


def test_shards_of_different_counts_stop_the_reader(make_job, reader):
    mapped = make_job(MAPPED, WRITE, "mapped")
    for index, count in ((0, 2), (1, 3)):
        assert mapped.run("--map-index", str(index), "--set", f"shards={count}", task="one").returncode == 0
    process = reader.run("--from", "table=one", task="two")
    assert process.returncode == 3
    assert "is one of 3 shards" in last_line(process)


SHARDED = 'mapped_by = "shards"\n' + INPUT + "sharded = true\n" + PARAMETER.replace("factors", "shards")
WRITE_BUCKETS = program(
    """for bucket in (1, 0, 3, 30):
        storage.write(f"{task.folder('table')}/part-{bucket:05}-x.parquet", b"12")
    task.record_output("table", 9, 32)"""
)


def test_shard_reads_its_own_buckets_only(make_job, writer):
    buckets, reader = make_job(OUTPUT, WRITE_BUCKETS, "buckets"), make_job(SHARDED, READ, "sharded")
    assert buckets.run(task="one").returncode == 0
    entry = buckets.document("manifest.json", "one")["outputs"]["table"]
    assert entry["buckets"] == 32
    assert [file["bucket"] for file in entry["files"]] == [0, 1, 3, 30]

    def read(shard, shards, attempt):
        settings = ["--map-index", str(shard), "--set", f"shards={shards}", "--from", "table=one"]
        process = reader.run(*settings, task="two", attempt=attempt)
        if process.returncode:
            return process
        document = reader.document(f"map-{shard}/manifest.json", "two")
        assert document["inputs"]["table"]["files"] == len(document["metrics"]["files"])
        assert ("rows" in document["inputs"]["table"]) == (shards == 1), "the rows of a part are unknown"
        return document["metrics"]

    wanted = [["part-00000-x.parquet", "part-00001-x.parquet"], ["part-00003-x.parquet"], *[[]] * 13]
    for shard in (0, 1, 2, 15):
        expected = ["part-00030-x.parquet"] if shard == 15 else wanted[shard]
        assert read(shard, 16, 1) == {"files": expected, "rows": 9}
    assert read(0, 1, 2)["files"] == [file["path"].rpartition("/")[2] for file in entry["files"]]
    (storage.local(buckets.key("one")) / entry["files"][0]["path"]).unlink()
    assert read(1, 16, 3)["files"] == ["part-00003-x.parquet"]  # the file of another shard is not even looked for
    process = read(0, 64, 4)
    assert process.returncode == 2
    assert last_line(process) == (
        "Task 'one' (input 'table') does not divide into 64 shards; set shards of sharded to 1 to 32."
    )
    assert writer.run(task="one", attempt=2).returncode == 0
    assert "set shards of sharded to 1 to 1." in last_line(read(0, 2, 5))


def test_shard_reads_the_shard_of_the_same_number(make_job):
    mapped, reader = make_job(MAPPED, WRITE, "mapped"), make_job(SHARDED, READ, "sharded")
    for index in range(3):
        assert mapped.run("--map-index", str(index), task="one").returncode == 0
    assert reader.run("--map-index", "1", "--set", "shards=3", "--from", "table=one", task="two").returncode == 0
    document = reader.document("map-1/manifest.json", "two")
    assert document["metrics"] == {"files": ["part-0"], "rows": 3}
    assert len(document["parents"]) == 3
    storage.local(f"{mapped.key('one')}/map-2/attempt-1").rename(storage.local(f"{mapped.key('one')}/gone"))
    again = ["--map-index", "1", "--set", "shards=3", "--from", "table=one"]
    assert reader.run(*again, task="two", attempt=2).returncode == 0
    process = reader.run("--map-index", "1", "--set", "shards=4", "--from", "table=one", task="three")
    assert process.returncode == 2
    assert last_line(process).endswith("does not divide into 4 shards; set shards of sharded to 1 or 3.")


def test_sharded_needs_a_hand_over_of_a_mapped_job(make_job):
    dataset = SHARDED.replace("contract =", 'dataset = "x"\ncontract =')
    for name, tables in (("unmapped", INPUT + "sharded = true\n"), ("stored", dataset)):
        process = make_job(tables, READ, name).run()
        assert process.returncode == 2
        assert "is sharded, which only a hand-over of a mapped job is" in last_line(process)


def test_map_index_out_of_range_is_refused(make_job):
    process = make_job(MAPPED, WRITE, "mapped").run("--map-index", "3")
    assert process.returncode == 2
    assert "expected 0 to 2" in last_line(process)


def test_result_file_has_manifest_and_metrics_and_is_small(make_job, writer, tmp_path):
    result = tmp_path / "return.json"
    assert writer.run(environment={"TANDEM_RESULT_FILE": str(result)}).returncode == 0
    assert json.loads(result.read_text()) == {"manifest": f"{writer.key()}/manifest.json", "metrics": {"size": 5}}
    job = make_job("", program("task.metrics |= {'long': 'x' * 49152, 'short': 1}"))
    assert job.run(task="long", environment={"TANDEM_RESULT_FILE": str(result)}).returncode == 0
    left_out = "1 metrics, 'long' first; the manifest has them."
    result_document = {"manifest": f"{job.key('long')}/manifest.json", "metrics": {"short": 1}, "left_out": left_out}
    assert json.loads(result.read_text()) == result_document


def test_small_metrics_are_kept_next_to_large_ones(make_job, tmp_path):
    result = tmp_path / "return.json"
    many = "task.metrics |= {f'm{n}': n for n in range(100_000)} | {'reasons': {str(n): n for n in range(100_000)}}"
    assert make_job("", program(many)).run(environment={"TANDEM_RESULT_FILE": str(result)}).returncode == 0
    result_document = json.loads(result.read_text())
    assert result.stat().st_size <= 48 * 1024
    assert result_document["metrics"]["m7"] == 7
    assert len(result_document["metrics"]) > 1000
    assert result_document["left_out"].startswith(f"{100_001 - len(result_document['metrics'])} metrics")


def test_unwritable_result_file_does_not_fail_the_task(writer, tmp_path):
    process = writer.run(environment={"TANDEM_RESULT_FILE": str(tmp_path / "no" / "folder")})
    assert (process.returncode, process.stderr) == (0, "")
    assert writer.document("manifest.json")["metrics"] == {"size": 5}


@pytest.mark.parametrize(
    "name", ["a\nAll is well.", "a\r\nAll is well.", "a\u2028All is well.", "a\x85All is well.", "a\x1b[2KAll is well."]
)
def test_last_line_escapes_control_characters_in_names(make_job, name):
    process = make_job("", program("raise InputError(f'{task.run_id} is missing.')")).run(run=name)
    assert process.returncode == 3
    assert process.stderr.count("\n") == 1
    assert process.stderr.splitlines() == [process.stderr.rstrip("\n")]
    assert "\x1b" not in process.stderr
    assert all(re.match(r"\d{4}-", line) for line in process.stdout.splitlines())


def test_length_of_last_line_is_bounded(make_job):
    process = make_job("", program("raise InputError('x' * 1_000_000)")).run()
    assert 1000 < len(process.stderr) < 5000


@pytest.mark.parametrize("identity", ["-x", "--attempt", "-", "-1", "--x=y"])
def test_id_may_begin_with_a_dash(writer, identity):
    names = [f"--lake={writer.lake}", f"--dag-id={identity}", f"--run-id={identity}", f"--task-id={identity}"]
    command = [*writer.command()[:2], *names, "--attempt=1"]
    process = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert process.returncode == 0, process.stderr
    (found,) = storage.local(f"{writer.lake}/intermediate").rglob("manifest.json")
    assert json.loads(found.read_text())["task"]["run_id"] == identity


@pytest.mark.parametrize("time", ["yesterday", "2011-01-01", "2011-01-01T00:00:00", ""])
def test_start_of_run_without_offset_is_refused(writer, time):
    process = writer.run(f"--run-started={time}")
    assert process.returncode == 2
    assert "is not a time" in last_line(process)


REPLACES = f'{OUTPUT}[outputs.set]\ncontract = "interactions@2"\ndataset = "curated/set"\n'
EFFECT = (
    START
    + """
from common.engines import arrow
def main(task):
    if "before" in task.run_id:
        print("here", flush=True); time.sleep(600)
    folder, publish = arrow.destination(task, "set")
    storage.write(f"{folder}/part-0", b"1")
    publish(1)
    if "after" in task.run_id:
        print("here", flush=True); time.sleep(600)
    task.record_output("table", 0)
"""
    + END
)


@pytest.mark.parametrize(
    ("run", "sentence"),
    [
        ("before", "Terminated by SIGTERM before publishing; rerun the task."),
        (
            "after",
            "Terminated by SIGTERM after it published curated/set/all, without a manifest of its own; rerun the task.",
        ),
    ],
)
def test_sigterm_names_published_outputs(make_job, run, sentence):
    job = make_job(REPLACES, EFFECT)
    process = start(job.command(run=run))
    while "here" not in process.stdout.readline():
        pass
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate()
    assert (process.returncode, error.strip()) == (143, sentence)
    assert job.document("attempt-1/failure.json", run=run)["sentence"] == sentence


def test_sigterm_while_publishing_claims_nothing(make_job):
    """Hold the lock of the manifest in another process, so that the write takes as long."""
    job = make_job(REPLACES, EFFECT)
    key = storage.local(job.key())
    key.mkdir(parents=True)
    with (key / ".manifest.json.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = start(job.command())
        while f"-> FLOCK  ADVISORY  WRITE {process.pid} " not in Path("/proc/locks").read_text():
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate()
    assert process.returncode == 143
    assert error.startswith("Terminated by SIGTERM ")
    assert "before publishing" not in error


def test_sigterm_after_the_manifest_ends_with_success(writer, tmp_path):
    """Read the result late: the process waits for the reader when the signal arrives."""
    fifo = tmp_path / "result"
    os.mkfifo(fifo)
    process = start(writer.command(), TANDEM_RESULT_FILE=str(fifo))
    while not storage.local(f"{writer.key()}/manifest.json").exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert json.loads(fifo.read_text())["metrics"] == {"size": 5}
    _, error = process.communicate()
    assert (process.returncode, error) == (0, "")
    assert not storage.local(f"{writer.key()}/attempt-1/failure.json").exists()


def start(command, **environment):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_help_explains_the_job(writer):
    process = writer.run("--help")
    assert process.returncode == 0
    assert "factors" in process.stdout
    assert "from 1 to 512: How many. (default 16)" in process.stdout

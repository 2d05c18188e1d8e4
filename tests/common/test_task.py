"""The command line of every job, its exit codes, its inputs and outputs, its failure document, its result."""

import json
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from common import storage

HEADER = '[job]\ndescription = "A toy."\nengine = "python"\n'
OUTPUT = '[outputs.table]\ncontract = "interactions@1"\n'
INPUT = '[inputs.table]\ncontract = "interactions@1"\n'
PARAMETER = '[parameters.factors]\ntype = "integer"\ndefault = 16\nrange = [1, 512]\nhelp = "How many."\n'
START = """import os, sys, time
from common import storage
from common.failures import *
from common.task import Task, run
"""
END = "\nif __name__ == '__main__':\n    run(main)\n"
WRITE = (
    START
    + """
def main(task):
    storage.write(f"{task.folder('table')}/part-0", b"12345")
    task.metrics["size"] = 5
    task.written("table", 1)
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


def failing(body):
    return START + f"\ndef main(task):\n    {body}\n" + END


def last_line(process):
    return process.stderr.strip().splitlines()[-1]


@pytest.fixture
def writer(make_job):
    return make_job(HEADER + OUTPUT + PARAMETER, WRITE, "writer")


@pytest.fixture
def reader(make_job):
    return make_job(HEADER + INPUT, READ, "reader")


def test_a_manifest_says_what_was_written_by_whom_and_from_what(writer, reader):
    assert writer.run("--set", "factors=3", task="one").returncode == 0
    assert reader.run("--from", "table=one", task="two").returncode == 0
    written, read = writer.document("manifest.json", "one"), reader.document("manifest.json", "two")
    assert written["outputs"]["table"] == {
        "contract": "interactions@1",
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


def test_a_build_product_knows_its_name_and_fingerprint_whatever_its_folder_is_called(writer):
    (writer.folder / "fingerprint").write_text("0123456789abcdef real_name\n")
    assert writer.run().returncode == 0
    document = writer.document("manifest.json")
    assert (document["job"], document["fingerprint"]) == ("real_name", "0123456789abcdef")


def test_the_hand_over_works_on_the_s3_server(writer, reader, s3_server):
    writer.lake = reader.lake = "s3://tandem-lake/hand-over"
    assert writer.run(task="one", environment=s3_server).returncode == 0
    assert writer.run(task="one", environment=s3_server).returncode == 5
    second = reader.run("--from", "table=one", task="two", environment=s3_server)
    assert second.returncode == 0, second.stderr


def test_the_same_attempt_publishes_once(writer):
    assert writer.run().returncode == 0
    before = writer.document("manifest.json")
    again = writer.run()
    assert again.returncode == 5
    assert last_line(again).endswith("run the task with --attempt 2.")
    assert writer.document("manifest.json") == before
    assert writer.run(attempt=2).returncode == 0


def test_what_another_process_of_the_attempt_left_is_not_published(make_job):
    leaves = failing("storage.write(f\"{task.folder('table')}/left\", b'x'); raise Failure('No.')")
    job = make_job(HEADER + OUTPUT, leaves)
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
        (["--set", "factors=0"], "The parameter 'factors' is 0, expected a value from 1 to 512."),
        (["--set", "factors=many"], "The parameter 'factors' is 'many', expected an integer."),
        (["--set", "factors"], "'factors' is no pair, expected NAME=VALUE"),
        (["--from", "events=one"], "writer has no input 'events' that a task hands over; expected none."),
        (["--map-index", "0"], "writer is not mapped, expected no --map-index."),
        (["--lake", "hdfs://x"], "'hdfs://x' is no place that Tandem knows"),
        (["--colour"], "unrecognized arguments: --colour"),
    ],
)
def test_wrong_arguments_exit_with_2_and_one_sentence_before_anything_is_touched(writer, arguments, sentence, tmp_path):
    process = writer.run(*arguments)
    assert process.returncode == 2
    assert sentence in last_line(process)
    assert process.stderr.count("\n") == 1
    assert not (tmp_path / "lake").exists()


def test_a_role_without_predecessor_is_named(reader):
    process = reader.run()
    assert process.returncode == 2
    assert last_line(process) == "The predecessor of input 'table' is missing; give it as --from table=TASK_ID."


def test_a_wrong_key_in_job_toml_is_named_with_the_nearest(make_job):
    process = make_job(HEADER + "[parameters.x]\ntype = 'integer'\nhelp = 'x'\nrnage = [0, 1]\n", READ).run()
    assert process.returncode == 2
    assert last_line(process) == "The key 'rnage' in [parameters.x] of toy/job.toml is unknown; did you mean 'range'."


@pytest.mark.parametrize(
    ("body", "code", "sentence"),
    [
        ("raise InputError('Nothing came.')", 3, "Nothing came."),
        ("raise Refused('Too bad.')", 4, "Too bad."),
        ("1 / 0", 1, "ZeroDivisionError at main.py:7: division by zero; the stack is above, a retry may help."),
        (
            "raise MemoryError",
            1,
            "The job ran out of memory; give it more in [resources] of job.toml, or smaller input.",
        ),
        ("sys.exit(3)", 1, "SystemExit at main.py:7: 3; the stack is above, a retry may help."),
        ("pass", 1, "The job ended without writing its output 'table', expected every output of job.toml."),
    ],
)
def test_exit_codes_and_the_last_line(make_job, body, code, sentence):
    job = make_job(HEADER + OUTPUT, failing(body))
    process = job.run()
    assert process.returncode == code
    assert last_line(process) == sentence
    failure = job.document("attempt-1/failure.json")
    assert (failure["exit_code"], failure["sentence"]) == (code, sentence)
    assert failure["peak_memory_bytes"] > 0
    assert failure["seconds"] >= 0
    assert not Path(f"{job.key()}/manifest.json".removeprefix("file://")).exists()


def test_a_fenced_process_leaves_no_failure_document(make_job):
    job = make_job(HEADER + OUTPUT, failing("raise Fenced('Too late.')"))
    process = job.run()
    assert (process.returncode, last_line(process)) == (5, "Too late.")
    assert storage.files(job.key()) == []


def test_a_failure_document_holds_the_chain_of_exceptions(make_job):
    chained = "try: {}['user']\n    except KeyError as error: raise InputError('No user.') from error"
    job = make_job(HEADER + OUTPUT, failing(chained))
    assert job.run().returncode == 3
    chain = job.document("attempt-1/failure.json")["exceptions"]
    assert [link["type"] for link in chain] == ["InputError", "KeyError"]
    assert chain[1] == {"type": "KeyError", "message": "'user'", "where": "main.py:7 main"}


@pytest.mark.parametrize(("number", "document"), [(signal.SIGTERM, True), (signal.SIGKILL, False)])
def test_a_task_that_is_ended_publishes_nothing(make_job, number, document):
    job = make_job(
        HEADER + OUTPUT,
        WRITE.replace("    task.metrics", "    print('here', flush=True); time.sleep(60)\n    task.metrics"),
    )
    process = subprocess.Popen(job.command(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while "here" not in process.stdout.readline():
        pass
    before = time.monotonic()
    process.send_signal(number)
    process.communicate(timeout=10)
    assert time.monotonic() - before < 5
    assert process.returncode in (143, -signal.SIGKILL)
    key = Path(job.key().removeprefix("file://"))
    assert not (key / "manifest.json").exists()
    assert (key / "attempt-1/failure.json").exists() == document


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (lambda file: file.unlink(), "part-0 is missing, though its manifest lists it"),
        (lambda file: file.write_bytes(b"123"), "part-0 has 3 bytes, its manifest says 5"),
    ],
)
def test_a_listed_file_that_is_missing_or_shorter_stops_the_reader(writer, reader, harm, sentence):
    assert writer.run(task="one").returncode == 0
    (file,) = writer.document("manifest.json", "one")["outputs"]["table"]["files"]
    harm(Path(f"{writer.key('one')}/{file['path']}".removeprefix("file://")))
    process = reader.run("--from", "table=one", task="two")
    assert process.returncode == 3
    assert sentence in last_line(process)


def test_another_contract_stops_the_reader(writer, make_job):
    assert writer.run(task="one").returncode == 0
    process = make_job(HEADER + INPUT.replace("interactions@1", "events@1"), READ).run(
        "--from", "table=one", task="two"
    )
    assert process.returncode == 3
    assert "events@1" in last_line(process)
    assert "interactions@1" in last_line(process)


def test_a_lake_that_is_not_there_stops_the_reader(reader):
    process = reader.run("--from", "table=one", task="two")
    assert process.returncode == 3
    assert last_line(process) == f"There is no lake at {reader.lake}; mount it there, or correct --lake."


def test_nothing_published_stops_the_reader(reader):
    storage.local(reader.lake).mkdir()
    process = reader.run("--from", "table=one", task="two")
    assert process.returncode == 3
    assert "Task 'one' (input 'table') has published nothing" in last_line(process)


MAPPED = HEADER + 'mapped_by = "shards"\n' + OUTPUT + PARAMETER.replace("factors", "shards").replace("16", "3")


def test_a_reader_of_a_mapped_task_gets_all_parts_or_stops(make_job, reader):
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


def test_parts_of_different_counts_stop_the_reader(make_job, reader):
    mapped = make_job(MAPPED, WRITE, "mapped")
    for index, count in ((0, 2), (1, 3)):
        assert mapped.run("--map-index", str(index), "--set", f"shards={count}", task="one").returncode == 0
    process = reader.run("--from", "table=one", task="two")
    assert process.returncode == 3
    assert "is one of 3 parts" in last_line(process)


def test_a_map_index_out_of_range_is_refused(make_job):
    process = make_job(MAPPED, WRITE, "mapped").run("--map-index", "3")
    assert process.returncode == 2
    assert "expected 0 to 2" in last_line(process)


def test_the_result_file_holds_manifest_and_metrics_and_stays_small(make_job, writer, tmp_path):
    result = tmp_path / "return.json"
    assert writer.run(environment={"TANDEM_RESULT_FILE": str(result)}).returncode == 0
    assert json.loads(result.read_text()) == {"manifest": f"{writer.key()}/manifest.json", "metrics": {"size": 5}}
    job = make_job(HEADER, failing("task.metrics |= {'long': 'x' * 49152, 'short': 1}"))
    assert job.run(task="long", environment={"TANDEM_RESULT_FILE": str(result)}).returncode == 0
    left_out = "1 metrics, 'long' first; the manifest has them."
    told = {"manifest": f"{job.key('long')}/manifest.json", "metrics": {"short": 1}, "left_out": left_out}
    assert json.loads(result.read_text()) == told


def test_help_explains_the_job(writer):
    process = writer.run("--help")
    assert process.returncode == 0
    assert "factors" in process.stdout
    assert "from 1 to 512: How many. (default 16)" in process.stdout

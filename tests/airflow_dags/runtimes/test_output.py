"""A job's files and output are read in bounded amounts, without following links and without waiting."""

import dataclasses
import json
import os
import socket
import sys
import tracemalloc

import factories
import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from tandem.lake import read_document
from tandem.operator import conclude
from tandem.recording import Account
from tandem.runtimes.base import Outcome
from tandem.runtimes.local.process import Process
from tandem.runtimes.output import MAX_LINE, lines, read_result, shorten_last_line

SECRET = '{"manifest": "secret of the host"}'


def link(path, secret):
    path.symlink_to(secret)


def link_in_circle(path, secret):
    path.symlink_to(path)


def link_to_device(path, secret):
    path.symlink_to("/dev/zero")


def pipe(path, secret):
    os.mkfifo(path)


def folder(path, secret):
    path.mkdir()


def listening(path, secret):
    socket.socket(socket.AF_UNIX).bind(str(path))


def large(path, secret):
    with path.open("wb") as file:
        file.truncate(300 << 20)


def missing(path, secret):
    pass


LEFT = (link, link_in_circle, link_to_device, pipe, folder, listening, large, missing)


@pytest.fixture
def secret(tmp_path):
    file = tmp_path / "secret.json"
    file.write_text(SECRET)
    return file


@pytest.mark.parametrize("leave", LEFT)
def test_result_that_is_not_a_small_file_is_ignored(tmp_path, secret, leave):
    leave(tmp_path / "result.json", secret)
    tracemalloc.start()
    found = read_result(tmp_path / "result.json")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found is None
    assert peak < 32 << 20  # other threads allocate, too


@pytest.mark.parametrize("leave", [link, link_in_circle, link_to_device, pipe, folder, listening, missing])
def test_document_that_is_not_a_file_is_ignored(tmp_path, secret, leave):
    leave(tmp_path / "manifest.json", secret)
    assert read_document(f"file://{tmp_path}/manifest.json") is None


@pytest.mark.parametrize("content", ["", "{", "[1]", '"text"', "1", "null", "[" * 100_000, '{"a": 1}x', "\0", "NaN"])
def test_document_that_is_not_an_object_is_ignored(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    assert read_document(f"file://{tmp_path}/manifest.json") is None


def test_document_that_is_too_large_is_ignored(tmp_path, monkeypatch):
    monkeypatch.setattr("tandem.lake.MAX_DOCUMENT", 100)
    for length, read in ((91, True), (92, False)):
        (tmp_path / "manifest.json").write_text(json.dumps({"a": "x" * length}))
        assert (read_document(f"file://{tmp_path}/manifest.json") is not None) == read


def in_a_process(tmp_path, body, **changes):
    """The outcome of a Python program that runs as a job."""
    (tmp_path / "jobs" / "toy").mkdir(parents=True, exist_ok=True)
    (tmp_path / "jobs" / "toy" / "main.py").write_text(f"import os, sys, time\n{body}\n")
    runtime = Process(code=tmp_path, python=sys.executable)
    attempt = factories.attempt(lake=f"file://{tmp_path}/lake", **changes)
    return runtime.watch(runtime.submit(attempt))


@pytest.mark.parametrize(
    "body",
    [
        "os.symlink('SECRET', os.environ['TANDEM_RESULT_FILE'])",
        "os.mkfifo(os.environ['TANDEM_RESULT_FILE'])",
        "os.mkdir(os.environ['TANDEM_RESULT_FILE'])",
        "open(os.environ['TANDEM_RESULT_FILE'], 'wb').truncate(300 << 20)",
        "os.rmdir(os.path.dirname(os.environ['TANDEM_RESULT_FILE']))",
    ],
)
def test_job_without_result_file_has_no_result(tmp_path, secret, body):
    outcome = in_a_process(tmp_path, body.replace("SECRET", str(secret)))
    assert (outcome.exit_code, outcome.result) == (0, None)


def test_endless_line_of_output_is_read_in_pieces(tmp_path, caplog):
    caplog.set_level("INFO", "tandem")
    outcome = in_a_process(tmp_path, "for _ in range(100): sys.stdout.write('x' * 10_000)")
    assert sum(len(line) for line in caplog.messages) == 1_000_000
    assert max(len(line) for line in caplog.messages) <= MAX_LINE
    assert len(outcome.last_line) < 1100


@pytest.mark.parametrize("size", [1, 7, MAX_LINE - 1, MAX_LINE, 1 << 20])
def test_long_lines_are_cut_for_any_chunk_size(size):
    content = b"a\n" + b"x" * (3 * MAX_LINE + 5) + b"\n\nend"
    found = list(lines(content[at : at + size] for at in range(0, len(content), size)))
    assert "".join(found) == content.decode().replace("\n", "")
    assert max(map(len, found)) <= MAX_LINE
    assert (found[0], found[-2:]) == ("a", ["", "end"])


@pytest.mark.parametrize(
    ("line", "last"), [("  a \n", "a"), ("10 %\r20 %\rdone\n", "done"), ("x" * 2000, "x" * 1000 + "…")]
)
def test_last_line_is_as_a_terminal_shows_it(line, last):
    assert shorten_last_line(line) == last


ATTEMPT = factories.attempt(lake="", number=2, run_started="2026-01-02T00:00:00.000000+00:00")
FINE = {"task": {"attempt": 2}, "metrics": {"n": 1}}
OLDER = {**FINE, "task": {"attempt": 2, "run_started": "2026-01-01T00:00:00.000000+00:00"}}
FAILURE = {"task": {"attempt": 2}, "exit_code": 4, "sentence": "GateRefused.", "exceptions": []}
ENDS = {  # manifest, failure document, exit code; how the task ends, and a part of its message
    "published": (FINE, None, 0, None, ""),
    "killed after it published": (FINE, None, -9, None, ""),
    "failed after it published": (FINE, None, 1, None, ""),
    "fenced by its own attempt": (FINE, None, 5, None, ""),
    "not published": (None, None, 0, AirflowException, "without a manifest of this attempt"),
    "of an older attempt": ({"task": {"attempt": 1}}, None, 1, AirflowException, "ended with exit code 1."),
    "of a newer attempt": ({"task": {"attempt": 3}}, None, 1, AirflowFailException, "exit code 5 (fenced"),
    "of an older run of its ID": (OLDER, None, 1, AirflowException, "ended with exit code 1."),
    "manifest without a task": ({}, None, 0, AirflowException, "without a manifest of this attempt"),
    "task of another form": ({"task": [2]}, None, 0, AirflowException, "without a manifest of this attempt"),
    "refused": (None, FAILURE, 1, AirflowFailException, "exit code 4 (a quality gate"),
    "failure without a code": (None, {"task": {"attempt": 2}}, 3, AirflowFailException, "exit code 3 (an input"),
    "failure with a wrong code": (None, {**FAILURE, "exit_code": "4"}, 1, AirflowException, "exit code 1."),
    "failure of lists": (None, {**FAILURE, "exceptions": [1]}, 1, AirflowException, "exit code 1."),
    "forged line": (None, {**FAILURE, "sentence": "a\nIt is fine."}, 1, AirflowFailException, "\na It is fine."),
}


@pytest.mark.parametrize("name", ENDS)
def test_manifest_of_the_attempt_decides(tmp_path, name):
    manifest, failure, code, error, line = ENDS[name]
    attempt = dataclasses.replace(ATTEMPT, lake=f"file://{tmp_path}")
    left = tmp_path / "intermediate" / "d" / "r" / "t"
    (left / "attempt-2").mkdir(parents=True)
    if manifest is not None:
        (left / "manifest.json").write_text(json.dumps(manifest))
    if failure is not None:
        (left / "attempt-2" / "failure.json").write_text(json.dumps(failure))
    outcome = Outcome(code, None, "")
    if error is None:
        result = {"manifest": f"{attempt.key}/manifest.json", "metrics": {"n": 1}}
        assert conclude(attempt, outcome, Account()) == (result, manifest)
        return
    with pytest.raises(AirflowException) as raised:
        conclude(attempt, outcome, Account())
    assert type(raised.value) is error
    assert line in str(raised.value)


@pytest.mark.parametrize(("seconds", "cancelled"), [(0.5, True), (60, False), (None, False)])
def test_deadline_ends_process_with_explanation(tmp_path, seconds, cancelled):
    body = "time.sleep(600)" if cancelled else "print('done')"
    outcome = in_a_process(tmp_path, body, deadline_seconds=seconds)
    assert (outcome.exit_code == 0) != cancelled
    sentence = "It ran into its deadline of 0.5 s; give it more by deadline_seconds in [resources] of job.toml"
    assert outcome.explanation.startswith(sentence if cancelled else "")
    assert bool(outcome.explanation) == cancelled


def test_deadline_of_job_toml_ends_attempt_which_is_retried(workshop):
    workshop.job("slow", "import time; time.sleep(600)", more="[resources]\ndeadline_seconds = 1")
    workshop.job("quick")
    workshop.pipeline("due", 'dag.container("slow")\ndag.container("quick")', slow={}, quick={})
    ran = workshop.run("due")
    assert ran.states == {"look_for_input": "success", "slow": "failed", "quick": "success"}
    assert (ran.tries["slow"], ran.tries["quick"]) == (2, 1)
    assert any(line.startswith("It ran into its deadline of 1 s;") for line in ran.log)
    assert workshop.load("due").get_task("quick").deadline_seconds == 14400  # the environment's


SECRETS = ("AWS_SECRET_ACCESS_KEY", "AIRFLOW_CONN_SMTP_DEFAULT", "AIRFLOW__CORE__FERNET_KEY", "DYNAMODB_PASSWORD")


def test_secrets_of_worker_are_not_logged_returned_or_published(workshop, monkeypatch):
    """A job fails with its arguments in its message, another one succeeds."""
    for number, name in enumerate(SECRETS):
        monkeypatch.setenv(name, f"hush-{number}")
    text = '[parameters.text]\ntype = "string"\ndefault = ""\nhelp = "a text"'
    workshop.job("fine", "task.metrics['arguments'] = sys.argv", more=text)
    workshop.job("fails", "raise errors.GateRefused(f'{sys.argv} {task.parameters}')", more=text)
    settings = {"parameters": {"text": " ".join(f"$({name}) ${name}" for name in SECRETS)}}
    workshop.pipeline("hush", 'dag.container("fine")\ndag.container("fails")', fine=settings, fails=settings)
    ran = workshop.run("hush")
    assert ran.states == {"look_for_input": "success", "fine": "success", "fails": "failed"}
    left = [file.read_text(errors="replace") for file in workshop.lake.rglob("*") if file.is_file()]
    assert len(left) >= 2
    for text in (*left, *ran.log, json.dumps(ran.xcoms)):
        assert "hush-" not in text

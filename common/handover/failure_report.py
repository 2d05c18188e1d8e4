"""Report how a task failed: a failure document, the stack, and one last sentence on stderr."""

import contextlib
import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from common import protocol
from common.errors import StaleAttempt, TaskError, one_line
from common.handover import manifest, storage
from common.handover.task import Task

LAST_LINE_SINKS: list[Callable[[str], None]] = []  # in addition to this process's stderr
PATIENCE = 2  # seconds that SIGTERM waits for a write that publishes; runtimes wait three or more before SIGKILL


def report_failure(error: BaseException, task: Task | None) -> None:
    """Write the failure document, print the stack of an unexpected exception, and end stderr with one sentence."""
    if not isinstance(error, TaskError):
        traceback.print_exception(error)
    sentence = one_line(str(error) if isinstance(error, TaskError) else describe_unexpected(error))
    if task and not isinstance(error, StaleAttempt):
        with contextlib.suppress(Exception):  # a lake that cannot be written to must not hide the failure itself
            write_failure_document(task, code_of(error), sentence, error)
    print_last_line(sentence)


def print_last_line(sentence: str) -> None:
    """End stderr, and the other sinks of the last line, with a sentence."""
    print(sentence, file=sys.stderr, flush=True)
    for sink in LAST_LINE_SINKS:
        with contextlib.suppress(Exception):  # the exit code matters more
            sink(sentence)


def write_failure_document(task: Task, code: int, sentence: str, error: BaseException | None) -> None:
    """Describe the failure in the attempt's folder, unless another process of this attempt has published."""
    current = manifest.load_or_none(protocol.manifest_uri(task.key))
    if current and manifest.compare_attempts(current.document["task"], task.identity) == 0:
        return
    chain = []
    while error:
        frames = traceback.extract_tb(error.__traceback__)
        where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno} {frames[-1].name}" if frames else ""
        chain.append({"type": type(error).__name__, "message": str(error)[:4000], "where": where})
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    document = {"format": manifest.FORMAT, "task": task.identity, "job": task.job.name, "fingerprint": task.code}
    document |= {"exit_code": code, "sentence": sentence, "exceptions": chain, "effects": task.effects}
    document |= {"metrics": task.metrics, **task.warned(), **task.provenance()}
    document |= {**task.deliveries_taken(), **task.timings()}
    storage.write(protocol.failure_uri(task.attempt_folder), manifest.to_json(document))


def code_of(error: BaseException) -> int:
    """Return the exit code that an exception of a job stands for."""
    if isinstance(error, TaskError):
        return error.exit_code
    return protocol.EXIT_MEMORY if is_out_of_memory(error) else 1


def is_out_of_memory(error: BaseException | None) -> bool:
    """Return True for Python's and Arrow's MemoryError, for DuckDB's, and for an exception that one of them caused."""
    while error:
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryException":
            return True
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return False


def describe_unexpected(error: BaseException) -> str:
    """Describe an exception that the job did not expect in one sentence."""
    if is_out_of_memory(error):
        return "The job ran out of memory; raise its memory in [resources] of job.toml, or reduce its input."
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        scratch = os.environ.get("TMPDIR", "/tmp")
        return f"No space is left in the lake or in the scratch folder {scratch} ({error}); free some, then rerun."
    first_line = next(iter(str(error).strip().splitlines()), "")[:300]
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}: {first_line or 'no message'}; the stack is above, a retry may help."


def describe_termination(task: Task, publishing: bool) -> str:
    """Describe in one sentence the outputs that a task ended by SIGTERM has published, if any."""
    if publishing:
        return f"Terminated by SIGTERM while publishing; check {protocol.manifest_uri(task.key)}, then rerun the task."
    if not task.effects:
        return "Terminated by SIGTERM before publishing; rerun the task."
    more = f" and {len(task.effects) - 1} more" if len(task.effects) > 1 else ""
    return f"Terminated by SIGTERM after it {task.effects[0]}{more}, without a manifest of its own; rerun the task."


@contextlib.contextmanager
def handle_sigterm(task: Task) -> Iterator[None]:
    """End the process soon after SIGTERM, with a failure document; a process that has published ends by itself.

    Python runs signal handlers between two of its own instructions, which is too late in a long matrix product, and
    the first process of a container ignores a signal without a handler. So the C handler wakes a thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    former = signal.signal(signal.SIGTERM, lambda *_: None)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def end() -> None:
        while number := os.read(reading, 1):
            if number[0] == signal.SIGTERM:
                publishing = not task.effect_lock.acquire(timeout=PATIENCE)
                if task.published:
                    return
                sentence = one_line(describe_termination(task, publishing))
                with contextlib.suppress(Exception):
                    write_failure_document(task, 128 + signal.SIGTERM, sentence, None)
                print_last_line(sentence)
                os._exit(128 + signal.SIGTERM)

    threading.Thread(target=end, daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, former)
        os.close(writing)

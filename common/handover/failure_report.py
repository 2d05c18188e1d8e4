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

LAST_LINE_TO: list[Callable[[str], None]] = []  # where else the last line goes than to this process's stderr
PATIENCE = 2  # seconds that SIGTERM waits for a write that publishes; who sends it waits for three or more


def tell_failure(error: BaseException, task: Task | None) -> None:
    """Leave the failure document, print the stack of what nobody foresaw, and end stderr with one sentence."""
    if not isinstance(error, TaskError):
        traceback.print_exception(error)
    sentence = one_line(str(error) if isinstance(error, TaskError) else describe_unexpected(error))
    if task and not isinstance(error, StaleAttempt):
        code = error.exit_code if isinstance(error, TaskError) else 1
        with contextlib.suppress(Exception):  # a lake that cannot be written to must not hide the failure itself
            leave_failure_document(task, code, sentence, error)
    tell_last(sentence)


def tell_last(sentence: str) -> None:
    """End stderr, and whatever stands for it, with a sentence."""
    print(sentence, file=sys.stderr, flush=True)
    for tell in LAST_LINE_TO:
        with contextlib.suppress(Exception):  # the exit code matters more
            tell(sentence)


def leave_failure_document(task: Task, code: int, sentence: str, error: BaseException | None) -> None:
    """Leave what happened in the attempt's folder, unless another process of this attempt has published."""
    there = manifest.load_or_none(protocol.manifest_uri(task.key))
    if there and manifest.compared(there.document["task"], task.identity) == 0:
        return
    chain = []
    while error:
        frames = traceback.extract_tb(error.__traceback__)
        where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno} {frames[-1].name}" if frames else ""
        chain.append({"type": type(error).__name__, "message": str(error)[:4000], "where": where})
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    document = {"format": manifest.FORMAT, "task": task.identity, "job": task.job.name, "fingerprint": task.code}
    document |= {"exit_code": code, "sentence": sentence, "exceptions": chain, "effects": task.effects}
    document |= {**task.given(), **task.times()}
    storage.write(protocol.failure_uri(task.attempt_folder), manifest.content(document))


def describe_unexpected(error: BaseException) -> str:
    """One sentence about an exception that the job did not expect."""
    if isinstance(error, MemoryError):
        return "The job ran out of memory; give it more in [resources] of job.toml, or smaller input."
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        scratch = os.environ.get("TMPDIR", "/tmp")
        return (
            f"No space is left in the lake or in the scratch folder {scratch} ({error}); give it more, then run again."
        )
    first_line = next(iter(str(error).strip().splitlines()), "")[:300]
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}: {first_line or 'no message'}; the stack is above, a retry may help."


def terminated(task: Task, at_rest: bool) -> str:
    """One sentence about a task that SIGTERM ends: what it has published, if anything."""
    if not at_rest:
        return f"Terminated by SIGTERM while publishing; check {protocol.manifest_uri(task.key)}, then rerun the task."
    if not task.effects:
        return "Terminated by SIGTERM before publishing; rerun the task."
    more = f" and {len(task.effects) - 1} more" if len(task.effects) > 1 else ""
    return f"Terminated by SIGTERM after it {task.effects[0]}{more}, without a manifest of its own; rerun the task."


@contextlib.contextmanager
def ended_by_sigterm(task: Task) -> Iterator[None]:
    """End the process soon after SIGTERM, with a failure document; one that has published comes to its end by itself.

    Python runs signal handlers between two of its own instructions, which in a long matrix product is too late, and
    the first process of a container ignores a signal without a handler: so the C handler wakes a thread.
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
                at_rest = task.taking_effect.acquire(timeout=PATIENCE)
                if task.published:
                    return
                sentence = one_line(terminated(task, at_rest))
                with contextlib.suppress(Exception):
                    leave_failure_document(task, 128 + signal.SIGTERM, sentence, None)
                tell_last(sentence)
                os._exit(128 + signal.SIGTERM)

    threading.Thread(target=end, daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, former)
        os.close(writing)

"""Read the end of a Spark driver's log that EMR uploaded to S3."""

import contextlib
import gzip
import re
import zlib
from collections.abc import Mapping
from typing import Any

from tandem.runtimes.output import JVM_LINE, MAX_LAST_LINE
from tandem.runtimes.polling import Submission
from tandem.stores import s3

MAX_LOG = 4 << 20  # bytes at the end of a log that are searched for its last lines
RAISED = re.compile(
    r"(Caused by: )?([\w$]+\.)*\w+(Error|Exception|Interrupt|Exit)\b"
)  # begins an exception's last line


def driver_log(logs: str, step: Submission) -> dict[str, str]:
    """The driver's output by URI, as far as it is on S3.

    In client mode the step's process is the driver. In cluster mode it is the first container of the YARN application
    that the step's process names, if it got that far.
    """
    step_texts = step_log(logs, step)
    application = re.search(r"application_\d+_\d+", "".join(step_texts.values()))
    if application is None or step.attempt.request["deploy_mode"] == "client":
        return step_texts
    return texts(f"{logs}/containers/{application[0]}/", r"_0*1/std...\.gz$")


def step_log(logs: str, step: Submission) -> dict[str, str]:
    """The output of a step's process, by URI."""
    return texts(f"{logs}/steps/{step.id}/")


def texts(prefix: str, ending: str = r"/std(out|err)\.gz$") -> dict[str, str]:
    """The ends of all outputs with this prefix and ending, by URI, without empty ones."""
    uris = [file.uri for file in s3.below(prefix) if re.search(ending, file.uri)]
    ends = {uri: s3.opened(uri, end_of).decode(errors="replace") for uri in uris}
    return {uri: text for uri, text in ends.items() if text.strip()}


def end_of(packed: Any) -> bytes:
    """The last MAX_LOG bytes of a gzip file's content, all of it if it has fewer."""
    kept = b""
    with contextlib.suppress(EOFError, OSError, zlib.error), gzip.open(packed) as file:  # some logs are cut off
        while piece := file.read(1 << 20):
            kept = (kept + piece)[-MAX_LOG:]
    return kept


def last_exceptions(logs: Mapping[str, str]) -> list[str]:
    """One line per log: its URI and its last exception."""
    return [f"{uri} ends with: {last_exception(text)}" for uri, text in logs.items()]


def last_exception(text: str) -> str:
    """The last line that begins as an exception's does, else the last that the job printed, else the last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    raised = [line for line in lines if RAISED.match(line)]
    return (raised or [line for line in lines if not JVM_LINE.match(line)] or lines)[-1][:MAX_LAST_LINE]

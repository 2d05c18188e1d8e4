"""Read a job's output and its result file in bounded amounts, however long they are."""

import logging
import re
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

from tandem.protocol import MAX_RESULT
from tandem.stores.files import Unreadable, read_file

MAX_LINE = 16 << 10  # bytes of output in a line of the log; a longer one becomes several
MAX_LAST_LINE = 1000  # characters of the last line, which messages quote
JVM_LINE = re.compile(r"\d\d/\d\d/\d\d \d\d:\d\d:\d\d ")  # Spark's own log, which also follows a job's last line
log = logging.getLogger(__name__)


def read_result(path: Path) -> str | None:
    """The content of a result file, None if there is none or it may not be read."""
    try:
        return read_file(path, MAX_RESULT).decode(errors="replace")
    except FileNotFoundError:
        return None
    except Unreadable as error:
        log.warning("The result file is ignored (%s); the manifest is used instead.", error)
        return None


def pass_on(output: Iterable[str], last_lines: deque[str]) -> None:
    """Print each line of a job's output as it comes, and keep the last one that is not blank."""
    for line in output:
        log.info("%s", line.rstrip())
        if line.strip() and not JVM_LINE.match(line):
            last_lines.append(shorten_last_line(line))


def lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """Lines of text from chunks of output that end anywhere; a very long line comes in several."""
    rest = b""
    for chunk in chunks:
        *complete, rest = (rest + chunk).split(b"\n")
        for line in complete:
            yield from cut(line)
        if len(rest) >= MAX_LINE:
            *long, rest = (rest[at : at + MAX_LINE] for at in range(0, len(rest), MAX_LINE))
            yield from (piece.decode(errors="replace") for piece in long)
    if rest:
        yield from cut(rest)


def cut(line: bytes) -> Iterator[str]:
    for at in range(0, max(1, len(line)), MAX_LINE):
        yield line[at : at + MAX_LINE].decode(errors="replace")


def shorten_last_line(line: str) -> str:
    """A job's last line, short enough for messages and without progress that a carriage return overwrote."""
    text = line.strip().rpartition("\r")[2]
    return text if len(text) <= MAX_LAST_LINE else f"{text[:MAX_LAST_LINE]}…"

"""Read what a job printed, and its result file, in bounded amounts, whatever the job did."""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

from tandem.lake import Unreadable, read_file
from tandem.protocol import MAX_RESULT

MAX_LINE = 16 << 10  # bytes of output that are a line of the log; a longer one becomes several
MAX_LAST_LINE = 1000  # characters of the last line, which goes into messages
log = logging.getLogger(__name__)


def read_result(path: Path) -> str | None:
    """The content of a result file, None if there is none, or none that may be read."""
    try:
        return read_file(path, MAX_RESULT).decode(errors="replace")
    except FileNotFoundError:
        return None
    except Unreadable as error:
        log.warning("The result file is left (%s); the manifest is taken instead.", error)
        return None


def lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """Lines of text out of pieces of output that end anywhere; a very long line comes in several."""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield from cut(line)
        if len(rest) >= MAX_LINE:
            *long, rest = (rest[at : at + MAX_LINE] for at in range(0, len(rest), MAX_LINE))
            yield from (piece.decode(errors="replace") for piece in long)
    if rest:
        yield from cut(rest)


def cut(line: bytes) -> Iterator[str]:
    for at in range(0, max(1, len(line)), MAX_LINE):
        yield line[at : at + MAX_LINE].decode(errors="replace")


def remembered(line: str) -> str:
    """A line as the last one of a job, for messages."""
    text = line.strip().rpartition("\r")[2]
    return text if len(text) <= MAX_LAST_LINE else f"{text[:MAX_LAST_LINE]}…"

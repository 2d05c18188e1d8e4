"""Files of deliveries, read as a stream: unpacked and split into records, whatever bytes they hold."""

import datetime
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from common.errors import GateRefused, InputError
from common.handover import storage
from common.handover.inputs import Input
from common.handover.storage import File
from common.ingestion.records import IN_BAD_FILE, MAX_KEPT, MAX_RECORD, escaped

if TYPE_CHECKING:
    from common.handover.task import Task

Found = TypeVar("Found")
CHUNK = 64 * 1024  # bytes unpacked at once
MAX_UNPACKED = 16 << 30  # bytes of a file
MAX_SKIPPED = 1 << 30  # bytes of a record; Hadoop's reader ends at twice as many
MAX_RATIO, FREE = 100, 16 << 20  # unpacked bytes for each packed one, of what is more than FREE and not too long


class Unreadable(Exception):
    """A file can't be read to its end, so nothing of it is used; the message is the reason that quarantine gives."""


class Line(NamedTuple):
    """A line of a file without its end; of one longer than MAX_RECORD only the first bytes."""

    number: int
    size: int
    content: bytes

    @property
    def too_long(self) -> bool:
        return self.size > len(self.content)


class Quarantined(NamedTuple):
    """A file that is left out, and why."""

    file: File
    reason: str


@dataclass
class Survey:
    """The number of lines of a file that was read to its end, and the lines that are too long."""

    lines: int = 0
    too_long: list[Line] = field(default_factory=list)


def accepted(source: Input, suffix: str) -> tuple[list[File], list[Quarantined]]:
    """The files of deliveries whose names end like that, and those that are left out.

    Raises InputError if no file is accepted.
    """
    files = [file for file in source.files if file.uri.endswith(suffix)]
    left_out = [Quarantined(file, reason) for file, reason in source.left_out]
    left_out += [Quarantined(file, f"not a file *{suffix}") for file in source.files if not file.uri.endswith(suffix)]
    if not files:
        raise nothing_readable(source, left_out)
    return files, left_out


def read_all(
    task: "Task", suffix: str, read: Callable[[File, datetime.date], Found]
) -> tuple[list[Found], list[Quarantined]]:
    """Apply a function to each file of the deliveries and its day of arrival; its results, and the files left out.

    Raises InputError if no file can be read.
    """
    source = task.input("deliveries")
    files, left_out = accepted(source, suffix)
    found = []
    for number, file in enumerate(files):
        task.progress("deliveries read", number, len(files))
        try:
            if suffix == ".gz":
                survey(file)  # quickly finds what is corrupt or unpacks to too much, before its records are looked at
            found.append(read(file, source.arrivals[file.uri]))
        except Unreadable as error:
            left_out.append(Quarantined(file, str(error)))
    if not found:
        raise nothing_readable(source, left_out)
    return found, left_out


def counts(reasons: Counter[str], quarantined: int, left_out: int) -> dict[str, object]:
    """The metrics of an ingestion: unusable records by reason, corrupt files, files with too many unusable records."""
    return {
        "unusable": reasons.total(),
        "reasons": dict(reasons.most_common()),
        "files_quarantined": quarantined,
        "files_left_out": left_out,
    }


def refuse_unusable(usable: int, records: int, reasons: Counter[str], max_share: float) -> None:
    """GateRefused if no record is usable, with the three most frequent reasons."""
    if usable:
        return
    own = Counter({reason: count for reason, count in reasons.items() if reason != IN_BAD_FILE})
    told = ", ".join(f"{reason} ({count})" for reason, count in own.most_common(3)) or "there is none"
    raise GateRefused(
        f"{own.total()} of {records} records are unusable, at most {max_share:.1%} of a file may be: {told}; nothing "
        "was published: have the deliveries mended, or raise max_quarantined_share."
    )


def nothing_readable(source: Input, left_out: list[Quarantined]) -> InputError:
    """The failure of deliveries of which no file can be read; it names the first ones."""
    if not left_out:
        return InputError(f"No delivery lies in {source.folder} for these arrival days; load one, or name other days.")
    told = "; ".join(f"{name_of(file)}: {reason}" for file, reason in left_out[:3])
    more = f"; and {len(left_out) - 3:,} more" if len(left_out) > 3 else ""
    return InputError(f"No file in {source.folder} can be read ({told}{more}); deliver them again.")


def quarantine_of_files(left_out: list[Quarantined]) -> list[tuple[object, ...]]:
    """Rows of quarantine@2 for whole files."""
    return [(name_of(file), None, reason, file.bytes, None) for file, reason in left_out]


def quarantine_of_line(file: File, line: Line, reason: str) -> tuple[object, ...]:
    """A row of quarantine@2 for a line."""
    return name_of(file), line.number, reason, line.size, escaped(line.content)


def name_of(file: File) -> str:
    return escaped(file.uri.encode(errors="surrogateescape")) or ""


def lines(file: File) -> Iterator[Line]:
    """The lines of a file, gzipped if it is *.gz; they end with a line feed and with nothing else.

    Raises Unreadable where it is corrupt.
    """
    number = size = short = 0
    begun = bytearray()  # the line that has not ended yet
    for piece in unpacked(file) if file.uri.endswith(".gz") else plain(file):
        *ended, last = piece.split(b"\n")
        for part in ended:
            number += 1
            if size:
                size += len(part)
                begun += part[: MAX_RECORD + 1 - len(begun)]
                short += size if size <= MAX_RECORD else 0
                yield Line(number, size, bytes(begun if size <= MAX_RECORD else begun[:MAX_KEPT]))
                begun.clear()
                size = 0
            else:
                short += len(part) + 1
                yield Line(number, len(part), part)
        size += len(last)
        begun += last[: MAX_RECORD + 1 - len(begun)]
        check_size(file, size, short)
    if size:
        yield Line(number + 1, size, bytes(begun if size <= MAX_RECORD + 1 else begun[:MAX_KEPT]))


def survey(file: File) -> Survey:
    """Read a gzipped file to its end, as `lines` does but without making its lines; Unreadable if it is corrupt."""
    found = Survey()
    size = short = 0
    head = b""
    for piece in unpacked(file):
        first = piece.find(b"\n")
        if first < 0:
            size += len(piece)
            head += piece[: MAX_KEPT - len(head)]
        else:
            size += first
            head += piece[: min(first, MAX_KEPT - len(head))]
            if size > MAX_RECORD:
                found.too_long.append(Line(found.lines + 1, size, head))
            else:
                short += size
            found.lines += piece.count(b"\n")
            last = piece.rfind(b"\n")
            short += last - first + 1
            size = len(piece) - last - 1
            head = piece[last + 1 : last + 1 + MAX_KEPT]
        check_size(file, size, short)
    if size > MAX_RECORD + 1:  # Hadoop's reader counts the line's end, which is missing here
        found.too_long.append(Line(found.lines + 1, size, head))
    found.lines += 1 if size else 0
    return found


def survey_or_reason(file: File) -> Survey | str:
    """The survey of a file, or why it can't be read."""
    try:
        return survey(file)
    except Unreadable as error:
        return str(error)


def check_size(file: File, size: int, short: int) -> None:
    """Unreadable if a line is too long to be skipped, or the lines that are not are too much for the file's bytes."""
    if size > MAX_SKIPPED:
        raise Unreadable("it holds a record of more than 1 GiB")
    if short > max(FREE, MAX_RATIO * file.bytes):
        raise Unreadable(f"it unpacks to more than {MAX_RATIO} times its size")


def plain(file: File) -> Iterator[bytes]:
    """The bytes of a file, at most CHUNK at once."""
    for block in storage.blocks(file):
        for start in range(0, len(block), CHUNK):
            yield block[start : start + CHUNK]


def unpacked(file: File) -> Iterator[bytes]:
    """The bytes of a gzipped file, at most CHUNK at once; Unreadable if it is cut off, corrupt or not gzip."""
    inflate = None
    total = 0
    for block in storage.blocks(file):
        while block or inflate:
            inflate = inflate or zlib.decompressobj(31)
            try:
                piece = inflate.decompress(block, CHUNK)
            except zlib.error as error:
                kind = "not gzip" if not total and "header" in str(error) else "corrupt gzip"
                raise Unreadable(f"{kind} ({str(error).partition(': ')[2] or error})") from None
            total += len(piece)
            if total > MAX_UNPACKED:
                raise Unreadable(f"it unpacks to more than {MAX_UNPACKED >> 30} GiB")
            if piece:
                yield piece
            if inflate.eof:
                block, inflate = inflate.unused_data, None
            elif block := inflate.unconsumed_tail:
                continue
            elif not piece:
                break
    if inflate or not file.bytes:
        raise Unreadable("gzip that is cut off" if file.bytes else "empty, not gzip")

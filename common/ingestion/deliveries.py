"""Files of deliveries, read as a stream: unpacked and split into records, for any bytes."""

import codecs
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from common.errors import GateRefused, InputError
from common.handover import storage
from common.handover.inputs import Input
from common.handover.storage import File
from common.ingestion.records import IN_BAD_FILE, MAX_KEPT, MAX_RECORD, escape

CHUNK = 1 << 20  # bytes unpacked per step, at most MAX_RECORD
MAX_UNPACKED = 16 << 30  # bytes of a file
MAX_SKIPPED = 1 << 30  # bytes of a record; Hadoop's reader stops at twice that
STEP = 1024  # packed bytes of zstd per step: they unpack to up to 32 MiB
MAX_RATIO, FREE = 100, 16 << 20  # unpacked bytes per packed one, beyond FREE and without too long lines


class Unreadable(Exception):
    """A file can't be read to its end, so nothing of it is used; the message is the reason in quarantine."""


class Line(NamedTuple):
    """A line of a file without its end; only the first bytes of one longer than MAX_RECORD."""

    number: int
    size: int
    content: bytes

    @property
    def too_long(self) -> bool:
        return self.size > len(self.content)


class Quarantined(NamedTuple):
    """A file that is left out, and the reason."""

    file: File
    reason: str


@dataclass
class Survey:
    """The number of lines of a file that was read to its end, and its too long lines."""

    lines: int = 0
    too_long: list[Line] = field(default_factory=list)


def split_by_suffix(source: Input, suffix: str) -> tuple[list[File], list[Quarantined]]:
    """Return the files of deliveries whose names have the suffix, and those that are left out."""
    files = [file for file in source.files if file.uri.endswith(suffix)]
    left_out = [Quarantined(file, reason) for file, reason in source.left_out]
    left_out += [Quarantined(file, f"not a file *{suffix}") for file in source.files if not file.uri.endswith(suffix)]
    return files, left_out


def quarantine_metrics(reasons: Counter[str], quarantined: int, left_out: int) -> dict[str, object]:
    """Return the metrics of an ingestion: records by reason, corrupt files, files with too many unusable records."""
    return {
        "unusable": reasons.total(),
        "reasons": dict(reasons.most_common()),
        "files_quarantined": quarantined,
        "files_left_out": left_out,
    }


def refuse_unusable(usable: int, records: int, reasons: Counter[str], max_share: float) -> None:
    """Raise GateRefused, with the three most frequent reasons, if no record is usable."""
    if usable:
        return
    unusable = Counter({reason: count for reason, count in reasons.items() if reason != IN_BAD_FILE})
    top = ", ".join(f"{reason} ({count})" for reason, count in unusable.most_common(3)) or "there is none"
    raise GateRefused(
        f"{unusable.total()} of {records} records are unusable, at most {max_share:.1%} of a file may be: {top}; "
        "nothing was published; correct the deliveries, or raise max_quarantined_share."
    )


def no_readable_file(folders: list[str], left_out: list[Quarantined]) -> InputError:
    """Return the error for deliveries without a readable file; it names the first three."""
    where = " or ".join(folders)
    if not left_out:
        return InputError(
            f"No delivery for these arrival days lies in {where}; load one into FOLDER/arrival=YYYY-MM-DD/, or select "
            "other days."
        )
    reasons = "; ".join(f"{name_of(file)}: {reason}" for file, reason in left_out[:3])
    more = f"; and {len(left_out) - 3:,} more" if len(left_out) > 3 else ""
    return InputError(f"No file in {where} can be read ({reasons}{more}); redeliver them.")


def quarantine_of_files(left_out: list[Quarantined]) -> list[tuple[object, ...]]:
    """Return rows of quarantine@2 for whole files."""
    return [(name_of(file), None, reason, file.bytes, None) for file, reason in left_out]


def quarantine_of_line(file: File, line: Line, reason: str) -> tuple[object, ...]:
    """Return a row of quarantine@2 for a line."""
    return name_of(file), line.number, reason, line.size, escape(line.content)


def name_of(file: File) -> str:
    return escape(file.uri.encode(errors="surrogateescape")) or ""


def lines(file: File, encoding: str = "utf-8") -> Iterator[Line]:
    """Yield the lines of a file, unpacked by the end of its name; only a line feed ends a line.

    A character set whose line feeds are not single bytes, as UTF-16, is converted to UTF-8. Raises Unreadable if the
    file is corrupt.
    """
    number = size = short = 0
    begun = bytearray()  # the unfinished line
    for piece in unpacked(file) if has_ascii(encoding) else converted(unpacked(file), encoding):
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
    """Read a file to its end, like `lines` but without making lines; Unreadable if it is corrupt."""
    result = Survey()
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
                result.too_long.append(Line(result.lines + 1, size, head))
            else:
                short += size
            result.lines += piece.count(b"\n")
            last = piece.rfind(b"\n")
            short += last - first + 1
            size = len(piece) - last - 1
            head = piece[last + 1 : last + 1 + MAX_KEPT]
        check_size(file, size, short)
    if size > MAX_RECORD + 1:  # Hadoop's reader counts the line's end, which is missing here
        result.too_long.append(Line(result.lines + 1, size, head))
    result.lines += 1 if size else 0
    return result


def survey_or_reason(file: File) -> Survey | str:
    """Return the survey of a file, or the reason why it can't be read."""
    try:
        return survey(file)
    except Unreadable as error:
        return str(error)


def check_size(file: File, size: int, short: int) -> None:
    """Raise Unreadable if a line is too long to be skipped, or the short ones are too large for the file's bytes."""
    if size > MAX_SKIPPED:
        raise Unreadable("it holds a record of more than 1 GiB")
    if short > max(FREE, MAX_RATIO * file.bytes):
        raise Unreadable(f"it unpacks to more than {MAX_RATIO} times its size")


def has_ascii(encoding: str) -> bool:
    """Return True if a character set has ASCII's characters as single bytes."""
    return "\n,;A".encode(encoding) == b"\n,;A"


def converted(pieces: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    """Yield the text of some bytes as UTF-8; Unreadable if they are not of a character set."""
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        for piece in pieces:
            yield decoder.decode(piece).encode()
        yield decoder.decode(b"", True).encode()
    except UnicodeError:
        raise Unreadable(f"its text is not {encoding}") from None


def unpacked(file: File) -> Iterator[bytes]:
    """Yield the bytes of a file, unpacked if it is *.gz or *.zst; Unreadable if it is empty, cut off or corrupt."""
    if file.uri.endswith(".gz"):
        return gunzipped(file)
    return unzstd(file) if file.uri.endswith(".zst") else plain(file)


def plain(file: File) -> Iterator[bytes]:
    """Yield the bytes of a file, at most CHUNK at a time."""
    if not file.bytes:
        raise Unreadable("empty")
    for block in storage.blocks(file):
        for start in range(0, len(block), CHUNK):
            yield block[start : start + CHUNK]


def unzstd(file: File) -> Iterator[bytes]:
    """Yield the bytes of a file that zstd packed, at most CHUNK at a time; Unreadable if it is cut off or not zstd."""
    if not file.bytes:
        raise Unreadable("empty, not zstd")
    total = 0
    steps = (block[at : at + STEP] for block in storage.blocks(file) for at in range(0, len(block), STEP))
    for piece in zstd_pieces(steps):
        total += len(piece)
        if total > MAX_UNPACKED:
            raise Unreadable(f"it unpacks to more than {MAX_UNPACKED >> 30} GiB")
        yield from (piece[begin : begin + CHUNK] for begin in range(0, len(piece), CHUNK))


def zstd_pieces(packed: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the content of packed bytes; Unreadable if they are cut off, corrupt or not zstd, caused by its error.

    The library is compiled, so a cluster does not get it with the libraries of a job, which Python loads from a zip.
    """
    try:
        import zstandard
    except ImportError:
        raise Unreadable(
            "zstd, but this machine lacks the library zstandard; install it there or deliver gzip"
        ) from None
    begun, inflate = False, None
    for step in packed:
        rest = step
        while rest:
            inflate = inflate or zstandard.ZstdDecompressor().decompressobj()
            try:
                piece = inflate.decompress(rest)
            except zstandard.ZstdError as error:
                raise Unreadable("corrupt zstd" if begun else "not zstd") from error
            begun = begun or bool(piece)
            yield piece
            rest, inflate = (inflate.unused_data, None) if inflate.eof else (b"", inflate)
    if inflate:
        raise Unreadable("zstd that is cut off")


def gunzipped(file: File) -> Iterator[bytes]:
    """Yield the bytes of a gzipped file, at most CHUNK at a time; Unreadable if it is cut off, corrupt or not gzip."""
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


def refuse_utf8(file: File, encoding: str) -> None:
    """Raise Unreadable if a file is UTF-8 with more than ASCII, though its source names another character set."""
    if codecs.lookup(encoding).name == "utf-8" or not has_ascii(encoding):
        return
    decoder = codecs.getincrementaldecoder("utf-8")()
    plain_ascii = True
    try:
        for piece in unpacked(file):
            plain_ascii = plain_ascii and piece.isascii()
            decoder.decode(piece)
        decoder.decode(b"", True)
    except UnicodeDecodeError:
        return
    if not plain_ascii:
        raise Unreadable(f"its text is UTF-8, not {encoding}")

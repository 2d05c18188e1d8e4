"""The form of a file, from its first megabytes: format, compression, character set, delimiter, header."""

import codecs
import csv
import gzip
import io
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import charset_normalizer
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from common.errors import TaskError
from common.sources.expressions import alike
from common.sources.source import SUFFIXES
from tools.adopt import names, times

HEAD = 4 << 20  # bytes of a file that are looked at, uncompressed
SAMPLE = 50_000  # records
DELIMITERS = ",\t;|\x01"
MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
# Eight-bit sets of Western languages differ in few characters, so their common one is the guess.
WESTERN = {"cp1250", "cp1252", "cp1254", "cp1257", "latin_1", "iso8859_15", "iso8859_2", "iso8859_9", "cp437", "cp850"}


@dataclass(frozen=True)
class Layout:
    """The format of a file; the names of its fields are None where each record has its own."""

    format: str
    compression: str = "none"
    encoding: str = "utf-8"
    delimiter: str = ","
    quote: str = '"'
    header: bool = True
    columns: list[str] | None = None


@dataclass(frozen=True)
class Sample:
    """The first records of a file, and the types of a Parquet file's columns."""

    path: Path
    layout: Layout
    records: list[dict[str, Any]]
    schema: pa.Schema | None = None


def look(path: Path) -> Sample:
    """Return the layout and the first records of a file; TaskError if it cannot be a source's delivery."""
    if not path.is_file():
        raise TaskError(f"{path} is not a file; name a file of events in FILE.")
    start = path.open("rb").read(8)
    if not start:
        raise TaskError(f"{path} is empty, expected records: JSON lines, CSV or Parquet.")
    if start[:4] == b"PAR1":
        return _parquet(path)
    if start[:4] in (b"PK\x03\x04", b"Rar!", b"7z\xbc\xaf") or start[:3] == b"BZh":
        raise TaskError(f"{path} is an archive, expected a plain, gzipped or zstandard file; unpack it first.")
    compression = next((name for magic, name in MAGIC.items() if start.startswith(magic)), "none")
    if not path.name.endswith(SUFFIXES[compression]):
        raise TaskError(f"{path} is packed by {compression}, expected a name that ends in {SUFFIXES[compression]}.")
    with open_bytes(path, compression) as file:
        head = file.read(HEAD)
    encoding = encoding_of(head)
    text = codecs.getincrementaldecoder(encoding)("replace").decode(head).removeprefix("\ufeff")
    if "\0" in text:
        raise TaskError(f"{path} has zero bytes, expected text or Parquet; export it as CSV or JSON lines.")
    if "\r" in text and "\n" not in text:
        raise TaskError(
            f"{path} ends its lines by carriage returns, expected line feeds; convert it: tr '\\r' '\\n' < FILE."
        )
    lines = list(io.StringIO(text, newline="\n"))
    lines = lines[:-1] if len(head) == HEAD else lines
    if not any(line.strip() for line in lines):
        raise TaskError(f"{path} has no records, expected JSON lines, CSV or Parquet.")
    first = text.lstrip()[:1]
    if first in "[{":
        return _json(path, compression, encoding, lines, is_array=first == "[")
    return _csv(path, compression, encoding, lines)


def open_bytes(path: Path, compression: str) -> IO[bytes]:
    """Open a file as bytes without its compression."""
    if compression == "zstd":
        reader = zstandard.ZstdDecompressor().stream_reader(path.open("rb"), read_across_frames=True, closefd=True)
        return cast(IO[bytes], io.BufferedReader(cast(io.RawIOBase, reader), 1 << 20))
    return cast(IO[bytes], gzip.open(path)) if compression == "gzip" else path.open("rb")


def encoding_of(head: bytes) -> str:
    """Return the character set of the beginning of a file, as Python names it."""
    for mark, encoding in (
        (codecs.BOM_UTF8, "utf-8"),  # whose mark every reader skips
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if head.startswith(mark):
            return encoding
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # a character that the end cuts is not an error
        return "utf-8"
    except UnicodeDecodeError:
        pass
    lines = [line for line in head.splitlines() if not line.isascii()]
    best = charset_normalizer.from_bytes(b"\n".join(lines)[: 1 << 16]).best()
    if best is not None and best.encoding not in WESTERN:
        return best.encoding
    try:
        head.decode("cp1252")
        return "cp1252"
    except UnicodeDecodeError:
        return "latin-1"


def _parquet(path: Path) -> Sample:
    try:
        file = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise TaskError(f"{path} is not readable Parquet ({error}); write it anew.") from None
    _refuse_repeated(path, file.schema_arrow.names)
    records: list[dict[str, Any]] = []
    for batch in file.iter_batches(10_000):
        records += batch.to_pylist()
        if len(records) >= SAMPLE:
            break
    if not records:
        raise TaskError(f"{path} has no records, expected at least one event.")
    return Sample(path, Layout("parquet"), records, file.schema_arrow)


def _json(path: Path, compression: str, encoding: str, lines: list[str], is_array: bool) -> Sample:
    if encoding != "utf-8":
        raise TaskError(f"{path} is JSON in {encoding}, expected UTF-8; convert it: iconv -f {encoding} -t utf-8.")
    records = []
    for line in itertools.islice(lines, SAMPLE):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            records.append(record)
    if not records:
        remedy = "convert it: jq -c '.[]' FILE" if is_array else "convert it: jq -c . FILE"
        raise TaskError(f"{path} has no line that is a JSON object, expected one object per line; {remedy}.")
    return Sample(path, Layout("json", compression), records)


def _csv(path: Path, compression: str, encoding: str, lines: list[str]) -> Sample:
    lines = lines[:SAMPLE]
    if all(line.count("::") >= 2 for line in lines[:100] if line.strip()):
        raise TaskError(f"{path} separates fields by '::', expected one character; convert it: sed 's/::/\\t/g' FILE.")
    delimiter, quote = dialect(lines, path)
    rows = [row for row in parsed(lines, delimiter, quote) if row]
    width = Counter(len(row) for row in rows).most_common(1)[0][0]
    rows = [row for row in rows if len(row) == width] if len(rows[0]) == width else rows
    header = has_header(rows)
    known = names.WITHOUT_HEADER.get(width, "").split() or [f"column_{number}" for number in range(1, width + 1)]
    columns = rows[0] if header else known
    _refuse_repeated(path, columns)
    layout = Layout("csv", compression, encoding, delimiter, quote, header, columns)
    content = rows[1:] if header else rows
    records = [dict(zip(columns, row, strict=True)) for row in content if len(row) == len(columns)]
    if not records:
        raise TaskError(f"{path} has a header and no record, expected at least one event.")
    return Sample(path, layout, records)


def _refuse_repeated(path: Path, columns: list[str]) -> None:
    """Raise TaskError if two columns have the same name, whatever its case."""
    if pair := alike(columns):
        name = pair[0].lower()
        raise TaskError(f"{path} has two columns '{name}', expected a name once, whatever its case; rename one.")


def parsed(lines: list[str], delimiter: str, quote: str) -> Iterator[list[str]]:
    """Yield the rows of lines of CSV."""
    return csv.reader(lines, **options(delimiter, quote))


def options(delimiter: str, quote: str) -> dict[str, Any]:
    """Return the arguments of csv.reader."""
    if quote:
        return {"delimiter": delimiter, "quotechar": quote}
    return {"delimiter": delimiter, "quoting": csv.QUOTE_NONE, "quotechar": None}


def dialect(lines: list[str], path: Path) -> tuple[str, str]:
    """Return delimiter and quote: those with which most rows have the same number of fields, above one."""
    csv.field_size_limit(1 << 20)
    best: tuple[tuple[float, bool, int], str, str] | None = None
    for delimiter, quote in itertools.product(DELIMITERS, ('"', "")):
        try:
            widths = Counter(len(row) for row in parsed(lines[:1000], delimiter, quote) if row)
        except csv.Error:
            continue
        width, count = widths.most_common(1)[0]
        quotes = any(line.startswith('"') or f'{delimiter}"' in line for line in lines[:1000])
        score = (round(count / widths.total(), 1), (quote != "") == (quotes or delimiter != "\t"), width)
        if width > 1 and (best is None or score > best[0]):
            best = score, delimiter, quote
    if best is None or best[0][0] < 0.5:
        raise TaskError(
            f"{path} has no delimiter that gives most lines the same number of fields, expected one of comma, tab, "
            "semicolon, bar; convert it to CSV."
        )
    return best[1], best[2]


def has_header(rows: list[list[str]]) -> bool:
    """Return True if the first row names the columns: it looks unlike the others."""
    first, others = rows[0], rows[1:1000]
    if any(is_value(cell) for cell in first):
        return False
    known = ((kind, column) for kind, columns in names.KINDS.items() for column in columns)
    if any(names.rank(kind, column, cell, cell) is not None for kind, column in known for cell in first if cell):
        return True
    if len(set(first)) < len(first) or not all(first):
        return False
    columns = list(zip(*[row for row in others if len(row) == len(first)], strict=True))
    if any(all(is_value(cell) for cell in column if cell) for column in columns):
        return True
    return not any(cell in column for cell, column in zip(first, columns, strict=False))


def is_value(cell: str) -> bool:
    """Return True for a number or a time, which no header contains."""
    try:
        float(cell)
    except ValueError:
        return times.pattern(cell) is not None
    return True

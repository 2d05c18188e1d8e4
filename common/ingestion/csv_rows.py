"""Rows of a CSV file; an unusable row does not affect other rows."""

import csv
import itertools
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from common.ingestion.deliveries import Line, Unreadable, has_ascii
from common.ingestion.records import TOO_LONG, Unusable, decode

MAX_LINES = 20  # of a row whose quoted fields contain line feeds
NOT_CSV = "not CSV"
OTHER_COUNT = "another number of fields than the header"
NOT_FIELDS = "another number of fields than [fields]"  # of a file without a header
HEADER_AGAIN = "header again"


class Dialect(NamedTuple):
    """The form of a CSV file; `quote` is empty if nothing is quoted, `encoding` is the name of Python's codec."""

    delimiter: str = ","
    quote: str = '"'
    header: bool = True
    encoding: str = "utf-8"


PLAIN = Dialect()


def rows(lines: Iterator[Line], columns: list[str], dialect: Dialect = PLAIN) -> Iterator[tuple[Line, list[str] | str]]:
    """Yield the rows of a file, each with the values of these columns, or with the reason to quarantine it.

    A row is a line, or several if a quoted field contains line feeds. A quote that never closes would extend to the end
    of the file: if no 1 to MAX_LINES lines together are a complete row, the first line alone is quarantined, and the
    next line begins a row. Blank lines are not rows. Raises Unreadable if the header lacks a column. Without a header
    the columns are all fields in their order.
    """
    if not has_ascii(dialect.encoding):
        dialect = dialect._replace(encoding="utf-8")  # converted by `deliveries.lines`
    header, positions = columns, list(range(len(columns)))
    if dialect.header:
        header, positions = read_header(next(lines, None), columns, dialect)
    pending: deque[Line] = deque()
    first = not dialect.header
    while pending or extend(pending, lines):
        if not pending[0].content.strip(b" \r\f\v"):
            pending.popleft()
            continue
        if first:
            pending[0], first = without_mark(pending[0]), False
        taken, row = 1, read_row(pending[0], len(header), dialect)
        while row == NOT_CSV and taken < MAX_LINES and (len(pending) > taken or extend(pending, lines)):
            taken += 1
            longer = read_row(join(list(itertools.islice(pending, taken))), len(header), dialect)
            if not isinstance(longer, str):
                row = longer
        taken = 1 if isinstance(row, str) else taken
        line = join([pending.popleft() for _ in range(taken)])
        if dialect.header and row == header:
            row = HEADER_AGAIN
        yield line, row if isinstance(row, str) else [row[position] for position in positions]


def read_header(line: Line | None, columns: list[str], dialect: Dialect) -> tuple[list[str], list[int]]:
    """Return the names of a file's fields, and the positions of these columns; Unreadable if one is missing."""
    expected = f"its first line does not name {', '.join(columns)}"
    if line is None:
        raise Unreadable(expected)
    try:
        names = read_fields(without_mark(line), dialect)
    except (Unusable, ValueError, csv.Error):
        raise Unreadable(expected) from None
    if any(names.count(column) != 1 for column in columns):
        raise Unreadable(expected)
    return names, [names.index(column) for column in columns]


def without_mark(line: Line) -> Line:
    """Return the first line of a file without the byte order mark of spreadsheets."""
    return line._replace(content=line.content.removeprefix(b"\xef\xbb\xbf"))


def extend(pending: deque[Line], lines: Iterator[Line]) -> bool:
    """Take one more line; return False if there is none."""
    line = next(lines, None)
    if line is not None:
        pending.append(line)
    return line is not None


def join(lines: list[Line]) -> Line:
    """Join several lines to one, under the number of the first."""
    if len(lines) == 1:
        return lines[0]
    size = sum(line.size for line in lines) + len(lines) - 1
    return Line(lines[0].number, size, b"\n".join(line.content for line in lines))


def read_row(line: Line, count: int, dialect: Dialect) -> list[str] | str:
    """Return the fields of a row, or the reason to quarantine it: NOT_CSV if more lines may complete it."""
    if line.too_long:
        return TOO_LONG
    try:
        fields = read_fields(line, dialect)
    except Unusable as error:
        return str(error)
    except (ValueError, csv.Error):
        return NOT_CSV
    if len(fields) == count:
        return fields
    return OTHER_COUNT if dialect.header else NOT_FIELDS


def read_fields(line: Line, dialect: Dialect) -> list[str]:
    """Return the fields of a line; ValueError or csv.Error if it is not one complete row."""
    text = decode(line.content.removesuffix(b"\r"), dialect.encoding)
    if not dialect.quote or dialect.quote not in text:
        return text.split(dialect.delimiter)
    (fields,) = csv.reader([text], delimiter=dialect.delimiter, quotechar=dialect.quote, strict=True)
    return fields

"""Rows of a CSV file; an unusable row does not affect other rows."""

import csv
import itertools
from collections import deque
from collections.abc import Iterator

from common.ingestion.deliveries import Line, Unreadable
from common.ingestion.records import NOT_UTF8, TOO_LONG, Unusable, decode

MAX_LINES = 20  # of a row whose quoted fields contain line feeds
NOT_CSV = "not CSV"
OTHER_COUNT = "another number of fields than the header"


def rows(lines: Iterator[Line], columns: list[str]) -> Iterator[tuple[Line, list[str] | str]]:
    """Yield the rows of a file, each with the values of these columns, or with the reason to quarantine it.

    A row is a line, or several if a quoted field contains line feeds. A quote that never closes would extend to the end
    of the file: if no 1 to MAX_LINES lines together are a complete row, the first line alone is quarantined, and the
    next line begins a row. Blank lines are not rows. Raises Unreadable if the header lacks a column.
    """
    header, positions = read_header(next(lines, None), columns)
    pending: deque[Line] = deque()
    while pending or extend(pending, lines):
        if not pending[0].content.strip():
            pending.popleft()
            continue
        taken, row = 1, read_row(pending[0], len(header))
        while row == NOT_CSV and taken < MAX_LINES and (len(pending) > taken or extend(pending, lines)):
            taken += 1
            longer = read_row(join(list(itertools.islice(pending, taken))), len(header))
            if not isinstance(longer, str):
                row = longer
        taken = 1 if isinstance(row, str) else taken
        line = join([pending.popleft() for _ in range(taken)])
        yield line, row if isinstance(row, str) else [row[position] for position in positions]


def read_header(line: Line | None, columns: list[str]) -> tuple[list[str], list[int]]:
    """Return the names of a file's fields, and the positions of these columns; Unreadable if one is missing."""
    expected = f"its first line does not name {', '.join(columns)}"
    if line is None:
        raise Unreadable(expected)
    content = line.content.removeprefix(b"\xef\xbb\xbf")  # the byte order mark of spreadsheets
    try:
        (names,) = csv.reader([decode(content.removesuffix(b"\r"))], strict=True)
    except (Unusable, ValueError, csv.Error):
        raise Unreadable(expected) from None
    if any(names.count(column) != 1 for column in columns):
        raise Unreadable(expected)
    return names, [names.index(column) for column in columns]


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


def read_row(line: Line, count: int) -> list[str] | str:
    """Return the fields of a row, or the reason to quarantine it: NOT_CSV if more lines may complete it."""
    if line.too_long:
        return TOO_LONG
    try:
        text = decode(line.content.removesuffix(b"\r"))
    except Unusable:
        return NOT_UTF8
    if '"' not in text:
        fields = text.split(",")
    else:
        try:
            (fields,) = csv.reader([text], strict=True)
        except (ValueError, csv.Error):
            return NOT_CSV
    return fields if len(fields) == count else OTHER_COUNT

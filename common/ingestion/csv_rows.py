"""Rows of a CSV file by the rules of CSV, of which a bad one costs no other."""

import csv
import itertools
from collections import deque
from collections.abc import Iterator

from common.ingestion.deliveries import Line, Unreadable
from common.ingestion.records import NOT_UTF8, TOO_LONG, Unusable, decoded

MAX_LINES = 20  # of a row whose quoted fields hold line feeds
NOT_CSV = "not CSV"
OTHER_COUNT = "another number of fields than the header"


def rows(lines: Iterator[Line], columns: list[str]) -> Iterator[tuple[Line, list[str] | str]]:
    """The rows of a file, each with the values of these columns, or with the reason why it can't be used.

    A row is a line, or several if a quoted field holds line feeds. A quote that never closes would take in all that
    follows: if no lines up to MAX_LINES together are a row with all its fields, the first one alone is unusable, and
    the next begins a row. Blank lines are not rows. Raises Unreadable if the header lacks a column.
    """
    header, places = read_header(next(lines, None), columns)
    pending: deque[Line] = deque()
    while pending or extended(pending, lines):
        if not pending[0].content.strip():
            pending.popleft()
            continue
        taken, found = 1, read_row(pending[0], len(header))
        while found == NOT_CSV and taken < MAX_LINES and (len(pending) > taken or extended(pending, lines)):
            taken += 1
            longer = read_row(joined(list(itertools.islice(pending, taken))), len(header))
            if not isinstance(longer, str):
                found = longer
        taken = 1 if isinstance(found, str) else taken
        line = joined([pending.popleft() for _ in range(taken)])
        yield line, found if isinstance(found, str) else [found[place] for place in places]


def read_header(line: Line | None, columns: list[str]) -> tuple[list[str], list[int]]:
    """The names of a file's fields, and the places of these columns among them; Unreadable if one is missing."""
    expected = f"its first line does not name {', '.join(columns)}"
    if line is None:
        raise Unreadable(expected)
    content = line.content.removeprefix(b"\xef\xbb\xbf")  # as spreadsheets begin a file
    try:
        (names,) = csv.reader([decoded(content.removesuffix(b"\r"))], strict=True)
    except (Unusable, ValueError, csv.Error):
        raise Unreadable(expected) from None
    if any(names.count(column) != 1 for column in columns):
        raise Unreadable(expected)
    return names, [names.index(column) for column in columns]


def extended(pending: deque[Line], lines: Iterator[Line]) -> bool:
    """Take one more line, if there is one."""
    line = next(lines, None)
    if line is not None:
        pending.append(line)
    return line is not None


def joined(lines: list[Line]) -> Line:
    """Several lines as one, under the number of the first."""
    if len(lines) == 1:
        return lines[0]
    size = sum(line.size for line in lines) + len(lines) - 1
    return Line(lines[0].number, size, b"\n".join(line.content for line in lines))


def read_row(line: Line, fields: int) -> list[str] | str:
    """The fields of a row, or the reason why it can't be used: NOT_CSV if more lines may mend it."""
    if line.too_long:
        return TOO_LONG
    try:
        text = decoded(line.content.removesuffix(b"\r"))
    except Unusable:
        return NOT_UTF8
    if '"' not in text:
        found = text.split(",")
    else:
        try:
            (found,) = csv.reader([text], strict=True)
        except (ValueError, csv.Error):
            return NOT_CSV
    return found if len(found) == fields else OTHER_COUNT

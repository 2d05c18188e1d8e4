"""The index page over the newest runs of all pipelines, and the document of their entries that it is made from."""

import msgspec

from common import protocol
from common.handover import storage
from common.reporting import history
from common.reporting.index_entry import IndexEntry
from common.reporting.page import render_index

FORMAT = 1
ATTEMPTS = 20  # of reports that end at the same time


class Index(msgspec.Struct):
    """The entries of the index page."""

    format: int = FORMAT
    entries: list[IndexEntry] = []


def page_uri(lake: str) -> str:
    """URI of the index page."""
    return f"{lake.rstrip('/')}/{protocol.REPORTS}/index.html"


def entries_uri(lake: str) -> str:
    """URI of the document of entries, which spares each report all records."""
    return f"{lake.rstrip('/')}/{protocol.REPORTS}/index.json"


def add(lake: str, entry: IndexEntry) -> None:
    """Add a run to the index, in place of a former report on it, and write the page."""
    for _ in range(ATTEMPTS):
        known, tag = read(lake)
        others = [each for each in known or history.entries(lake, history.KEPT) if each.card != entry.card]
        entries = newest([*others, entry], history.KEPT)
        try:
            storage.replace(entries_uri(lake), msgspec.json.encode(Index(entries=entries)), tag)
        except storage.Conflict:  # another report added its run
            continue
        break
    write_page(lake)


def rebuild(lake: str) -> int:
    """Make the index anew from the records of all pipelines; return the number of its runs."""
    entries = history.entries(lake, history.KEPT)
    storage.write(entries_uri(lake), msgspec.json.encode(Index(entries=entries)))
    write_page(lake)
    return len(entries)


def read(lake: str) -> tuple[list[IndexEntry] | None, str | None]:
    """Return the entries of the index and their tag; None if they are lost or unreadable."""
    try:
        content, tag = storage.read(entries_uri(lake))
    except FileNotFoundError:
        return None, None
    try:
        found = msgspec.json.decode(content, type=Index)
    except (msgspec.DecodeError, ValueError):
        return None, tag
    return (found.entries if found.format == FORMAT else None), tag


def newest(entries: list[IndexEntry], limit: int) -> list[IndexEntry]:
    """Return the newest runs of each pipeline, the newest first."""
    by_pipeline: dict[str, list[IndexEntry]] = {}
    for entry in sorted(entries, key=lambda each: each.run_after, reverse=True):
        by_pipeline.setdefault(entry.dag, []).append(entry)
    return [entry for of_pipeline in by_pipeline.values() for entry in of_pipeline[:limit]]


def write_page(lake: str) -> None:
    """Write the page from the entries, again if another report has added its run meanwhile."""
    for _ in range(ATTEMPTS):
        entries, tag = read(lake)
        storage.write(page_uri(lake), render_index(entries or []).encode())
        if read(lake)[1] == tag:
            return

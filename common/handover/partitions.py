"""Index of the days of a dataset by date: one small document of the dataset, so that readers need not list it.

A day is registered before any of it is published, so a registered day may still be empty; its manifest decides.
A document that is lost or unreadable never counts as empty: then, and only then, the dataset is listed.
"""

import datetime
import json
import re

from common.handover import manifest, storage


def registered(dataset: str) -> list[str]:
    """Return the registered days of a dataset (`2011-12-09`), in order."""
    return read_index(dataset)[0]


def register(dataset: str, days: set[str]) -> None:
    """Add days to those registered; safe if several tasks do it concurrently."""
    while True:
        former, tag, intact = read_index(dataset)
        everything = sorted(days | set(former))
        if not everything or (intact and everything == former):
            return
        try:
            storage.replace(index_uri(dataset), manifest.to_json({"days": everything}), tag)
            return
        except storage.Conflict:
            continue


def read_index(dataset: str) -> tuple[list[str], str | None, bool]:
    """Return the days, the tag of the document, and True if the document is intact, else the listed days and False."""
    tag = None
    try:
        content, tag = storage.read(index_uri(dataset))
        days = [str(datetime.date.fromisoformat(day)) for day in json.loads(content)["days"]]
        if days:  # no task writes a document without days
            return days, tag, True
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # lost, cut off, or of another shape
        pass
    return list_days(dataset), tag, False


def list_days(dataset: str) -> list[str]:
    """Return the days for which a dataset has folders."""
    names = (name.removeprefix("date=") for name in storage.folders(dataset) if name.startswith("date="))
    return [day for day in names if parse_day(day)]


def parse_day(text: str) -> datetime.date | None:
    """Return the day that a text names as YYYY-MM-DD, None for any other text."""
    try:
        return datetime.date.fromisoformat(text) if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text) else None
    except ValueError:
        return None


def index_uri(dataset: str) -> str:
    return f"{dataset}/days.json"

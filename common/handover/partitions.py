"""The days of which a dataset may have partitions: one small document of the dataset, so that no reader has to list.

A day is noted before anything of it is published, so a noted day may have nothing yet; its manifest says what it has.
A document that is lost or can't be read is never taken for one of no days: then, and only then, the dataset is listed.
"""

import datetime
import json
import re

from common.handover import manifest, storage


def registered(dataset: str) -> list[str]:
    """The days noted of a dataset (`2011-12-09`), in order."""
    return look(dataset)[0]


def register(dataset: str, days: set[str]) -> None:
    """Add days to those noted, whoever else adds some at the same time."""
    while True:
        former, tag, whole = look(dataset)
        everything = sorted(days | set(former))
        if not everything or (whole and everything == former):
            return
        try:
            storage.replace(document(dataset), manifest.content({"days": everything}), tag)
            return
        except storage.Conflict:
            continue


def look(dataset: str) -> tuple[list[str], str | None, bool]:
    """The days noted, the tag of the document, and whether the document is whole: else the days are listed."""
    tag = None
    try:
        content, tag = storage.read(document(dataset))
        days = [str(datetime.date.fromisoformat(day)) for day in json.loads(content)["days"]]
        if days:  # nobody writes a document without days
            return days, tag, True
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # lost, cut off, or of another shape
        pass
    return listed(dataset), tag, False


def listed(dataset: str) -> list[str]:
    """The days of which a dataset has folders."""
    named = (name.removeprefix("date=") for name in storage.folders(dataset) if name.startswith("date="))
    return [day for day in named if real_day(day)]


def real_day(text: str) -> datetime.date | None:
    """The day that a text names as YYYY-MM-DD, None if it names none."""
    try:
        return datetime.date.fromisoformat(text) if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text) else None
    except ValueError:
        return None


def document(dataset: str) -> str:
    return f"{dataset}/days.json"

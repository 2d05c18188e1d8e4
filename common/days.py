"""The days of which a dataset may have partitions: one small document of the dataset, so that no reader has to list.

A day is noted before anything of it is published, so a noted day may have nothing yet; its manifest says what it has.
"""

import json

from common import manifest, storage


def noted(dataset: str) -> list[str]:
    """The days noted of a dataset (`2011-12-09`), in order."""
    return look(dataset)[0]


def note(dataset: str, days: set[str]) -> None:
    """Add days to those noted, whoever else adds some at the same time."""
    while True:
        former, tag = look(dataset)
        if days <= set(former):
            return
        try:
            storage.replace(document(dataset), manifest.content({"days": sorted(days | set(former))}), tag)
            return
        except storage.Changed:
            continue


def look(dataset: str) -> tuple[list[str], str | None]:
    try:
        content, tag = storage.read(document(dataset))
    except FileNotFoundError:
        return [], None
    days: list[str] = json.loads(content)["days"]
    return days, tag


def document(dataset: str) -> str:
    return f"{dataset}/days.json"

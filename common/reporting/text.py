"""The most important picture of a card as plain text: a run in one sentence, and its tasks on a time axis."""

import unicodedata
from datetime import datetime

from common.reporting import card, words
from common.reporting.record import Record, TaskSummary

WAITING, STARTING, WORKING, FAILED = "·", "░", "█", "▓"
ORDER = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # they change the order of letters
MAX_NAME = 32  # letters
MAX_TASKS = 40  # lines; those that did not succeed come first


def summary(record: Record, width: int = 100) -> str:
    """Return the sentence of a run, a line for each task, the failure and what was published."""
    shown = card.first_that_failed(record.tasks, MAX_TASKS)
    names = {id(task): name(task) for task in shown}
    longest = max((len(each) for each in names.values()), default=0)
    room = max(width - longest - 24, 20)
    begin, end = record.began, record.ended
    lines = [headline(record)]
    for task in shown:
        ready = card.ready_at(task, record)
        bar = bar_of(task, ready, begin, end, room) if begin and end else ""
        lines.append(f"  {names[id(task)]:<{longest}}  {bar:<{room}}  {outcome(task)}".rstrip())
    if len(shown) < len(record.tasks):
        lines.append(f"  and {words.counted(len(record.tasks) - len(shown), 'task')} more")
    lines.append(f"  {WAITING} waiting   {STARTING} starting   {WORKING} working   {FAILED} failed or lost")
    if record.failure:
        lines.append(plain(f"{record.failure.task} failed: {record.failure.sentence}"))
    for each in record.published:
        if each.version:
            lines.append(plain(f"Published {each.product}, version {each.version}: {each.rows:,} rows."))
    return "\n".join(lines)


def headline(record: Record) -> str:
    """Return the sentence of a run."""
    seconds = card.seconds_between(record.began, record.ended)
    took = f" in {words.duration(seconds)}" if seconds is not None else ""
    day = f", as of {record.until}" if record.until else ""
    return plain(f"{record.dag} {words.state(record.state)}{took}{day}")


def name(task: TaskSummary) -> str:
    """Return the name of a task, cut to the room for it."""
    return words.cut(plain(card.bar_name(task)), MAX_NAME)


def outcome(task: TaskSummary) -> str:
    """Return the time that a task took, or its state if it did not succeed."""
    took = words.duration(card.seconds_between(task.began, task.ended))
    return took if task.state == "succeeded" else f"{words.state(task.state)} {took}".strip()


def bar_of(task: TaskSummary, ready: datetime | None, begin: datetime, end: datetime, room: int) -> str:
    """Return the bar of a task between the beginning and the end of its run."""
    if not task.began or not task.ended:
        return ""
    seconds = (end - begin).total_seconds() or 1.0

    def column(time: datetime) -> int:
        return min(max(round((time - begin).total_seconds() / seconds * room), 0), room)

    began = column(task.began)
    waited = min(column(ready), began) if ready else began
    working = max(column(task.job_began or task.began), began)
    ended = max(column(task.ended), working)
    mark = WORKING if task.state in card.GOOD else FAILED
    bar = " " * waited + WAITING * (began - waited) + STARTING * (working - began) + mark * (ended - working)
    return bar if bar.strip() else " " * min(waited, room - 1) + mark  # shorter than a column


def plain(text: str) -> str:
    """Return a text without control characters, which could change the terminal or the order of letters."""
    return "".join(
        "�" if letter in ORDER or unicodedata.category(letter) in ("Cc", "Cs") else letter for letter in text
    )

"""Expected volume: numbers of rows of a dataset's days, compared with the same weekday of former weeks.

A number is expected between the second least of the former ones divided by a factor, and the second greatest times the
factor: one odd week changes nothing, and numbers that vary much have wide limits. Too many rows are reported by the run
that crosses the limit, also of a day that has not ended. Too few are reported once the day is settled: when deliveries
of the second day after it have come. Days older than a week are history.
"""

import datetime
import itertools
import statistics
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from common.contracts import Check, Contract
from common.engines import breaches
from common.handover import manifest, partitions
from common.handover.manifest import Manifest
from common.handover.storage import in_parallel
from common.handover.task import Task
from common.protocol import manifest_uri

WEEKS = 8
MIN_WEEKS = 4  # former days that are needed for a comparison
SMALL = 20  # rows; smaller usual numbers vary by chance
SHARE = 0.1  # of the usual rows of a day; up to that times the factor, a value does not have too many rows
RECENT = datetime.timedelta(days=7)
SETTLED = datetime.timedelta(days=2)
DAY, WEEK = datetime.timedelta(days=1), datetime.timedelta(days=7)
MAX_VALUES = 500  # of a column in a day, or of all days of a run, that are counted
MAX_SENTENCES = 10


class Day(NamedTuple):
    """The rows of a day, and the number of rows by value of some columns; null is the value ''."""

    rows: int = 0
    counts: Mapping[str, Mapping[str, int]] = {}

    def number(self, column: str | None, value: str) -> int | None:
        """Return the number of rows with a value, of all rows without a column; None if the column was not counted."""
        if column is None or not self.rows:
            return self.rows
        return self.counts[column].get(value, 0) if column in self.counts else None


class Unusual(NamedTuple):
    """A number of rows of a day outside its limits; in total, or with a value of a column."""

    day: datetime.date
    column: str | None
    value: str
    rows: int
    least: int  # of the former numbers without the lowest one
    most: int
    low: float
    high: float

    @property
    def few(self) -> bool:
        return self.rows < self.low


class History(NamedTuple):
    """The days of a dataset by date, as a run leaves them; a day without rows is missing.

    `found` has the days that the run changes, as it found them, and `settled` those that are settled by it.
    """

    days: Mapping[datetime.date, Day]
    found: Mapping[datetime.date, Day]
    settled: set[datetime.date]

    def former(self, day: datetime.date) -> list[Day]:
        """Return the same weekday of the weeks before a day, from the oldest on that has more than a few rows."""
        weeks = [self.days.get(day - WEEK * number, Day()) for number in range(WEEKS, 0, -1)]
        return list(itertools.dropwhile(lambda each: each.rows < SMALL, weeks))


def unusual_numbers(history: History, check: Check) -> list[Unusual]:
    """Return the unusual numbers of a run, the newest day and the largest numbers first.

    A value is not mentioned if the total of its day is unusual in the same way.
    """
    result = []
    for day in sorted({*history.found, *history.settled}, reverse=True):
        total = unusual_of(history, day, None, "", check.factor)
        values = {
            (column, value)
            for each in [history.days.get(day, Day()), *history.former(day)]
            for column in check.by
            for value in each.counts.get(column, ())
        }
        each_value = [unusual_of(history, day, column, value, check.factor) for column, value in sorted(values)]
        others = [each for each in each_value if each and not (total and total.few == each.few)]
        result += [*([total] if total else []), *sorted(others, key=lambda each: -max(each.rows, each.most))]
    return result


def unusual_of(history: History, day: datetime.date, column: str | None, value: str, factor: float) -> Unusual | None:
    """Return a number of a day if it is unusual, and this run is the one to report it."""
    rows, weeks = history.days.get(day, Day()).number(column, value), history.former(day)
    known = [each.number(column, value) for each in weeks]
    former = sorted(number for number in known if number is not None)
    if rows is None or len(former) < MIN_WEEKS:
        return None
    least, most = former[1], former[-2]
    floor = max(SMALL, SHARE * statistics.median(each.rows for each in weeks))
    low, high = least / factor if least >= SMALL else 0, max(most, floor) * factor
    before = history.found[day].number(column, value) if day in history.found else rows
    too_many = rows > high and (before is None or before <= high)
    too_few = rows < low and day in history.settled
    return Unusual(day, column, value, rows, least, most, low, high) if too_many or too_few else None


def report_volume(
    task: Task,
    contract: Contract,
    dataset: str,
    seen: Mapping[str, Manifest | None],
    changed: Mapping[str, Day],
    newest: datetime.date,
) -> None:
    """Report unusual numbers of rows by the checks of a contract, before a run publishes days of a dataset.

    `seen` are the manifests of the days that it may change, `changed` are those that it changes, as they will be, and
    `newest` is the newest day of arrival among its rows.
    """
    checks = [check for check in contract.checks if check.volume]
    if not checks:
        return
    history = load_history(dataset, seen, changed, newest)
    name = dataset.removeprefix(f"{task.lake}/")
    for check in checks:
        found = unusual_numbers(history, check)
        for each in found[:MAX_SENTENCES]:
            breaches.report(task, check, sentence(name, contract, each))
        if len(found) > MAX_SENTENCES:
            task.warn(f"{len(found) - MAX_SENTENCES:,} more numbers of rows of {name} are unusual.")


def load_history(
    dataset: str, seen: Mapping[str, Manifest | None], changed: Mapping[str, Day], newest: datetime.date
) -> History:
    """Return the days that a run judges, and those that they are compared with."""
    recent = [newest - DAY * number for number in range(RECENT.days + 1)]
    registered = {datetime.date.fromisoformat(day) for day in [*partitions.registered(dataset), *changed]}
    manifests = {datetime.date.fromisoformat(day): each for day, each in seen.items()}
    load(dataset, manifests, registered.intersection(recent))
    arrivals = [day for date in recent for day in manifest.rows_by_arrival(manifests.get(date))]
    before = datetime.date.fromisoformat(max(arrivals)) if arrivals else datetime.date.min + SETTLED
    new = {datetime.date.fromisoformat(day): each for day, each in changed.items()}
    settled = {
        day
        for day in recent
        if day <= newest - SETTLED and (day > before - SETTLED or (day in new and not manifests.get(day)))
    }
    judged = settled.union(new).intersection(recent)
    former = {day - WEEK * number for day in judged for number in range(1, WEEKS + 1)}
    load(dataset, manifests, registered.intersection(former))
    found = {day: day_of(each) for day, each in manifests.items()}
    return History(found | new, {day: found.get(day, Day()) for day in new if day in recent}, settled)


def load(dataset: str, manifests: dict[datetime.date, Manifest | None], days: Iterable[datetime.date]) -> None:
    """Add the manifests of further days."""
    missing = [day for day in days if day not in manifests]
    uris = [manifest_uri(f"{dataset}/date={day}") for day in missing]
    manifests.update(zip(missing, in_parallel(manifest.load_or_none, uris), strict=True))


def day_of(partition: Manifest | None) -> Day:
    """Return the numbers in the manifest of a day."""
    outputs = partition.document["outputs"].values() if partition else ()
    return Day(manifest.partition_rows(partition), next((each.get("counts", {}) for each in outputs), {}))


def sentence(dataset: str, contract: Contract, each: Unusual) -> str:
    """Return the sentence about an unusual number."""
    which = ""
    if each.column:
        which = f" with {each.column} '{breaches.shown(each.value)}'" if each.value else f" without {each.column}"
    return (
        f"{dataset} has {each.rows:,} rows{which} on {each.day:%A} {each.day}, usually {each.least:,} to {each.most:,} "
        f"on that weekday; {contract.name} expects {each.low:,.0f} to {each.high:,.0f}: check the deliveries."
    )

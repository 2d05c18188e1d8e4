"""The report of a dry run as plain data, which the terminal and the page show."""

import datetime
from dataclasses import dataclass, field
from pathlib import Path

from common.sources import tracking_plan
from common.sources.tracking_plan import EventType
from tools.adopt import findings
from tools.adopt.dry_run import Run
from tools.adopt.findings import Finding
from tools.adopt.layout import Layout

BUCKETS = (1, 2, 5, 10, 20, 50, 100, 1000)  # upper limits of events per user or item
MAX_TYPES = 12  # in plots; the others are summed up
PERIODS = (("day", 120), ("week", 120 * 7), ("month", 10**9))  # name, longest history in days


@dataclass(frozen=True)
class TypeRow:
    """An event type of the file."""

    name: str
    events: int
    users: int
    items: int
    planned: EventType | None


@dataclass
class Report:
    """Numbers of a file of events and its mapping."""

    name: str
    path: Path
    layout: Layout
    mapping: dict[str, str]
    why: dict[str, str]
    records: int
    is_whole: bool
    not_kept: int
    events: int
    reasons: list[tuple[str, int, list[tuple[int, str]]]]
    types: list[TypeRow]
    period: str
    by_period: list[tuple[datetime.date, str, int]]
    activity: dict[str, list[tuple[str, int]]]  # users and items: events per one, and how many have them
    users: int
    items: int
    returning: int
    with_user: float
    with_item: float
    first: datetime.datetime | None
    last: datetime.datetime | None
    found: list[Finding]
    others: dict[str, tuple[int, dict[str, int]]] = field(default_factory=dict)  # kind: records, reasons
    catalogue: dict[str, str] = field(default_factory=dict)  # example items: ID and name

    @property
    def left_out(self) -> int:
        return sum(count for _, count, _ in self.reasons)


def make(run: Run, name: str, path: Path, layout: Layout, why: dict[str, str]) -> Report:
    """Return the report of a run over events."""
    plan = tracking_plan.load()
    events, users, items, with_user, with_item, first, last = run.query(
        "SELECT count(*), count(DISTINCT user_id), count(DISTINCT item_id), count(user_id), count(item_id), min(time), "
        "max(time) FROM mapped"
    )[0]
    period = next(name for name, days in PERIODS if not events or (last - first).days < days)
    rows = run.query(
        "SELECT type, count(*), count(DISTINCT user_id), count(DISTINCT item_id) FROM mapped GROUP BY 1 "
        "ORDER BY 2 DESC, 1"
    )
    shown = [row[0] for row in rows[:MAX_TYPES]]
    return Report(
        name,
        path,
        layout,
        run.source.columns,
        why,
        run.records,
        run.is_whole,
        run.not_kept,
        events,
        [(reason, count, run.examples.get(reason, []))
         for reason, count in sorted(run.reasons.items(), key=lambda entry: -entry[1])],
        [TypeRow(kind, count, of_users, of_items, plan.types.get(kind)) for kind, count, of_users, of_items in rows],
        period,
        run.query(
            "SELECT date_trunc(?, time)::DATE, CASE WHEN list_contains(?, type) THEN type ELSE 'others' END, count(*) "
            "FROM mapped GROUP BY 1, 2 ORDER BY 1, 2", period, shown,
        ),
        {column: _activity(run, column) for column in ("user_id", "item_id")},
        users,
        items,
        run.query("SELECT count(*) FROM (SELECT 1 FROM mapped WHERE user_id IS NOT NULL GROUP BY user_id "
                  "HAVING count(DISTINCT time::DATE) > 1)")[0][0],
        with_user / max(1, events),
        with_item / max(1, events),
        first,
        last,
        findings.find(run, plan),
    )  # fmt: skip


def _activity(run: Run, column: str) -> list[tuple[str, int]]:
    """Return how many users or items have how many events."""
    counts = dict(run.query(
        f"SELECT events, count(*) FROM (SELECT count(*) AS events FROM mapped WHERE {column} IS NOT NULL "
        f"GROUP BY {column}) GROUP BY 1"
    ))  # fmt: skip
    rows, lower = [], 1
    for upper in BUCKETS:
        label = f"{lower}" if lower == upper else f"{lower} to {upper}"
        rows.append((label, sum(number for events, number in counts.items() if lower <= events <= upper)))
        lower = upper + 1
    return [*rows, (f"above {BUCKETS[-1]}", sum(n for events, n in counts.items() if events > BUCKETS[-1]))]

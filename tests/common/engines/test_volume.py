"""Expected volume of a dataset's days: which numbers of rows are unusual, and which run reports them."""

import datetime
import json

import pytest

from common.contracts import Check, Contract
from common.engines import volume
from common.engines.volume import Day, History
from common.errors import GateRefused
from common.handover import manifest, partitions, storage

FRIDAY = datetime.date(2011, 12, 9)
WEEK = datetime.timedelta(days=7)
CHECK = Check("warn", volume=True, by=("country", "type"))


def unusual(
    rows: int, former: list[int], before: int | None = None, settled: bool = True, factor: float = 3
) -> list[str]:
    """Return the direction of the numbers of a Friday that are reported, with these numbers on former Fridays."""
    days = {FRIDAY - WEEK * number: Day(count) for number, count in enumerate(former, 1) if count}
    found = {} if before is None else {FRIDAY: Day(before)}
    history = History(days | {FRIDAY: Day(rows)}, found, {FRIDAY} if settled else set())
    check = Check("warn", volume=True, factor=factor)
    return ["few" if each.few else "many" for each in volume.unusual_numbers(history, check)]


@pytest.mark.parametrize(
    ("rows", "former", "expected"),
    [
        (100, [100, 110, 90, 100], []),
        (34, [100, 110, 90, 100], []),
        (33, [100, 110, 100, 100], ["few"]),
        (0, [100, 110, 90, 100], ["few"]),
        (0, [100, 110, 90], []),  # too few former days
        (0, [100, 0, 100, 0, 100], []),  # the shop is closed on some Fridays
        (40, [130, 110, 0, 120], []),
        (36, [130, 110, 0, 120], ["few"]),  # one odd week changes nothing
        (36, [130, 110, 9000, 120], ["few"]),
        (0, [19, 19, 19, 19, 20], []),  # small numbers vary by chance
        (0, [20, 20, 20, 20], ["few"]),
        (0, [100, 100, 100, 5, 0], []),  # the shop opened three weeks ago, some events have older times
        (30, [90, 300, 1000, 90], []),  # wide limits of numbers that vary much
        (29, [90, 300, 1000, 90], ["few"]),
    ],
)
def test_too_few_rows_are_compared_with_the_same_weekday(rows: int, former: list[int], expected: list[str]) -> None:
    assert unusual(rows, former) == expected
    assert unusual(rows, former, before=0, settled=False) == []  # a day that has not ended


@pytest.mark.parametrize(
    ("before", "rows", "former", "expected"),
    [
        (0, 300, [100, 110, 90, 100], []),
        (0, 301, [100, 110, 90, 100], ["many"]),
        (300, 301, [100, 110, 90, 100], ["many"]),
        (301, 900, [100, 110, 90, 100], []),  # reported by the run that crossed the limit
        (0, 60, [0, 0, 1, 0, 20], []),
        (0, 61, [0, 0, 1, 0, 20], ["many"]),
        (0, 301, [100, 9000, 90, 100], ["many"]),  # one odd week changes nothing
        (0, 5000, [0, 0, 1, 0, 19], []),  # the shop opens today
    ],
)
def test_too_many_rows_are_reported_once_and_at_once(
    before: int, rows: int, former: list[int], expected: list[str]
) -> None:
    assert unusual(rows, former, before, settled=False) == expected


def test_limits_follow_the_factor() -> None:
    assert unusual(51, [100] * 4, factor=2) == []
    assert unusual(49, [100] * 4, factor=2) == ["few"]


def test_values_are_compared_unless_the_total_tells_as_much() -> None:
    usual = Day(300, {"country": {"France": 200, "Spain": 100}, "type": {"view": 300}})
    days = {FRIDAY - WEEK * number: usual for number in range(1, 6)}

    def found(day: Day) -> list[tuple]:
        history = History(days | {FRIDAY: day}, {}, {FRIDAY})
        return [(each.column, each.value, each.rows) for each in volume.unusual_numbers(history, CHECK)]

    assert found(Day(300, {"country": {"France": 290, "": 10}, "type": {"view": 300}})) == [("country", "Spain", 0)]
    assert found(Day(30, {"country": {"France": 20, "Spain": 10}, "type": {"view": 30}})) == [(None, "", 30)]
    assert found(Day()) == [(None, "", 0)]
    shown = {"country": {"France": 200, "Spain": 100, "Malta": 90}, "type": {"view": 390}}
    history = History(days | {FRIDAY: Day(390, shown)}, {FRIDAY: Day()}, set())
    assert volume.unusual_numbers(history, CHECK) == []  # up to three tenths of the usual rows
    shown["country"]["Malta"] = 91
    history = History(days | {FRIDAY: Day(391, shown)}, {FRIDAY: Day()}, set())
    assert [(each.value, each.high) for each in volume.unusual_numbers(history, CHECK)] == [("Malta", 90)]
    assert found(Day(300, {"type": {"view": 300}})) == []  # countries were not counted
    days |= {FRIDAY - WEEK * number: Day(300, {"type": {"view": 300}}) for number in (1, 2)}
    assert found(Day(300, {"country": {"France": 300}, "type": {"view": 300}})) == []  # too few days with countries


class Calls:
    """A stand-in for a task, which collects warnings."""

    def __init__(self, lake: str) -> None:
        self.lake = lake
        self.warnings: list[str] = []

    def warn(self, sentence: str) -> None:
        self.warnings.append(sentence)


class Lake:
    """A dataset of daily events, which arrive on their day and some on the day after."""

    def __init__(self, lake: str) -> None:
        self.task = Calls(lake)
        self.dataset = f"{lake}/curated/events"

    def put(self, day: datetime.date, rows: int, arrival: datetime.date) -> None:
        output = {"rows": rows, "files": [], "arrivals": {str(arrival): rows}}
        output |= {"counts": {"country": {"France": rows}}}
        storage.write(f"{self.dataset}/date={day}/manifest.json", json.dumps({"outputs": {"events": output}}).encode())

    def run(self, newest: str, severity: str = "warn", **changed: int) -> list[str]:
        """Judge a run that leaves days of December (`d09`) with some rows; publish them, and return its warnings."""
        days = {f"2011-12-{day[1:]}": rows for day, rows in changed.items()}
        uris = {day: f"{self.dataset}/date={day}/manifest.json" for day in days}
        contract = Contract("events@3", "", checks=(Check(severity, volume=True, by=("country",)),))
        after = {day: Day(rows, {"country": {"France": rows}}) for day, rows in days.items()}
        seen = {day: manifest.load_or_none(uri) for day, uri in uris.items()}
        self.task.warnings.clear()
        volume.report_volume(self.task, contract, self.dataset, seen, after, datetime.date.fromisoformat(newest))  # type: ignore[arg-type]
        for day, rows in days.items():
            self.put(datetime.date.fromisoformat(day), rows, datetime.date.fromisoformat(newest))
        partitions.register(self.dataset, set(days))
        return list(self.task.warnings)


@pytest.fixture
def shop(lake: str) -> Lake:
    """Seven weeks of 100 events per day, until Thursday, 8 December."""
    made = Lake(lake)
    for number in range(1, 50):
        day = FRIDAY - datetime.timedelta(days=number)
        made.put(day, 100, day)
    partitions.register(made.dataset, set(partitions.list_days(made.dataset)))
    return made


def test_unfinished_and_late_days_do_not_warn(shop: Lake) -> None:
    assert shop.run("2011-12-09", d09=3, d08=101) == []
    assert shop.run("2011-12-10", d09=20, d10=3) == []  # the rest of Friday arrives on Saturday
    assert shop.run("2011-12-10", d09=100, d10=60) == []
    assert shop.run("2011-12-11", d10=100, d11=5) == []
    assert shop.run("2011-12-11", d09=101) == []


def test_settled_day_with_few_rows_warns_once(shop: Lake) -> None:
    assert shop.run("2011-12-09", d09=20) == []
    assert shop.run("2011-12-10", d10=100) == []
    assert shop.run("2011-12-11", d11=2) == [
        "curated/events has 20 rows on Friday 2011-12-09, usually 100 to 100 on that weekday; events@3 expects 33 to "
        "300: check the deliveries."
    ]
    assert shop.run("2011-12-11", d11=50, d09=21) == []


def test_day_without_any_rows_warns(shop: Lake) -> None:
    assert shop.run("2011-12-10", d10=100) == []
    (warning,) = shop.run("2011-12-12", d12=10, d11=100)
    assert warning.startswith("curated/events has 0 rows on Friday 2011-12-09, usually 100")


def test_too_many_rows_of_today_warn_once_or_refuse(shop: Lake) -> None:
    with pytest.raises(GateRefused, match="has 301 rows on Friday 2011-12-09, usually 100"):
        shop.run("2011-12-09", severity="refuse", d09=301)
    (warning,) = shop.run("2011-12-09", d09=301)
    assert "has 301 rows on Friday" in warning
    assert shop.run("2011-12-09", d09=500) == []


def test_history_that_is_loaded_late_is_not_judged(shop: Lake) -> None:
    assert shop.run("2011-12-09", d01=5000, d09=1) == []

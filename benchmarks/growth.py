"""CPU of a daily ingestion by the age of its lake: the same small deliveries each day, for two years.

Days between two ages are ingested by one run each, so that two years take minutes; the measured days run as they would.
"""

from __future__ import annotations

import argparse
import datetime
import gzip
import json
import random
import shutil
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import job, measure
from benchmarks.measure import Measurement
from common.reporting.charts import svg

FOLDER = job.ROOT / ".tandem" / "benchmarks" / "growth"
PLOT = job.ROOT / "docs" / "images" / "growth.svg"
START = datetime.date(2024, 1, 1)
Record = dict[str, Any]


def events_of(day: int, number: int) -> Iterator[Record]:
    """Yield the events that arrive on a day: some of them, about 1 in 20, are of the day before."""
    chance = random.Random(day)
    for each in range(number):
        at = START + datetime.timedelta(day - (1 if chance.random() < 0.05 else 0))
        time = f"{at}T{chance.randrange(24):02}:{chance.randrange(60):02}:00Z"
        yield {
            "event_id": f"{day}-{each}",
            "user_id": f"u{chance.randrange(2000)}",
            "item_id": f"i{chance.randrange(500)}",
            "type": "purchase",
            "quantity": 1,
            "unit_price": 1.5,
            "time": time,
            "country": "France",
        }


def changes_of(day: int, number: int) -> Iterator[Record]:
    """Yield the changes of plans that arrive on a day: a tenth of the number, of ten times as many users."""
    chance = random.Random(day)
    for _ in range(number // 10):
        plan = chance.choice(["free", "basic", "premium"])
        time = f"{START + datetime.timedelta(day)}T{chance.randrange(24):02}:{chance.randrange(60):02}:00Z"
        user = f"u{chance.randrange(number)}"
        yield {"user_id": user, "time": time, "change": "change", "plan": plan, "country": "FR", "platform": "web"}


JOBS: dict[str, Callable[[int, int], Iterator[Record]]] = {"ingest_events": events_of, "ingest_users": changes_of}


def deliver(lake: Path, name: str, days: range, number: int) -> None:
    """Write the deliveries of some days."""
    kind = name.removeprefix("ingest_")
    for day in days:
        folder = lake / "raw" / kind / f"arrival={START + datetime.timedelta(day)}"
        folder.mkdir(parents=True)
        lines = "".join(f"{json.dumps(each)}\n" for each in JOBS[name](day, number))
        (folder / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode(), 1))


def measured(lake: Path, name: str, ages: list[int], runs: int, number: int) -> dict[int, list[Measurement]]:
    """Return the daily runs of a job at each age, in days."""
    found: dict[int, list[Measurement]] = {}
    today = 0
    for age in ages:
        deliver(lake, name, range(today, age), number)
        job.run(lake, name, run_id=f"until-{age}")
        found[age] = []
        for today in range(age, age + runs):
            deliver(lake, name, range(today, today + 1), number)
            one = measure.run(job.command(lake, name, run_id=f"day-{today}"), job.environment())
            found[age].append(one)
            print(f"  {name}, day {today}: {one.wall:.1f} s, CPU {one.cpu:.1f} s", file=sys.stderr, flush=True)
        today += 1
    return found


def plot(found: dict[str, dict[int, list[Measurement]]]) -> str:
    """Return the CPU seconds of each daily run by age, as SVG."""
    values = [
        {"job": name, "day": age + number, "cpu": one.cpu}
        for name, by_age in found.items()
        for age, runs in by_age.items()
        for number, one in enumerate(runs)
    ]
    return svg(
        {
            "data": {"values": values},
            "width": 480,
            "height": 240,
            "mark": {"type": "line", "point": True},
            "encoding": {
                "x": {"field": "day", "type": "quantitative", "title": "day"},
                "y": {"field": "cpu", "type": "quantitative", "title": "CPU seconds of the daily run"},
                "color": {"field": "job", "type": "nominal", "title": None},
            },
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", nargs="+", default=list(JOBS), choices=JOBS, metavar="JOB", help=", ".join(JOBS))
    parser.add_argument("--ages", nargs="+", type=int, default=[7, 100, 700], metavar="DAYS", help="ages of the lake")
    parser.add_argument("--runs", type=int, default=2, help="measured days at each age")
    parser.add_argument("--records", type=int, default=2000, help="records of a delivery")
    arguments = parser.parse_args()
    shutil.rmtree(FOLDER, ignore_errors=True)
    found = {}
    for name in arguments.jobs:
        found[name] = measured(FOLDER / name, name, sorted(arguments.ages), arguments.runs, arguments.records)
    rows = {f"{name}, day {age}": runs for name, by_age in found.items() for age, runs in by_age.items()}
    ratios = []
    for name, by_age in found.items():
        cpu = [statistics.median(one.cpu for one in by_age[age]) for age in (min(by_age), max(by_age))]
        ratios.append(f"- {name}: day {max(by_age)} takes {cpu[1] / cpu[0]:.2f} times the CPU of day {min(by_age)}")
    PLOT.write_text(plot(found))
    body = f"{measure.table(rows)}\n\n" + "\n".join(ratios) + f"\n\n{measure.versions('pyspark')}"
    measure.record(
        f"a daily run by the age of the lake, {arguments.records:,} records a day", "make bench-growth", body
    )


if __name__ == "__main__":
    main()

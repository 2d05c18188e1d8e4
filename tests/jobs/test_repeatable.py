"""A day computed again is the same: in any order of rows, after later events came, and after a compaction."""

import datetime
import json
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from recommending_lake import JOBS

from common.engines import frames
from common.handover import runner
from common.sources.tracking_plan import EventType, TrackingPlan
from jobs.build_interactions import main as interactions
from jobs.build_trending_items import main as trending
from jobs.build_user_features import main as features
from tests.frames import event_rows, frame

END = datetime.date(2011, 3, 1)
MIDNIGHT = datetime.datetime.combine(END, datetime.time(), datetime.UTC)
COLUMNS = "user_id item_id type value platform country time arrival"
PLAN = TrackingPlan(
    {
        "play": EventType("Seconds of a song.", weight="value / 30", target="value > 10"),
        "skip": EventType("Its end.", reverses="play"),
    }
)
Build = Callable[[DataFrame], DataFrame]


def plays(count: int) -> list[tuple]:
    """Return events of thirty users in sixty days, several at a time, whose sums are zero up to rounding."""
    random, events = Random(1), []
    for _ in range(count):
        value, user, item = 40 * random.random(), f"u{random.randrange(30)}", random.choice(["cup", "pot"])
        where, time = random.choice(["DE", "FR"]), MIDNIGHT - datetime.timedelta(hours=6 * random.randint(1, 240))
        kinds = [("play", value), ("skip", value), ("skip", -value), ("play", -value)]
        kinds += [("play", 30.0)] * (user < "u2")
        events += [(user, item, kind, each, random.choice(["web", "ios"]), where, time, None) for kind, each in kinds]
    return events


def pairs(events: DataFrame) -> DataFrame:
    return interactions.build_interactions(events, PLAN, END, 10, 10, 9.7, 2)


def of_users(events: DataFrame) -> DataFrame:
    users, cuts = frame(events.sparkSession, "users@2", []), features.cuts_before(END, 7, 2, 7)
    return features.build_user_features(events, users, PLAN, cuts, "inactive", 7, 30, 2)


def of_items(events: DataFrame) -> DataFrame:
    days = (7, 2.3, 14)
    visits = trending.count_visits(events, None, PLAN, ["country"], END, *days)
    return trending.trending_items(visits, None, END, *days, 1, 10)


@pytest.mark.parametrize("build", [pairs, of_users, of_items])
def test_results_do_not_depend_on_the_order_of_rows(session: SparkSession, build: Build) -> None:
    events = event_rows(COLUMNS, plays(500))
    found = []
    for files in (1, 3):
        Random(files).shuffle(events)
        rows = build(frame(session, "events@3", events).repartition(files)).drop(frames.PLACE).collect()
        found.append(sorted(map(tuple, rows), key=str))
    assert found[0]
    assert found[0] == found[1]


class Shop:
    """A lake with events that arrive by and by, and the interactions as of a day."""

    def __init__(self, session: SparkSession, lake: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.session, self.lake, self.runs = session, lake, 0
        Path(lake.removeprefix("file://")).mkdir()
        monkeypatch.setattr(interactions.tracking_plan, "load", lambda: PLAN)

    def arrive(self, events: list[tuple]) -> None:
        """Add events to their days, as ingest_events does."""

        def main(task) -> None:
            rows = frame(self.session, "events@3", event_rows(COLUMNS, events)).withColumn("date", F.to_date("time"))
            days = sorted({str(event[6].date()) for event in events})
            seen = {day: task.partition("events", f"date={day}")[1] for day in days}
            task.outputs["quarantine"] = {"rows": 0, "bytes": 0, "contract": "quarantine@2", "files": []}
            frames.append(task, "events", rows.repartition("date"), seen)

        assert self.run("ingest_events", main) == 0

    def run(self, job: str, main: Callable, *more: str) -> int:
        self.runs += 1
        names = f"--lake={self.lake} --dag-id=d --run-id={self.runs} --task-id=t --attempt=1"
        return runner.exit_code(main, JOBS / job, [*names.split(), *more])

    def built(self, until: datetime.date) -> tuple[dict, list[bytes]]:
        """Return the metrics of the interactions as of a day, and the content of their files in order."""
        assert self.run("build_interactions", interactions.main, "--set", f"until={until}") == 0
        folder = Path(f"{self.lake}/intermediate/d/{self.runs}/t".removeprefix("file://"))
        document = json.loads((folder / "manifest.json").read_bytes())
        files = document["outputs"]["interactions"]["files"]
        return document["metrics"], [(folder / file["path"]).read_bytes() for file in files]


def test_day_is_the_same_after_later_events_and_compaction(
    session: SparkSession, lake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["common.engines.frames.append"], "MANY_FILES", 2)
    monkeypatch.setattr(sys.modules["common.handover.buckets"], "ROWS_PER_BUCKET", 40)
    shop, day = Shop(session, lake, monkeypatch), datetime.timedelta(days=1)
    recent = [(*event[:6], MIDNIGHT - (MIDNIGHT - event[6]) / 20, event[7]) for event in plays(250)]  # of three days
    shop.arrive([event for event in recent[:800] if event[6] < MIDNIGHT - day])
    shop.arrive([(*event[:7], END - day) for event in recent[800:] if event[6] < MIDNIGHT - day])
    before = shop.built(END)
    assert before[0]["end"] == str(END - day)

    late = [*recent, ("cid", "cup", "play", 20.0, "web", "DE", MIDNIGHT - 9 * day, None)]
    for arrival in (END, END + day):
        shop.arrive([(*event[:7], arrival) for event in late])
    assert shop.built(END) == before
    later = shop.built(END + day)
    assert later[0]["end"] == str(END)
    assert later[0]["events"] > before[0]["events"]

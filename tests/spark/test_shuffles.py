"""Shuffles of Spark: each job shuffles its events once, and rows in the file of another bucket are noticed."""

import datetime
import re
import zlib
from pathlib import Path

import pytest
from pyspark.sql import DataFrame, Observation, SparkSession
from pyspark.sql.functions import spark_partition_id

from common.engines.spark.files import save_buckets
from common.errors import TaskError
from common.sources import tracking_plan
from jobs.build_interactions import main as interactions
from jobs.build_user_features import main as user_features
from jobs.join_characteristics import main as characteristics
from tests.frames import event_rows, frame, put_file, table

END = datetime.date(2011, 3, 1)
PLAN = tracking_plan.load()


def test_pairs_are_in_their_buckets_after_one_shuffle(session: SparkSession, tmp_path: Path) -> None:
    midnight = datetime.datetime.combine(END, datetime.time(), datetime.UTC)
    events = [(f"u{hour % 23:02}", f"i{hour % 7}", midnight - datetime.timedelta(hours=hour)) for hour in range(1, 200)]
    put_file(tmp_path / "events", table("events@3", event_rows("user_id item_id time", events)))
    read = interactions.count_drops(session.read.parquet(f"{tmp_path}/events"), PLAN, Observation())
    pairs = interactions.build_interactions(read, PLAN, END, 10, 10, 7.0, 4)
    placed = pairs.select("user_id", spark_partition_id().alias("partition"))
    rows = placed.collect()
    assert len({row.user_id for row in rows}) == 23
    assert all(row.partition == zlib.crc32(row.user_id.encode()) % 4 for row in rows)
    assert plan_of(placed).count("Exchange") == 1, plan_of(placed)


def test_features_of_users_shuffle_events_once(session: SparkSession, tmp_path: Path) -> None:
    put_file(tmp_path / "events", table("events@3", []))
    read = session.read.parquet(f"{tmp_path}/events").observe(Observation(), *user_features.counted(PLAN))
    days = user_features.by_day(read, PLAN, 3)
    plan = plan_of(user_features.as_of_cuts(days, user_features.cuts_before(END, 30, 2, 30), 30))
    assert plan.count("Exchange") == 1, plan


def test_characteristics_read_and_shuffle_events_once(session: SparkSession, tmp_path: Path) -> None:
    frames = []
    for contract in ("churn_predictions@2", "events@3", "items@2", "users@2"):
        put_file(tmp_path / contract, table(contract, []))
        frames.append(session.read.parquet(f"{tmp_path}/{contract}"))
    plan = plan_of(characteristics.join_characteristics(*frames, PLAN, END, 3, Observation()))
    assert len(re.findall(r"ReadSchema: \S*time:timestamp", plan)) == 1, plan
    assert plan.count("REPARTITION_BY_NUM") == 1, plan


def test_rows_in_files_of_other_buckets_are_refused(session: SparkSession, lake: str) -> None:
    events = frame(session, "events@3", event_rows("user_id", [(f"ü{number}",) for number in range(70)]))
    with pytest.raises(TaskError, match="into the files of other buckets"):
        save_buckets(events.repartition(32), ["user_id"], 4, f"{lake}/out", [])


def plan_of(frame: DataFrame) -> str:
    """Return Spark's plan of a frame before it runs."""
    plan: str = frame._jdf.queryExecution().executedPlan().toString()
    return plan.split("== Initial Plan ==")[0]

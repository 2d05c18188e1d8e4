"""Strength of the interactions of users with items, as of the end of a window of events and of two cuts in it.

Values as of a cut come from the events before it only, so models can be evaluated on the later ones.
"""

import datetime

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from common.engines import spark
from common.errors import InputError
from common.handover import Task, run
from common.recommending import MICROSECONDS_PER_DAY


def build_interactions(
    events: DataFrame,
    end: datetime.date,
    test_days: int,
    tuning_days: int,
    half_life_days: float,
    partitions: int,
) -> DataFrame:
    """Return rows of `interactions@2`, sorted by user and item within each partition; one shuffle, on user.

    The weight as of a moment is log1p(max(0, sum of sign * quantity * 2^(-age / half-life))) over the events before
    it, age in days: cancellations are subtracted before the logarithm.
    """
    test_start = end - datetime.timedelta(days=test_days)
    moments = {"": end, "_before_test": test_start, "_before_tuning": test_start - datetime.timedelta(days=tuning_days)}
    signed = F.col("quantity") * F.when(F.col("type") == "purchase", 1).otherwise(-1)
    counted = events.where(F.col("user_id").isNotNull() & (F.col("time") < start_of(end))).select(
        "user_id", "item_id", "time", signed.alias("signed_quantity")
    )
    bought_at = F.when(F.col("signed_quantity") > 0, F.col("time"))
    aggregates = [F.min(bought_at).alias("first_time")]
    columns = [F.col("user_id"), F.col("item_id")]
    for name, moment in moments.items():
        before = F.col("time") < start_of(moment)
        age = (F.unix_micros(start_of(moment)) - F.unix_micros("time")) / MICROSECONDS_PER_DAY
        strength = F.col("signed_quantity") * F.pow(F.lit(2.0), -age / half_life_days)
        aggregates += [
            F.sum(F.when(before, strength).otherwise(0.0)).alias(f"strength{name}"),
            F.count(F.when(before, bought_at)).alias(f"events{name}"),
            F.max(F.when(before, bought_at)).alias(f"last_time{name}"),
        ]
        weight = F.log1p(F.greatest(F.lit(0.0), F.col(f"strength{name}"))).cast("float")
        columns += [weight.alias(f"weight{name}"), F.col(f"events{name}"), F.col(f"last_time{name}")]
    pairs = counted.repartition(partitions, "user_id").groupBy("user_id", "item_id").agg(*aggregates)
    exists = " OR ".join(f"weight{name} > 0" for name in moments)
    return pairs.select(*columns, "first_time").where(exists).sortWithinPartitions("user_id", "item_id")


def start_of(date: datetime.date) -> Column:
    """Return midnight (UTC) at the beginning of a day."""
    return F.lit(datetime.datetime.combine(date, datetime.time(), datetime.UTC))


def main(task: Task) -> None:
    events = task.input("events")
    end = task.parameters["until"] or events.day_after_newest
    names = ("test_days", "tuning_days", "half_life_days")
    with spark.session(task):
        interactions = build_interactions(
            spark.read(task, "events"),
            end,
            **{name: task.parameters[name] for name in names},
            partitions=spark.partitions_for(events.rows),
        )
        spark.write(task, "interactions", interactions)
    task.metrics |= {"end": str(end), "events": events.rows, "interactions": task.outputs["interactions"]["rows"]}
    if not task.metrics["interactions"]:
        raise InputError(
            "No event of the window is a purchase by a known user that was not cancelled; choose a longer window."
        )


if __name__ == "__main__":
    run(main)

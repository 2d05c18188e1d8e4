"""Characteristics of users: predictions joined with affinities to families of items, habits and subscriptions.

There is exactly one row per user with a prediction; unknown values are null.
"""

import datetime

from pyspark.sql import Column, DataFrame, Observation
from pyspark.sql import functions as F

from common import contracts
from common.engines import frames
from common.errors import TaskError
from common.handover import Task, run
from common.sources import tracking_plan
from common.sources.tracking_plan import TrackingPlan

FAMILIES = 3
KINDS = ("hour", "platform", "platform_of_period", "family")  # of facts about a user


def join_characteristics(
    predictions: DataFrame,
    events: DataFrame,
    items: DataFrame,
    users: DataFrame,
    plan: TrackingPlan,
    end: datetime.date,
    partitions: int,
    counts: Observation,
) -> DataFrame:
    """Return rows of `characteristics@3`, one per row of `predictions`; one shuffle of the events.

    Once they are read, `counts` has the numbers of events, of targets, and of targets of items without a family.
    """
    periods = users.where(F.to_date("since") < F.lit(end))
    plans = periods.groupBy("user_id").agg(F.max_by(F.struct("plan"), "since")["plan"].alias("plan"))
    facts = facts_of_events(events.where(F.to_date("time") < F.lit(end)), items, plan, counts).unionByName(
        periods.select("user_id", F.col("since").alias("time"), F.col("platform").alias("platform_of_period")),
        allowMissingColumns=True,
    )
    joined = predictions.join(habits(facts, partitions), "user_id", "left").join(plans, "user_id", "left")
    return joined.select(*contracts.load("characteristics@3").columns)


def facts_of_events(events: DataFrame, items: DataFrame, plan: TrackingPlan, counts: Observation) -> DataFrame:
    """Return user, time, hour and platform of each event of a known user, and the family of a target."""
    known = events.where("user_id IS NOT NULL").withColumn("target", frames.of_events(plan.target_sql))
    known = known.join(F.broadcast(items.select("item_id", "family")), "item_id", "left")
    counted = known.observe(
        counts,
        F.count(F.lit(1)).alias("events"),
        F.count_if("target").alias("target_events"),
        F.count_if(F.col("target") & F.col("family").isNull()).alias("target_events_without_family"),
    )
    family = F.when(F.col("target"), F.col("family")).alias("family")
    return counted.select("user_id", "time", F.hour("time").cast("string").alias("hour"), "platform", family)


def habits(facts: DataFrame, partitions: int) -> DataFrame:
    """Return each user's most frequent families, hour and platform; of equally frequent hours the last seen.

    Platforms are those of the user's periods, else of events.
    """
    kinds = [F.struct(F.lit(kind).alias("kind"), F.col(kind).alias("value")) for kind in KINDS]
    counted = (
        facts.repartition(partitions, "user_id")
        .select("user_id", "time", F.explode(F.array(*kinds)).alias("fact"))
        .select("user_id", "time", *[F.col("fact")[name].alias(name) for name in ("kind", "value")])
        .where("value IS NOT NULL")
        .groupBy("user_id", "kind", "value")
        .agg(F.count("*").alias("count"), F.max("time").alias("last"))
    )
    of_family = F.col("kind") == "family"
    ordered = F.sort_array(F.collect_list(F.when(of_family, F.struct((-F.col("count")).alias("less"), "value"))))
    of_user = counted.groupBy("user_id").agg(
        ordered.alias("families"),
        F.sum(F.when(of_family, F.col("count"))).alias("total"),
        most_frequent("hour").cast("bigint").alias("preferred_hour"),
        F.coalesce(most_frequent("platform_of_period"), most_frequent("platform")).alias("preferred_platform"),
    )
    columns = []
    for rank in range(FAMILIES):
        entry = F.get("families", F.lit(rank))
        share = -entry["less"] / F.col("total")
        columns += [entry["value"].alias(f"family_{rank + 1}"), share.alias(f"share_{rank + 1}")]
    return of_user.select("user_id", "preferred_hour", "preferred_platform", *columns)


def most_frequent(kind: str) -> Column:
    """Return the most frequent value of a kind; of equally frequent ones the last seen."""
    return F.max_by("value", F.when(F.col("kind") == kind, F.struct("count", "last", "value")))


def main(task: Task) -> None:
    events, predictions = task.input("events"), task.input("predictions")
    counts = Observation()
    with frames.session(task):
        characteristics = join_characteristics(
            frames.read(task, "predictions"),
            frames.read(task, "events"),
            frames.read(task, "items"),
            frames.read(task, "users"),
            tracking_plan.load(),
            events.end,
            partitions=frames.partitions_for(events.rows),
            counts=counts,
        )
        frames.write_buckets(task, "characteristics", characteristics, ["user_id"], predictions.rows)
        task.metrics |= counts.get
    rows = task.outputs["characteristics"]["rows"]
    if rows != predictions.rows:
        raise TaskError(
            f"{predictions.rows} users have predictions, but the join has {rows} rows, expected one per user; check "
            "the inputs for repeated users."
        )
    task.metrics["users"] = rows


if __name__ == "__main__":
    run(main)

"""Characteristics of users: predictions joined with affinities to families of items, habits and subscriptions.

There is exactly one row per user with a prediction; unknown values are null.
"""

import datetime

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from common import contracts
from common.engines import spark
from common.errors import TaskError
from common.handover import Task, run

FAMILIES = 3


def join_characteristics(
    predictions: DataFrame, events: DataFrame, items: DataFrame, users: DataFrame, end: datetime.date, partitions: int
) -> DataFrame:
    """Return rows of `characteristics@2`, one per row of `predictions`; one shuffle of the events."""
    purchases = events.where(
        (F.col("type") == "purchase") & F.col("user_id").isNotNull() & (F.to_date("time") < F.lit(end))
    ).select("user_id", "item_id", "time", F.hour("time").cast("bigint").alias("hour"))
    purchases = purchases.repartition(partitions, "user_id")
    periods = users.where(F.to_date("since") < F.lit(end))
    plans = periods.groupBy("user_id").agg(F.max_by(F.struct("plan"), "since")["plan"].alias("plan"))
    tables = (
        affinities(purchases, items),
        most_frequent(purchases, "hour", "time", "preferred_hour"),
        most_frequent(periods, "platform", "since", "preferred_platform"),
        plans,
    )
    joined = predictions
    for table in tables:
        joined = joined.join(table, "user_id", "left")
    return joined.select(*contracts.load("characteristics@2").columns)


def affinities(purchases: DataFrame, items: DataFrame) -> DataFrame:
    """Return the families that each user bought most often, and their shares of the user's purchases of goods."""
    of_family = purchases.join(F.broadcast(items.select("item_id", "family")), "item_id").groupBy("user_id", "family")
    counted = of_family.agg(F.count("*").alias("purchases")).withColumn(
        "share", F.col("purchases") / F.sum("purchases").over(Window.partitionBy("user_id"))
    )
    ordered = F.sort_array(F.collect_list(F.struct((-F.col("share")).alias("less"), "family")))
    of_user = counted.groupBy("user_id").agg(ordered.alias("families"))
    columns = []
    for rank in range(FAMILIES):
        entry = F.get("families", F.lit(rank))
        columns += [entry["family"].alias(f"family_{rank + 1}"), (-entry["less"]).alias(f"share_{rank + 1}")]
    return of_user.select("user_id", *columns)


def most_frequent(rows: DataFrame, column: str, time: str, name: str) -> DataFrame:
    """Return the most frequent value of each user; of equally frequent ones the last seen."""
    counted = rows.where(F.col(column).isNotNull()).groupBy("user_id", column)
    order = F.struct("count", "last", column)
    return (
        counted.agg(F.count("*").alias("count"), F.max(time).alias("last"))
        .groupBy("user_id")
        .agg(F.max_by(column, order).alias(name))
    )


def main(task: Task) -> None:
    events, predictions = task.input("events"), task.input("predictions")
    with spark.session(task):
        characteristics = join_characteristics(
            spark.read(task, "predictions"),
            spark.read(task, "events"),
            spark.read(task, "items"),
            spark.read(task, "users"),
            task.parameters["until"] or events.day_after_newest,
            partitions=spark.partitions_for(events.rows),
        )
        spark.write(task, "characteristics", characteristics)
    rows = task.outputs["characteristics"]["rows"]
    if rows != predictions.rows:
        raise TaskError(
            f"{predictions.rows} users have predictions, but the join has {rows} rows, expected one per user; check "
            "the inputs for repeated users."
        )
    task.metrics["users"] = rows


if __name__ == "__main__":
    run(main)

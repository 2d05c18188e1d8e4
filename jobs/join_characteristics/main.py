"""Characteristics of users: predictions joined with affinities to families of items, habits and subscriptions.

There is a row for each user who was predicted, and no other; what is not known of a user is null.
"""

import datetime

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from common import contracts
from common.engines import spark
from common.engines.spark import ROWS_PER_PARTITION
from common.errors import TaskError
from common.handover import Task, run

FAMILIES = 3


def join_characteristics(
    predictions: DataFrame, events: DataFrame, items: DataFrame, users: DataFrame, end: datetime.date, partitions: int
) -> DataFrame:
    """The rows of `characteristics@2`, of as many users as `predictions` has rows; one shuffle of the events."""
    purchases = events.where(
        (F.col("type") == "purchase") & F.col("user_id").isNotNull() & (F.to_date("time") < F.lit(end))
    ).select("user_id", "item_id", "time", F.hour("time").cast("bigint").alias("hour"))
    purchases = purchases.repartition(partitions, "user_id")
    periods = users.where(F.to_date("since") < F.lit(end))
    plans = periods.groupBy("user_id").agg(F.max_by(F.struct("plan"), "since")["plan"].alias("plan"))
    parts = (
        affinities(purchases, items),
        most_frequent(purchases, "hour", "time", "preferred_hour"),
        most_frequent(periods, "platform", "since", "preferred_platform"),
        plans,
    )
    joined = predictions
    for part in parts:
        joined = joined.join(part, "user_id", "left")
    return joined.select(*contracts.load("characteristics@2").columns)


def affinities(purchases: DataFrame, items: DataFrame) -> DataFrame:
    """The families that each user bought of most often and their shares of all the user's purchases of goods."""
    of_family = purchases.join(F.broadcast(items.select("item_id", "family")), "item_id").groupBy("user_id", "family")
    counted = of_family.agg(F.count("*").alias("purchases")).withColumn(
        "share", F.col("purchases") / F.sum("purchases").over(Window.partitionBy("user_id"))
    )
    ordered = F.sort_array(F.collect_list(F.struct((-F.col("share")).alias("less"), "family")))
    found = counted.groupBy("user_id").agg(ordered.alias("families"))
    columns = []
    for place in range(FAMILIES):
        entry = F.get("families", F.lit(place))
        columns += [entry["family"].alias(f"family_{place + 1}"), (-entry["less"]).alias(f"share_{place + 1}")]
    return found.select("user_id", *columns)


def most_frequent(rows: DataFrame, column: str, time: str, name: str) -> DataFrame:
    """The value that each user has most often; of equally frequent ones the one seen last."""
    counted = rows.where(F.col(column).isNotNull()).groupBy("user_id", column)
    order = F.struct("times", "last", column)
    return (
        counted.agg(F.count("*").alias("times"), F.max(time).alias("last"))
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
            partitions=max(1, -(-events.rows // ROWS_PER_PARTITION)),
        )
        spark.write(task, "characteristics", characteristics)
    rows = task.outputs["characteristics"]["rows"]
    if rows != predictions.rows:
        raise TaskError(
            f"{predictions.rows} users were predicted, but {rows} rows came out; expected one for each user."
        )
    task.metrics["users"] = rows


if __name__ == "__main__":
    run(main)

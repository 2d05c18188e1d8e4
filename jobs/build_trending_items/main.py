"""Trending items: bought by more people in the last days than is usual for these weekdays.

A buyer counts once an item and day, however much they buy; all events of a day without a user are one buyer. With the
buyers of an item on day d decayed by age, B = sum over recent days of buyers(d) 2^(-age / half-life), and

    E = buyers a usual day * sum over recent days of f(weekday of d) 2^(-age / half-life),

f being how the country's usual buyers spread over the week (a shop that is closed on Saturdays expects none), the score
is (B - E) / sqrt(E + 1): the excess in units of what chance does to a count, damped for items without a past.
"""

import datetime

from pyspark import StorageLevel
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from common.engines import spark
from common.errors import GateRefused
from common.handover import Task, run


def trending_items(
    events: DataFrame,
    items: DataFrame,
    end: datetime.date,
    recent_days: int,
    half_life_days: float,
    usual_weeks: int,
    min_buyers: int,
    count: int,
) -> DataFrame:
    """The rows of `trending_items@1` from events of the recent days and of the weeks before; others are left out."""
    age = F.datediff(F.lit(end), "day") - 1  # 0: the last day
    usual_days = 7 * usual_weeks
    purchases = events.where(F.col("type") == "purchase").join(F.broadcast(items.select("item_id")), "item_id")
    visits = (
        purchases.select(
            F.explode(F.array("country", F.lit(None).cast("string"))).alias("country"),
            "item_id",
            F.coalesce("user_id", F.lit("")).alias("buyer"),
            F.to_date("time").alias("day"),
        )
        .where(age.between(0, recent_days + usual_days - 1))
        .distinct()
        .withColumn("recent", age < recent_days)
        .withColumn("decayed", F.pow(F.lit(2.0), -age / half_life_days))
        .persist(StorageLevel.DISK_ONLY)
    )
    by_weekday = F.array(*map(F.lit, decayed_weekdays(end, recent_days, half_life_days)))
    weeks = visits.where("NOT recent").groupBy("country")
    weights = weeks.agg((7 * F.avg(F.get(by_weekday, F.weekday("day")))).alias("decayed_days"))
    of_buyer = visits.groupBy("country", "item_id", "buyer").agg(
        F.sum(F.when(F.col("recent"), F.col("decayed")).otherwise(0.0)).alias("weighted"),
        F.count_if(~F.col("recent")).alias("usual"),
    )
    of_item = of_buyer.groupBy("country", "item_id").agg(
        F.count_if(F.col("weighted") > 0).alias("buyers"),
        F.sum("weighted").alias("weighted_buyers"),
        (F.sum("usual") / usual_days).alias("usual_buyers"),
    )
    same_country = of_item["country"].eqNullSafe(weights["country"])
    expected = F.col("usual_buyers") * F.coalesce("decayed_days", F.lit(0.0))
    score = (F.col("weighted_buyers") - F.col("expected_buyers")) / F.sqrt(F.col("expected_buyers") + 1)
    scored = (
        of_item.where(F.col("buyers") >= min_buyers)
        .join(F.broadcast(weights), same_country, "left")
        .select(of_item["*"], expected.alias("expected_buyers"))
        .withColumn("score", score)
        .where("score > 0")
    )
    best = Window.partitionBy("country").orderBy(F.desc("score"), "item_id")
    ranked = scored.withColumn("rank", F.row_number().over(best).cast("bigint")).where(F.col("rank") <= count)
    named = ranked.join(F.broadcast(items.select("item_id", F.col("name").alias("item_name"))), "item_id")
    return named.coalesce(1).sortWithinPartitions("country", "rank")


def decayed_weekdays(end: datetime.date, recent_days: int, half_life_days: float) -> list[float]:
    """By weekday, Monday first: the sum of 2^(-age / half-life) over those of the recent days."""
    sums = [0.0] * 7
    for age in range(recent_days):
        sums[(end - datetime.timedelta(days=age + 1)).weekday()] += 2 ** (-age / half_life_days)
    return sums


def main(task: Task) -> None:
    events, settings = task.input("events"), task.parameters
    names = ("recent_days", "half_life_days", "usual_weeks", "min_buyers", "count")
    with spark.session(task):
        trending = trending_items(
            spark.read(task, "events"),
            spark.read(task, "items"),
            settings["until"] or events.day_after_newest,
            **{name: settings[name] for name in names},
        )
        spark.write(task, "trending", trending)
    task.metrics["rows"] = task.outputs["trending"]["rows"]
    if not task.metrics["rows"]:
        raise GateRefused(
            f"No item had {settings['min_buyers']} buyers in {settings['recent_days']} days and more than usual, so "
            "nothing is trending; look at the events, lower min_buyers, or raise recent_days."
        )


if __name__ == "__main__":
    run(main)

"""Trending items: bought by more people in the last days than is usual for these weekdays.

A buyer counts once per item and day; all events of a day without a user are one buyer. With the
buyers of an item on day d decayed by age, B = sum over recent days of buyers(d) 2^(-age / half-life), and

    E = buyers per usual day * sum over recent days of f(weekday of d) 2^(-age / half-life),

f being the distribution of the country's usual buyers over the week (a shop closed on Saturdays expects none), the
score is (B - E) / sqrt(E + 1): the excess in standard deviations of a count by chance, damped for items without a past.
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
    """Return rows of `trending_items@1` from events of the recent days and of the weeks before."""
    visits = count_visits(events, items, end, recent_days, half_life_days, usual_days=7 * usual_weeks)
    buyers = count_buyers(visits, usual_days=7 * usual_weeks)
    weights = weigh_usual_days(visits, decayed_weekdays(end, recent_days, half_life_days))
    scored = score_items(buyers.where(F.col("buyers") >= min_buyers), weights)
    best = Window.partitionBy("country").orderBy(F.desc("score"), "item_id")
    ranked = scored.withColumn("rank", F.row_number().over(best).cast("bigint")).where(F.col("rank") <= count)
    named = ranked.join(F.broadcast(items.select("item_id", F.col("name").alias("item_name"))), "item_id")
    return named.coalesce(1).sortWithinPartitions("country", "rank")


def count_visits(
    events: DataFrame, items: DataFrame, end: datetime.date, recent_days: int, half_life_days: float, usual_days: int
) -> DataFrame:
    """Return one row per country, item, buyer and day with a purchase, and per day for all countries (null)."""
    age = F.datediff(F.lit(end), "day") - 1  # 0: the last day
    purchases = events.where(F.col("type") == "purchase").join(F.broadcast(items.select("item_id")), "item_id")
    return (
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


def count_buyers(visits: DataFrame, usual_days: int) -> DataFrame:
    """Return recent buyers of each item by country, the sum of their decayed days, and buyers per usual day."""
    of_buyer = visits.groupBy("country", "item_id", "buyer").agg(
        F.sum(F.when(F.col("recent"), F.col("decayed")).otherwise(0.0)).alias("weighted"),
        F.count_if(~F.col("recent")).alias("usual"),
    )
    return of_buyer.groupBy("country", "item_id").agg(
        F.count_if(F.col("weighted") > 0).alias("buyers"),
        F.sum("weighted").alias("weighted_buyers"),
        (F.sum("usual") / usual_days).alias("usual_buyers"),
    )


def weigh_usual_days(visits: DataFrame, by_weekday: list[float]) -> DataFrame:
    """Return the decayed days by country, weighted by the distribution of its usual buyers over the week."""
    weight = F.get(F.array(*map(F.lit, by_weekday)), F.weekday("day"))
    return visits.where("NOT recent").groupBy("country").agg((7 * F.avg(weight)).alias("decayed_days"))


def score_items(buyers: DataFrame, weights: DataFrame) -> DataFrame:
    """Add the expected buyers and the score, and keep the positive ones."""
    same_country = buyers["country"].eqNullSafe(weights["country"])
    expected = F.col("usual_buyers") * F.coalesce("decayed_days", F.lit(0.0))
    score = (F.col("weighted_buyers") - F.col("expected_buyers")) / F.sqrt(F.col("expected_buyers") + 1)
    return (
        buyers.join(F.broadcast(weights), same_country, "left")
        .select(buyers["*"], expected.alias("expected_buyers"))
        .withColumn("score", score)
        .where("score > 0")
    )


def decayed_weekdays(end: datetime.date, recent_days: int, half_life_days: float) -> list[float]:
    """Return by weekday, Monday first, the sum of 2^(-age / half-life) over the recent days."""
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
            "nothing is trending; check the events, lower min_buyers, or raise recent_days."
        )


if __name__ == "__main__":
    run(main)

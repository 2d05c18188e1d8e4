"""Features of users as of several cuts in time, and whether they churned afterwards: all cuts in one pass.

A cut is a midnight (UTC). Features come from the events before it only. A user at risk churned if within the horizon
after the cut they bought nothing (inactive) or cancelled their plan (cancelled). Events are first summed by user and
day; a day then counts for every cut with a window that contains it. One shuffle of events, on user.
"""

import datetime
import math

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from common import contracts
from common.engines import spark
from common.errors import InputError
from common.handover import Task, run

WINDOWS = (7, 28, 90, 180)  # days before a cut
MAX_AMOUNT = 1e9  # of one event: one corrupt price must not outweigh all others


def cuts_before(end: datetime.date, horizon_days: int, count: int, spacing_days: int) -> list[datetime.date]:
    """Return the labelled cuts, oldest first, and the end. The horizon of the newest labelled one ends at the end."""
    ages = [horizon_days + number * spacing_days for number in reversed(range(count))]
    return [*(end - datetime.timedelta(days=age) for age in ages), end]


def build_user_features(
    events: DataFrame,
    users: DataFrame,
    cuts: list[datetime.date],
    churn: str,
    horizon_days: int,
    buyer_days: int,
    partitions: int,
) -> DataFrame:
    """Return rows of `user_features@1` from those of `events@2` and `users@2`, as of the cuts; the last is now."""
    days = by_day(events.where("user_id IS NOT NULL").repartition(partitions, "user_id"))
    bought = as_of_cuts(days, cuts, horizon_days)
    subscribed = subscriptions_as_of_cuts(users, cuts, horizon_days)
    known = bought.join(subscribed, ["user_id", "cut"], "full").where("known_from IS NOT NULL OR first_day IS NOT NULL")
    rows = known.withColumns(features()).withColumns(outcome(churn, buyer_days, cuts[-1]))
    rows = rows.where(F.col("at_risk") | (F.col("cut") == F.lit(cuts[-1])))
    columns = contracts.load("user_features@1").columns
    return rows.select(*[cast(name, column) for name, column in columns.items()])


def cast(name: str, column: contracts.Column) -> Column:
    """Return a column with the type of the contract; sums of a user without events or plan are 0."""
    if column.type != "float32":
        return F.col(name)
    number = F.col(name).cast("float")
    return (number if column.nullable else F.coalesce(number, F.lit(0.0).cast("float"))).alias(name)


def by_day(events: DataFrame) -> DataFrame:
    """Return additive sums by user and day, and the days since the previous day with a purchase."""
    bought = F.col("type") == "purchase"
    of_item = Window.partitionBy("user_id", "item_id", "type").orderBy("time", "event_id")
    amount = F.least(F.col("quantity") * F.col("unit_price"), F.lit(MAX_AMOUNT))
    hour, weekday = angle(F.hour("time"), 24), angle(F.weekday("time"), 7)
    summed = {
        "purchases": bought,
        "amount": F.when(bought, amount),
        "new_items": bought & (F.row_number().over(of_item) == 1),
        "returns": ~bought,
        "returned_amount": F.when(~bought, amount),
        "hour_sine": F.when(bought, F.sin(hour)),
        "hour_cosine": F.when(bought, F.cos(hour)),
        "weekday_sine": F.when(bought, F.sin(weekday)),
        "weekday_cosine": F.when(bought, F.cos(weekday)),
        "weekend": bought & (F.weekday("time") >= 5),
    }
    events = events.select(
        "user_id",
        F.to_date("time").alias("day"),
        "time",
        "country",
        *[sums.cast("double").alias(name) for name, sums in summed.items()],
    )
    days = events.groupBy("user_id", "day").agg(
        *[F.coalesce(F.sum(name), F.lit(0.0)).alias(name) for name in summed],
        F.max_by("country", "time").alias("country"),
    )
    earlier = Window.partitionBy("user_id").orderBy("day").rowsBetween(Window.unboundedPreceding, -1)
    day_with_purchase = F.when(F.col("purchases") > 0, F.col("day"))
    gap = F.datediff(day_with_purchase, F.last(day_with_purchase, ignorenulls=True).over(earlier))
    return days.withColumns({"gap": gap.cast("double"), "purchase_day": day_with_purchase})


def as_of_cuts(days: DataFrame, cuts: list[datetime.date], horizon_days: int) -> DataFrame:
    """Sum the days of each user before each cut; `bought_after` is true with a purchase in its horizon."""
    later = F.filter(F.array(*map(F.lit, cuts)), lambda cut: F.date_add(cut, horizon_days) > F.col("day"))
    age = F.datediff("cut", "day")
    before, has_purchase = age >= 1, F.col("purchases") > 0

    def within(days: int | None, column: Column) -> Column:
        inside = before if days is None else age.between(1, days)
        return F.sum(F.when(inside, column).otherwise(0.0))

    sums = [
        F.min(F.when(before, F.col("day"))).alias("first_day"),
        F.max(F.when(before, F.col("purchase_day"))).alias("last_purchase_day"),
        F.coalesce(F.max(has_purchase & ~before), F.lit(False)).alias("bought_after"),
        F.max_by("country", F.when(before, F.col("day"))).alias("country_of_events"),
        F.avg(F.when(before, F.col("gap"))).alias("gap_days"),
        F.stddev_pop(F.when(before, F.col("gap"))).alias("gap_deviation_days"),
        within(90, F.col("new_items")).alias("new_items_90"),
        within(90, F.col("returns")).alias("returns_90"),
        within(None, F.col("new_items")).alias("items"),
        within(None, has_purchase.cast("double")).alias("active_days"),
    ]
    for name in (
        "purchases",
        "amount",
        "returns",
        "returned_amount",
        "hour_sine",
        "hour_cosine",
        "weekday_sine",
        "weekday_cosine",
        "weekend",
    ):
        sums.append(within(None, F.col(name)).alias(name))
    for width in WINDOWS:
        sums.append(within(width, has_purchase.cast("double")).alias(f"active_days_{width}"))
        sums += [within(width, F.col(name)).alias(f"{name}_{width}") for name in ("purchases", "amount")]
    return days.withColumn("cut", F.explode(later)).groupBy("user_id", "cut").agg(*sums)


def subscriptions_as_of_cuts(users: DataFrame, cuts: list[datetime.date], horizon_days: int) -> DataFrame:
    """Return the subscription of each user before each cut; `cancelled_after` is true if it ends in its horizon."""
    later = F.filter(F.array(*map(F.lit, cuts)), lambda cut: F.date_add(cut, horizon_days) > F.col("since"))
    before, cancels = F.col("since") < F.col("cut"), F.col("change") == "cancel"
    state = F.max_by(F.struct("plan", "platform", "country", "since"), F.when(before, F.col("since")))
    summed = (
        users.withColumn("cut", F.explode(later))
        .groupBy("user_id", "cut")
        .agg(
            state.alias("state"),
            F.min(F.when(before, F.to_date("since"))).alias("known_from"),
            F.count_if(before).alias("plan_changes"),
            F.count_if(before & cancels).alias("past_cancellations"),
            F.max(cancels & ~before).alias("cancelled_after"),
        )
    )
    return summed.select(
        "*", "state.plan", "state.platform", "state.country", F.to_date("state.since").alias("plan_from")
    )


def features() -> dict[str, Column]:
    """Return the features that are not plain sums, by name, from the sums of a user as of a cut."""
    recency = F.datediff("cut", "last_purchase_day")
    purchases = F.col("purchases")
    per_purchase = ("hour_sine", "hour_cosine", "weekday_sine", "weekday_cosine")
    return {
        "recency_days": recency,
        "tenure_days": F.datediff("cut", F.least("first_day", "known_from")),
        "gaps_since_last": recency / F.col("gap_days"),
        **{name: F.when(purchases > 0, F.col(name) / purchases) for name in per_purchase},
        "weekend_share": F.when(purchases > 0, F.col("weekend") / purchases),
        "trend_7": trend(7, 28),
        "trend_28": trend(28, 90),
        "trend_90": trend(90, 180),
        "plan_days": F.when(F.col("plan").isNotNull(), F.datediff("cut", "plan_from")),
        "country": F.coalesce("country", "country_of_events"),
    }


def trend(days: int, longer: int) -> Column:
    """Return the log of the share of the longer window's activity in its last days, relative to an even spread."""
    recent, whole = (F.col(f"active_days_{width}") for width in (days, longer))
    return F.log((recent + days / longer) / (whole + 1)) - math.log(days / longer)


def outcome(churn: str, buyer_days: int, now: datetime.date) -> dict[str, Column]:
    """Return true if a user was at risk as of the cut, and if they churned later; null for now and without risk."""
    if churn == "cancelled":
        at_risk, churned = F.col("plan").isNotNull(), F.col("cancelled_after")
    else:
        at_risk = F.col("recency_days") <= buyer_days
        churned = ~F.coalesce("bought_after", F.lit(False))
    at_risk = F.coalesce(at_risk, F.lit(False))
    return {"at_risk": at_risk, "churned": F.when(at_risk & (F.col("cut") < F.lit(now)), churned)}


def angle(number: Column, of: int) -> Column:
    """Return the angle of a number on a circle, so that the last hour of a day is next to its first."""
    return number * (2 * math.pi / of)


def main(task: Task) -> None:
    events, users = task.input("events"), task.input("users")
    settings = task.parameters
    if settings["churn"] == "cancelled" and not users.rows:
        raise InputError(
            "churn is 'cancelled', but the dataset curated/users has no subscription; run ingest_users first, or set "
            "churn to 'inactive'."
        )
    end = settings["until"] or events.day_after_newest
    cuts = cuts_before(end, settings["horizon_days"], settings["labelled_cuts"], settings["cut_spacing_days"])
    with spark.session(task) as session:
        features = build_user_features(
            spark.read(task, "events"),
            spark.read(task, "users"),
            cuts,
            settings["churn"],
            settings["horizon_days"],
            settings["buyer_days"],
            partitions=spark.partitions_for(events.rows),
        )
        spark.write(task, "features", features)
        written = session.read.parquet(task.folder("features")).groupBy("cut")
        counts = written.agg(F.count("*"), F.count_if("at_risk"), F.count_if("churned")).sort("cut").collect()
    task.metrics["cuts"] = {
        str(cut): {"users": users, "at_risk": at_risk, "churned": churned} for cut, users, at_risk, churned in counts
    }
    task.log("features", **task.metrics)
    if not task.outputs["features"]["rows"]:
        raise InputError("No user is known before the end of the window; choose a later end, or a longer window.")


if __name__ == "__main__":
    run(main)

"""Features of users as of several cuts in time, and whether they churned afterwards: all cuts in one pass.

A cut is a midnight (UTC). Features come from the events before it only. A user at risk churned if within the horizon
after the cut they had no target event (inactive) or cancelled their plan (cancelled). Events are first summed by user
and day; a day then counts for every cut with a window that contains it. One shuffle of events, on user.
"""

import datetime
import math
from collections.abc import Callable
from typing import Any

from pyspark.sql import Column, DataFrame, Observation, Window
from pyspark.sql import functions as F

from common import contracts
from common.engines import frames
from common.errors import ArgumentError, InputError
from common.handover import Task, run
from common.sources import tracking_plan
from common.sources.tracking_plan import TrackingPlan

WINDOWS = (7, 28, 90, 180)  # days before a cut
ANGLES = ("hour_sine", "hour_cosine", "weekday_sine", "weekday_cosine")
MAX_VALUE = 1e9  # of one event: one corrupt price must not outweigh all others
QUANTUM = 2.0**-20  # of a value: sums up to 8 billion are exact
QUANTUM_OF_ANGLES = 2.0**-32


def cuts_before(end: datetime.date, horizon_days: int, count: int, spacing_days: int) -> list[datetime.date]:
    """Return the labelled cuts, oldest first, and the end. The horizon of the newest labelled one ends at the end."""
    ages = [horizon_days + number * spacing_days for number in reversed(range(count))]
    return [*(end - datetime.timedelta(days=age) for age in ages), end]


def build_user_features(
    events: DataFrame,
    users: DataFrame,
    plan: TrackingPlan,
    cuts: list[datetime.date],
    churn: str,
    horizon_days: int,
    active_days: int,
    partitions: int,
) -> DataFrame:
    """Return rows of `user_features@2` from those of `events@3` and `users@2`, as of the cuts; the last is now."""
    acted = as_of_cuts(by_day(events, plan, partitions), cuts, horizon_days)
    subscribed = subscriptions_as_of_cuts(users, cuts, horizon_days)
    known = acted.join(subscribed, ["user_id", "cut"], "full").where("known_from IS NOT NULL OR first_day IS NOT NULL")
    rows = known.withColumns(features()).withColumns(outcome(churn, active_days, cuts[-1]))
    rows = rows.where(F.col("at_risk") | (F.col("cut") == F.lit(cuts[-1])))
    columns = contracts.load("user_features@2").columns
    return rows.select(*[cast(name, column) for name, column in columns.items()])


def cast(name: str, column: contracts.Column) -> Column:
    """Return a column with the type of the contract; sums of a user without events or plan are 0."""
    if column.type != "float32":
        return F.col(name)
    number = F.col(name).cast("float")
    return (number if column.nullable else F.coalesce(number, F.lit(0.0).cast("float"))).alias(name)


def by_day(events: DataFrame, plan: TrackingPlan, partitions: int) -> DataFrame:
    """Return additive sums by user and day, and the days since the previous day with a target event."""
    value = F.coalesce("value", F.coalesce("quantity", F.lit(1)) * F.col("unit_price"))
    value = F.when(value.isNotNull(), F.greatest(F.lit(-MAX_VALUE), F.least(F.lit(MAX_VALUE), value)))
    kinds = {
        "target": frames.of_events(plan.target_sql),
        "reversal": F.col("type").isin(plan.reversals),
        "value": value,
    }
    columns = ["user_id", "item_id", "time", "session_id", "platform", "country"]
    events = events.where("user_id IS NOT NULL").select(*columns, *[kind.alias(name) for name, kind in kinds.items()])
    events = events.repartition(partitions, "user_id").withColumns(summed_by_day())
    days = events.groupBy("user_id", F.to_date("time").alias("day")).agg(
        *[F.coalesce(F.sum(name), F.lit(0.0)).alias(name) for name in summed_by_day()],
        F.greatest(F.lit(1.0), F.size(F.collect_set("session_id"))).alias("sessions"),
        F.collect_set("platform").alias("platforms"),
        latest("platform"),
        latest("country"),
    )
    earlier = Window.partitionBy("user_id").orderBy("day").rowsBetween(Window.unboundedPreceding, -1)
    target_day = F.when(F.col("targets") > 0, F.col("day"))
    gap = F.datediff(target_day, F.last(target_day, ignorenulls=True).over(earlier))
    return days.withColumns({"gap": gap.cast("double"), "target_day": target_day})


def latest(name: str) -> Column:
    """Return the last value of a column by time; of several at the same time the greatest."""
    return F.max(F.when(F.col(name).isNotNull(), F.struct("time", name)))[name].alias(name)


def summed_by_day() -> dict[str, Column]:
    """Return, by name, the numbers of an event that are summed over a day."""
    target, reversal, value = F.col("target"), F.col("reversal"), F.col("value")
    of_item = Window.partitionBy("user_id", "item_id", "target").orderBy("time")
    hour, weekday = F.hour("time"), F.weekday("time")
    summed = {
        "events": F.lit(1),
        "targets": target,
        "value": F.when(target, value),
        "new_items": target & F.col("item_id").isNotNull() & (F.row_number().over(of_item) == 1),
        "reversals": reversal,
        "reversed_value": F.when(reversal, value),
        "hour_sine": on_circle(math.sin, hour, 24),
        "hour_cosine": on_circle(math.cos, hour, 24),
        "weekday_sine": on_circle(math.sin, weekday, 7),
        "weekday_cosine": on_circle(math.cos, weekday, 7),
        "weekend": weekday >= 5,
    }
    doubles = {name: column.cast("double") for name, column in summed.items()}
    return doubles | {name: frames.rounded(doubles[name], QUANTUM) for name in ("value", "reversed_value")}


def on_circle(of_angle: Callable[[float], float], number: Column, count: int) -> Column:
    """Return the sine or cosine of a number as an angle, so that the last hour of a day is next to its first.

    Of literals: engines compute the last digit of sines differently.
    """
    angles = [2 * math.pi * each / count for each in range(count)]
    values = [round(of_angle(angle) / QUANTUM_OF_ANGLES) * QUANTUM_OF_ANGLES for angle in angles]
    return F.get(F.array(*map(F.lit, values)), number)


def as_of_cuts(days: DataFrame, cuts: list[datetime.date], horizon_days: int) -> DataFrame:
    """Sum the days of each user before each cut; `target_after` is true with a target event in its horizon."""
    later = F.filter(F.array(*map(F.lit, cuts)), lambda cut: F.date_add(cut, horizon_days) > F.col("day"))
    age = F.datediff("cut", "day")
    before, has_target = age >= 1, F.col("targets") > 0
    gap = F.when(before, F.col("gap"))
    in_windows = {
        "target_days": has_target.cast("double"),
        "active_days": F.lit(1.0),
        **{name: F.col(name) for name in ("targets", "value", "events", "sessions")},
    }
    ever = ("new_items", "reversals", "reversed_value", "weekend", *ANGLES)

    def within(days: int | None, column: Column) -> Column:
        inside = before if days is None else age.between(1, days)
        return F.sum(F.when(inside, column).otherwise(0.0))

    sums = [
        F.min(F.when(before, F.col("day"))).alias("first_day"),
        F.max(F.when(before, F.col("day"))).alias("last_day"),
        F.max(F.when(before, F.col("target_day"))).alias("last_target_day"),
        F.coalesce(F.max(has_target & ~before), F.lit(False)).alias("target_after"),
        F.max_by("country", F.when(before & F.col("country").isNotNull(), F.col("day"))).alias("country_of_events"),
        F.mode(F.when(before, F.col("platform")), deterministic=True).alias("platform_of_events"),
        F.size(F.array_distinct(F.flatten(F.collect_list(F.when(before, F.col("platforms")))))).alias("platforms"),
        F.avg(gap).alias("gap_days"),
        # Of whole days: exact, while stddev_pop depends on the order of rows.
        (F.sqrt(F.count(gap) * F.sum(gap * gap) - F.sum(gap) * F.sum(gap)) / F.count(gap)).alias("gap_deviation_days"),
        within(90, F.col("new_items")).alias("new_items_90"),
        within(90, F.col("reversals")).alias("reversals_90"),
        *[within(None, F.col(name)).alias("items" if name == "new_items" else name) for name in ever],
    ]
    for name, column in in_windows.items():
        sums.append(within(None, column).alias(name))
        sums += [within(width, column).alias(f"{name}_{width}") for width in WINDOWS]
    return days.withColumn("cut", F.explode(later)).groupBy("user_id", "cut").agg(*sums)


def subscriptions_as_of_cuts(users: DataFrame, cuts: list[datetime.date], horizon_days: int) -> DataFrame:
    """Return the subscription of each user before each cut; `cancelled_after` is true if it ends in its horizon."""
    later = F.filter(F.array(*map(F.lit, cuts)), lambda cut: F.date_add(cut, horizon_days) > F.col("since"))
    before, cancels = F.col("since") < F.col("cut"), F.col("change") == "cancel"
    state = F.max_by(F.struct("plan", "change", "platform", "country", "since"), F.when(before, F.col("since")))
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
        "*",
        *[F.col("state")[name].alias(name) for name in ("plan", "platform", "country")],
        (F.col("state")["change"] != "cancel").alias("subscribed"),
        F.to_date(F.col("state")["since"]).alias("plan_from"),
    )


def features() -> dict[str, Column]:
    """Return the features that are not plain sums, by name, from the sums of a user as of a cut."""
    recency, events = F.datediff("cut", "last_target_day"), F.col("events")
    return {
        "recency_days": recency,
        "event_recency_days": F.datediff("cut", "last_day"),
        "tenure_days": F.datediff("cut", F.least("first_day", "known_from")),
        "gaps_since_last": recency / F.col("gap_days"),
        "target_share": F.when(events > 0, F.col("targets") / events),
        **{name: F.when(events > 0, F.col(name) / events) for name in ANGLES},
        "weekend_share": F.when(events > 0, F.col("weekend") / events),
        "trend_7": trend(7, 28),
        "trend_28": trend(28, 90),
        "trend_90": trend(90, 180),
        "plan_days": F.when(F.col("subscribed"), F.datediff("cut", "plan_from")),
        "platform": F.coalesce("platform", "platform_of_events"),
        "country": F.coalesce("country", "country_of_events"),
    }


def trend(days: int, longer: int) -> Column:
    """Return the log of the share of a window's days with targets that are its last, relative to an even spread."""
    recent, whole = (F.col(f"target_days_{width}") for width in (days, longer))
    return F.log((recent + days / longer) / (whole + 1)) - math.log(days / longer)


def outcome(churn: str, active_days: int, now: datetime.date) -> dict[str, Column]:
    """Return true if a user was at risk as of the cut, and if they churned later; null for now and without risk."""
    if churn == "cancelled":
        at_risk, churned = F.col("subscribed"), F.col("cancelled_after")
    else:
        at_risk = F.col("recency_days") <= active_days
        churned = ~F.coalesce("target_after", F.lit(False))
    at_risk = F.coalesce(at_risk, F.lit(False))
    return {"at_risk": at_risk, "churned": F.when(at_risk & (F.col("cut") < F.lit(now)), churned)}


def counted(plan: TrackingPlan) -> list[Column]:
    """Return the numbers of events for the metrics."""
    return [
        F.count(F.lit(1)).alias("events"),
        F.count_if(frames.of_events(plan.target_sql)).alias("target_events"),
        F.count_if(F.col("user_id").isNull()).alias("events_without_user"),
        F.count_if(~F.col("type").isin(list(plan.types))).alias("events_of_unknown_types"),
    ]


def refuse_short_window(settings: dict[str, Any]) -> None:
    """Raise ArgumentError if a window by its length lacks days that decide who is at risk as of the oldest cut."""
    oldest = settings["horizon_days"] + (settings["labelled_cuts"] - 1) * settings["cut_spacing_days"]
    days = oldest + settings["active_days"]
    if settings["since"] is None and settings["window_days"] < days:
        raise ArgumentError(
            f"window_days is {settings['window_days']}, but the oldest labelled cut is {oldest} days before the end, "
            f"and active_days is {settings['active_days']}; set it to at least {days}, or lower labelled_cuts."
        )


def main(task: Task) -> None:
    events, users = task.input("events"), task.input("users")
    settings = task.parameters
    if settings["churn"] == "cancelled" and not users.rows:
        raise InputError(
            "churn is 'cancelled', but the dataset curated/users has no subscription; run ingest_users first, or set "
            "churn to 'inactive'."
        )
    refuse_short_window(settings)
    cuts = cuts_before(events.end, settings["horizon_days"], settings["labelled_cuts"], settings["cut_spacing_days"])
    plan, counts = tracking_plan.load(), Observation()
    with frames.session(task):
        features = build_user_features(
            frames.read(task, "events").observe(counts, *counted(plan)),
            frames.read(task, "users"),
            plan,
            cuts,
            settings["churn"],
            settings["horizon_days"],
            settings["active_days"],
            partitions=frames.partitions_for(events.rows),
        )
        frames.write_buckets(task, "features", features, ["user_id", "cut"], events.rows)
        task.metrics |= counts.get
        if not task.outputs["features"]["rows"]:
            raise InputError("No user is known before the end of the window; choose a later end, or a longer window.")
        written = frames.read_back(task, "features").groupBy("cut")
        totals = written.agg(F.count("*"), F.count_if("at_risk"), F.count_if("churned")).sort("cut").collect()
    task.metrics["cuts"] = {
        str(cut): {"users": users, "at_risk": at_risk, "churned": churned} for cut, users, at_risk, churned in totals
    }
    task.log("features", **task.metrics)


if __name__ == "__main__":
    run(main)

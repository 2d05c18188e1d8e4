"""Strength of the interactions of users with items, as of the end of a window of events and of two cuts in it.

Values as of a cut come from the events before it only, so models can be evaluated on the later ones.
"""

import datetime
import math
from collections import Counter

from pyspark.sql import Column, DataFrame, Observation
from pyspark.sql import functions as F

from common.engines import frames
from common.errors import InputError
from common.handover import Task, run
from common.handover.buckets import buckets_for
from common.recommending import MICROSECONDS_PER_DAY
from common.sources import tracking_plan
from common.sources.tracking_plan import TrackingPlan

MAX_DAYS = 30  # of the windows for tests and tuning, unless they are set
MOST_TYPES = 8  # that a message lists
QUANTUM = 2.0**-32  # of strength: a purchase of 15 half-lives ago keeps 5 digits, sums up to 2 million are exact
TARGET = "target "  # prefix of the counts of target events by type


def build_interactions(
    events: DataFrame,
    plan: TrackingPlan,
    end: datetime.date,
    test_days: int,
    tuning_days: int,
    half_life_days: float,
    buckets: int,
) -> DataFrame:
    """Return rows of `interactions@2` in buckets of the user; one shuffle.

    The weight as of a moment is log1p(max(0, sum of weight * 2^(-age / half-life))) over the events before it, age in
    days: the plan's weight of a reversal is negative, so it is netted before the logarithm. A pair without a weight
    has a row if it has target events (such as low ratings), and none of its events was reversed.
    Events are summed in whole quanta, and each counts one more, so that a very old one still makes a pair.
    """
    test_start = end - datetime.timedelta(days=test_days)
    moments = {"": end, "_before_test": test_start, "_before_tuning": test_start - datetime.timedelta(days=tuning_days)}
    liked_at = F.when(F.col("weight") > 0, F.col("time"))
    aggregates = [F.min(liked_at).alias("first_time"), F.max("reversal").alias("reversed")]
    columns = [F.col(frames.PLACE), F.col("user_id"), F.col("item_id")]
    for name, moment in moments.items():
        before = F.col("time") < start_of(moment)
        age = (F.unix_micros(start_of(moment)) - F.unix_micros("time")) / MICROSECONDS_PER_DAY
        decay = F.exp(-age * (math.log(2) / half_life_days))  # pow would cost the job a tenth more
        strength = frames.rounded(F.col("weight") * decay, QUANTUM)
        strength += F.signum("weight") * QUANTUM
        aggregates += [
            F.sum(F.when(before, strength).otherwise(0.0)).alias(f"strength{name}"),
            F.count_if(before & F.col("target")).alias(f"events{name}"),
            F.max(F.when(before, liked_at)).alias(f"last_time{name}"),
        ]
        weight = F.log1p(F.greatest(F.lit(0.0), F.col(f"strength{name}"))).cast("float")
        columns += [weight.alias(f"weight{name}"), F.col(f"events{name}"), F.col(f"last_time{name}")]
    weighed = frames.in_buckets(weigh(events.where(F.col("time") < start_of(end)), plan), "user_id", buckets)
    pairs = weighed.groupBy(frames.PLACE, "user_id", "item_id").agg(*aggregates)
    exists = " OR ".join(f"weight{name} > 0" for name in moments)
    return pairs.select(*columns, "first_time", "reversed").where(f"{exists} OR (events > 0 AND NOT reversed)")


def weigh(events: DataFrame, plan: TrackingPlan) -> DataFrame:
    """Return the events that take part, with their weight, and whether they are targets or reversals."""
    return events.where(drop_reason(plan).isNull()).select(
        "user_id",
        "item_id",
        "time",
        frames.of_events(plan.weight_sql).alias("weight"),
        frames.of_events(plan.target_sql).alias("target"),
        F.col("type").isin(plan.reversals).alias("reversal"),
    )


def drop_reason(plan: TrackingPlan) -> Column:
    """Return the reason for which an event does not take part, or null."""
    return (
        F.when(F.col("user_id").isNull(), "no user")
        .when(F.col("item_id").isNull(), "no item")
        .when(~F.col("type").isin(list(plan.types)), "unknown type")
    )


def start_of(date: datetime.date) -> Column:
    """Return midnight (UTC) at the beginning of a day."""
    return F.lit(datetime.datetime.combine(date, datetime.time(), datetime.UTC))


def count_drops(events: DataFrame, plan: TrackingPlan, counts: Observation) -> DataFrame:
    """Return the same events; once they are read, `counts` has their number and the numbers by reason to drop them."""
    reasons = ("no user", "no item", "unknown type")
    dropped = [F.count_if(drop_reason(plan) == reason).alias(reason) for reason in reasons]
    target = drop_reason(plan).isNull() & frames.of_events(plan.target_sql)
    targets = [F.count_if(target & (F.col("type") == name)).alias(f"{TARGET}{name}") for name in plan.targets]
    return events.observe(counts, F.count(F.lit(1)).alias("events"), *targets, *dropped)


def nothing_left(events: DataFrame, plan: TrackingPlan) -> InputError:
    """Return the error, in one sentence, for a window without interactions."""
    rows = events.groupBy("type", drop_reason(plan).alias("reason")).count().sort("type", "reason").collect()
    types, reasons = Counter[str](), Counter[str]()
    for kind, reason, count in rows:
        types[kind] += count
        reasons[reason] += count
    found = ", ".join(f"{kind} ({count:,})" for kind, count in types.most_common(MOST_TYPES)) or "none"
    known = ", ".join(plan.types)
    dropped = ", ".join(f"{count:,} with {reason}" for reason, count in reasons.most_common() if reason)
    return InputError(
        f"No interaction is left of {types.total():,} events: {dropped or 'none'} were dropped, the others were "
        f"reversed or weigh nothing; the types that occur are {found}, the tracking plan knows {known}; "
        "add the types to sources/tracking_plan.toml, map users and items in the source, or choose a longer window."
    )


def default_days(window: int) -> int:
    """Return the length of the test window, and of the tuning window, of a window of days: a sixth, up to MAX_DAYS."""
    return max(1, min(MAX_DAYS, window // 6))


def main(task: Task) -> None:
    source = task.input("events")
    end = source.end
    window = (end - source.oldest).days
    days = {name: task.parameters[name] or default_days(window) for name in ("test_days", "tuning_days")}
    plan, counts = tracking_plan.load(), Observation()
    with frames.session(task):
        interactions = build_interactions(
            count_drops(frames.read(task, "events"), plan, counts),
            plan,
            end,
            **days,
            half_life_days=task.parameters["half_life_days"],
            buckets=buckets_for(source.rows),
        )
        frames.write_buckets(task, "interactions", interactions, ["user_id", "item_id"], source.rows)
        found = counts.get
        targets = {name: found.pop(f"{TARGET}{name}") for name in plan.targets}
        task.metrics |= {
            "end": str(end),
            **days,
            "events": found.pop("events"),
            "target_events": {name: number for name, number in targets.items() if number},
            "dropped": found,
            "interactions": task.outputs["interactions"]["rows"],
        }
        if not task.metrics["interactions"]:
            raise nothing_left(frames.read(task, "events"), plan)


if __name__ == "__main__":
    run(main)

"""Trending items: chosen by more people in the last days than is usual for these weekdays.

The events that count are targets; if none occurs, all with a positive weight. A person (a user, else a session)
counts once per item and day; all events of a day with neither are one person. With the people of an item on day d
decayed by age, B = sum over recent days of people(d) 2^(-age / half-life), and

    E = people per usual day * sum over recent days of f(weekday of d) 2^(-age / half-life),

f being the distribution of the segment's usual people over the week (a shop closed on Saturdays expects none), the
score is (B - E) / sqrt(E + 1): the excess in standard deviations of a count by chance, damped for items without a past.
"""

import datetime
from typing import Any

from pyspark.sql import Column, DataFrame, Row, Window
from pyspark.sql import functions as F

from common.engines import frames
from common.errors import ArgumentError, GateRefused
from common.handover import Task, run
from common.protocol import nearest
from common.sources import tracking_plan
from common.sources.tracking_plan import TrackingPlan

DIMENSIONS = ("country", "platform", "family")
QUANTUM = 2.0**-32  # of a person's decayed day: sums up to 2 million people are exact
EXAMPLES = 3  # items that a message names


def count_visits(
    events: DataFrame,
    items: DataFrame | None,
    plan: TrackingPlan,
    dimensions: list[str],
    end: datetime.date,
    recent_days: int,
    half_life_days: float,
    usual_days: int,
) -> DataFrame:
    """Return one row per segment ('' for all), item, person and day with an event that may count.

    `listed` is true for an item of the catalogue, and for each without a catalogue (None).
    """
    age = F.datediff(F.lit(end), "day") - 1  # 0: the last day
    target = frames.of_events(plan.target_sql)
    chosen = events.where(F.col("item_id").isNotNull() & (target | (frames.of_events(plan.weight_sql) > 0)))
    known = {"listed": F.lit(True), "family": F.lit(None).cast("string")}
    if items is not None:
        catalogue = F.broadcast(items.select("item_id", "family", F.lit(True).alias("in_catalogue")))
        chosen = chosen.join(catalogue, "item_id", "left")
        known = {"listed": F.col("in_catalogue").isNotNull()}
    segments = [F.lit(""), *[F.concat(F.lit(f"{name}="), name) for name in dimensions]]
    return (
        chosen.withColumns(known)
        .select(
            F.explode(F.array_compact(F.array(*segments))).alias("segment"),
            "item_id",
            "listed",
            F.coalesce("user_id", F.concat(F.lit("session "), "session_id"), F.lit("")).alias("person"),
            F.to_date("time").alias("day"),
            target.alias("target"),
        )
        .where(age.between(0, recent_days + usual_days - 1))
        .groupBy("segment", "item_id", "listed", "person", "day")
        .agg(F.count("*").alias("events"), F.max("target").alias("target"))
        .withColumn("recent", age < recent_days)
        .withColumn("decayed", F.get(literals(decays(recent_days, half_life_days)), age))
        .persist()
    )


def totals(visits: DataFrame) -> Row:
    """Return the number of events, of those with items in no catalogue, and if others are targets."""
    unlisted = F.when(~F.col("listed"), F.col("events"))
    return (
        visits.where("segment = ''")
        .agg(
            F.coalesce(F.sum("events"), F.lit(0)).alias("events"),
            F.coalesce(F.sum(unlisted), F.lit(0)).alias("unlisted"),
            F.coalesce(F.bool_or(F.col("listed") & F.col("target")), F.lit(False)).alias("targets"),
        )
        .collect()[0]
    )


def trending_items(
    visits: DataFrame,
    items: DataFrame | None,
    end: datetime.date,
    recent_days: int,
    half_life_days: float,
    usual_days: int,
    min_people: int,
    count: int,
) -> DataFrame:
    """Return rows of `trending_items@2` from the visits that count; an item that is not available has none."""
    people = count_people(visits, usual_days)
    weights = weigh_usual_days(visits, decayed_weekdays(end, recent_days, half_life_days))
    scored = score_items(people.where(F.col("people") >= min_people), weights)
    if items is None:
        named = scored.withColumn("item_name", F.col("item_id"))
    else:
        now = F.lit(datetime.datetime.combine(end, datetime.time(), datetime.UTC))
        started = F.coalesce(F.col("available_from") <= now, F.lit(True))
        ended = F.coalesce(F.col("available_until") <= now, F.lit(False))
        name = F.coalesce("name", "item_id").alias("item_name")
        named = scored.join(F.broadcast(items.where(started & ~ended).select("item_id", name)), "item_id")
    best = Window.partitionBy("segment").orderBy(F.desc("score"), "item_id")
    ranked = named.withColumn("rank", F.row_number().over(best).cast("bigint")).where(F.col("rank") <= count)
    parts = {
        "dimension": F.substring_index("segment", "=", 1),
        "value": F.expr("substring(segment, instr(segment, '=') + 1)"),
        "segment": F.col("segment"),
    }
    of_some = F.col("segment") != ""
    columns = {name: F.when(of_some, column) for name, column in parts.items()}
    return ranked.withColumns(columns).coalesce(1).sortWithinPartitions("segment", "rank")


def count_people(visits: DataFrame, usual_days: int) -> DataFrame:
    """Return recent people of each item by segment, the sum of their decayed days, and people per usual day."""
    of_person = visits.groupBy("segment", "item_id", "person").agg(
        F.sum(F.when(F.col("recent"), F.col("decayed")).otherwise(0.0)).alias("weighted"),
        F.count_if(~F.col("recent")).alias("usual"),
    )
    return of_person.groupBy("segment", "item_id").agg(
        F.count_if(F.col("weighted") > 0).alias("people"),
        F.sum("weighted").alias("weighted_people"),
        (F.sum("usual") / usual_days).alias("usual_people"),
    )


def weigh_usual_days(visits: DataFrame, by_weekday: list[float]) -> DataFrame:
    """Return the decayed days by segment, weighted by the distribution of its usual people over the week."""
    weight = F.get(literals(by_weekday), F.weekday("day"))
    return visits.where("NOT recent").groupBy("segment").agg((7 * F.avg(weight)).alias("decayed_days"))


def score_items(people: DataFrame, weights: DataFrame) -> DataFrame:
    """Add the expected people and the score, and keep the positive ones."""
    expected = F.col("usual_people") * F.coalesce("decayed_days", F.lit(0.0))
    score = (F.col("weighted_people") - F.col("expected_people")) / F.sqrt(F.col("expected_people") + 1)
    joined = people.join(F.broadcast(weights), "segment", "left")
    return joined.withColumn("expected_people", expected).withColumn("score", score).where("score > 0")


def decayed_weekdays(end: datetime.date, recent_days: int, half_life_days: float) -> list[float]:
    """Return by weekday, Monday first, the sum of 2^(-age / half-life) over the recent days."""
    sums = [0.0] * 7
    for age, decay in enumerate(decays(recent_days, half_life_days)):
        sums[(end - datetime.timedelta(days=age + 1)).weekday()] += decay
    return sums


def decays(recent_days: int, half_life_days: float) -> list[float]:
    """Return 2^(-age / half-life) by age, of the last day 0. Engines compute the last digit of powers differently."""
    return [2 ** (-age / half_life_days) for age in range(recent_days)]


def literals(numbers: list[float]) -> Column:
    """Return an array of numbers, rounded to multiples of QUANTUM."""
    return F.array(*[F.lit(round(number / QUANTUM) * QUANTUM) for number in numbers])


def read_dimensions(text: str) -> list[str]:
    """Return the names in a list with commas; ArgumentError names an unknown one."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in DIMENSIONS:
            raise ArgumentError(f"dimensions has '{name}'{nearest(name, DIMENSIONS)}.")
    return names


def refuse_short_window(settings: dict[str, Any]) -> None:
    """Raise ArgumentError if a window by its length has fewer days than the recent and the usual ones."""
    days = settings["recent_days"] + 7 * settings["usual_weeks"]
    if settings["since"] is None and settings["window_days"] < days:
        raise ArgumentError(
            f"window_days is {settings['window_days']}, but recent_days and usual_weeks have {days} days; set it to at "
            f"least {days}."
        )


def check_listed(task: Task, visits: DataFrame, found: Row) -> None:
    """Report the events of items in no catalogue; GateRefused if they are too many."""
    task.metrics |= {"events": found.events, "events_without_item_in_catalogue": found.unlisted}
    task.metrics["unlisted_share"] = round(found.unlisted / max(found.events, 1), 5)
    limit = task.parameters["max_unlisted_share"]
    if found.unlisted <= limit * found.events:
        return
    most = visits.where("segment = '' AND NOT listed").groupBy("item_id").agg(F.sum("events").alias("events"))
    examples = [repr(row.item_id) for row in most.sort(F.desc("events"), "item_id").limit(EXAMPLES).collect()]
    raise GateRefused(
        f"{found.unlisted:,} of {found.events:,} events ({found.unlisted / found.events:.0%}) are with items that "
        f"curated/items lacks, such as {', '.join(examples)}; expected at most {limit:.0%}: deliver these items, "
        "correct the source's items.toml, or raise max_unlisted_share."
    )


def main(task: Task) -> None:
    source, settings, plan = task.input("events"), task.parameters, tracking_plan.load()
    dimensions, end = read_dimensions(settings["dimensions"]), source.end
    days = (settings["recent_days"], settings["half_life_days"], 7 * settings["usual_weeks"])
    refuse_short_window(settings)
    with frames.session(task):
        items = frames.read(task, "items") if task.input("items").rows else None
        visits = count_visits(frames.read(task, "events"), items, plan, dimensions, end, *days)
        found = totals(visits)
        check_listed(task, visits, found)
        counted = visits.where("listed AND target" if found.targets else "listed")
        trending = trending_items(counted, items, end, *days, settings["min_people"], settings["count"])
        frames.write(task, "trending", trending)
    task.metrics |= {"counted": "targets" if found.targets else "positive weights"}
    task.metrics["rows"] = task.outputs["trending"]["rows"]
    if not task.metrics["rows"]:
        raise GateRefused(
            f"No item had {settings['min_people']} people in {settings['recent_days']} days and more than usual, so "
            "nothing is trending; check the events and the tracking plan, lower min_people, or raise recent_days."
        )


if __name__ == "__main__":
    run(main)

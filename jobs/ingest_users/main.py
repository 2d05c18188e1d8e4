"""Ingest subscription changes into periods: the plan of each user over time, contradictions resolved.

All deliveries are read together, so the result does not depend on the order of their arrival. The rules:
- Of several changes of one user at the same moment, the one that arrived last counts, in a delivery the later line.
- `subscribe` and `change` begin a period with the plan that they name, whatever there was before.
- `cancel` begins a period without a plan. Without a plan to end, it goes to quarantine.
- A change without a country or platform keeps the previous ones.
- A period equal to the previous one is merged into it.

Files are read as a stream. A line that breaks a rule of common/ingestion/records.py goes to quarantine, a file that is
corrupt or has too many of them is left out entirely, and the rest is used.
"""

import datetime
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pandas as pd
import pyarrow as pa

from common.engines import arrow
from common.handover import Task, run
from common.handover.storage import File
from common.ingestion import deliveries, records, suppression
from common.ingestion.deliveries import Line
from common.ingestion.records import Unusable
from common.ingestion.suppression import People

FIELDS = ["user_id", "time", "plan", "change", "country", "platform"]
PLANS = ["free", "basic", "premium"]
CHANGES = ["subscribe", "change", "cancel"]
LINES = pa.schema(
    {name: pa.string() for name in FIELDS}
    | {"time": pa.timestamp("us", "UTC"), "arrival": pa.timestamp("us", "UTC"), "file": pa.string(), "line": pa.int64()}
)
CANCELS_NOTHING = "cancels a plan that the user does not have"


@dataclass
class Delivery:
    """A file: its usable changes, and its unusable lines, counted by reason and by number."""

    file: File
    arrival: datetime.date
    lines: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    unusable: "array[int]" = field(default_factory=lambda: array("q"))
    suppressed: int = 0  # lines of people who were forgotten
    changes: pa.Table = field(default_factory=LINES.empty_table)
    left_out: bool = False


def change_of(line: Line, arrival: datetime.date) -> tuple[object, ...]:
    """Return the values of FIELDS; Unusable with the reason if there are none."""
    if line.too_long:
        raise Unusable(records.TOO_LONG)
    row = records.json_object(line.content)
    user, change, plan = records.required_text(row.get("user_id"), "user ID"), row.get("change"), row.get("plan")
    if change not in CHANGES:
        raise Unusable("unknown change")
    if change == "cancel":
        plan = None
    elif plan not in PLANS:
        raise Unusable("unknown plan")
    time = records.moment(row.get("time"), arrival)
    return user, time, plan, change, *(records.text(row.get(name), name) for name in ("country", "platform"))


def read_delivery(file: File, arrival: datetime.date, max_share: float, forgotten: People | None) -> Delivery:
    """Read a file; it is left out if too many of its lines are unusable. Unreadable if it is corrupt."""
    delivery = Delivery(file, arrival)
    batches = list(arrow.batched(changes(delivery, forgotten), LINES))
    delivery.left_out = records.too_many(delivery.reasons.total(), delivery.lines, max_share)
    if delivery.left_out:
        delivery.reasons[records.IN_BAD_FILE] = delivery.lines - delivery.suppressed - delivery.reasons.total()
    else:
        delivery.changes = pa.concat_tables([delivery.changes, *batches])
    return delivery


def changes(delivery: Delivery, forgotten: People | None) -> Iterator[tuple[object, ...]]:
    """Yield the values of LINES of each usable line; record the others in the delivery."""
    day = datetime.datetime.combine(delivery.arrival, datetime.time(), datetime.UTC)
    for line in deliveries.lines(delivery.file):
        delivery.lines += 1
        if forgotten and forgotten.named_in_line(line.content):
            delivery.suppressed += 1
            continue
        try:
            yield *change_of(line, delivery.arrival), day, delivery.file.uri, line.number
        except Unusable as error:
            delivery.reasons[str(error)] += 1
            delivery.unusable.append(line.number)


def quarantine(delivery: Delivery, idle: list[int], forgotten: People | None) -> Iterator[tuple[object, ...]]:
    """Yield rows of quarantine@2 for the unused lines of a file; `idle` are those that cancel nothing."""
    if not (delivery.left_out or delivery.unusable or idle):
        return
    numbers = iter(sorted([*delivery.unusable, *idle]))
    reason_of_others = records.IN_BAD_FILE if delivery.left_out else CANCELS_NOTHING
    number = next(numbers, None)
    for line in deliveries.lines(delivery.file):
        if not delivery.left_out and line.number != number:
            continue
        if forgotten and forgotten.named_in_line(line.content):
            continue
        try:
            change_of(line, delivery.arrival)
            yield deliveries.quarantine_of_line(delivery.file, line, reason_of_others)
        except Unusable as error:
            yield deliveries.quarantine_of_line(delivery.file, line, str(error))
        number = next(numbers, None)


def as_categories(lines: pa.Table) -> pd.DataFrame:
    """Return the lines with categories for their texts, many times as fast and as small; users in sorted order."""
    rows: pd.DataFrame = lines.to_pandas(categories=["user_id", "file", "plan", "change", "country", "platform"])
    users = rows["user_id"].cat
    return rows.assign(user_id=users.reorder_categories(users.categories.sort_values(), ordered=True))


def periods(changes: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return rows of users@2, by user and time, and the cancellations without a plan to end."""
    order = ["user_id", "time", "arrival", "file", "line"]
    changes = changes.sort_values(order).drop_duplicates(["user_id", "time"], keep="last")
    before = changes.groupby("user_id", sort=False, observed=True)["change"].shift()
    idle = (changes["change"] == "cancel") & (before.isna() | (before == "cancel"))
    changes, cancels_nothing = changes[~idle], changes[idle]
    changes = changes.assign(
        plan=changes["plan"].where(changes["change"] != "cancel", None),
        **changes.groupby("user_id", sort=False, observed=True)[["country", "platform"]].ffill(),
    )
    state = pd.DataFrame({name: changes[name].cat.codes for name in ("user_id", "plan", "country", "platform")})
    begins = changes[(state != state.shift()).any(axis=1)].rename(columns={"time": "since"})
    return begins.assign(until=begins.groupby("user_id", sort=False, observed=True)["since"].shift(-1)), cancels_nothing


def main(task: Task) -> None:
    max_share, max_key_drop = task.parameters["max_quarantined_share"], task.parameters["max_key_drop"]
    forgotten = suppression.load(task.lake)
    delivered, corrupt = deliveries.read_all(
        task, ".gz", lambda file, arrival: read_delivery(file, arrival, max_share, forgotten)
    )
    reasons = sum((delivery.reasons for delivery in delivered), Counter())
    task.metrics |= {
        "lines": sum(delivery.lines for delivery in delivered),
        **deliveries.quarantine_metrics(reasons, len(corrupt), sum(delivery.left_out for delivery in delivered)),
        "suppressed": sum(delivery.suppressed for delivery in delivered),
    }
    task.log("parsed", **task.metrics)
    usable = pa.concat_tables([delivery.changes for delivery in delivered])
    deliveries.refuse_unusable(usable.num_rows + task.metrics["suppressed"], task.metrics["lines"], reasons, max_share)
    users, cancels_nothing = periods(as_categories(usable))
    idle = {str(uri): lines.tolist() for uri, lines in cancels_nothing.groupby("file", observed=True)["line"]}
    result = pa.Table.from_pandas(users, preserve_index=False)
    arrow.refuse_lost_keys(task, "users", "user_id", result["user_id"].cast(pa.string()), max_key_drop)

    def rows() -> Iterator[tuple[object, ...]]:
        yield from deliveries.quarantine_of_files(corrupt)
        for delivery in delivered:
            yield from quarantine(delivery, idle.get(delivery.file.uri, []), forgotten)

    arrow.write_rows(task, "quarantine", rows())
    arrow.write(task, "users", result)
    now = users[users["until"].isna()]
    task.metrics |= {
        "users": len(now),
        "users_without_plan": int(now["plan"].isna().sum()),
        "periods": len(users),
        "cancellations_of_nothing": len(cancels_nothing),
        "users_by_plan": {str(plan): int(count) for plan, count in now["plan"].value_counts().items()},
    }
    task.log("users", **task.metrics)


if __name__ == "__main__":
    run(main)

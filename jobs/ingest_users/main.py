"""Ingest subscription changes into periods: the plan of each user over time, contradictions resolved.

All deliveries of all sources in sources/*/users.toml are read together, so the result does not depend on the order of
their arrival. The rules:
- Of several changes of one user at the same moment, the one that arrived last counts, in a delivery the later one.
- `subscribe` and `change` begin a period with the plan that they name, whatever there was before.
- `cancel` begins a period without a plan. Without a plan to end, it goes to quarantine.
- A change without a country, a platform or an attribute keeps the previous one.
- A period equal to the previous one is merged into it.

Files are read as a stream. A record that is unusable or breaks a rule of its source goes to quarantine, a file that is
corrupt or has too many of them is left out entirely, and the rest is used.
"""

import datetime
from collections import Counter
from collections.abc import Iterator

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from common.engines import arrow
from common.handover import Task, run
from common.ingestion import deliveries, suppression
from common.ingestion.arrow import delivered
from common.ingestion.arrow.delivered import Delivered, Outcome
from common.ingestion.arrow.mapping import ATTRIBUTE, Mapped, Mapping
from common.ingestion.deliveries import Quarantined, Unreadable
from common.ingestion.suppression import People
from common.sources import source

STATE = ["plan", "country", "platform"]  # and attributes
CANCELS_NOTHING = "cancels a plan that the user does not have"
ORDER = ["user_id", "time", "arrival", "file", "row"]


def mapped_rows(each: Delivered, forgotten: People | None) -> Iterator[Mapped]:
    """Yield the batches of a file; a row that breaks a rule is unusable, and one of a forgotten person is not kept.

    A column `suppressed` marks these.
    """
    for batch, rows in each.mapping.read(each.file, each.arrival):
        rows = with_column(rows, "_reason", pc.coalesce(rows["_reason"], rows["_broken"]))
        rows = rows.drop_columns(["_broken"]).append_column("_broken", pa.nulls(rows.num_rows, pa.string()))
        hidden = suppressed(Mapped(batch, rows), forgotten)
        rows = with_column(rows, "_kept", pc.and_not(rows["_kept"], hidden))
        yield Mapped(batch, rows.append_column("_suppressed", hidden))


def with_column(rows: pa.Table, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    return rows.set_column(rows.column_names.index(name), name, values)


def suppressed(mapped: Mapped, forgotten: People | None) -> pa.Array:
    """Mark the rows of forgotten people: by the ID that their record maps to, without one by any word of the record."""
    batch, rows = mapped
    if forgotten is None:
        return pa.repeat(pa.scalar(False), rows.num_rows)
    encoded = rows["user_id"].combine_chunks().dictionary_encode()
    listed = pa.array([forgotten.find(user) is not None for user in encoded.dictionary.to_pylist()], pa.bool_())
    hidden = listed.take(encoded.indices).to_pylist()
    for row in pc.indices_nonzero(rows["user_id"].is_null()).to_pylist():
        line = batch.line(rows["_position"][row].as_py())
        hidden[row] = bool(forgotten.named_in_line(line.content))
    return pa.array(hidden, pa.bool_())


def read(each: Delivered, number: int, max_share: float, forgotten: People | None) -> tuple[Outcome, pa.Table | None]:
    """Return the outcome of a file and its usable changes, which name it by its number; None if it is left out."""
    outcome, changes = Outcome(each), []
    day = datetime.datetime.combine(each.arrival, datetime.time(), datetime.UTC)
    before = 0
    for _, rows in mapped_rows(each, forgotten):
        outcome.count(rows)
        usable = pc.and_(rows["_kept"], pc.is_null(rows["_reason"]))
        rows = rows.append_column("row", pa.array(range(before, before + rows.num_rows), pa.int64()))
        before += rows.num_rows
        outcome.suppress(pc.sum(rows["_suppressed"]).as_py() or 0)
        changes.append(rows.filter(usable).drop_columns(["_position", "_kept", "_reason", "_broken", "_suppressed"]))
    if outcome.leave_out_if_bad(max_share) or not changes:
        return outcome, None
    table = pa.concat_tables(changes)
    table = table.append_column("arrival", pa.repeat(pa.scalar(day, arrow.TYPES["timestamp"]), table.num_rows))
    return outcome, table.append_column("file", pa.repeat(pa.scalar(number, pa.int32()), table.num_rows))


def quarantine(
    outcomes: list[Outcome], idle: dict[int, list[int]], forgotten: People | None
) -> Iterator[tuple[object, ...]]:
    """Yield rows of quarantine@2 for the unused records; `idle` has the rows that cancel nothing, by file."""
    for number, outcome in enumerate(outcomes):
        if not (outcome.left_out or outcome.reasons or number in idle):
            continue
        before = 0
        rows_of_file = pa.array(idle.get(number, []), pa.int64())
        for mapped in mapped_rows(outcome.delivered, forgotten):
            rows = pa.array(range(before, before + mapped.rows.num_rows), pa.int64())
            before += mapped.rows.num_rows
            hit = pc.is_in(rows, value_set=rows_of_file)
            reasons = pc.if_else(hit, CANCELS_NOTHING, pa.scalar(None, pa.string()))
            yield from delivered.quarantine(outcome, mapped, reasons)


def as_categories(changes: pa.Table) -> pd.DataFrame:
    """Return the changes with categories for their texts, many times as fast and as small; users in sorted order."""
    texts = [each.name for each in changes.schema if pa.types.is_string(each.type)]
    rows: pd.DataFrame = changes.to_pandas(categories=texts)
    users = rows["user_id"].cat
    return rows.assign(user_id=users.reorder_categories(users.categories.sort_values(), ordered=True))


def periods(changes: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return rows of users@2, by user and time, and the cancellations without a plan to end."""
    attributes = [name for name in changes.columns if name.startswith(ATTRIBUTE)]
    changes = changes.sort_values(ORDER).drop_duplicates(["user_id", "time"], keep="last")
    before = changes.groupby("user_id", sort=False, observed=True)["change"].shift()
    idle = (changes["change"] == "cancel") & (before.isna() | (before == "cancel"))
    changes, cancels_nothing = changes[~idle], changes[idle]
    kept = [*STATE[1:], *attributes]
    changes = changes.assign(
        plan=changes["plan"].where(changes["change"] != "cancel", None),
        **changes.groupby("user_id", sort=False, observed=True)[kept].ffill(),
    )
    state = pd.DataFrame({name: changes[name].cat.codes for name in ("user_id", *STATE, *attributes)})
    begins = changes[(state != state.shift()).any(axis=1)].rename(columns={"time": "since"})
    return begins.assign(until=begins.groupby("user_id", sort=False, observed=True)["since"].shift(-1)), cancels_nothing


def users_of(begins: pd.DataFrame) -> pa.Table:
    """Return rows of users@2 with their attributes, as a map without empty values."""
    table = pa.Table.from_pandas(begins, preserve_index=False)
    columns = {name: table[name].cast(pa.string()).to_pylist() for name in table.column_names if ATTRIBUTE in name}
    if not columns:
        return table.append_column("attributes", pa.nulls(table.num_rows, arrow.TYPES["map"]))
    keys = [name.removeprefix(ATTRIBUTE) for name in columns]
    maps = [
        [(key, value) for key, value in zip(keys, values, strict=True) if value is not None] or None
        for values in zip(*columns.values(), strict=True)
    ]
    return table.append_column("attributes", pa.array(maps, arrow.TYPES["map"]))


def complete(changes: list[pa.Table], mappings: list[Mapping]) -> pa.Table:
    """Return the changes of all files as one table with the columns of all sources."""
    keys = sorted({ATTRIBUTE + key for mapping in mappings for key in mapping.attributes})
    texts = {name: pa.string() for name in ("user_id", "change", *STATE, *keys)}
    times = dict.fromkeys(("time", "arrival"), arrow.TYPES["timestamp"])
    schema = pa.schema(texts | times | {"row": pa.int64(), "file": pa.int32()})
    whole = [
        pa.table(
            {
                each.name: table[each.name] if each.name in table.column_names else pa.nulls(table.num_rows, each.type)
                for each in schema
            },
        ).cast(schema)
        for table in changes
    ]
    return pa.concat_tables([schema.empty_table(), *whole])


def main(task: Task) -> None:
    max_share, max_key_drop = task.parameters["max_quarantined_share"], task.parameters["max_key_drop"]
    mappings = [Mapping(each) for each in source.load("users")]
    forgotten = suppression.load(task.lake)
    files, left_out = delivered.accept(task, mappings)
    outcomes: list[Outcome] = []
    changes: list[pa.Table] = []
    for number, each in enumerate(files):
        task.progress("deliveries read", number, len(files))
        try:
            outcome, usable = read(each, len(outcomes), max_share, forgotten)
            outcomes.append(outcome)
            changes += [] if usable is None else [usable]
        except Unreadable as error:
            left_out.append(Quarantined(each.file, str(error)))
    if not outcomes:
        raise deliveries.no_readable_file(delivered.folders(task, mappings), left_out)
    suppressed_records = sum(outcome.suppressed for outcome in outcomes)
    task.metrics |= {**delivered.metrics(outcomes, left_out), "suppressed": suppressed_records}
    task.log("parsed", **task.metrics)
    every = complete(changes, mappings)
    reasons = sum((outcome.reasons for outcome in outcomes), Counter())
    unused = suppressed_records + sum(outcome.not_kept for outcome in outcomes)
    deliveries.refuse_unusable(every.num_rows + unused, task.metrics["lines"], reasons, max_share)
    begins, cancels_nothing = periods(as_categories(every))
    idle = {int(str(number)): rows.tolist() for number, rows in cancels_nothing.groupby("file")["row"]}
    users = users_of(begins)
    arrow.refuse_lost_keys(task, "users", "user_id", users["user_id"].cast(pa.string()), max_key_drop)

    def rows() -> Iterator[tuple[object, ...]]:
        yield from deliveries.quarantine_of_files(left_out)
        yield from quarantine(outcomes, idle, forgotten)

    arrow.write_rows(task, "quarantine", rows())
    arrow.write(task, "users", users)
    now = begins[begins["until"].isna()]
    task.metrics |= {
        "users": len(now),
        "users_without_plan": int(now["plan"].isna().sum()),
        "periods": len(begins),
        "cancellations_of_nothing": len(cancels_nothing),
        "users_by_plan": {str(plan): int(count) for plan, count in now["plan"].value_counts().items()},
    }
    task.log("users", **task.metrics)


if __name__ == "__main__":
    run(main)

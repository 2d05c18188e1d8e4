"""Ingest subscription changes into periods: the plan of each user over time, contradictions resolved.

New deliveries of all sources in sources/*/users.toml are added to the changes that are known, and the periods of the
users in them are computed anew from all their changes. So the result is that of reading all deliveries at once, in
whichever order they came. The rules:
- Of several changes of one user at the same moment, the one that arrived last counts, in a delivery the later one.
- `subscribe` and `change` begin a period with the plan that they name, whatever there was before.
- `cancel` begins a period without a plan. Without a plan to end, it goes to quarantine.
- A change without a country, a platform or an attribute keeps the previous one.
- A period equal to the previous one is merged into it.
- The changes of a file that is taken again replace those that it had.

Files are read as a stream. A record that is unusable or breaks a rule of its source goes to quarantine, a file that is
corrupt or has too many of them is left out entirely, and the rest is used.
"""

from collections import Counter
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from common.engines import arrow
from common.handover import Task, manifest, run
from common.ingestion import deliveries, suppression
from common.ingestion.arrow import delivered, state
from common.ingestion.arrow.delivered import Delivered, Outcome, Selection
from common.ingestion.arrow.mapping import Mapped, Mapping
from common.ingestion.arrow.periods import CHANGES, USERS, Renewed, join_attributes, renew, without_files
from common.ingestion.arrow.state import State
from common.ingestion.deliveries import Quarantined, Unreadable
from common.ingestion.ledger import Ledger
from common.ingestion.suppression import People
from common.sources import source

MAX_FILES = 24  # of the state; then they become one
CANCELS_NOTHING = "cancels a plan that the user does not have"


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
        line = batch.line(rows["__position"][row].as_py())
        hidden[row] = bool(forgotten.named_in_line(line.content))
    return pa.array(hidden, pa.bool_())


def read(each: Delivered, max_share: float, forgotten: People | None) -> tuple[Outcome, list[pa.Table]]:
    """Return the outcome of a file and its usable changes with their rows in it; none if it is left out."""
    outcome, changes = Outcome(each), []
    before = 0
    for _, rows in mapped_rows(each, forgotten):
        outcome.count(rows)
        usable = pc.and_(rows["_kept"], pc.is_null(rows["_reason"]))
        rows = rows.append_column("row", pa.array(range(before, before + rows.num_rows), pa.int64()))
        before += rows.num_rows
        outcome.suppress(pc.sum(rows["_suppressed"]).as_py() or 0)
        changes.append(rows.filter(usable).drop_columns(["__position", "_kept", "_reason", "_broken", "_suppressed"]))
    return outcome, [] if outcome.leave_out_if_bad(max_share) else changes


def quarantine(
    outcomes: list[Outcome], idle: dict[str, list[int]], forgotten: People | None
) -> Iterator[tuple[object, ...]]:
    """Yield rows of quarantine@2 for the unused records; `idle` has the rows that cancel nothing, by URI of file."""
    for outcome in outcomes:
        file = outcome.delivered.file.uri
        if not (outcome.left_out or outcome.reasons or file in idle):
            continue
        before = 0
        rows_of_file = pa.array(idle.get(file, []), pa.int64())
        for mapped in mapped_rows(outcome.delivered, forgotten):
            rows = pa.array(range(before, before + mapped.rows.num_rows), pa.int64())
            before += mapped.rows.num_rows
            hit = pc.is_in(rows, value_set=rows_of_file)
            reasons = pc.if_else(hit, CANCELS_NOTHING, pa.scalar(None, pa.string()))
            yield from delivered.quarantine(outcome, mapped, reasons)


def as_changes(each: Delivered, path: str, usable: pa.Table) -> pa.Table:
    """Return usable changes of a file, by its path in the lake, as rows of user_changes@1."""
    rows = join_attributes(usable)
    values = {"source": each.mapping.source.name, "arrival": each.arrival, "file": path}
    for name, value in values.items():
        rows = rows.append_column(name, pa.repeat(pa.scalar(value, CHANGES.field(name).type), rows.num_rows))
    return arrow.with_added_columns(rows, CHANGES).cast(CHANGES)


def read_all(
    task: Task, selection: Selection, ledger: Ledger, forgotten: People | None
) -> tuple[list[Outcome], list[pa.Table]]:
    """Return the outcomes of the files of a selection, and their changes; unreadable files join those left out."""
    outcomes: list[Outcome] = []
    changes = [CHANGES.empty_table()]
    for number, each in enumerate(selection.files):
        task.progress("deliveries read", number, len(selection.files))
        try:
            outcome, usable = read(each, task.parameters["max_quarantined_share"], forgotten)
            outcomes.append(outcome)
            changes += [as_changes(each, ledger.path(each.file), rows) for rows in usable]
        except Unreadable as error:
            selection.left_out.append(Quarantined(each.file, str(error)))
    return outcomes, changes


def refuse_unusable(task: Task, outcomes: list[Outcome], usable: int) -> None:
    """Raise GateRefused if no record that was read is of use."""
    reasons = sum((outcome.reasons for outcome in outcomes), Counter())
    unused = sum(outcome.suppressed + outcome.not_kept for outcome in outcomes)
    if reasons or not task.replaced["user_changes"]:  # else files without any record
        max_share = task.parameters["max_quarantined_share"]
        deliveries.refuse_unusable(usable + unused, task.metrics["lines"], reasons, max_share)


def user_metrics(users: pa.Table) -> dict[str, object]:
    """Return the numbers of users and periods, and of users by their present plan."""
    now = users.filter(pc.is_null(users["until"]))
    plans = pc.value_counts(now["plan"].drop_null()).to_pylist()
    return {
        "users": now.num_rows,
        "users_without_plan": now["plan"].null_count,
        "periods": users.num_rows,
        "users_by_plan": {each["values"]: each["counts"] for each in sorted(plans, key=lambda each: -each["counts"])},
    }


def renew_all(task: Task, former: State, files: list[str], new: pa.Table) -> tuple[pa.Table, Renewed]:
    """Return the known changes without those of the files that were read, and the users with their new changes."""
    known = CHANGES.empty_table() if former.rows is None else former.rows
    kept, touched = without_files(known, files)
    touched = pa.chunked_array([*touched.chunks, *new["user_id"].chunks], pa.string())
    users = arrow.former(task, "users") if former.up_to_date else None
    if users is None:
        users, touched = USERS.empty_table(), pa.chunked_array([*kept["user_id"].chunks, *touched.chunks], pa.string())
    renewed = renew(users, [kept, new], touched)
    arrow.refuse_lost_keys(task, "users", "user_id", renewed.users["user_id"], task.parameters["max_key_drop"])
    return kept, renewed


def write_changes(task: Task, former: State, kept: pa.Table, new: pa.Table) -> None:
    """Publish the changes: the new ones in a further file, unless former ones were replaced or there are many files."""
    files = manifest.partition_files(task.replaced["user_changes"])
    if former.rows is not None and kept.num_rows == former.rows.num_rows and len(files) < MAX_FILES:
        arrow.append(task, "user_changes", new)
    else:
        arrow.write(task, "user_changes", pa.concat_tables([kept.cast(CHANGES), new]), new)


def main(task: Task) -> None:
    mappings = [Mapping(each) for each in source.load("users")]
    forgotten = suppression.load(task.lake)
    former = state.load(task, "users", "user_changes", "users")
    selection = delivered.select(task, former.ledger, mappings)
    outcomes, new = read_all(task, selection, former.ledger, forgotten)
    if not outcomes and former.rows is None:
        raise delivered.no_readable_file(task, mappings, former.ledger, selection)
    task.metrics |= delivered.metrics(outcomes, selection.left_out)
    task.metrics["suppressed"] = sum(outcome.suppressed for outcome in outcomes)
    task.log("parsed", **task.metrics)
    refuse_unusable(task, outcomes, sum(each.num_rows for each in new))
    renewed: Renewed | None = None
    idle: dict[str, list[int]] = {}
    if outcomes or not former.up_to_date:
        files = [former.ledger.path(outcome.delivered.file) for outcome in outcomes]
        kept, renewed = renew_all(task, former, files, changes := pa.concat_tables(new))
        places = renewed.cancels_nothing
        for each in places.filter(pc.is_in(places["file"], value_set=pa.array(files, pa.string()))).to_pylist():
            idle.setdefault(f"{task.lake}/{each['file']}", []).append(each["row"])

    def rows() -> Iterator[tuple[object, ...]]:
        yield from deliveries.quarantine_of_files(selection.left_out)
        yield from quarantine(outcomes, idle, forgotten)

    arrow.write_rows(task, "quarantine", rows())
    if renewed:
        write_changes(task, former, kept, changes)
        arrow.write(task, "users", renewed.users, renewed.new)
        task.metrics |= user_metrics(renewed.users)
    task.metrics["cancellations_of_nothing"] = sum(map(len, idle.values()))
    delivered.record(task, former.ledger, selection, outcomes)
    task.log("users", **task.metrics)


if __name__ == "__main__":
    run(main)

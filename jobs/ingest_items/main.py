"""Ingest the catalogue: one row per item, from the deliveries of all sources in sources/*/items.toml.

The expressions of a source say which columns a record gives, and its rules which records and items are used. Rows of
one item are merged by time (common/ingestion/arrow/catalogue.py), also of several sources. New increments are merged
into the state, the values that count so far; the newest day of full deliveries replaces the state of its source.

Files are read as a stream. A record that is unusable goes to quarantine, a file that is corrupt or has too many of them
is left out entirely, and the rest is used. Records and items that break a rule go to quarantine, too.
"""

from collections import Counter
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from common.engines import arrow
from common.errors import GateRefused
from common.handover import Task, run
from common.ingestion import deliveries
from common.ingestion.arrow import delivered, state
from common.ingestion.arrow.catalogue import STATE, Catalogue
from common.ingestion.arrow.delivered import Outcome, Selection
from common.ingestion.arrow.mapping import Mapping
from common.ingestion.deliveries import Quarantined, Unreadable
from common.ingestion.ledger import Ledger
from common.sources import source


def read(
    task: Task, selection: Selection, ledger: Ledger, catalogue: Catalogue
) -> tuple[list[Outcome], list[Quarantined]]:
    """Add the usable rows of files to the catalogue; return the outcome of each, and the files that are corrupt."""
    outcomes, corrupt = [], []
    for number, each in enumerate(selection.files):
        task.progress("deliveries read", number, len(selection.files))
        outcome, used = Outcome(each), False
        try:
            for mapped in each.mapping.read(each.file, each.arrival):
                outcome.count(mapped.rows)
                rows = mapped.rows.filter(mapped.rows["_kept"])
                usable = pc.and_(pc.is_null(rows["_reason"]), pc.is_null(rows["_broken"]))
                catalogue.add(each.mapping, each.arrival, ledger.path(each.file), rows.filter(usable))
            used = not outcome.leave_out_if_bad(task.parameters["max_quarantined_share"])
            outcomes.append(outcome)
        except Unreadable as error:
            corrupt.append(Quarantined(each.file, str(error)))
        finally:
            catalogue.end_file(used)
    return outcomes, corrupt


def refuse_too_many_dropped(dropped: Counter[str], usable: int, known: int, max_share: float) -> None:
    """Raise GateRefused if rules drop more than this share of the rows, as those of another shop's catalogue would.

    Known items count as usable rows, so that a small delivery may break the rules.
    """
    if dropped.total() > max_share * (usable + known):
        by_reason = ", ".join(f"{why} ({number})" for why, number in dropped.most_common())
        known_items = f" and {known} known items" if known else ""
        raise GateRefused(
            f"{dropped.total()} of {usable} usable rows{known_items} break a rule of their source, at most "
            f"{max_share:.1%} may: "
            f"{by_reason}; nothing was published: correct the deliveries or the rules in sources/*/items.toml, or "
            "raise max_dropped_share."
        )


def quarantine(outcomes: list[Outcome], dropped: dict[str, str]) -> Iterator[tuple[object, ...]]:
    """Yield rows of quarantine@2 for the unused records; `dropped` has the reasons for items."""
    items = pa.array(list(dropped), pa.string())
    reasons = pa.array(list(dropped.values()), pa.string())
    for outcome in outcomes:
        if not (outcome.left_out or outcome.reasons or outcome.broken or dropped):
            continue
        mapping, file, arrival = outcome.delivered
        for mapped in mapping.read(file, arrival):
            of_item = reasons.take(pc.index_in(mapped.rows["item_id"].combine_chunks(), value_set=items))
            yield from delivered.quarantine(outcome, mapped, of_item)


def main(task: Task) -> None:
    mappings = [Mapping(each) for each in source.load("items")]
    former = state.load(task, "items", "item_state", "items")
    known = STATE.empty_table() if former.rows is None else former.rows.cast(STATE)
    selection = delivered.select(task, former.ledger, mappings, set(pc.unique(known["file"]).to_pylist()))
    paths = [(each.arrival, former.ledger.path(each.file)) for each in selection.files]
    catalogue = Catalogue(mappings, known, paths)
    outcomes, corrupt = read(task, selection, former.ledger, catalogue)
    selection.left_out.extend(corrupt)
    if not outcomes and former.rows is None:
        raise delivered.no_readable_file(task, mappings, former.ledger, selection)
    task.metrics |= delivered.metrics(outcomes, selection.left_out)
    task.log("parsed", **task.metrics)
    dropped: dict[str, str] = {}
    renewed = bool(outcomes) or not former.up_to_date
    if renewed:
        dropped, items = merge(task, catalogue, [path for _, path in paths], outcomes)

    def rows_of_quarantine() -> Iterator[tuple[object, ...]]:
        yield from deliveries.quarantine_of_files(selection.left_out)
        yield from quarantine(outcomes, dropped)

    arrow.write_rows(task, "quarantine", rows_of_quarantine())
    if renewed:
        arrow.write(task, "item_state", catalogue.new_state())
        arrow.write(task, "items", items)
    delivered.record(task, former.ledger, selection, outcomes)
    task.log("catalogue", **task.metrics)


def merge(
    task: Task, catalogue: Catalogue, read: list[str], outcomes: list[Outcome]
) -> tuple[dict[str, str], pa.Table]:
    """Merge the state into the catalogue; return the reasons for items that are dropped, and the other items."""
    max_share = task.parameters["max_quarantined_share"]
    usable = sum(each.records - each.not_kept - each.reasons.total() for each in outcomes)
    reasons = sum((each.reasons for each in outcomes), Counter())
    not_kept = sum(each.not_kept for each in outcomes)
    if reasons or not task.replaced["item_state"]:  # else files without any record
        deliveries.refuse_unusable(usable + not_kept, task.metrics["lines"], reasons, max_share)
    sources = [each.delivered.mapping.source for each in outcomes if not each.left_out]
    known = catalogue.add_state(read, [each.name for each in sources if each.mode == "full"])
    dropped_items, rows_by_reason = catalogue.judge()
    dropped = sum((each.broken for each in outcomes), Counter(rows_by_reason))
    task.metrics["dropped"] = dict(dropped.most_common())
    task.metrics["dropped_share"] = round(dropped.total() / max(usable + known, 1), 5)
    refuse_too_many_dropped(dropped, usable, known, task.parameters["max_dropped_share"])
    items = catalogue.items()
    arrow.refuse_lost_keys(task, "items", "item_id", items["item_id"], task.parameters["max_key_drop"])
    task.metrics |= {"items": items.num_rows, "items_with_several_names": catalogue.with_several_names()}
    return dropped_items, items


if __name__ == "__main__":
    run(main)

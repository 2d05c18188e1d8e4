"""Ingest the catalogue: one row per good, its name chosen from contradictory descriptions.

A good has a stock code, that is an item ID that begins with five digits. All other items (postage, bank charges, gift
vouchers, tests) go to quarantine and are never recommended. The family of a good is these five digits: the letters
after them are colours and sizes.

Stock keepers write notes instead of names ("damages", "found", "?"). The best kind of an item's descriptions wins:
several words in capitals; one word in capitals; several words that each begin with a capital. Within a kind the last
one seen wins, then the first of the alphabet. A good with notes only, or without a description, goes to quarantine.

Files are read as a stream. A row that breaks a rule of common/ingestion/records.py goes to quarantine, a file that is
corrupt or has too many of them is left out entirely, and the rest is used.
"""

import datetime
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pandas as pd
import pyarrow as pa

from common.engines import arrow
from common.errors import GateRefused
from common.handover import Task, run
from common.handover.storage import File
from common.ingestion import deliveries, records
from common.ingestion.csv_rows import rows
from common.ingestion.deliveries import Line
from common.ingestion.records import Unusable

COLUMNS = ["item_id", "description", "seen"]
GOOD = r"^[0-9]{5}"
SEVERAL_CAPITALISED_WORDS = r"^[^a-z\s]\S*(?: [^a-z\s]\S*)+$"


@dataclass
class Delivery:
    """A file: its usable rows with their lines, and the number of unusable rows by reason."""

    file: File
    arrival: datetime.date
    rows: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    usable: list[tuple[object, ...]] = field(default_factory=list)
    left_out: bool = False


def item_of(row: list[str] | str, arrival: datetime.date) -> tuple[str, str, datetime.datetime]:
    """Return the values of COLUMNS, white space as single spaces; Unusable with the reason if there are none."""
    if isinstance(row, str):
        raise Unusable(row)
    item_id, description, seen = row
    item = records.required_text(item_id, "item ID")
    return item, records.text(" ".join(description.split()), "description") or "", records.moment(seen, arrival)


def items_of(delivery: Delivery) -> Iterator[tuple[Line, tuple[str, str, datetime.datetime] | str]]:
    """Yield each row with its values, or with the reason why it is unusable."""
    for line, row in rows(deliveries.lines(delivery.file), COLUMNS):
        try:
            yield line, item_of(row, delivery.arrival)
        except Unusable as error:
            yield line, str(error)


def read_delivery(file: File, arrival: datetime.date, max_share: float) -> Delivery:
    """Read a file; it is left out if too many of its rows are unusable. Unreadable if it is not such a CSV."""
    delivery = Delivery(file, arrival)
    for line, item in items_of(delivery):
        delivery.rows += 1
        if isinstance(item, str):
            delivery.reasons[item] += 1
        else:
            delivery.usable.append((*item, file.uri, line.number))
    if records.too_many(delivery.reasons.total(), delivery.rows, max_share):
        delivery.left_out = True
        delivery.reasons[records.IN_BAD_FILE] = len(delivery.usable)
        delivery.usable.clear()
    return delivery


def kind_of(descriptions: pd.Series) -> pd.Series:
    """Rank descriptions by their resemblance to a name, 3 to 1, and 0 for a note."""
    capitals, small = descriptions.str.count(r"[A-Z]"), descriptions.str.count(r"[a-z]")
    words = descriptions.str.count(" ") + 1
    in_capitals = (capitals >= 3) & (capitals >= small)  # half of the letters, for "BAG 125g MARBLES"
    capitalised = descriptions.str.match(SEVERAL_CAPITALISED_WORDS) & (small > 0)
    return (in_capitals & (words > 1)) * 3 + (in_capitals & (words == 1)) * 2 + (~in_capitals & capitalised) * 1


def catalogue(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series]:
    """Return item_id, name and family of each good, by item_id; and for each row the reason to drop it, or null."""
    kinds, is_good = kind_of(rows["description"]), rows["item_id"].str.match(GOOD)
    candidates = rows.assign(name=rows["description"], kind=kinds)[is_good & (kinds > 0)]
    best = candidates.sort_values(["item_id", "kind", "seen", "name"], ascending=[True, False, False, True])
    best = best.drop_duplicates("item_id")
    items = best[["item_id", "name"]].assign(family=best["item_id"].str[:5])
    reason = pd.Series(None, index=rows.index, dtype="object")
    reason[is_good & ~rows["item_id"].isin(items["item_id"])] = "no description is a name"
    reason[~is_good] = "no stock code: five digits at the beginning"
    return items, reason


def quarantine(delivery: Delivery, dropped: dict[int, str]) -> Iterator[tuple[object, ...]]:
    """Yield rows of quarantine@2 for the unused rows of a file; `dropped` has the reasons of `catalogue`, by line."""
    if not (delivery.reasons or dropped):
        return
    for line, item in items_of(delivery):
        reason = item if isinstance(item, str) else dropped.get(line.number)
        if reason is None and delivery.left_out:
            reason = records.IN_BAD_FILE
        if reason:
            yield deliveries.quarantine_of_line(delivery.file, line, reason)


def refuse_if_too_few_are_goods(reason: pd.Series, max_share: float) -> None:
    """Raise GateRefused if the shop's rules drop more than this share of the rows, as of another shop's catalogue."""
    dropped = int(reason.notna().sum())
    if dropped > max_share * len(reason):
        by_reason = ", ".join(f"{why} ({number})" for why, number in reason.value_counts().items())
        raise GateRefused(
            f"{dropped} of {len(reason)} usable rows are not of a good, at most {max_share:.1%} may be: {by_reason}; "
            "nothing was published: correct the deliveries, adapt the rules of ingest_items to the shop, or raise "
            "max_dropped_share."
        )


def main(task: Task) -> None:
    max_share = task.parameters["max_quarantined_share"]
    delivered, corrupt = deliveries.read_all(
        task, ".csv", lambda file, arrival: read_delivery(file, arrival, max_share)
    )
    reasons = sum((delivery.reasons for delivery in delivered), Counter())
    task.metrics |= {
        "rows": sum(delivery.rows for delivery in delivered),
        **deliveries.quarantine_metrics(reasons, len(corrupt), sum(delivery.left_out for delivery in delivered)),
    }
    task.log("parsed", **task.metrics)
    deliveries.refuse_unusable(
        sum(len(delivery.usable) for delivery in delivered), task.metrics["rows"], reasons, max_share
    )
    usable = pd.DataFrame(
        [row for delivery in delivered for row in delivery.usable], columns=[*COLUMNS, "file", "line"]
    )
    items, reason = catalogue(usable.astype({"item_id": object, "description": object}))
    refuse_if_too_few_are_goods(reason, task.parameters["max_dropped_share"])
    result = pa.Table.from_pandas(items, preserve_index=False)
    arrow.refuse_lost_keys(task, "items", "item_id", result["item_id"], task.parameters["max_key_drop"])
    dropped_rows = usable.assign(reason=reason)[reason.notna()]
    dropped = {
        str(uri): dict(zip(part["line"], part["reason"], strict=True)) for uri, part in dropped_rows.groupby("file")
    }

    def rows_of_quarantine() -> Iterator[tuple[object, ...]]:
        yield from deliveries.quarantine_of_files(corrupt)
        for delivery in delivered:
            yield from quarantine(delivery, dropped.get(delivery.file.uri, {}))

    arrow.write_rows(task, "quarantine", rows_of_quarantine())
    arrow.write(task, "items", result)
    descriptions = usable[reason.isna()].groupby("item_id")["description"].nunique()
    task.metrics |= {
        "goods": len(items),
        "goods_with_contradictory_descriptions": int((descriptions > 1).sum()),
        "quarantined": {why: int(number) for why, number in reason.value_counts().items()},
    }
    task.log("catalogue", **task.metrics)


if __name__ == "__main__":
    run(main)

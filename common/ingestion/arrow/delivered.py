"""Files of the deliveries of sources: which of them a job reads, in which order, and what became of their records."""

import datetime
import itertools
from collections import Counter
from collections.abc import Container, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from common.errors import InputError
from common.handover.storage import File
from common.handover.task import Task
from common.ingestion import deliveries, records
from common.ingestion.arrow.mapping import Mapped, Mapping
from common.ingestion.deliveries import Quarantined
from common.ingestion.ledger import Ledger


class Delivered(NamedTuple):
    """A file of a source, with its day of arrival."""

    mapping: Mapping
    file: File
    arrival: datetime.date


@dataclass
class Outcome:
    """A file that was read: the number of its records by outcome; `left_out` if none of it is used."""

    delivered: Delivered
    records: int = 0
    not_kept: int = 0
    suppressed: int = 0  # records of people who were forgotten
    reasons: Counter[str] = field(default_factory=Counter)  # of unusable records
    broken: Counter[str] = field(default_factory=Counter)  # of usable records, by the rule that they break
    left_out: bool = False

    def count(self, rows: pa.Table) -> None:
        """Add the rows of a batch."""
        kept = rows.filter(rows["_kept"])
        self.records += rows.num_rows
        self.not_kept += rows.num_rows - kept.num_rows
        self.reasons += counted(kept["_reason"])
        self.broken += counted(kept.filter(pc.is_null(kept["_reason"]))["_broken"])

    def suppress(self, rows: int) -> None:
        """Count rows as of forgotten people, which `count` took for ones that are not kept."""
        self.suppressed += rows
        self.not_kept -= rows

    def leave_out_if_bad(self, max_share: float) -> bool:
        """Leave out the file if too many of its records are unusable; return True if so."""
        judged = self.records - self.not_kept - self.suppressed
        self.left_out = records.too_many(self.reasons.total(), judged, max_share)
        if self.left_out:
            self.reasons[records.IN_BAD_FILE] = judged - self.reasons.total()
            self.broken.clear()
        return self.left_out


def counted(values: pa.ChunkedArray) -> Counter[str]:
    return Counter({each["values"]: each["counts"] for each in pc.value_counts(values.drop_null()).to_pylist()})


class Selection(NamedTuple):
    """The files to read by day of arrival, those left out, and new ones of full deliveries that are not the newest."""

    files: list[Delivered]
    left_out: list[Quarantined]
    outdated: list[File]


def select(task: Task, ledger: Ledger, mappings: list[Mapping], known: Container[str] = ()) -> Selection:
    """Return the files that the ledger does not have; `known` are the paths of files that the state has values of.

    Of a source of full deliveries these are all files of the newest day, if one of them is new. A source of increments
    is read entirely if one of its new files is known: the state lacks the values that the former ones replaced.
    """
    found = task.deliveries("deliveries", [mapping.source.deliveries for mapping in mappings])
    result = Selection([], [], [])
    for mapping, every, new in zip(mappings, found, ledger.select(task, "deliveries", found), strict=True):
        source, every.left_out = mapping.source, new.left_out
        chosen = new
        if source.kind == "items" and source.mode == "full":
            newest = max(every.arrivals.values(), default=None)
            result.outdated.extend(file for file in new.files if every.arrivals[file.uri] != newest)
            every.files = [file for file in every.files if every.arrivals[file.uri] == newest]
            chosen = every if set(every.files).intersection(new.files) else replace(every, files=[])
        elif any(ledger.path(file) in known for file in new.files):
            chosen = every
        accepted, others = deliveries.split_by_suffix(chosen, source.suffix)
        result.files.extend(Delivered(mapping, file, every.arrivals[file.uri]) for file in accepted)
        result.left_out.extend(others)
    result.files.sort(key=lambda each: (each.arrival, each.mapping.source.name, each.file.uri))
    return result


def record(task: Task, ledger: Ledger, selection: Selection, outcomes: list[Outcome]) -> None:
    """Write all files of a selection to the ledger once the task has published, with their unusable records."""
    unusable = dict.fromkeys(selection.outdated, 0)
    unusable |= {each.file: 1 for each in selection.left_out}
    unusable |= {each.delivered.file: each.reasons.total() + each.broken.total() for each in outcomes}
    ledger.record(task, unusable)


def no_readable_file(task: Task, mappings: list[Mapping], ledger: Ledger, selection: Selection) -> InputError:
    """Return the error for deliveries without a readable file; it names the first three."""
    left_out = [*selection.left_out, *itertools.starmap(Quarantined, ledger.waiting)]
    return deliveries.no_readable_file([f"{task.lake}/{each.source.deliveries}" for each in mappings], left_out)


def metrics(outcomes: list[Outcome], left_out: list[Quarantined]) -> dict[str, object]:
    """Return the metrics of an ingestion: its records, the unusable ones by reason, those not kept by source."""
    reasons = sum((outcome.reasons for outcome in outcomes), Counter())
    not_kept: Counter[str] = Counter()
    for outcome in outcomes:
        not_kept[outcome.delivered.mapping.source.name] += outcome.not_kept
    return {
        "lines": sum(outcome.records for outcome in outcomes),
        **deliveries.quarantine_metrics(reasons, len(left_out), sum(outcome.left_out for outcome in outcomes)),
        "not_kept": dict(+not_kept),
    }


def quarantine(outcome: Outcome, mapped: Mapped, dropped: pa.Array) -> Iterator[tuple[object, ...]]:
    """Yield rows of quarantine@2 for the unused records of a batch; `dropped` has a reason for each row, or null."""
    rows, file = mapped.rows, outcome.delivered.file
    rest = pa.scalar(records.IN_BAD_FILE if outcome.left_out else None, pa.string())
    reasons = pc.coalesce(rows["_reason"], rest, rows["_broken"], dropped)
    reasons = pc.if_else(rows["_kept"], reasons, None)
    unused = rows.select(["__position"]).append_column("reason", reasons).filter(pc.is_valid(reasons))
    for row in unused.to_pylist():
        yield deliveries.quarantine_of_line(file, mapped.batch.line(row["__position"]), row["reason"])

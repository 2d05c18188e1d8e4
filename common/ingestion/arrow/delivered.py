"""Files of the deliveries of sources: which of them a job reads, in which order, and what became of their records."""

import datetime
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from common.handover.storage import File
from common.handover.task import Task
from common.ingestion import deliveries, records
from common.ingestion.arrow.mapping import Mapped, Mapping
from common.ingestion.deliveries import Quarantined


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


def accept(task: Task, mappings: list[Mapping]) -> tuple[list[Delivered], list[Quarantined]]:
    """Return the files to read by day of arrival, and the files left out; InputError if there is none to read.

    Of a source of full deliveries these are the files of its newest day.
    """
    inputs = task.deliveries("deliveries", [mapping.source.deliveries for mapping in mappings])
    files: list[Delivered] = []
    left_out: list[Quarantined] = []
    for mapping, found in zip(mappings, inputs, strict=True):
        source = mapping.source
        if source.kind == "items" and source.mode == "full":
            newest = max(found.arrivals.values(), default=None)
            found.files = [file for file in found.files if found.arrivals[file.uri] == newest]
        accepted, others = deliveries.split_by_suffix(found, source.suffix)
        files += [Delivered(mapping, file, found.arrivals[file.uri]) for file in accepted]
        left_out += others
    if not files:
        raise deliveries.no_readable_file(folders(task, mappings), left_out)
    return sorted(files, key=lambda each: (each.arrival, each.mapping.source.name, each.file.uri)), left_out


def folders(task: Task, mappings: list[Mapping]) -> list[str]:
    return [f"{task.lake}/{mapping.source.deliveries}" for mapping in mappings]


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
    unused = rows.select(["_position"]).append_column("reason", reasons).filter(pc.is_valid(reasons))
    for row in unused.to_pylist():
        yield deliveries.quarantine_of_line(file, mapped.batch.line(row["_position"]), row["reason"])

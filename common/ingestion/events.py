"""Events of deliveries, whichever engine maps them: their columns, and the files that they come from."""

from dataclasses import dataclass, field
from datetime import date
from typing import Any

from common.handover.storage import File
from common.ingestion.deliveries import Quarantined, Survey
from common.sources.source import Source

TEXTS = ("event_id", "user_id", "item_id", "type", "session_id", "platform", "country", "request_id")
COLUMNS = [*TEXTS[:4], "time", "value", "quantity", "unit_price", *TEXTS[4:], "position"]  # in the order of checks
TYPES = {
    **dict.fromkeys(COLUMNS, "string"),
    **dict.fromkeys(("value", "unit_price"), "double"),
    **dict.fromkeys(("quantity", "position"), "bigint"),
    "time": "timestamp",
}
NOT_KEPT = "its source does not keep it"  # a reason without quarantine


@dataclass(frozen=True)
class Delivered:
    """A file of a source, with its day of arrival; of Parquet that Spark found readable, with its schema."""

    source: Source
    file: File
    arrival: date
    schema: Any = None


@dataclass
class Parsed:
    """The events of files by number.

    `frame` has one row per event, or per record without one: `arrival`, `line_position`, `file`, `entry`, `reason`,
    `person`, `source`, the columns that sources name, `date`, `bytes` and `content`. `surveys` has the readable files:
    with a survey if the engine's reader drops lines that are too long, so that positions are not line numbers.
    """

    frame: Any
    surveys: dict[int, Survey | None]
    unreadable: list[Quarantined] = field(default_factory=list)

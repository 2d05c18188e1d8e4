"""Lakes with broken input of build_interactions, on which both engines must end with one code and one sentence."""

import datetime
import math
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from benchmarks.conformance_lakes import Change, Row, put_events

NOON = datetime.datetime(2012, 3, 1, 12, tzinfo=datetime.UTC)
BOUGHT = {"source": "shop", "user_id": "ann", "item_id": "cup", "type": "purchase", "quantity": 1, "time": NOON}
TEXT, NULL = pa.array(["one"]), pa.array([None], pa.string())


class Broken(NamedTuple):
    """Events of a day, the change of their table before it is written, bytes of the file after, a parameter."""

    events: list[Row]
    change: Change | None = None
    content: bytes | None = None
    parameter: str = "until=2012-03-02"


def bought(**changes: Any) -> list[Row]:
    """Return three purchases of one item by one user, with changes."""
    return [{**BOUGHT, "event_id": f"e{number}", **changes} for number in range(3)]


def without(name: str) -> Change:
    """Return the change that drops a column."""
    return lambda table: table.drop_columns(name)


def replaced(name: str, value: pa.Array) -> Change:
    """Return the change that replaces the values of a column by one of any type."""
    return lambda table: table.drop_columns(name).append_column(name, value.take(pa.array([0] * len(table))))


CASES = {
    "no event in the window": Broken(bought(), parameter="since=2013-01-01"),
    "file without a byte": Broken(bought(), content=b""),
    "not Parquet": Broken(bought(), content=b"x"),
    "text for a number": Broken(bought(), replaced("quantity", TEXT)),
    "text for a time": Broken(bought(), replaced("time", TEXT)),
    "unused text for a number": Broken(bought(), replaced("position", TEXT)),
    "column missing": Broken(bought(), without("type")),
    "null": Broken(bought(), replaced("type", NULL)),
    "unused null": Broken(bought(), replaced("event_id", NULL)),
    "control character": Broken(bought(user_id="a\nb")),
    "long ID": Broken(bought(item_id="é" * 513)),
    "not a number": Broken(bought(type="rating", value=math.nan)),
    "infinite": Broken(bought(type="rating", value=math.inf)),
    "unknown types": Broken(bought(type="zap") + bought(type="b", user_id=None)),
    "all reversed": Broken([*bought(), *bought(type="cancellation")]),
}


def fill(lake: Path, case: Broken) -> None:
    """Fill a lake with the events of a case."""
    put_events(lake, case.events, case.change)
    if case.content is not None:
        (file,) = lake.rglob("part-0.parquet")
        file.write_bytes(case.content * file.stat().st_size)

"""Rules for using or quarantining a record of a delivery, the same for all jobs, in Python and in Spark."""

import datetime
import json
import re
from typing import Any

from common.contracts import CONTROL

MAX_RECORD = 1 << 20  # bytes; a longer record is quarantined unread
MAX_KEPT = 4096  # bytes of a record that quarantine keeps
MIN_UNUSABLE = 10  # unusable records of a file, below which their share is not significant
FIRST_TIME = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
CLOCKS_AHEAD = datetime.timedelta(days=1)  # tolerance for a producer's clock, compared with the day of arrival

TOO_LONG = "longer than 1 MiB"
NOT_UTF8 = "not UTF-8"
HALF_A_PAIR = "half a surrogate pair"
NOT_JSON = "not a JSON object"
MISFIT = "a value of another type than its field"  # inside of an array
BAD_TIME = "bad time"
AFTER_ARRIVAL = "time after the arrival"
IN_BAD_FILE = "in a file with too many unusable records"

# ISO 8601: a date, alone or with a time of the day, in which seconds, their fraction and the zone are optional.
TIME = (
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[T ](?:[01][0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9](?:\.[0-9]{1,12})?)?"
    r"(?:Z|[+-](?:0[0-9]|1[0-4])(?::?[0-5][0-9])?)?)?"
)
# Types of fields to which both engines cast the values of a column of Parquet, by its type, in Spark's words.
NUMBERS = {"bigint", "decimal", "double"}
CASTS = {
    **{kind: {*NUMBERS, "string", "boolean", "date", "timestamp"} for kind in ("string", "void")},
    "bigint": {*NUMBERS, "string", "boolean", "timestamp"},
    "decimal": {*NUMBERS, "string", "boolean"},
    "double": {*NUMBERS, "boolean", "timestamp"},
    "boolean": {*NUMBERS, "string", "boolean"},
    "date": {"string", "date", "timestamp"},
    "timestamp": {"bigint", "double", "string", "date", "timestamp"},
    "timestamp_ntz": {"string", "date", "timestamp"},
    "binary": {"string"},
}
WIDER = {
    "tinyint": ("smallint", "int", "bigint"),
    "smallint": ("int", "bigint"),
    "int": ("bigint",),
    "float": ("double",),
}
# A type in Spark's words; of a struct the types by name, of an array that of its entries, of a map two.
Kind = str | dict[str, "Kind"] | tuple["Kind", ...]
LONGEST = {**dict.fromkeys(("tinyint", "smallint", "int"), "bigint"), "float": "double"}
_LEADING, _TRAILING = r"\\u[dD][89abAB][0-9a-fA-F]{2}", r"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
# In a text without its escaped backslashes.
HALF = rf"{_LEADING}(?!{_TRAILING})|(?<!{_LEADING}){_TRAILING}"

_CONTROL, _HALF = re.compile(CONTROL), re.compile(HALF)


class Unusable(Exception):
    """A record can't be used; the message is the reason in quarantine."""


def label(name: str) -> str:
    """Return the words for a column or field in a reason: user ID for user_id."""
    return name.strip("_").replace("_", " ").replace(" id", " ID") or name


def missing(field: str) -> str:
    return f"no {field}"


def bad(field: str) -> str:
    return f"bad {field}"


def json_object(record: bytes) -> dict[str, Any]:
    """Return the JSON object in a record."""
    text = decode(record)
    if "\\u" in text and _HALF.search(text.replace("\\\\", "")):
        raise Unusable(HALF_A_PAIR)
    try:
        row = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise Unusable(NOT_JSON) from None
    if not isinstance(row, dict):
        raise Unusable(NOT_JSON)
    return row


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def decode(record: bytes, encoding: str = "utf-8") -> str:
    try:
        return record.decode(encoding)
    except UnicodeDecodeError:
        raise Unusable(NOT_UTF8 if encoding == "utf-8" else f"not {encoding}") from None


def castable(found: Kind, wanted: Kind, part: bool = False) -> bool:
    """Return True if values of a type of column of Parquet can be those of a field.

    A part of a struct, an array or a map is not cast, only widened; a struct may lack some parts.
    """
    if isinstance(found, str) and isinstance(wanted, str):
        if part:
            return found == wanted or wanted in WIDER.get(found, ())
        kinds = [kind.partition("(")[0] for kind in (found, wanted)]
        column, field = (LONGEST.get(kind, kind) for kind in kinds)
        return field in CASTS.get(column, ())
    if isinstance(found, dict) and isinstance(wanted, dict):
        both = found.keys() & wanted.keys()
        return bool(both) and all(castable(found[name], wanted[name], True) for name in both)
    if isinstance(found, tuple) and isinstance(wanted, tuple) and len(found) == len(wanted):
        return all(castable(one, other, True) for one, other in zip(found, wanted, strict=True))
    return False


def repeated(column: str) -> str:
    return f"it has the column '{column.lower()}' twice, whatever the case"


def words_of(kind: Kind) -> str:
    """Return a type as Spark writes it."""
    if isinstance(kind, dict):
        return f"struct<{', '.join(f'{name}: {words_of(each)}' for name, each in kind.items())}>"
    if isinstance(kind, tuple):
        return f"{'array' if len(kind) == 1 else 'map'}<{', '.join(map(words_of, kind))}>"
    return kind


def too_many(unusable: int, records: int, max_share: float) -> bool:
    """Return True if a file has too many unusable records, so that none of it is used."""
    return unusable >= MIN_UNUSABLE and unusable > max_share * records


def escape(content: bytes) -> str | None:
    r"""Return the beginning of a record as readable text: bytes that are not UTF-8 and control characters as \xNN."""
    readable = content[:MAX_KEPT].decode(errors="backslashreplace")
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", readable) or None

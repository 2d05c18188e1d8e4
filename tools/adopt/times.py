"""Times in the fields of a file: epochs by their magnitude, and texts by their pattern."""

import re
from collections import Counter
from typing import Any

from common.ingestion import records

MIN_SHARE = 0.01  # of the texts that have a format, below which they are errors
ISO = "ISO 8601"
UTC = "ISO 8601 with the word UTC"
DAY, CLOCK = r"\d{4}-\d\d-\d\d", r"\d\d:\d\d:\d\d"
# Regular expressions with the pattern of to_timestamp; {0} stands for the two numbers of day and month.
PATTERNS = {
    rf"{DAY}[ T]{CLOCK}(?:\.\d+)? UTC": UTC,
    rf"\d{{4}}/\d\d/\d\d {CLOCK}": "yyyy/MM/dd HH:mm:ss",
    r"\d{4}/\d\d/\d\d \d\d:\d\d": "yyyy/MM/dd HH:mm",
    r"\d{4}/\d\d/\d\d": "yyyy/MM/dd",
    r"(?:19|20)\d\d(?:0[1-9]|1[012])(?:0[1-9]|[12]\d|3[01])": "yyyyMMdd",
    r"(?:19|20)\d{12}": "yyyyMMddHHmmss",
    rf"\d{{1,2}}/\d{{1,2}}/\d{{4}} {CLOCK}": "{0}/yyyy HH:mm:ss",
    r"\d{1,2}/\d{1,2}/\d{4} \d{1,2}:\d\d": "{0}/yyyy H:mm",
    r"\d{1,2}/\d{1,2}/\d{4}": "{0}/yyyy",
    rf"\d\d-\d\d-\d{{4}} {CLOCK}": "dd-MM-yyyy HH:mm:ss",
    r"\d\d-\d\d-\d{4}": "dd-MM-yyyy",
    rf"\d\d\.\d\d\.\d{{4}} {CLOCK}": "dd.MM.yyyy HH:mm:ss",
    r"\d\d\.\d\d\.\d{4} \d\d:\d\d": "dd.MM.yyyy HH:mm",
    r"\d\d\.\d\d\.\d{4}": "dd.MM.yyyy",
    r"\d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d": "dd MMM yyyy HH:mm:ss",
    r"\d\d-[A-Z][a-z]{2}-\d{4}": "dd-MMM-yyyy",
    r"\d\d? \d\d?, \d{4}": "M d, yyyy",
}
_ISO, _PATTERNS = re.compile(records.TIME), {re.compile(text): pattern for text, pattern in PATTERNS.items()}
# Units of epochs between 1990 and 2100: lower bound of the values, name, expression.
UNITS = (
    (6.3e8, "seconds", "timestamp_seconds({0})"),
    (6.3e11, "milliseconds", "timestamp_millis({0})"),
    (6.3e14, "microseconds", "timestamp_micros({0})"),
    (6.3e17, "nanoseconds", "timestamp_micros(cast({0} / 1000 as bigint))"),
)
UPPER = 4.2e9 / 6.3e8  # of a unit's values, as a multiple of the lower bound


def pattern(text: str) -> str | None:
    """Return the pattern of a text: ISO, or to_timestamp's with {0} for day and month; None if it is not a time."""
    if _ISO.fullmatch(text):
        return ISO
    return next((name for known, name in _PATTERNS.items() if known.fullmatch(text)), None)


def unit(values: list[float]) -> tuple[str, str] | None:
    """Return the unit of epochs, and the expression that reads them; None unless almost all values are of one."""
    for lower, name, expression in UNITS:
        if sum(lower <= value < lower * UPPER for value in values) >= 0.95 * len(values):
            return name, expression
    return None


def reading(values: list[Any], field: str, number: str, numbers: list[float] | None) -> tuple[str, str, str] | None:
    """Return the expression that makes a time of a field, the field's type, and the reason; None if it holds none.

    `numbers` are the values where almost all are numbers; `number` is the field's expression as such.
    """
    if numbers and (epoch := unit(numbers)):
        name, expression = epoch
        if any(number != int(number) for number in numbers):
            return f"timestamp_micros(cast({number} * 1000000 as bigint))", "double", f"epoch in {name}, with fractions"
        return expression.format(number), "bigint", f"epoch in {name}, by its magnitude"
    texts = [str(value) for value in values[:5000]]
    found = Counter(pattern(text) for text in texts)
    missing = found.pop(None, 0)
    if not texts or missing > 0.2 * len(texts):
        return None
    readings, reasons = [], []
    common = [name for name, count in found.most_common(3) if count >= MIN_SHARE * len(texts)]
    for known in common:
        expression, reason = _text_reading(field, known or "", texts, len(common) > 1)
        readings.append(expression)
        reasons.append(reason)
    whole = f"coalesce({', '.join(readings)})" if len(readings) > 1 else readings[0]
    return whole, "string", ("several formats: " if len(reasons) > 1 else "") + "; ".join(reasons)


def _text_reading(field: str, name: str, texts: list[str], mixed: bool) -> tuple[str, str]:
    if name == ISO:
        days_only = " without a time of day" if all(len(text) == 10 for text in texts) else ""
        return f"cast({field} as timestamp)" if mixed else field, f"{ISO}{days_only}"
    if name == UTC:
        text = f"replace({field}, ' UTC', 'Z')"
        return f"cast({text} as timestamp)" if mixed else text, UTC
    reason = f"text like {next(text for text in texts if pattern(text) == name)}"
    if "{0}" in name:
        pairs = [re.split(r"\D", text, maxsplit=2)[:2] for text in texts if pattern(text) == name]
        day_first = any(int(pair[0]) > 12 for pair in pairs)
        if not day_first and not any(int(pair[1]) > 12 for pair in pairs):
            reason += "; day and month could be the other way round: check"
        name = name.format("d/M" if day_first else "M/d")
    return f"to_timestamp({field}, '{name}')", reason

"""The fields of a sample: every scalar at any depth with its type, values and counts; one level of arrays."""

import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyarrow as pa
import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from common.sources import expressions
from common.sources.source import ENTRY
from tools.adopt import names
from tools.adopt.layout import Sample

MAX_VALUES = 50_000  # of a field
MOST = 0.95  # share of values that decide what a field is; the others are errors
WHOLE = re.compile(r"0|-?[1-9][0-9]{0,17}")


@dataclass(frozen=True)
class Field:
    """A scalar of the records. `steps` lead to it; `array` is the path of the array whose entries have it."""

    steps: tuple[str, ...]
    array: tuple[str, ...] | None
    records: int
    from_text: bool  # of CSV, where every value is text
    spark_type: str | None = None  # of Parquet, where the file names it
    found: list[Any] = field(default_factory=list)  # values other than null

    @property
    def name(self) -> str:
        return (self.steps or self.array or ("",))[-1]

    @property
    def top(self) -> str:
        """The name of the record's field that has it."""
        return (self.array or self.steps)[0]

    @property
    def path(self) -> str:
        """The path for people: properties.products[].price."""
        head = (*self.array[:-1], f"{self.array[-1]}[]") if self.array else ()
        return ".".join((*head, *self.steps))

    @property
    def expression(self) -> str:
        """The field in Spark SQL."""
        return ".".join(quoted(step) for step in ((ENTRY,) if self.array else ()) + self.steps)

    @cached_property
    def nulls(self) -> list[str]:
        """The words among the values that stand for a missing value."""
        return sorted({value for value in self.found if isinstance(value, str)}.intersection(names.NULLS))

    @cached_property
    def values(self) -> list[Any]:
        """The values that say something."""
        missing = {"", *self.nulls}
        return [value for value in self.found if not (isinstance(value, str) and value in missing)]

    @cached_property
    def texts(self) -> set[str]:
        return {str(value) for value in self.values}

    @property
    def distinct(self) -> int:
        return len(self.texts)

    @property
    def filled(self) -> float:
        return len(self.values) / max(1, self.records)

    @cached_property
    def numbers(self) -> list[float] | None:
        """The values as numbers; None unless almost all are."""
        found = [number for number in map(as_number, self.values) if number is not None]
        return found if found and len(found) >= MOST * len(self.values) else None

    @property
    def integers(self) -> bool:
        """True if almost all values are whole numbers without leading zeros."""
        whole = sum(bool(WHOLE.fullmatch(value)) if isinstance(value, str) else type(value) is int
                    for value in self.values)  # fmt: skip
        return bool(self.values) and whole >= MOST * len(self.values)

    @cached_property
    def is_quoted(self) -> bool:
        """True of JSON that has text where numbers are meant."""
        return not self.from_text and 2 * sum(isinstance(value, str) for value in self.values) > len(self.values)


def as_number(value: Any) -> float | None:
    """Return a value as a number, None if it is not one."""
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None


def quoted(name: str) -> str:
    """Return a name in Spark SQL, with backticks where it would not be taken for a column."""
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        try:
            if isinstance(sqlglot.parse_one(name, read="spark"), exp.Column):
                return name
        except SqlglotError:
            pass
    return expressions.quoted(name)


def fields_of(sample: Sample) -> list[Field]:
    """Return the scalar fields of a sample's records, in the order of their first occurrence."""
    found: dict[tuple[tuple[str, ...] | None, tuple[str, ...]], Field] = {}
    is_csv = sample.layout.format == "csv"
    if sample.layout.columns:
        for name in sample.layout.columns:
            found[None, (name,)] = Field((name,), None, len(sample.records), True)

    def add(array: tuple[str, ...] | None, steps: tuple[str, ...], value: Any) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                if name:  # no expression has an empty one
                    add(array, (*steps, name), inner)
        elif isinstance(value, list):
            for entry in value[:20] if array is None else []:
                add(steps, (), entry)
        else:
            if (array, steps) not in found:
                found[array, steps] = Field(
                    steps, array, len(sample.records), is_csv, spark_type_at(sample.schema, array, steps)
                )
            if value is not None and len(found[array, steps].found) < MAX_VALUES:
                found[array, steps].found.append(value)

    for record in sample.records:
        add(None, (), record)
    usable = [each for each in found.values() if not each.top.startswith("__")]
    return [each for each in usable if not any(hides(other, each) for other in usable)]


def hides(one: Field, other: Field) -> bool:
    """Return True if two fields need a name to be an object, an array or a scalar in turn, and `one` is commoner.

    Names that differ in their case only are the same to expressions.
    """
    arrays = [tuple(map(str.lower, each.array or ())) for each in (one, other)]
    a, b = ((*array, *map(str.lower, each.steps)) for array, each in zip(arrays, (one, other), strict=True))
    inside = one is not other and (a[: len(b)] == b or b[: len(a)] == a)
    if arrays[0] != arrays[1]:
        inside = inside or any(
            array and whole[: len(array)] == array for array, whole in zip(arrays, (b, a), strict=True)
        )
    return inside and (len(one.found), one.path) > (len(other.found), other.path)


def spark_type_at(schema: pa.Schema | None, array: tuple[str, ...] | None, steps: tuple[str, ...]) -> str | None:
    """Return the type of a Parquet file's field in Spark SQL; None of other files."""
    if schema is None:
        return None
    kind: pa.DataType = pa.struct(list(schema))
    for step in array or ():
        kind = kind.field(step).type
    kind = kind.value_type if array else kind
    for step in steps:
        kind = kind.field(step).type
    return spark_type(kind)


def spark_type(kind: pa.DataType) -> str:
    """Return the name of an Arrow type in Spark SQL."""
    if pa.types.is_integer(kind):
        return "int" if kind.bit_width <= 32 and not pa.types.is_unsigned_integer(kind) else "bigint"
    if pa.types.is_floating(kind):
        return "float" if kind.bit_width < 64 else "double"
    if pa.types.is_decimal(kind):
        return f"decimal({kind.precision},{kind.scale})"
    for check, name in (
        (pa.types.is_timestamp, "timestamp"),
        (pa.types.is_date, "date"),
        (pa.types.is_boolean, "boolean"),
    ):
        if check(kind):
            return name
    return "string"

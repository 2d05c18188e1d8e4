"""Lines of JSON as fields: by DuckDB if a line surely means the same to it, else exactly, by Python.

DuckDB's functions are lenient: they take the first of equal names, convert any value to any type, and accept NaN and
commas at ends. So they parse only lines of a known shape: Python has found the same names, in the same order, and the
same types in a former line.
"""

import contextlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import pyarrow as pa
from duckdb import DuckDBPyConnection

from common.engines import duck
from common.engines.duck import quoted
from common.ingestion import records
from common.ingestion.arrow.blocks import Block
from common.ingestion.deliveries import Line
from common.ingestion.records import Unusable

MAX_LEARNT = 100  # lines at once of which the shape is learnt
LEARNT_EARLY = 10  # lines of a block, whose shapes the next blocks may have
MAX_SHAPES = 32  # of lines that are learnt; a longer list costs more than it saves
# What DuckDB accepts, but JSON does not have; also found in some texts, so that Python parses their lines.
COMMA_AT_END = r",\s*[}\]]"
NO_NUMBER = r"[:,\[]\s*-?\s*(?i:nan|inf)"
MAX_SIMPLE = 1800  # bytes of a line that can have neither too many levels nor too long numbers for Python
HARD = "strlen(regexp_replace(_line, '[^]}]', '', 'g')) > 400 OR regexp_matches(_line, '[0-9]{1000}')"
Path = tuple[str, ...]
Record = tuple["list[Any] | str", str | None]
Converter = Callable[[Any, list[str]], Any]


def json_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of a field of JSON, which has times, dates and decimals as text, and larger integers."""
    if pa.types.is_integer(kind):
        return pa.decimal128(38, 0)
    return part_type(kind)


def part_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of a part of a field."""
    if pa.types.is_struct(kind):
        return pa.struct([(each.name, part_type(each.type)) for each in kind])
    if pa.types.is_list(kind):
        return pa.list_(part_type(kind.value_type))
    if pa.types.is_map(kind):
        return pa.map_(pa.string(), part_type(kind.item_type))
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_decimal(kind):
        return pa.string()
    return kind


class Reader:
    """Parses lines of JSON into fields; learns the shapes of lines that DuckDB may parse."""

    def __init__(self, fields: pa.Schema, searched: Collection[str] = ()) -> None:
        self.schema = pa.schema([(each.name, json_type(each.type)) for each in fields])
        self.converters = [(each.name, converter(records.label(each.name), each.type)) for each in fields]
        self.converters = [(name, any_text if name in searched else convert) for name, convert in self.converters]
        self.kinds = dict(parts_of(fields))
        self.objects: list[Path] = [(), *(path for path, kind in self.kinds.items() if pa.types.is_struct(kind))]
        names = [name.lower() for name in fields.names]
        quotable = all(set(name).isdisjoint("\"\\'") for path in self.kinds for name in path)
        hard = any(pa.types.is_map(kind) or kind == pa.float32() for kind in self.kinds.values())
        self.learns = not searched and quotable and not hard and len(set(names)) == len(names)
        self.known_names: dict[tuple[tuple[str, ...] | None, ...], None] = {}
        self.known_types: dict[tuple[str | None, ...], None] = {}
        self.wider_names: dict[tuple[tuple[str, ...] | None, ...], None] = {}  # with names that are no fields

    def record(self, line: Line) -> Record:
        """Return the values of the fields, or the reason why a line has none; and the reason of the first misfit."""
        misfits: list[str] = []
        try:
            if line.too_long:
                raise Unusable(records.TOO_LONG)
            row = records.json_object(line.content)
        except Unusable as error:
            return str(error), None
        return [convert(row.get(name), misfits) for name, convert in self.converters], next(iter(misfits), None)

    def records(self, lines: Iterable[Line]) -> list[Record]:
        """Return the records in lines, and learn their shapes."""
        found, learnt = [], 0
        for line in lines:
            values, misfit = record = self.record(line)
            found.append(record)
            if self.learns and learnt < MAX_LEARNT and not (isinstance(values, str) or misfit):
                self.learn(line)
                learnt += 1
        return found

    def learn(self, line: Line) -> None:
        """Add the shape of a line without a problem or a misfit, if DuckDB may parse such lines."""
        whole = json.loads(line.content, object_pairs_hook=Pairs)
        names = []
        for path in self.objects:
            found = value_at(whole, path)
            names.append(tuple(name for name, _ in found) if isinstance(found, Pairs) else absent(found))
        types = tuple(type_of(value_at(whole, path)) for path in self.kinds)
        repeated = any(each and len(set(each)) < len(each) for each in names)
        known = {(*path, name) for path, each in zip(self.objects, names, strict=True) for name in each or ()}
        shapes = self.known_names if known.issubset(self.kinds) else self.wider_names
        if not (repeated or "" in types or max(len(shapes), len(self.known_types)) >= MAX_SHAPES):
            shapes[tuple(names)] = None
            self.known_types[types] = None

    def unsure(self, connection: DuckDBPyConnection, block: Block) -> list[int]:
        """Return the positions of the lines that are not of a known shape."""
        if block.texts is None or not self.learns:
            return list(range(len(block)))
        if not self.known_types:
            self.records([block[position] for position in range(min(MAX_LEARNT, len(block)))])
        if not self.known_types:
            return list(range(len(block)))
        connection.register("_lines", block.table())
        sure = f"CASE WHEN json_valid(_line) THEN {self.sure_sql()} ELSE false END"
        query = f"SELECT _position FROM _lines WHERE NOT {sure}"
        positions = sorted(position for (position,) in connection.execute(query).fetchall())
        self.records([block[position] for position in positions[:LEARNT_EARLY]])
        return positions

    def sure_sql(self) -> str:
        """SQL of the condition that a line of valid JSON is of a known shape, with numbers that DuckDB converts."""
        reals = [path for path, kind in self.kinds.items() if pa.types.is_floating(kind)]
        finite = [f"coalesce(right(json_extract_string(_line, {sql_path(path)}), 1) <= '9', true)" for path in reals]
        digits = {  # larger integers in structs have no misfit, unlike those of `typed`
            path: len(str(1 << kind.bit_width - 1))
            for path, kind in self.kinds.items()
            if path[1:] and pa.types.is_integer(kind)
        }
        small = [
            f"coalesce(strlen(json_extract_string(_line, {sql_path(path)})) < {number}, true)"
            for path, number in digits.items()
        ]
        numbers, rest = " AND ".join([*finite, *small]) or "true", " AND ".join(small) or "true"
        # CASE evaluates only the lines that are left; IN would be a join, for the others, too.
        return f"""
            CASE WHEN {self.among(f"json_type(_line, {sql_paths(self.kinds)})", self.known_types)} IS NULL THEN false
            WHEN regexp_matches(_line, {duck.literal(COMMA_AT_END)}) THEN false
            WHEN {self.among(self.names_sql(), self.known_names)} IS NOT NULL THEN {numbers}
            WHEN {self.among(self.names_sql(), self.wider_names)} IS NULL THEN false
            WHEN CASE WHEN strlen(_line) > {MAX_SIMPLE} THEN {HARD} ELSE false END THEN false
            WHEN regexp_matches(_line, {duck.literal(NO_NUMBER)}) THEN false
            ELSE {rest} END
        """

    def among(self, found: str, known: dict[Any, None]) -> str:
        """SQL of the position of a list among known ones; null if it is another."""
        return f"list_position({sql_list(list(known))}, {found})" if known else "NULL"

    def names_sql(self) -> str:
        return f"json_keys(_line, {sql_paths(self.objects)})" if self.objects[1:] else "[json_keys(_line)]"

    def fields_sql(self, lines: str = "_lines") -> str:
        """SQL of lines of known shapes: their columns and the fields."""
        kinds = {each.name: transformed(each.type) for each in self.schema}
        names = ", ".join(f"_fields.{quoted(name)}" for name in kinds)
        parsed = f"json_transform(_line, {duck.literal(json.dumps(kinds, ensure_ascii=False))})"
        return f"SELECT * EXCLUDE (_fields), {names} FROM (SELECT *, {parsed} AS _fields FROM {lines})"


class Pairs(list[tuple[str, Any]]):
    """The names and values of a JSON object."""


ABSENT = object()


def value_at(whole: Any, path: Path) -> Any:
    """Return the value at a path of a JSON value."""
    for step in path:
        whole = next((value for name, value in whole if name == step), ABSENT) if isinstance(whole, Pairs) else ABSENT
    return whole


def absent(value: Any) -> tuple[str, ...] | None:
    """Return the names that DuckDB gives of a value that is no object."""
    return None if value is ABSENT else ()


def type_of(value: Any) -> str | None:
    """Return DuckDB's word for the type of a value; empty if lines with such a value need Python."""
    if value is ABSENT:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        whole = "UBIGINT" if value >= 0 else "BIGINT"
        return whole if -(1 << 63) <= value < 1 << 64 else ""
    words = {type(None): "NULL", bool: "BOOLEAN", str: "VARCHAR", float: "DOUBLE", Pairs: "OBJECT"}
    return words.get(type(value), "")


def parts_of(fields: Iterable[pa.Field], above: Path = ()) -> Iterator[tuple[Path, pa.DataType]]:
    """Yield the path and the type of each field, and of each field in a struct."""
    for each in fields:
        yield (*above, each.name), each.type
        if pa.types.is_struct(each.type):
            yield from parts_of(each.type, (*above, each.name))


def sql_list(value: Any) -> str:
    """Return SQL of a text, of null, or of a list of such."""
    if value is None:
        return "NULL"
    return duck.literal(value) if isinstance(value, str) else f"[{', '.join(map(sql_list, value))}]"


def sql_path(path: Path) -> str:
    return duck.literal("$" + "".join(f'."{name}"' for name in path))


def sql_paths(paths: Iterable[Path]) -> str:
    return f"[{', '.join(map(sql_path, paths))}]"


def transformed(kind: pa.DataType) -> Any:
    """Return a type as `json_transform` expects it."""
    if pa.types.is_struct(kind):
        return {each.name: transformed(each.type) for each in kind}
    if pa.types.is_list(kind):
        return [transformed(kind.value_type)]
    words = {"string": "VARCHAR", "double": "DOUBLE", "float": "FLOAT", "bool": "BOOLEAN", "int64": "BIGINT",
             "int32": "INTEGER", "int16": "SMALLINT", "int8": "TINYINT"}  # fmt: skip
    return words.get(str(kind), "DECIMAL(38,0)")


def converter(field: str | None, kind: pa.DataType) -> Converter:
    """Return a function that returns a value of JSON if it is of a type, else null, and adds the reason to a list."""
    if pa.types.is_struct(kind):
        parts = [(each.name, converter(field and records.label(each.name), each.type)) for each in kind]
        return of_kind(field, dict, lambda value, misfits: {name: get(value.get(name), misfits) for name, get in parts})
    if pa.types.is_list(kind):
        entry = converter(None, kind.value_type)
        if not pa.types.is_struct(kind.value_type):
            return of_kind(field, list, lambda value, misfits: [entry(each, misfits) for each in value])

        def of_objects(value: list[Any], misfits: list[str]) -> list[Any] | None:
            whole = all(each is None or isinstance(each, dict) for each in value)
            return [entry(each, misfits) for each in value] if whole else None

        return of_kind(field, list, of_objects)
    if pa.types.is_map(kind):
        item = converter(None, kind.item_type)
        return of_kind(field, dict, lambda value, misfits: [(key, item(each, misfits)) for key, each in value.items()])
    if pa.types.is_boolean(kind):
        return of_kind(field, bool, lambda value, _: value)
    if pa.types.is_floating(kind):
        return of_kind(field, (int, float), lambda value, _: float(value))
    if pa.types.is_integer(kind):
        limit = 1 << (kind.bit_width - 1)
        return of_kind(field, int, lambda value, _: value if -limit <= value < limit else None)
    return of_kind(field, (str, int), lambda value, _: str(value))


def any_text(value: Any, misfits: list[str]) -> str | None:
    """Return a text, or any other value as JSON."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def of_kind(field: str | None, kinds: type | tuple[type, ...], convert: Converter) -> Converter:
    """Return a converter of values of some Python types; true is not a number. Entries of arrays have no field."""
    boolean = kinds is bool
    reason = records.bad(field) if field else records.MISFIT

    def checked(value: Any, misfits: list[str]) -> Any:
        if value is None:
            return None
        converted = None
        if isinstance(value, kinds) and (boolean or not isinstance(value, bool)):
            with contextlib.suppress(OverflowError):  # an integer that is too large for a double
                converted = convert(value, misfits)
        if converted is None:
            misfits.append(reason)
        return converted

    return checked

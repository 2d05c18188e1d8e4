"""Lines of JSON as fields: by Arrow's parser if a line surely means the same to it, else exactly, by Python.

Arrow refuses what is no JSON, other types than those of the fields, and repeated fields. It accepts NaN and infinities,
several objects in a line, and numbers and levels without limits; Python parses lines that may have those.
"""

import contextlib
import itertools
import json
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from common.ingestion import records
from common.ingestion.arrow.blocks import Block
from common.ingestion.deliveries import Line
from common.ingestion.records import Unusable

PIECE = 1 << 20  # bytes of lines that are parsed at once
FEW = 128  # lines, of which one is no record; Python parses them all
NO_NUMBER = re.compile(rb"[:,\[]\s*-?(?:NaN|Inf)")
# Limits of Python, below which no line has too many levels, or digits in a number.
MAX_CLOSED, MAX_DIGITS = 400, 4000
Record = tuple["list[Any] | str", str | None]
Converter = Callable[[Any, list[str]], Any]


def json_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of a field, or a part of it, in JSON, which has times, dates and decimals as text."""
    if pa.types.is_struct(kind):
        return pa.struct([(each.name, json_type(each.type)) for each in kind])
    if pa.types.is_list(kind):
        return pa.list_(json_type(kind.value_type))
    if pa.types.is_map(kind):
        return pa.map_(pa.string(), json_type(kind.item_type))
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_decimal(kind):
        return pa.string()
    return kind


def is_exact(kind: pa.DataType) -> bool:
    """Return True for a type of JSON of which Arrow parses the same values as Python."""
    if pa.types.is_struct(kind):
        return all(is_exact(each.type) for each in kind)
    if pa.types.is_list(kind):
        return is_exact(kind.value_type)
    return kind in (pa.string(), pa.float64(), pa.bool_()) or pa.types.is_integer(kind)


def fitted(kind: pa.DataType, value: Any) -> pa.DataType:
    """Return a type with integers instead of texts where a value has them."""
    if pa.types.is_struct(kind) and isinstance(value, dict):
        return pa.struct([(each.name, fitted(each.type, value.get(each.name))) for each in kind])
    if pa.types.is_list(kind) and isinstance(value, list) and value:
        return pa.list_(fitted(kind.value_type, value[0]))
    return pa.int64() if pa.types.is_string(kind) and type(value) is int else kind


def has_infinity(values: pa.Array | pa.ChunkedArray) -> bool:
    """Return True if values, or parts of them, have an infinity: Arrow makes one of an integer that is too large."""
    if pa.types.is_struct(values.type):
        return any(map(has_infinity, values.flatten()))
    if pa.types.is_list(values.type):
        return has_infinity(pc.list_flatten(values))
    return bool(pa.types.is_floating(values.type) and pc.any(pc.is_inf(values)).as_py())


class ParsedLines(NamedTuple):
    """The fields of the lines that Arrow parsed, their positions, and their texts, which end with a line feed.

    `others` are the positions of the lines that need Python.
    """

    fields: pa.Table
    positions: np.ndarray
    texts: pa.Array
    others: np.ndarray


class Reader:
    """Parses lines of JSON into fields."""

    def __init__(self, fields: pa.Schema, searched: Collection[str] = ()) -> None:
        self.schema = pa.schema([(each.name, json_type(each.type)) for each in fields])
        self.converters = [(each.name, converter(records.label(each.name), each.type)) for each in fields]
        self.converters = [(name, any_text if name in searched else convert) for name, convert in self.converters]
        self.by_arrow = not searched and all(map(is_exact, self.schema.types))
        self.delivered = self.schema  # with a type of integer for each text that is delivered as a number

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

    def parse(self, block: Block) -> ParsedLines:
        """Return the lines of a block that Arrow can parse."""
        other = np.ones(len(block), bool)
        positions = np.flatnonzero(suitable(block) if self.by_arrow else np.zeros(len(block), bool))
        if len(positions) < len(block):
            block = block.only(positions)
        edges = np.unique(np.searchsorted(block.offsets, range(0, len(block.content), PIECE)))
        pieces = list(itertools.pairwise([*edges, len(block)]))
        delivered = self.delivered
        found = [each for piece in pieces for each in self.tables(block, *piece, delivered)]
        if not found and (learnt := self.learnt(block)) != delivered:
            self.delivered = learnt
            found = [each for piece in pieces for each in self.tables(block, *piece, learnt)]
        parsed = np.concatenate([np.arange(0), *(np.arange(first, first + len(table)) for first, table in found)])
        fields = pa.concat_tables([self.schema.empty_table(), *(table for _, table in found)])
        texts = block.texts if len(parsed) == len(block) else block.texts.take(pa.array(parsed))
        other[positions[parsed]] = False
        return ParsedLines(fields, positions[parsed], texts, np.flatnonzero(other))

    def learnt(self, block: Block) -> pa.Schema:
        """Return the fields with a type of integer for each text that is a number in the first lines of a block."""
        kind: pa.DataType = pa.struct(self.schema)
        for position in range(min(len(block), FEW)):
            with contextlib.suppress(Unusable):
                kind = fitted(kind, records.json_object(block[position].content))
        return pa.schema(list(kind))

    def tables(self, block: Block, first: int, last: int, delivered: pa.Schema) -> Iterator[tuple[int, pa.Table]]:
        """Yield the fields of lines in tables, each with the position of its first line."""
        content = pa.py_buffer(block.content)[block.offsets[first] : block.offsets[last]]
        reading = pj.ReadOptions(use_threads=False, block_size=len(content) + 1)
        parsing = pj.ParseOptions(explicit_schema=delivered, unexpected_field_behavior="ignore")
        with contextlib.suppress(pa.ArrowInvalid):
            table = pj.read_json(pa.BufferReader(content), reading, parsing)
            if len(table) == last - first and not any(map(has_infinity, table.columns)):
                yield first, table.cast(self.schema)
                return
        if last - first > FEW:
            middle = (first + last) // 2
            yield from self.tables(block, first, middle, delivered)
            yield from self.tables(block, middle, last, delivered)


def suitable(block: Block) -> Any:
    """Return for each line True if Arrow refuses it, or parses it like Python if it has one object."""
    if block.size:
        return np.zeros(len(block), bool)
    letters, starts, ends = np.frombuffer(block.content, np.uint8), block.offsets[:-1], block.offsets[1:] - 2
    ends = ends - (letters[ends] == ord("\r"))
    result = (letters[starts] == ord("{")) & (letters[ends] == ord("}")) & (ends > starts)
    longest = np.diff(block.offsets).max()
    if longest > MAX_CLOSED:
        closed = (letters == ord("}")) | (letters == ord("]"))
        result &= np.add.reduceat(closed, starts, dtype=np.int32) <= MAX_CLOSED
    if longest > MAX_DIGITS:
        digits = letters - np.uint8(ord("0")) < 10
        result &= np.add.reduceat(digits, starts, dtype=np.int32) <= MAX_DIGITS
    pairs = letters[:-1], letters[1:]
    if any(((pairs[0] == first) & (pairs[1] == second)).any() for first, second in (b"aN", b"In")):
        result[[block.position(match.start()) for match in NO_NUMBER.finditer(block.content)]] = False
    result[list(block.not_utf8())] = False
    return result


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

"""The columns that records map to by the expressions of a source, each with the reason if a record is not used."""

from collections.abc import Iterator
from datetime import date, datetime, time
from typing import NamedTuple

import pyarrow as pa

from common.contracts import CONTROL, MAX_BYTES
from common.engines import duck
from common.engines.duck import RECORDS, quoted
from common.errors import ArgumentError
from common.handover.storage import File
from common.ingestion import records
from common.ingestion.arrow import reading
from common.ingestion.arrow.reading import Batch
from common.sources import expressions
from common.sources.source import ARRIVAL, ENTRY, Source

REQUIRED = {"events": ("type",), "items": ("item_id",), "users": ("user_id", "change")}
TIMES = ("time", "available_from", "available_until")
WHOLE = ("quantity", "position")
NUMBERS = ("preference", "value", "unit_price", *WHOLE)
CHANGES = ("subscribe", "change", "cancel")
EARLIEST, LATEST = "TIMESTAMPTZ '1970-01-01'", "TIMESTAMPTZ '9999-12-31 23:59:59.999999'"
ATTRIBUTE = "attribute "  # the beginning of the names of columns with attributes


class Mapped(NamedTuple):
    """Rows of a batch: `__position` of the record in it, the outcome, and the columns.

    `_kept` is false for a record that the source does not keep, `_reason` says why a row is unusable, `_broken` is the
    first rule that it breaks.
    """

    batch: Batch
    rows: pa.Table


class Mapping:
    """A source's expressions, checked and translated; it maps batches of records to rows."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.fields = reading.fields_of(source)
        self.reader = reading.json_reader(source)
        if source.each:
            self.each = self.sql_of(duck.Translator(self.fields), source.each, "each")
        self.translator = duck.Translator(reading.schema_of(source.known_fields))
        self.kinds: dict[str, str] = {}  # of the columns, as the expressions give them
        self.columns = self.checked(source.columns, "columns")
        self.attributes = self.checked(source.attributes, "attributes")
        self.rules = self.conditions(source.rules, "rules")
        self.keep = self.conditions({"keep": source.keep}, "")["keep"] if source.keep is not None else "true"
        self.connection = duck.connect()
        self.queries: dict[tuple[pa.Schema, date], str] = {}

    def sql_of(self, translator: duck.Translator, text: str, key: str, table: str = "") -> str:
        """Return DuckDB's SQL of an expression; ArgumentError names the file and the key of a wrong one."""
        try:
            return translator.sql_of(text)
        except ArgumentError as error:
            raise ArgumentError(f"{self.source.where(key, table)}: {error}") from None

    def checked(self, texts: dict[str, str], table: str) -> dict[str, str]:
        """Return SQL of columns; ArgumentError names one that is of a wrong type."""
        translated = {name: self.sql_of(self.translator, text, name, table) for name, text in texts.items()}
        kinds = {name: self.translator.kind(sql) for name, sql in translated.items()}
        for name, kind in kinds.items():
            whole = kind in duck.INTEGERS | {"VARCHAR", '"NULL"'}
            if table == "attributes":
                fits, expected = not kind.endswith("]") and "(" not in kind.replace("DECIMAL(", ""), "a single value"
            elif name in TIMES:
                fits = (whole and kind not in duck.INTEGERS) or kind.startswith(("TIMESTAMP", "DATE"))
                expected = "a timestamp, or text in ISO 8601"
            elif name in NUMBERS:
                fits, expected = (
                    kind in duck.INTEGERS | duck.REALS or kind.startswith(("DECIMAL", '"NULL"')),
                    "a number",
                )
            else:
                fits, expected = whole, "text or a whole number"
            if not fits:
                raise ArgumentError(
                    f"{self.source.where(name, table)} is {texts[name]!r}, of type {duck.spark_type(kind)}, expected "
                    f"{expected}; cast it, or correct the types in [fields]."
                )
        self.kinds |= kinds if table == "columns" else {}
        return translated

    def conditions(self, texts: dict[str, str], table: str) -> dict[str, str]:
        """Return SQL of conditions; ArgumentError names one that is not a condition."""
        translated = {}
        for name, text in texts.items():
            key = f"'{name}'" if table else name
            translated[name] = self.sql_of(self.translator, text, key, table)
            kind = self.translator.kind(translated[name])
            if kind not in ("BOOLEAN", '"NULL"'):
                raise ArgumentError(
                    f"{self.source.where(key, table)} is {text!r}, of type {duck.spark_type(kind)}, expected a "
                    "condition."
                )
        return translated

    def read(self, file: File, arrival: date) -> Iterator[Mapped]:
        """Yield the rows of a file; Unreadable if it is corrupt, or not of the source's format."""
        for batch in reading.batches(self.source, file, self.reader):
            yield Mapped(batch, self.map(batch, arrival))

    def map(self, batch: Batch, arrival: date) -> pa.Table:
        """Return the rows of a batch: `__position`, `_kept`, `_reason`, `_broken`, and the columns."""
        self.connection.register("__batch", numbered(batch))
        key = (batch.fields.schema, arrival)
        if key not in self.queries:
            self.queries[key] = self.query(*key)
        return self.connection.sql(self.queries[key]).to_arrow_table()

    def query(self, raw: pa.Schema, arrival: date) -> str:
        """Return the SQL that maps a table `__batch` of fields as they were read."""
        without = f"coalesce(len({self.each}), 0) = 0" if self.source.each else "false"
        entries = self.each if self.source.each else ""
        if self.source.each_optional:
            entries, without = f"CASE WHEN {without} THEN [NULL] ELSE {self.each} END", "false"
        exploded = f", unnest({entries}) AS {quoted(ENTRY)}" if entries else ""
        if ARRIVAL not in self.source.fields:
            exploded += f", DATE '{arrival}' AS {ARRIVAL}"
        columns = [f"{sql} AS {quoted(name)}" for name, sql in self.columns.items()]
        columns += [f"{sql} AS {quoted(ATTRIBUTE + name)}" for name, sql in self.attributes.items()]
        reasons = self.reasons(arrival)
        values = [f"{self.value(name)} AS {quoted(name)}" for name in self.columns]
        values += [f"{self.text(ATTRIBUTE + name)} AS {quoted(ATTRIBUTE + name)}" for name in self.attributes]
        return f"""
            WITH __typed AS ({typed(self.source, raw)}),
            {RECORDS} AS (
                SELECT *{exploded} FROM __typed {f"WHERE NOT {without}" if self.source.each else ""}
            ),
            valued AS (
                SELECT __position, __problem, __misfit, {self.keep} AS _keep,
                    {self.broken()} AS _broken, {", ".join(columns)}
                FROM {RECORDS}
            )
            SELECT __position,
                __problem IS NOT NULL OR (_keep IS NOT false AND (__misfit IS NOT NULL OR _keep IS NOT NULL)) AS _kept,
                coalesce(__problem, __misfit, CASE {reasons} END) AS _reason, _broken, {", ".join(values)}
            FROM valued
            {self.without_entries(without) if self.source.each else ""}
            ORDER BY __position
        """

    def broken(self) -> str:
        """SQL of the first rule that a record breaks."""
        cases = [f"WHEN NOT coalesce({sql}, false) THEN {duck.literal(name)}" for name, sql in self.rules.items()]
        return f"CASE {' '.join(cases)} END" if cases else "NULL::VARCHAR"

    def without_entries(self, without: str) -> str:
        """SQL of the records whose array is absent or empty: unusable if they have a problem, else not kept."""
        nulls = ", NULL" * (len(self.columns) + len(self.attributes))
        return f"""
            UNION ALL
            SELECT __position, coalesce(__problem, __misfit) IS NOT NULL, coalesce(__problem, __misfit), NULL{nulls}
            FROM __typed WHERE {without}
        """

    def reasons(self, arrival: date) -> str:
        """SQL of the first reason why a row is unusable, by the rules of common/ingestion/records.py."""
        cases = []
        for name in self.columns:
            value, label = quoted(name), records.label(name)
            missing = f"WHEN {self.text(name)} IS NULL THEN {duck.literal(records.missing(label))}"
            if name == "change":
                cases.append(f"WHEN {value} NOT IN {CHANGES} THEN 'unknown change' {missing}")
            elif name in TIMES:
                bad = records.BAD_TIME if name == "time" else records.bad(label)
                given = "" if name == "time" else f"{value} IS NOT NULL AND "
                late = f"{self.value(name)} > TIMESTAMPTZ '{latest(arrival)}'"
                cases.append(f"WHEN {given}({self.value(name)} IS NULL) THEN {duck.literal(bad)}")
                cases.append(f"WHEN {late} THEN {duck.literal(records.AFTER_ARRIVAL)}" if name == "time" else "")
            elif name in NUMBERS:
                odd = f"NOT isfinite({value}::DOUBLE)" + (f" OR {value} % 1 <> 0" if name in WHOLE else "")
                cases.append(f"WHEN {odd} THEN {duck.literal(records.bad(label))}")
            else:
                cases.append(f"WHEN {self.odd(name)} THEN {duck.literal(records.bad(label))}")
                cases.append(missing if name in REQUIRED[self.source.kind] else "")
        for name in self.attributes:
            cases.append(f"WHEN {self.odd(ATTRIBUTE + name)} THEN {duck.literal(records.bad(records.label(name)))}")
        return " ".join(cases) or "WHEN false THEN ''"

    def value(self, name: str) -> str:
        """SQL of a column in the type of its dataset; null if it is none."""
        column = quoted(name)
        if name in NUMBERS:
            return f"{column}::DOUBLE"
        if name not in TIMES:
            return self.text(name)
        text = f"CASE WHEN regexp_full_match({column}, {duck.literal(records.TIME)}) THEN {column} END"
        given = text if self.kinds[name] == "VARCHAR" else column
        moment = f"TRY_CAST({given} AS TIMESTAMPTZ)"
        return f"CASE WHEN {moment} BETWEEN {EARLIEST} AND {LATEST} THEN {moment} END"

    def text(self, name: str) -> str:
        return f"nullif({quoted(name)}::VARCHAR, '')"

    def odd(self, name: str) -> str:
        text = self.text(name)
        return f"coalesce(strlen({text}) > {MAX_BYTES} OR regexp_matches({text}, {duck.literal(CONTROL)}), false)"


def latest(arrival: date) -> datetime:
    """Return the last moment that a record of a day of arrival may have."""
    return datetime.combine(arrival + records.CLOCKS_AHEAD, time.max)


def typed(source: Source, raw: pa.Schema, more: str = "") -> str:
    """SQL of the fields of a table `__batch` in their types, and of more columns.

    `__misfit` is the reason of a record of which a value has another type than its field.
    """
    fields, translator = reading.fields_of(source), duck.Translator(raw)
    casts, misfits = [], []
    for name, kind in source.fields.items():
        if raw.field(name).type == fields.field(name).type:
            casts.append(quoted(name))
            continue
        if pa.types.is_nested(fields.field(name).type):
            cast, lost = cast_parts(quoted(name), raw.field(name).type, fields.field(name).type)
        else:
            cast = translator.sql_of(f"try_cast({expressions.quoted(name)} AS {kind})")
            lost = f"{quoted(name)} IS NOT NULL AND {cast} IS NULL"
        casts.append(f"{cast} AS {quoted(name)}")
        misfits.append(f"WHEN {lost} THEN {duck.literal(records.bad(records.label(name)))}")
    misfit = f"coalesce(__misfit, CASE {' '.join(misfits)} END)" if misfits else "__misfit"
    columns = [*([more] if more else []), *casts]
    return f"SELECT __position, __problem, {misfit} AS __misfit, {', '.join(columns)} FROM __batch"


def cast_parts(value: str, found: pa.DataType, wanted: pa.DataType, depth: int = 0) -> tuple[str, str]:
    """SQL of a value with parts from the type that it has in JSON, and of the condition that a part cannot be cast."""
    if found == wanted:
        return value, "false"
    if pa.types.is_struct(wanted):
        parts = [
            (quoted(each.name), *cast_parts(f"{value}.{quoted(each.name)}", of_json.type, each.type, depth))
            for of_json, each in zip(found, wanted, strict=True)
        ]
        packed = ", ".join(f"{name} := {cast}" for name, cast, _ in parts)
        return f"CASE WHEN {value} IS NOT NULL THEN struct_pack({packed}) END", " OR ".join(lost for *_, lost in parts)
    if pa.types.is_list(wanted):
        entry = f"_entry{depth}"
        cast, lost = cast_parts(entry, found.value_type, wanted.value_type, depth + 1)
        each = f"list_transform({value}, lambda {entry}: "
        return f"{each}{cast})", f"coalesce(list_contains({each}{lost}), true), false)"
    if pa.types.is_map(wanted):
        cast, lost = cast_parts(f"map_values({value})", pa.list_(found.item_type), pa.list_(wanted.item_type), depth)
        return f"map_from_entries(list_zip(map_keys({value}), {cast}))", lost
    cast = duck.from_text(value, duck.spelled(wanted))
    return cast, f"({value} IS NOT NULL AND {cast} IS NULL)"


def numbered(batch: Batch) -> pa.Table:
    """Return the fields of a batch as a table `__batch`: with `__position`, `__problem` and `__misfit`."""
    table = batch.fields.append_column("__position", pa.array(range(len(batch.reasons)), pa.int64()))
    table = table.append_column("__problem", pa.array(batch.reasons, pa.string()))
    return table.append_column("__misfit", pa.array(batch.misfits, pa.string()))

"""Events of records by DuckDB: the columns that a source's expressions give, each with the reason if it is not used."""

from typing import Any, NamedTuple

import pyarrow as pa

from common.contracts import CONTROL, MAX_BYTES
from common.engines import duck
from common.engines.duck import RECORDS, quoted
from common.ingestion import records
from common.ingestion.arrow.mapping import WHOLE, Mapping, typed
from common.ingestion.events import COLUMNS, NOT_KEPT, TEXTS, TYPES
from common.ingestion.light.texts import text_of
from common.sources import expressions
from common.sources.source import ARRIVAL, ENTRY, Source

DUCK_TYPES = {"string": "VARCHAR", "bigint": "BIGINT", "double": "DOUBLE", "timestamp": "TIMESTAMPTZ"}
TABLE = {  # columns of the table of events
    "arrival": "DATE",
    "line_position": "BIGINT",
    "file": "BIGINT",
    "entry": "BIGINT",
    "reason": "VARCHAR",
    "person": "VARCHAR",
    "source": "VARCHAR",
    **{name: DUCK_TYPES[kind] for name, kind in TYPES.items()},
    "context": "MAP(VARCHAR, VARCHAR)",
    "date": "DATE",
    "bytes": "BIGINT",
    "content": "BLOB",
}


class Texts(NamedTuple):
    """SQL of the text of records: columns that have it, its bytes, and their number.

    Next to them are `__file`, `__number` in the file, and `__arrival`. `plain` texts have neither control characters
    nor more bytes than a text may have.
    """

    columns: str
    content: str
    size: str
    plain: bool = False


class EventMapping(Mapping):
    """A source's expressions for events, checked and translated; its SQL maps records to rows of TABLE."""

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self.sql: dict[tuple[Any, ...], str] = {}
        self.columns = {name: self.columns[name] for name in COLUMNS if name in self.columns}
        texts = {name: self.sql_of(self.translator, text, name, "context") for name, text in source.context.items()}
        listed = ", ".join(f"{sql} AS {quoted(name)}" for name, sql in texts.items())
        connection = self.translator.connection
        kinds = connection.sql(f"SELECT {listed} FROM {RECORDS}").to_arrow_table().schema if texts else pa.schema([])
        self.context = {name: text_of(f"({sql})", kinds.field(name).type) for name, sql in texts.items()}

    @property
    def named(self) -> list[str]:
        """The columns of TABLE with values."""
        names = {"event_id", *self.columns, *(["context"] if self.context else [])}
        return [name for name in TABLE if name in names or name not in {*COLUMNS, "context"}]

    def sql_of(self, translator: duck.Translator, text: str, key: str, table: str = "") -> str:
        return super().sql_of(translator, expressions.without_overflow(text), key, table)

    def events_sql(self, raw: pa.Schema, batch: str, texts: Texts, usable: str | None) -> str:
        """Return SQL of the columns `named` for a relation of fields as they were read.

        `usable` is the reason of an event that could be used, if it is not.
        """
        key = (raw, batch, texts, usable)
        if key not in self.sql:
            self.sql[key] = self.new_sql(*key)
        return self.sql[key]

    def new_sql(self, raw: pa.Schema, batch: str, texts: Texts, usable: str | None) -> str:
        """Return the SQL that `events_sql` keeps, because its translation takes longer than its run."""
        given = [f"{sql} AS {quoted(name)}" for name, sql in self.columns.items()]
        values = [f"{self.event_value(name)} AS {quoted(name)}" for name in self.columns]
        bad = {name: sql for name in self.columns if (sql := self.bad(name, texts.plain))}
        values += [f"{sql} AS {quoted(f'_bad {name}')}" for name, sql in bad.items()]
        values.append(f"{self.event_id(texts)} AS _id")
        shown = "_reason IS NOT NULL AND _reason <> " + duck.literal(NOT_KEPT)
        ends = {
            "arrival": "__arrival",
            "line_position": "__number",
            "file": "__file",
            "entry": "__entry",
            "reason": "_reason",
            "person": "user_id" if "user_id" in self.columns else "NULL",
            "source": f"CASE WHEN _reason IS NULL THEN {duck.literal(self.source.name)} END",
            **{name: f"CASE WHEN _reason IS NULL THEN {quoted(name)} END" for name in [*self.columns, "context"]},
            "event_id": "CASE WHEN _reason IS NULL THEN _id END",
            "date": "CASE WHEN _reason IS NULL THEN CAST(time AS DATE) END",
            "bytes": f"CASE WHEN {shown} THEN {texts.size} END",
            "content": f"CASE WHEN {shown} THEN ({texts.content})[1:{records.MAX_KEPT}] END",
        }
        lines = f"{texts.columns}, __file, __number, __arrival"
        former = f"__problem, __misfit, __entry, {lines}"
        return f"""
            WITH __batch AS ({batch}),
            __typed AS ({typed(self.source, raw, lines)}),
            {RECORDS} AS (SELECT *{self.exploded()} FROM __typed),
            given AS (
                SELECT {former}, {self.keep} AS _keep, {self.broken()} AS _broken, {self.context_sql()} AS context,
                    {", ".join(given)}
                FROM {RECORDS}
            ),
            valued AS (
                SELECT {former}, _keep, _broken, context, {", ".join(values)} FROM given
            ),
            reasoned AS (SELECT *, {self.reason_sql(texts.plain, usable)} AS _reason FROM valued)
            SELECT {", ".join(f"{ends[name]} AS {quoted(name)}" for name in self.named)} FROM reasoned
        """

    def exploded(self) -> str:
        """SQL of the day of arrival, and of the entry and its number for each entry of the array; null without one."""
        day = "" if ARRIVAL in self.source.fields else f", __arrival AS {ARRIVAL}"
        if not self.source.each:
            return f"{day}, CAST(0 AS BIGINT) AS __entry"
        without = f"coalesce(len({self.each}), 0) = 0"
        numbers = f"unnest(CASE WHEN {without} THEN [NULL] ELSE range(len({self.each})) END) AS __entry"
        return f"{day}, unnest(CASE WHEN {without} THEN [NULL] ELSE {self.each} END) AS {quoted(ENTRY)}, {numbers}"

    def context_sql(self) -> str:
        """SQL of the map of everything else that a source names, without empty values; null if nothing is left."""
        if not self.context:
            return "NULL"
        pairs = ", ".join(f"{{'key': {duck.literal(name)}, 'value': {sql}}}" for name, sql in self.context.items())
        filled = f"list_filter([{pairs}], lambda _pair: _pair.value <> '')"
        return f"CASE WHEN len({filled}) > 0 THEN map_from_entries({filled}) END"

    def event_value(self, name: str) -> str:
        """SQL of a column of events in its type; null where a value cannot be one."""
        column, kind = quoted(name), self.kinds[name]
        if name in TEXTS:
            return f"nullif({column}::VARCHAR, '')"
        if name == "time":
            if kind == "VARCHAR":
                column = f"CASE WHEN regexp_full_match({column}, {duck.literal(records.TIME)}) THEN {column} END"
            return f"TRY_CAST({column} AS TIMESTAMPTZ)"
        if name in WHOLE:
            return f"CASE WHEN {self.is_whole(name)} THEN TRY_CAST({column} AS BIGINT) END"
        return f"CASE WHEN abs({column}::DOUBLE) < 'inf'::DOUBLE THEN {column}::DOUBLE END"

    def is_whole(self, name: str) -> str:
        if self.kinds[name] in duck.INTEGERS:
            return "true"
        column = quoted(name)
        return f"{column} = floor({column}) AND abs({column}) < 2::DOUBLE ** 63"

    def bad(self, name: str, plain: bool) -> str:
        """SQL of the condition that a given value cannot be one of its column; empty if it always can."""
        column = quoted(name)
        if name in TEXTS:
            if self.kinds[name] in duck.INTEGERS or self.is_plain(name, plain):
                return ""
            return f"coalesce(regexp_matches({column}::VARCHAR, {duck.literal(CONTROL)}), false)"
        if name == "time" or (name in WHOLE and self.kinds[name] in duck.INTEGERS):
            return ""
        fits = self.is_whole(name) if name in WHOLE else f"abs({column}::DOUBLE) < 'inf'::DOUBLE"
        return f"{column} IS NOT NULL AND NOT ({fits})"

    def is_plain(self, name: str, plain: bool) -> bool:
        """Return True for a column that is a field, unchanged, of a text that is plain."""
        return plain and self.source.columns[name] in self.source.fields

    def event_id(self, texts: Texts) -> str:
        """SQL of an event's ID: without one a hash of its record, and with the number of its entry."""
        digest = f"md5({texts.content})"
        given = f"coalesce({self.event_value('event_id')}, {digest})" if "event_id" in self.columns else digest
        return f"{given} || '-' || coalesce(__entry, 0)" if self.source.each else given

    def reason_sql(self, plain: bool, usable: str | None) -> str:
        """SQL of the first reason why a record is not used; see common/ingestion/records.py."""
        cases = [
            "WHEN __problem IS NOT NULL THEN __problem",
            f"WHEN NOT _keep THEN {duck.literal(NOT_KEPT)}",
            "WHEN __misfit IS NOT NULL THEN __misfit",
            f"WHEN _keep IS NULL THEN {duck.literal(NOT_KEPT)}",
        ]
        if self.source.each and not self.source.each_optional:
            cases.append(f"WHEN __entry IS NULL THEN {duck.literal(NOT_KEPT)}")
        late = f"CAST(__arrival + {1 + records.CLOCKS_AHEAD.days} AS TIMESTAMPTZ)"
        for name in self.columns:
            label = records.label(name)
            if name == "time":
                cases.append(f"WHEN NOT coalesce(time >= TIMESTAMPTZ '{records.FIRST_TIME}', false) "
                             f"THEN {duck.literal(records.BAD_TIME)}")  # fmt: skip
                cases.append(f"WHEN time >= {late} THEN {duck.literal(records.AFTER_ARRIVAL)}")
                continue
            if name == "type":
                cases.append(f"WHEN type IS NULL THEN {duck.literal(records.missing(label))}")
            bad = [quoted(f"_bad {name}")] if self.bad(name, plain) else []
            text = "_id" if name == "event_id" else quoted(name)
            if name in TEXTS and (self.source.each or not self.is_plain(name, plain)):
                bad.append(f"strlen({text}) > {MAX_BYTES}")
            if bad:
                cases.append(f"WHEN {' OR '.join(bad)} THEN {duck.literal(records.bad(label))}")
        cases.append("WHEN _broken IS NOT NULL THEN _broken")
        return f"CASE {' '.join(cases)} ELSE {duck.literal(usable) if usable else 'NULL::VARCHAR'} END"

"""One row per item, merged from the rows of all sources by time, in DuckDB: memory depends on the items, not the rows.

Each column takes its last value that is not null; of rows of one time the one that arrived later counts, in a delivery
the later one. The name is that of the highest preference, then the newest, then the first of the alphabet; a row whose
preference is null has no name.

The key of each value orders it: its time, the place of its file among all files by arrival and path, and its row in the
file. The state has it in parts, so that values of former deliveries and new ones merge in any order of ingestion.
"""

import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from common.engines import arrow, duck
from common.engines.duck import literal, quoted
from common.errors import ArgumentError
from common.ingestion.arrow.mapping import ATTRIBUTE, Mapping

FOLD = 500_000  # rows by which a table grows before it is merged
KEY = "key "  # the beginning of the names of columns with the key of a value
TIME_BITS, FILE_BITS = 64, 36  # the positions of the time and the file in a key, which has 128 bits
TYPES = {"family": "VARCHAR", "available_from": "TIMESTAMPTZ", "available_until": "TIMESTAMPTZ"}
STATE = arrow.schema_of("item_state@1")
BEST_NAME = """first(name ORDER BY name.preference DESC NULLS LAST, name.time DESC, name.arrival DESC, name.value,
    name.key DESC) FILTER (name IS NOT NULL)"""
MERGED = pa.schema(
    [("item_id", pa.string()), ("name", pa.string()), ("family", pa.string())]
    + [(name, arrow.TYPES["timestamp"]) for name in ("available_from", "available_until")]
)


class Catalogue:
    """Rows of items by source with the key of each value, in a table `of_file` for the file that is read, and `items`.

    A table is merged to one row per item and source when it has grown by FOLD rows. Tables are replaced rather than
    changed in a transaction, which would keep all former rows.
    """

    def __init__(self, mappings: list[Mapping], state: pa.Table, files: list[tuple[datetime.date, str]]) -> None:
        """Begin with the state and the files to read, by day of arrival and path in the lake."""
        self.mappings = mappings
        self.attributes = sorted({key for mapping in mappings for key in mapping.attributes})
        self.columns = TYPES | {ATTRIBUTE + key: "VARCHAR" for key in self.attributes}
        self.rules = [rules_of(mapping) for mapping in mappings]
        self.state = state
        self.row = 0  # of the usable ones of the file that is read
        self.grown = {"of_file": 0, "items": 0}
        self.connection = duck.connect()
        known = state.group_by(["arrival", "file"]).aggregate([]).to_pydict()
        places = sorted({*zip(known["arrival"], known["file"], strict=True), *files})
        self.numbers = {path: number for number, (_, path) in enumerate(places)}
        self.register("numbers", {"arrival": pa.date32(), "file": pa.string()}, places)
        self.register("sources", {"source": pa.string()}, [(mapping.source.name,) for mapping in mappings])
        for table in self.grown:
            self.create(table)

    def register(self, table: str, columns: dict[str, pa.DataType], rows: list[tuple[Any, ...]]) -> None:
        """Make numbered rows a table."""
        schema = pa.schema({"number": pa.int64()} | columns)
        numbered = ((number, *row) for number, row in enumerate(rows))
        self.connection.register(table, pa.concat_tables([schema.empty_table(), *arrow.batched(numbered, schema)]))

    def create(self, table: str) -> None:
        columns = ", ".join(f"{quoted(name)} {kind}" for name, kind in self.columns.items())
        keys = ", ".join(f"{quoted(KEY + name)} HUGEINT" for name in self.columns)
        self.connection.execute(
            f"""
            CREATE OR REPLACE TABLE {table} (source INTEGER, item_id VARCHAR, rows BIGINT, newest HUGEINT,
                name STRUCT(value VARCHAR, preference DOUBLE, time TIMESTAMPTZ, arrival DATE, key HUGEINT),
                first_name VARCHAR, last_name VARCHAR, {columns}, {keys})
            """
        )
        self.grown[table] = 0

    def end_file(self, used: bool) -> None:
        """Take over the rows that were added since the last file, or forget them."""
        if used:
            rows = self.connection.execute("INSERT INTO items SELECT * FROM of_file").fetchall()[0][0]
            self.grow("items", rows)
        self.create("of_file")
        self.row = 0

    def grow(self, table: str, rows: int) -> None:
        self.grown[table] += rows
        if self.grown[table] >= FOLD:
            self.merge(table)

    def add(self, mapping: Mapping, arrival: datetime.date, path: str, usable: pa.Table) -> None:
        """Add usable rows of a file, by its path in the lake."""
        given = usable.column_names
        day = f"DATE '{arrival}'"
        name = "name" if "name" in given else "NULL::VARCHAR"
        preference = "preference" if "preference" in given else "NULL"
        if "preference" in given:
            name = f"CASE WHEN preference IS NOT NULL THEN {name} END"
        time = "time" if "time" in given else f"{day}::TIMESTAMPTZ"
        values = [quoted(column) if column in given else "NULL" for column in self.columns]
        keys = [f"CASE WHEN {value} IS NOT NULL THEN _key END" if value != "NULL" else value for value in values]
        named = f"{{value: {name}, preference: {preference}, time: {time}, arrival: {day}, key: _key}}"
        before = (self.numbers[path] << FILE_BITS) + self.row
        self.connection.register("batch", usable)
        self.connection.execute(
            f"""
            INSERT INTO of_file
            SELECT {self.mappings.index(mapping)}, item_id, 1, _key, CASE WHEN {name} IS NOT NULL THEN {named} END,
                {name}, {name}, {", ".join([*values, *keys])}
            FROM (
                SELECT *, (epoch_us({time})::HUGEINT << {TIME_BITS}) + {before}
                    + row_number() OVER (ORDER BY __position) AS _key
                FROM batch
            )
            """
        )
        self.connection.unregister("batch")
        self.row += usable.num_rows
        self.grow("of_file", usable.num_rows)

    def add_state(self, read: list[str], replaced: list[str]) -> int:
        """Add the state, except values of files that were read, and replaced sources; return its number of items."""
        again = pc.is_in(self.state["file"], value_set=pa.array(read, pa.string()))
        again = pc.or_(again, pc.is_in(self.state["source"], value_set=pa.array(replaced, pa.string())))
        self.connection.register("known", self.state.filter(pc.invert(again)))
        of = {name: f"""FILTER ("column" = {literal(name)})""" for name in ("name", *self.columns)}
        name = f"max(value) {of['name']}"
        named = "{value: value, preference: preference, time: time, arrival: arrival, key: _key}"
        values = [f"(max(value) {of[column]})::{kind}" for column, kind in self.columns.items()]
        keys = [f"max(_key) {of[column]}" for column in self.columns]
        rows = self.connection.execute(
            f"""
            INSERT INTO items
            SELECT number, item_id, 0, max(_key), any_value({named}) {of["name"]}, {name}, {name},
                {", ".join([*values, *keys])}
            FROM (
                SELECT sources.number AS number, known.*, (epoch_us(time)::HUGEINT << {TIME_BITS})
                    + (numbers.number::HUGEINT << {FILE_BITS}) + row AS _key
                FROM known JOIN numbers USING (file) JOIN sources USING (source)
            )
            GROUP BY number, item_id
            """
        ).fetchall()[0][0]
        return int(rows)

    def new_state(self) -> pa.Table:
        """Return the state with all rows, after `judge`, as rows of item_state@1."""
        parts = [
            "'item_id', item_id, NULL::DOUBLE, newest FROM items",
            "'name', name.value, name.preference, name.key FROM items WHERE name IS NOT NULL",
        ]
        for name in self.columns:
            value, key = quoted(name), quoted(KEY + name)
            parts.append(f"{literal(name)}, {value}::VARCHAR, NULL, {key} FROM items WHERE {key} IS NOT NULL")
        rows = " UNION ALL ".join(f"SELECT source, item_id, {part}" for part in parts)
        return self.connection.sql(
            f"""
            SELECT sources.source, item_id, "column", value, preference,
                make_timestamptz((_key >> {TIME_BITS})::BIGINT) AS time, arrival, file,
                (_key & {(1 << FILE_BITS) - 1})::BIGINT AS row
            FROM ({rows}) AS rows (number, item_id, "column", value, preference, _key) JOIN sources USING (number)
                JOIN numbers ON numbers.number = (_key >> {FILE_BITS}) & {(1 << TIME_BITS - FILE_BITS) - 1}
            ORDER BY ALL
            """
        ).to_arrow_table()

    def merge(self, table: str) -> None:
        """Merge the rows of each item of a source in a table."""
        pairs = [(quoted(name), quoted(KEY + name)) for name in self.columns]
        values = [f"arg_max({column}, {key}) AS {column}" for column, key in pairs]
        keys = [f"max({key}) AS {key}" for _, key in pairs]
        self.connection.execute(
            f"""
            CREATE TABLE merged AS
            SELECT source, item_id, sum(rows)::BIGINT AS rows, max(newest) AS newest, {BEST_NAME} AS name,
                min(first_name) AS first_name, max(last_name) AS last_name, {", ".join([*values, *keys])}
            FROM {table} GROUP BY source, item_id;
            DROP TABLE {table};
            ALTER TABLE merged RENAME TO {table}
            """
        )
        self.grown[table] = 0

    def judge(self) -> tuple[dict[str, str], dict[str, int]]:
        """Merge all rows; remove items that break a rule of one of their sources.

        Returns the reason for each removed item with new rows, and the number of new rows by reason.
        """
        self.merge("items")
        cases = [
            f"WHEN list_contains(sources, {number}) AND NOT coalesce({sql}, false) THEN {literal(reason)}"
            for number, rules in enumerate(self.rules)
            for reason, sql in rules.items()
        ]
        values = [f"arg_max({quoted(name)}, {quoted(KEY + name)}) AS {quoted(name)}" for name in self.columns]
        self.connection.execute(
            f"""
            CREATE TABLE judged AS SELECT *, {f"CASE {' '.join(cases)} END" if cases else "NULL::VARCHAR"} AS reason
            FROM (
                SELECT item_id, list(source) AS sources, sum(rows)::BIGINT AS rows, ({BEST_NAME}).value AS name,
                    min(first_name) AS first_name, max(last_name) AS last_name, {", ".join(values)}
                FROM items GROUP BY item_id
            )
            """
        )
        dropped = self.connection.sql(
            "SELECT item_id, reason, rows FROM judged WHERE reason IS NOT NULL AND rows > 0"
        ).fetchall()
        counts: dict[str, int] = {}
        for _, reason, rows in dropped:
            counts[reason] = counts.get(reason, 0) + rows
        return {item: reason for item, reason, _ in dropped}, counts

    def items(self) -> pa.Table:
        """Return the columns of items@2 of the items that remain, by item_id."""
        entries = ", ".join(f"{{k: {literal(key)}, v: {quoted(ATTRIBUTE + key)}}}" for key in self.attributes)
        attributes = f"map_from_entries(list_filter([{entries}], lambda entry: entry.v IS NOT NULL))"
        attributes = f"CASE WHEN cardinality({attributes}) > 0 THEN {attributes} END" if self.attributes else "NULL"
        return self.connection.sql(
            f"""
            SELECT item_id, name, {", ".join(TYPES)}, {attributes}::MAP(VARCHAR, VARCHAR) AS attributes
            FROM judged WHERE reason IS NULL ORDER BY item_id
            """
        ).to_arrow_table()

    def with_several_names(self) -> int:
        """Return the number of remaining items whose rows have different names."""
        query = "SELECT count(*) FROM judged WHERE reason IS NULL AND first_name <> last_name"
        return int(self.connection.sql(query).fetchall()[0][0])


def rules_of(mapping: Mapping) -> dict[str, str]:
    """Return SQL of the rules of a source for merged items; ArgumentError names one that is not a condition."""
    translator = duck.Translator(MERGED)
    result = {}
    for reason, text in mapping.source.item_rules.items():
        result[reason] = mapping.sql_of(translator, text, f"'{reason}'", "item_rules")
        if (kind := translator.kind(result[reason])) != "BOOLEAN":
            where = mapping.source.where(f"'{reason}'", "item_rules")
            raise ArgumentError(f"{where} is {text!r}, of type {kind}, expected a condition.")
    return result

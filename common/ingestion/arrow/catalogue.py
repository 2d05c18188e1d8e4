"""One row per item, merged from the rows of all sources by time, in DuckDB: memory depends on the items, not the rows.

Each column takes its last value that is not null; of rows of one time the one that arrived later counts, in a delivery
the later one. The name is that of the highest preference, then the newest, then the first of the alphabet; a row whose
preference is null has no name.
"""

import datetime

import pyarrow as pa

from common.engines import arrow, duck
from common.engines.duck import literal, quoted
from common.errors import ArgumentError
from common.ingestion.arrow.mapping import ATTRIBUTE, Mapping

FOLD = 500_000  # rows by which a table grows before it is merged
KEY = "key "  # the beginning of the names of columns with the time and the number of the row of a value
TYPES = {"family": "VARCHAR", "available_from": "TIMESTAMPTZ", "available_until": "TIMESTAMPTZ"}
MERGED = pa.schema(
    [("item_id", pa.string()), ("name", pa.string()), ("family", pa.string())]
    + [(name, arrow.TYPES["timestamp"]) for name in ("available_from", "available_until")]
)


class Catalogue:
    """Rows of items with the key of each value, in a table `of_file` for the file that is read, and in `items`.

    A table is merged to one row per item when it has grown by FOLD rows. Tables are replaced rather than changed in a
    transaction, which would keep all former rows.
    """

    def __init__(self, mappings: list[Mapping]) -> None:
        self.mappings = mappings
        self.keys = sorted({key for mapping in mappings for key in mapping.attributes})
        self.columns = TYPES | {ATTRIBUTE + key: "VARCHAR" for key in self.keys}
        self.rules = [rules_of(mapping) for mapping in mappings]
        self.number = 0  # of rows so far
        self.grown = {"of_file": 0, "items": 0}
        self.connection = duck.connect()
        for table in self.grown:
            self.create(table)

    def create(self, table: str) -> None:
        columns = ", ".join(f"{quoted(name)} {kind}" for name, kind in self.columns.items())
        keys = ", ".join(f"{quoted(KEY + name)} HUGEINT" for name in self.columns)
        self.connection.execute(
            f"""
            CREATE OR REPLACE TABLE {table} (item_id VARCHAR, rows BIGINT, sources BIGINT,
                name STRUCT(value VARCHAR, preference DOUBLE, time TIMESTAMPTZ, arrival DATE),
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

    def grow(self, table: str, rows: int) -> None:
        self.grown[table] += rows
        if self.grown[table] >= FOLD:
            self.merge(table)

    def add(self, mapping: Mapping, arrival: datetime.date, usable: pa.Table) -> None:
        """Add usable rows of a source."""
        given = usable.column_names
        day = f"DATE '{arrival}'"
        name = "name" if "name" in given else "NULL::VARCHAR"
        preference = "preference" if "preference" in given else "NULL"
        if "preference" in given:
            name = f"CASE WHEN preference IS NOT NULL THEN {name} END"
        time = "time" if "time" in given else f"{day}::TIMESTAMPTZ"
        values = [quoted(column) if column in given else "NULL" for column in self.columns]
        moment = f"(epoch_us({time})::HUGEINT << 40) + {self.number} + row_number() OVER (ORDER BY _position)"
        keys = [f"CASE WHEN {value} IS NOT NULL THEN {moment} END" if value != "NULL" else value for value in values]
        named = f"{{value: {name}, preference: {preference}, time: {time}, arrival: {day}}}"
        self.connection.register("batch", usable)
        self.connection.execute(
            f"""
            INSERT INTO of_file
            SELECT item_id, 1, {1 << self.mappings.index(mapping)}, CASE WHEN {name} IS NOT NULL THEN {named} END,
                {name}, {name}, {", ".join([*values, *keys])}
            FROM batch
            """
        )
        self.connection.unregister("batch")
        self.number += usable.num_rows
        self.grow("of_file", usable.num_rows)

    def merge(self, table: str) -> None:
        """Merge the rows of each item in a table."""
        pairs = [(quoted(name), quoted(KEY + name)) for name in self.columns]
        values = [f"arg_max({column}, {key}) AS {column}" for column, key in pairs]
        keys = [f"max({key}) AS {key}" for _, key in pairs]
        best = "name.preference DESC NULLS LAST, name.time DESC, name.arrival DESC, name.value"
        self.connection.execute(
            f"""
            CREATE TABLE merged AS
            SELECT item_id, sum(rows)::BIGINT AS rows, bit_or(sources) AS sources,
                first(name ORDER BY {best}) FILTER (name IS NOT NULL) AS name,
                min(first_name) AS first_name, max(last_name) AS last_name, {", ".join([*values, *keys])}
            FROM {table} GROUP BY item_id;
            DROP TABLE {table};
            ALTER TABLE merged RENAME TO {table}
            """
        )
        self.grown[table] = 0

    def judge(self) -> tuple[dict[str, str], dict[str, int]]:
        """Merge all rows; remove items that break a rule of one of their sources.

        Returns the reason for each removed item, and the number of rows by reason.
        """
        self.merge("items")
        cases = [
            f"WHEN sources & {1 << number} > 0 AND NOT coalesce({sql}, false) THEN {literal(reason)}"
            for number, rules in enumerate(self.rules)
            for reason, sql in rules.items()
        ]
        self.connection.execute(
            f"""
            CREATE TABLE judged AS SELECT *, {f"CASE {' '.join(cases)} END" if cases else "NULL::VARCHAR"} AS reason
            FROM (SELECT * REPLACE (name.value AS name), name AS best FROM items)
            """
        )
        dropped = self.connection.sql("SELECT item_id, reason, rows FROM judged WHERE reason IS NOT NULL").fetchall()
        counts: dict[str, int] = {}
        for _, reason, rows in dropped:
            counts[reason] = counts.get(reason, 0) + rows
        return {item: reason for item, reason, _ in dropped}, counts

    def items(self) -> pa.Table:
        """Return the columns of items@2 of the items that remain, by item_id."""
        entries = ", ".join(f"{{k: {literal(key)}, v: {quoted(ATTRIBUTE + key)}}}" for key in self.keys)
        attributes = f"map_from_entries(list_filter([{entries}], lambda entry: entry.v IS NOT NULL))"
        attributes = f"CASE WHEN cardinality({attributes}) > 0 THEN {attributes} END" if self.keys else "NULL"
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

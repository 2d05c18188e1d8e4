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

FOLD = 1_000_000  # rows that are merged at once
TYPES = {"family": "VARCHAR", "available_from": "TIMESTAMPTZ", "available_until": "TIMESTAMPTZ"}
MERGED = pa.schema(
    [("item_id", pa.string()), ("name", pa.string()), ("family", pa.string())]
    + [(name, arrow.TYPES["timestamp"]) for name in ("available_from", "available_until")]
)


class Catalogue:
    """Items by ID, in a table `items` with the key of each value, and rows that are not merged yet, in `rows`."""

    def __init__(self, mappings: list[Mapping]) -> None:
        self.mappings = mappings
        self.keys = sorted({key for mapping in mappings for key in mapping.attributes})
        self.columns = TYPES | {ATTRIBUTE + key: "VARCHAR" for key in self.keys}
        self.rules = [rules_of(mapping) for mapping in mappings]
        self.pending = self.pending_before = self.number = 0
        self.connection = duck.connect()
        columns = ", ".join(f"{quoted(name)} {kind}" for name, kind in self.columns.items())
        keys = ", ".join(f"{quoted('key ' + name)} HUGEINT" for name in self.columns)
        self.connection.execute(
            f"""
            CREATE TABLE rows (item_id VARCHAR, source BIGINT, name VARCHAR, preference DOUBLE, time TIMESTAMPTZ,
                arrival DATE, number BIGINT, {columns});
            CREATE TABLE items (item_id VARCHAR, rows BIGINT, sources BIGINT,
                name STRUCT(value VARCHAR, preference DOUBLE, time TIMESTAMPTZ, arrival DATE),
                first_name VARCHAR, last_name VARCHAR, {columns}, {keys})
            """
        )

    def begin_file(self) -> None:
        self.pending_before = self.pending
        self.connection.begin()

    def end_file(self, used: bool) -> None:
        """Keep the rows that were added since the beginning of the file, or forget them."""
        if used:
            self.connection.commit()
        else:
            self.connection.rollback()
            self.pending = self.pending_before

    def add(self, mapping: Mapping, arrival: datetime.date, usable: pa.Table) -> None:
        """Add usable rows of a source."""
        given = usable.column_names
        day = f"DATE '{arrival}'"
        named = "CASE WHEN preference IS NOT NULL THEN name END" if "preference" in given else "name"
        values = {
            "item_id": "item_id",
            "source": str(1 << self.mappings.index(mapping)),
            "name": named if "name" in given else "NULL",
            "preference": "preference" if "preference" in given else "NULL",
            "time": "time" if "time" in given else f"{day}::TIMESTAMPTZ",
            "arrival": day,
            "number": f"{self.number} + row_number() OVER (ORDER BY _position)",
            **{name: quoted(name) if name in given else "NULL" for name in self.columns},
        }
        self.connection.register("batch", usable)
        self.connection.execute(f"INSERT INTO rows SELECT {', '.join(values.values())} FROM batch")
        self.connection.unregister("batch")
        self.number += usable.num_rows
        self.pending += usable.num_rows
        if self.pending >= FOLD:
            self.merge()

    def merge(self) -> None:
        """Merge the pending rows into the items."""
        new, merged = [], []
        for name in self.columns:
            column, key = quoted(name), quoted(f"key {name}")
            new.append(f"{column}, CASE WHEN {column} IS NOT NULL THEN moment END AS {key}")
            merged.append(f"arg_max({column}, {key}) AS {column}, max({key}) AS {key}")
        best = "name.preference DESC NULLS LAST, name.time DESC, name.arrival DESC, name.value"
        self.connection.execute(
            f"""
            CREATE TABLE merged AS
            SELECT item_id, sum(rows)::BIGINT AS rows, bit_or(sources) AS sources,
                first(name ORDER BY {best}) FILTER (name IS NOT NULL) AS name,
                min(first_name) AS first_name, max(last_name) AS last_name, {", ".join(merged)}
            FROM (
                SELECT * FROM items
                UNION ALL BY NAME
                SELECT item_id, 1 AS rows, source AS sources,
                    CASE WHEN name IS NOT NULL
                        THEN {{value: name, preference: preference, time: time, arrival: arrival}} END AS name,
                    name AS first_name, name AS last_name, {", ".join(new)}
                FROM (SELECT *, (epoch_us(time)::HUGEINT << 40) + number AS moment FROM rows)
            )
            GROUP BY item_id;
            DELETE FROM items;
            INSERT INTO items BY NAME SELECT * FROM merged;
            DROP TABLE merged;
            DELETE FROM rows
            """
        )
        self.pending = 0

    def judge(self) -> tuple[dict[str, str], dict[str, int]]:
        """Merge all rows; remove items that break a rule of one of their sources.

        Returns the reason for each removed item, and the number of rows by reason.
        """
        self.merge()
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

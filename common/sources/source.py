"""Sources: how deliveries of a kind (events, items, users) map to a dataset's columns, read and checked strictly."""

import codecs
import tomllib
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import sources
from common.contracts import check_keys, check_types
from common.errors import ArgumentError
from common.protocol import nearest
from common.sources import expressions

FORMATS = ("json", "csv", "parquet")
SUFFIXES = {"gzip": ".gz", "zstd": ".zst", "none": ""}  # of the accepted file names, by compression
ENTRY = "entry"  # the field that holds one entry of the array that `each` names
ARRIVAL = "arrival"  # the field with the day of a delivery, unless the records have a field of that name
COLUMNS = {  # by kind: the canonical columns, True if required
    "events": {"type": True, "time": True}
    | dict.fromkeys(("event_id", "user_id", "item_id", "value", "quantity", "unit_price"), False)
    | dict.fromkeys(("session_id", "platform", "country", "request_id", "position"), False),
    "items": {"item_id": True}
    | dict.fromkeys(("name", "family", "available_from", "available_until", "time", "preference"), False),
    "users": {"user_id": True, "time": True, "change": True} | dict.fromkeys(("plan", "country", "platform"), False),
}
TABLES = {  # by kind: the tables next to [fields] and [columns]
    "events": ("context", "rules"),
    "items": ("attributes", "rules", "item_rules"),
    "users": ("attributes", "rules"),
}
MODES = ("full", "increments")  # of items
CSV_KEYS = ("encoding", "delimiter", "quote", "header")
MERGED = {  # the columns of an item that [item_rules] are about
    "item_id": "string",
    "name": "string",
    "family": "string",
    "available_from": "timestamp",
    "available_until": "timestamp",
}


@dataclass(frozen=True)
class Source:
    """Deliveries of one kind of one source; docs/sources.md explains the keys of its file.

    The texts of `columns`, `context`, `attributes`, `rules` and `keep` are Spark SQL over `known_fields`.
    """

    name: str
    kind: str
    description: str
    format: str
    deliveries: str
    fields: dict[str, str]
    columns: dict[str, str]
    compression: str = "none"
    encoding: str = "utf-8"
    delimiter: str = ","
    quote: str = '"'
    header: bool = True
    each: str | None = None
    each_optional: bool = False
    keep: str | None = None
    mode: str = "full"
    context: dict[str, str] = field(default_factory=dict)
    attributes: dict[str, str] = field(default_factory=dict)
    rules: dict[str, str] = field(default_factory=dict)
    item_rules: dict[str, str] = field(default_factory=dict)

    @property
    def file(self) -> str:
        """The path of the source's file, for messages."""
        return f"sources/{self.name}/{self.kind}.toml"

    @property
    def suffix(self) -> str:
        """The end of the names of accepted files; empty if all are."""
        return ".parquet" if self.format == "parquet" else SUFFIXES[self.compression]

    @property
    def known_fields(self) -> dict[str, str]:
        """The day of arrival, the fields, and `entry`, an entry of the array `each`, with their types."""
        entry = {ENTRY: expressions.type_of_entry(self.each, self.fields)} if self.each else {}
        return {ARRIVAL: "date"} | self.fields | entry

    @property
    def searched(self) -> set[str]:
        """The fields in which expressions search for a part: of text, they may be any JSON."""
        texts = [*self.columns.values(), *self.context.values(), *self.attributes.values(), *self.rules.values()]
        return set().union(*map(expressions.searched, [*texts, *([self.keep] if self.keep else [])]))

    def where(self, key: str, table: str = "") -> str:
        """Return the name of a key for messages."""
        return f"{key} {f'in [{table}] ' if table else ''}of {self.file}"


def load(kind: str) -> list[Source]:
    """Return the sources that deliver a kind, by name; ArgumentError names a wrong entry, or the folder if none does.

    Two sources must not share a folder of deliveries.
    """
    folder = sources.folder()
    names = sorted(entry.name for entry in folder.iterdir() if (entry / f"{kind}.toml").is_file())
    for entry in folder.iterdir():
        for file in entry.iterdir() if entry.is_dir() else ():
            stem = file.name.removesuffix(".toml")
            if stem != file.name and stem not in COLUMNS:
                raise ArgumentError(
                    f"sources/{entry.name}/{file.name} is not read{nearest(stem, tuple(COLUMNS))}; rename it."
                )
    found = [read(name, kind, _document(folder, name, kind)) for name in names]
    if not found:
        raise ArgumentError(
            f"No folder in sources has {kind}.toml, expected one for each source of {kind}; see docs/sources.md."
        )
    for number, source in enumerate(found):
        for other in found[:number]:
            if other.deliveries == source.deliveries:
                raise ArgumentError(
                    f"{other.file} and {source.file} both have the deliveries '{source.deliveries}', expected a folder "
                    f"for each source; name another one in {source.where('deliveries')}."
                )
    return found


def _document(folder: Path | zipfile.Path, name: str, kind: str) -> dict[str, Any]:
    try:
        return tomllib.loads((folder / name / f"{kind}.toml").read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ArgumentError(f"sources/{name}/{kind}.toml is not TOML ({error}); correct that line.") from None


def read(name: str, kind: str, document: dict[str, Any]) -> Source:
    """Return a source from the document of its file; ArgumentError names a wrong entry."""
    where = f"sources/{name}/{kind}.toml"
    known = {"description", "deliveries", "format", "compression", *CSV_KEYS, "each", "each_optional", "keep", "fields"}
    check_keys(document, {*known, "columns", *TABLES[kind], *(["mode"] if kind == "items" else [])}, where)
    for key, example in (
        ("description", '"One sentence."'),
        ("format", '"csv"'),
        ("fields", "[fields] with the record's fields"),
        ("columns", "[columns] with an expression per column"),
    ):
        if key not in document:
            raise ArgumentError(f"{where} has no {key}, expected {key} = {example}." if example[0] == '"' else
                                f"{where} has no {key}, expected a table {example}.")  # fmt: skip
    check_types(document, Source, where)
    for table in ("fields", "columns", *TABLES[kind]):
        for key, text in document.get(table, {}).items():
            if not isinstance(text, str):
                raise ArgumentError(f"{key} in [{table}] of {where} is {text!r}, expected a text.")
    source = Source(name, kind, **({"deliveries": f"raw/{kind}/{name}"} | document))
    _check_head(source, document)
    _check_expressions(source)
    return source


def _check_head(source: Source, document: dict[str, Any]) -> None:
    """Raise ArgumentError for a wrong value of a key before the tables."""
    for key, allowed in (("format", FORMATS), ("compression", tuple(SUFFIXES)), ("mode", MODES)):
        value = getattr(source, key)
        if value not in allowed:
            raise ArgumentError(f"{source.where(key)} is '{value}'{nearest(value, allowed)}.")
    misplaced = [key for key in CSV_KEYS if key in document and source.format != "csv"]
    misplaced += ["compression"] if source.format == "parquet" and "compression" in document else []
    if misplaced:
        raise ArgumentError(f"{source.where(misplaced[0])} has no effect on {source.format} files; remove it.")
    if source.each_optional and not source.each:
        raise ArgumentError(f"{source.where('each_optional')} has no effect without each; remove it, or add each.")
    steps = source.deliveries.split("/")
    if steps[:2] != ["raw", source.kind] or any(
        step in ("", ".", "..") or step.startswith(("arrival=", "_", ".")) for step in steps
    ):
        raise ArgumentError(
            f"{source.where('deliveries')} is '{source.deliveries}', expected raw/{source.kind} or a folder inside, "
            f"such as raw/{source.kind}/{source.name}."
        )
    try:
        codecs.lookup(source.encoding)
    except LookupError:
        raise ArgumentError(
            f"{source.where('encoding')} is '{source.encoding}', expected a character set of Python such as utf-8, "
            "latin-1, cp1252 or utf-16."
        ) from None
    for key, text, sizes in (("delimiter", source.delimiter, (1,)), ("quote", source.quote, (0, 1))):
        if len(text) not in sizes or not text.isascii() or text in ("\n", "\r") or source.delimiter == source.quote:
            raise ArgumentError(f"{source.where(key)} is {text!r}, expected one ASCII character, such as ',' or '\\t'.")


def _check_expressions(source: Source) -> None:
    """Raise ArgumentError for a wrong type of a field, a column that there is not, or a wrong expression."""
    if not source.fields:
        raise ArgumentError(f"[fields] of {source.file} is empty, expected the record's fields with their types.")
    if pair := expressions.alike(source.fields):
        one, other = pair
        raise ArgumentError(
            f"[fields] of {source.file} has '{one}' and '{other}', expected names that differ in more than case."
        )
    for name, kind in source.fields.items():
        if name.startswith("__"):
            raise ArgumentError(
                f"{source.where(name, 'fields')} begins with __, as only internal columns do; leave it out."
            )
        expressions.check_type(kind, source.where(name, "fields"))
        if source.format == "csv" and "<" in kind:
            raise ArgumentError(
                f"{source.where(name, 'fields')} is '{kind}', expected a type without parts, as csv has text only; "
                "declare it string, and take it apart in the expressions."
            )
    columns = COLUMNS[source.kind]
    for name in source.columns:
        if name not in columns:
            raise ArgumentError(f"{source.where(name, 'columns')} is not a column{nearest(name, sorted(columns))}.")
    for name, required in columns.items():
        if required and name not in source.columns:
            raise ArgumentError(
                f"[columns] of {source.file} has no {name}, which each of the {source.kind} needs; add an expression, "
                f"such as {name} = \"'view'\" if all are alike." if name == "type" else
                f"[columns] of {source.file} has no {name}, which each of the {source.kind} needs; add an expression."
            )  # fmt: skip
    if source.each:
        expressions.check(source.each, source.fields, source.where("each"))
        if ENTRY in source.fields or not expressions.type_of_entry(source.each, source.fields):
            raise ArgumentError(
                f"{source.where('each')} is '{source.each}', expected the path of a field array<…>, and no field "
                f"named {ENTRY}."
            )
    fields = source.known_fields
    if source.keep is not None:
        expressions.check(source.keep, fields, source.where("keep"))
    for table in ("columns", "context", "attributes", "rules"):
        for key, text in getattr(source, table).items():
            expressions.check(text, fields, source.where(f"'{key}'" if table == "rules" else key, table))
    for key, text in source.item_rules.items():
        expressions.check(text, MERGED, source.where(f"'{key}'", "item_rules"))

"""Contracts: named, versioned schemas, with cheap checks of values, of the tables that tasks exchange."""

import functools
import importlib.resources
import tomllib
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from common.errors import ArgumentError
from common.protocol import nearest

TYPES = {"string", "int64", "float64", "float32", "boolean", "date", "timestamp", "map"}  # a map is of text to text
CONTROL = r"[\x00-\x1f\x7f-\x9f]"  # control characters, for the regular expressions of Python, Java and Arrow
SEVERITIES = ("warn", "refuse")
KEY_TYPES = TYPES - {"float64", "float32", "map"}  # of columns that make a key
FOLDER = importlib.resources.files(__package__)
MAX_BYTES = 1024  # of a string in UTF-8, unless its column overrides it: DynamoDB's limit for a key


@dataclass(frozen=True)
class Column:
    """A column: its type, whether it may be null, and the allowed minimum and maximum (both inclusive).

    A string is not empty, has no control characters, and has at most `max_bytes` bytes in UTF-8.
    """

    type: str
    nullable: bool = False
    minimum: float | None = None
    maximum: float | None = None
    max_bytes: int = MAX_BYTES


@dataclass(frozen=True)
class Product:
    """Mapping of a table to a product that frontends read: one item per key.

    `key` is the column that names the items; rows without a key are for users who are not listed. `order` sorts the
    rows of a key; without it a key has one row. `compared` is the column by which two versions of a key are compared.
    """

    key: str
    order: str | None = None
    compared: str | None = None


@dataclass(frozen=True)
class Check:
    """A rule for the rows that a task writes; breaking it adds a warning to the manifest, or refuses the result.

    It has one of three kinds. `allowed` are the values of a text `column`; null is judged by the column. `unique` are
    columns whose values no two rows share; null is a value. `volume` expects as many rows of a day as on former days,
    within `factor`, in total and with each value of the columns `by`.
    """

    severity: str
    column: str | None = None
    allowed: tuple[str, ...] = ()
    unique: tuple[str, ...] = ()
    volume: bool = False
    by: tuple[str, ...] = ()
    factor: float = 3


@dataclass(frozen=True)
class Contract:
    """Content of the files of a hand-over or dataset; `arrays` is for models: a document and arrays by name."""

    name: str
    description: str
    columns: dict[str, Column] = field(default_factory=dict)
    arrays: bool = False
    product: Product | None = None
    checks: tuple[Check, ...] = ()


@functools.cache
def load(name: str) -> Contract:
    """Return a contract by name and version (`interactions@2`); ArgumentError, with the nearest name, if unknown."""
    file = FOLDER / f"{name}.toml"
    if not file.is_file():
        known = sorted(entry.name.removesuffix(".toml") for entry in FOLDER.iterdir() if entry.name.endswith(".toml"))
        raise ArgumentError(f"There is no contract '{name}'{nearest(name, known)}.")
    return parse(name, file.read_text(encoding="utf-8"))


def parse(name: str, text: str) -> Contract:
    """Return the contract in the text of a TOML file; ArgumentError names the wrong entry."""
    document = tomllib.loads(text)
    check_keys(document, {"description", "columns", "arrays", "product", "checks"}, f"contract {name}")
    fields = {key: value for key, value in document.items() if key not in ("columns", "product", "checks")}
    if "description" not in fields:
        raise ArgumentError(f'contract {name} has no description, expected one sentence: description = "…".')
    check_types(fields, Contract, f"contract {name}")
    tables = tables_by_name(document.get("columns", {}), f"[columns] of contract {name}")
    columns = {column: read_column(name, column, settings) for column, settings in tables.items()}
    product = read_product(name, document["product"], columns) if "product" in document else None
    checks = read_checks(name, document.get("checks", []), columns)
    return Contract(name, document["description"], columns, document.get("arrays", False), product, checks)


def read_column(contract: str, column: str, settings: dict[str, Any]) -> Column:
    where = f"column '{column}' of contract {contract}"
    check_keys(settings, {"type", "nullable", "minimum", "maximum", "max_bytes"}, where)
    check_types(settings, Column, where)
    if settings.get("type") not in TYPES:
        raise ArgumentError(
            f"Column '{column}' of contract {contract} has the type '{settings.get('type')}'"
            f"{nearest(str(settings.get('type')), sorted(TYPES))}."
        )
    if "max_bytes" in settings and settings["type"] != "string":
        raise ArgumentError(
            f"Column '{column}' of contract {contract} is a {settings['type']} with max_bytes, which only strings have."
        )
    return Column(**settings)


def read_product(contract: str, settings: dict[str, Any], columns: dict[str, Column]) -> Product:
    where = f"[product] of contract {contract}"
    check_types(settings, Product, where)
    check_keys(settings, {"key", "order", "compared"}, where)
    for name in ("key", *settings):
        if settings.get(name) not in columns:
            raise ArgumentError(
                f"{name} of {where} is '{settings.get(name)}'{nearest(str(settings.get(name)), sorted(columns))}."
            )
    return Product(**settings)


def read_checks(contract: str, settings: Any, columns: dict[str, Column]) -> tuple[Check, ...]:
    if not isinstance(settings, list):
        raise ArgumentError(f"checks of contract {contract} is {settings!r}, expected tables [[checks]].")
    return tuple(
        read_check(f"[[checks]] {number} of contract {contract}", each, columns)
        for number, each in enumerate(settings, 1)
    )


def read_check(where: str, settings: Any, columns: dict[str, Column]) -> Check:
    check_types(settings, Check, where)
    check_keys(settings, set(Check.__dataclass_fields__), where)
    severity = settings.get("severity", "")
    if severity not in SEVERITIES:
        raise ArgumentError(f"severity of {where} is '{severity}'{nearest(severity, SEVERITIES)}.")
    values: dict[str, Any] = {key: tuple(each) if isinstance(each, list) else each for key, each in settings.items()}
    check = Check(**values)
    kinds = [kind for kind in ("allowed", "unique", "volume") if kind in settings]
    if len(kinds) != 1 or not settings[kinds[0]]:
        stated = " and ".join(kinds) or "nothing"
        raise ArgumentError(f"{where} states {stated}, expected one of allowed, unique, volume with a value.")
    if ("column" in settings) != ("allowed" in settings):
        raise ArgumentError(
            f"{where} has {'a' if check.column else 'no'} column, expected one next to allowed values only."
        )
    if not check.volume and settings.keys() & {"by", "factor"}:
        raise ArgumentError(f"{where} has by or factor without volume; write volume = true, or remove them.")
    if check.factor <= 1:
        raise ArgumentError(f"factor of {where} is {check.factor}, expected more than 1.")
    check_columns("column", [check.column] if check.column else [], {"string"}, where, columns)
    check_columns("unique", check.unique, KEY_TYPES, where, columns)
    check_columns("by", check.by, {"string"}, where, columns)
    if check.volume and ("arrival" not in columns or columns["arrival"].type != "date"):
        raise ArgumentError(f"{where} states volume, which needs the date column 'arrival' to know unfinished days.")
    return check


def check_columns(key: str, names: Iterable[str], kinds: set[str], where: str, columns: dict[str, Column]) -> None:
    """Raise ArgumentError for a name in a check that is not a column, or not one of these types."""
    for name in names:
        if name not in columns:
            raise ArgumentError(f"{key} of {where} has '{name}'{nearest(name, sorted(columns))}.")
        if columns[name].type not in kinds:
            raise ArgumentError(
                f"{key} of {where} has '{name}', a {columns[name].type}, expected one of {', '.join(sorted(kinds))}."
            )


def check_keys(settings: dict[str, Any], known: set[str], where: str) -> None:
    """Raise ArgumentError, with the nearest known key, if a key is unknown."""
    for key in settings:
        if key not in known:
            raise ArgumentError(f"The key '{key}' in {where} is unknown{nearest(key, sorted(known))}.")


def tables_by_name(settings: Any, where: str) -> dict[str, dict[str, Any]]:
    """Return a table whose values are tables; ArgumentError names a value that is not a table."""
    if not isinstance(settings, dict):
        raise ArgumentError(f"{where} is {settings!r}, expected a table.")
    for key, value in settings.items():
        if not isinstance(value, dict):
            raise ArgumentError(f"{key} of {where} is {value!r}, expected a table.")
    return settings


def check_types(settings: Any, kind: type, where: str) -> None:
    """Raise ArgumentError if the settings are not a table, or a value does not fit its field of a dataclass."""
    if not isinstance(settings, dict):
        raise ArgumentError(f"{where} is {settings!r}, expected a table.")
    hints = typing.get_type_hints(kind)
    for key, value in settings.items():
        if key in hints and not fits(value, hints[key]):
            raise ArgumentError(f"{key} of {where} is {value!r}, expected {describe_type(hints[key])}.")


def fits(value: Any, hint: Any) -> bool:
    """Return True if a value of a TOML file has a type; true is not a number, but an integer fits a float."""
    if hint is Any:
        return True
    if isinstance(hint, types.UnionType):
        return any(fits(value, each) for each in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        kinds = typing.get_args(hint)
        several = isinstance(value, list) and all(fits(entry, kinds[0]) for entry in value)
        return several and (kinds[-1] is ... or len(value) == len(kinds))
    kind = typing.get_origin(hint) or hint
    return type(value) is kind or (kind is float and type(value) is int)


def describe_type(hint: Any) -> str:
    """Return the words for a type in a message."""
    if isinstance(hint, types.UnionType):
        return " or ".join(describe_type(each) for each in typing.get_args(hint) if each is not types.NoneType)
    if typing.get_origin(hint) is tuple:
        kinds = typing.get_args(hint)
        number = "" if kinds[-1] is ... else f"{len(kinds)} "
        return f"a list of {number}{'texts' if kinds[0] is str else 'numbers'}"
    names = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", dict: "a table"}
    return names[typing.get_origin(hint) or hint]

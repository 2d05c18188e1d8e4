"""The settings of an environment: its own file overrides shared.toml, key by key.

Standard library only, because the tools that build and deploy read environments too, where there is no Airflow.
"""

import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tandem.dag_errors import PipelineError, check_known

SHARED = "shared"  # the file of settings that all environments share
STORE = "TANDEM_STORE"  # the variable that overrides the store of products
OPTIONAL = object()
PRICE = (int, float, OPTIONAL)
# All keys and their types. The tables of runtimes are checked by environment.py, which knows the runtimes.
KNOWN: dict[str, Any] = {
    "lake": str,
    "code": str,
    "registry": (str, OPTIONAL),
    "airflow": (str, OPTIONAL),
    "promotes": (str, OPTIONAL),
    "retries": int,
    "retry_delay_seconds": (int, float),
    "deadline_seconds": int,
    "max_active_runs": int,
    "max_active_tis_per_dagrun": int,
    "keep_intermediate_days": int,
    "keep_reports_days": int,
    "forget_grace_minutes": int,
    "delivery": {
        "store": str,
        "tables": str,
        "billing": str,
        "read_units": (int, OPTIONAL),
        "write_units": (int, OPTIONAL),
    },
    "failures": {"email": (str, OPTIONAL), "webhook": (str, OPTIONAL), "success": (bool, OPTIONAL)},
    "prices": {
        "currency": (str, OPTIONAL),
        "vcpu_hour": PRICE,
        "gib_hour": PRICE,
        "million_write_units": PRICE,
        "instance_hours": {...: PRICE},
        "surcharges": {"emr": PRICE, "emr_serverless": PRICE, "dataproc": PRICE, "dataproc_serverless": PRICE},
    },
    "pipelines": {...: {"schedule": (str, OPTIONAL), "overdue_hours": (int, float, OPTIONAL)}},
    "container": {"runtime": str, ...: dict},
    "spark": {"runtime": str, "auto": {"cluster": (str, OPTIONAL), "max_bytes": str}, ...: dict},
}


@dataclass(frozen=True)
class Settings:
    """An environment's settings, and the file that each of them comes from."""

    name: str
    folder: Path
    table: dict[str, Any]
    sources: dict[tuple[str, ...], str]  # by the path of a value in the table

    def __getitem__(self, key: str) -> Any:
        return self.table[key]

    def get(self, key: str) -> Any:
        """A value that is optional, None if it is not set."""
        return self.table.get(key)

    @property
    def code(self) -> Path:
        """The folder that contains `jobs`; the variable TANDEM_CODE overrides it."""
        return Path(os.environ.get("TANDEM_CODE", self.folder / self["code"])).resolve()

    @property
    def file(self) -> str:
        return f"{self.name}.toml"


def names(folder: Path) -> list[str]:
    """The environments of a folder that holds one file for each."""
    return sorted(file.stem for file in folder.glob("*.toml") if file.stem != SHARED)


def of_this_process(folder: Path) -> Settings:
    """The settings of the environment that TANDEM_ENVIRONMENT names, `laptop` if that is not set."""
    return load(folder, os.environ.get("TANDEM_ENVIRONMENT", "laptop"), "TANDEM_ENVIRONMENT")


def load(folder: Path, name: str, where: str) -> Settings:
    """An environment's settings; PipelineError names the file and the key that is wrong, misspelt or missing.

    The variable TANDEM_STORE overrides the store of products. `where` is the source of the environment's
    name, for messages.
    """
    check_known("environment", name, names(folder), where)
    table: dict[str, Any] = {}
    sources: dict[tuple[str, ...], str] = {}
    for file in (folder / f"{SHARED}.toml", folder / f"{name}.toml"):
        if file.exists():
            try:
                parsed = tomllib.loads(file.read_text("utf-8"))
            except tomllib.TOMLDecodeError as error:
                raise PipelineError(f"{file.name} is not valid TOML: {error}.") from None
            check_keys(parsed, KNOWN, file.name)
            table = merged(table, parsed)
            sources |= dict.fromkeys((path for path, _ in leaves(parsed)), file.name)
    if store := os.environ.get(STORE):
        table = merged(table, {"delivery": {"store": store}})
        sources["delivery", "store"] = STORE
    check_complete(table, KNOWN, f"{name}.toml")
    return Settings(name, folder, table, {path: sources[path] for path, _ in leaves(table)})


def merged(table: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """A table overridden by another one: tables key by key, any other value is replaced."""
    both = {
        key: merged(table[key], value) if isinstance(value, dict) and isinstance(table.get(key), dict) else value
        for key, value in over.items()
    }
    return {**table, **both}


def leaves(table: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The values of a table at any depth, by their paths; an empty table is a value."""
    for key, value in table.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*above, key))
        else:
            yield (*above, key), value


def check_keys(table: Mapping[str, Any], known: Mapping[Any, Any], where: str) -> None:
    """Raise PipelineError for a key of a file that is unknown, or whose value has a wrong type."""
    for key, value in table.items():
        if key not in known and ... in known:
            expected = known[...]
        else:
            check_known("key", key, [name for name in known if name is not ...], where)
            expected = known[key]
        if isinstance(expected, dict) and isinstance(value, dict):
            above, _, file = where.rpartition(" of ")
            check_keys(value, expected, f"[{above[1:-1]}.{key}] of {file}" if above else f"[{key}] of {file}")
            continue
        types = [dict] if isinstance(expected, dict) else [kind for kind in as_tuple(expected) if kind is not OPTIONAL]
        if type(value) not in types:  # true is not a number
            names = {dict: "a table", str: "a text", bool: "true or false"}
            expected_type = " or ".join(names.get(kind, "a number") for kind in types[:1])
            raise PipelineError(f"{where} sets {key} = {value!r}, expected {expected_type}.")


def check_complete(table: Mapping[str, Any], known: Mapping[Any, Any], where: str) -> None:
    """Raise PipelineError for a required value that neither file has."""
    for key, expected in known.items():
        if isinstance(expected, dict):
            check_complete(table.get(key, {}), expected, f"[{key}] of {where}")
        elif key is not ... and key not in table and OPTIONAL not in as_tuple(expected):
            raise PipelineError(f"{key} is set neither in {where} nor in {SHARED}.toml; add it to one of them.")


def as_tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)

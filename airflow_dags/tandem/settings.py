"""The settings of an environment: what its own file says over what shared.toml says, key by key.

Standard library only, because the tools that build and deploy read environments too, where there is no Airflow.
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tandem.dag_errors import PipelineError, check_known

SHARED = "shared"  # the file of what all have in common
OPTIONAL = object()
# What there is to say, with the types it may have. Tables of runtimes are checked where the runtimes are known.
KNOWN: dict[str, Any] = {
    "lake": str,
    "code": str,
    "registry": (str, OPTIONAL),
    "airflow": (str, OPTIONAL),
    "dags": (str, OPTIONAL),
    "promotes": (str, OPTIONAL),
    "retries": int,
    "retry_delay_seconds": (int, float),
    "deadline_seconds": int,
    "max_active_runs": int,
    "max_active_tis_per_dagrun": int,
    "keep_intermediate_days": int,
    "forget_grace_minutes": int,
    "delivery": {"tables": str, "billing": str, "read_units": (int, OPTIONAL), "write_units": (int, OPTIONAL)},
    "failures": {"email": (str, OPTIONAL), "webhook": (str, OPTIONAL)},
    "container": {"runtime": str, ...: dict},
    "spark": {"runtime": str, ...: dict},
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
        """A value that may be left out, None if it is."""
        return self.table.get(key)

    @property
    def file(self) -> str:
        return f"{self.name}.toml"


def names(folder: Path) -> list[str]:
    """The environments of a folder that holds one file for each."""
    return sorted(file.stem for file in folder.glob("*.toml") if file.stem != SHARED)


def load(folder: Path, name: str, where: str) -> Settings:
    """An environment's settings; PipelineError names the file and the key that is wrong, misspelt or missing.

    `where` is what named the environment.
    """
    check_known("environment", name, names(folder), where)
    table: dict[str, Any] = {}
    sources: dict[tuple[str, ...], str] = {}
    for file in (folder / f"{SHARED}.toml", folder / f"{name}.toml"):
        if file.exists():
            try:
                said = tomllib.loads(file.read_text("utf-8"))
            except tomllib.TOMLDecodeError as error:
                raise PipelineError(f"{file.name} is no TOML: {error}.") from None
            check_keys(said, KNOWN, file.name)
            table = merged(table, said)
            sources |= dict.fromkeys((path for path, _ in leaves(said)), file.name)
    check_complete(table, KNOWN, f"{name}.toml")
    return Settings(name, folder, table, {path: sources[path] for path, _ in leaves(table)})


def merged(table: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """A table with another one over it: tables key by key, anything else takes the place of what was there."""
    both = {
        key: merged(table[key], value) if isinstance(value, dict) and isinstance(table.get(key), dict) else value
        for key, value in over.items()
    }
    return {**table, **both}


def leaves(table: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The values of a table, at whatever depth, by their paths; a table with nothing in it is one."""
    for key, value in table.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*above, key))
        else:
            yield (*above, key), value


def check_keys(table: Mapping[str, Any], known: Mapping[Any, Any], where: str) -> None:
    """Raise PipelineError for a key of a file that is not known, or whose value has another type."""
    for key, value in table.items():
        if key not in known and ... in known:
            expected = known[...]
        else:
            check_known("key", key, [name for name in known if name is not ...], where)
            expected = known[key]
        if isinstance(expected, dict) and isinstance(value, dict):
            check_keys(value, expected, f"[{key}] of {where}")
            continue
        types = [dict] if isinstance(expected, dict) else [kind for kind in as_tuple(expected) if kind is not OPTIONAL]
        if type(value) not in types:  # true is no number
            wanted = " or ".join({dict: "a table", str: "a text"}.get(kind, "a number") for kind in types[:1])
            raise PipelineError(f"{where} says {key} = {value!r}, expected {wanted}.")


def check_complete(table: Mapping[str, Any], known: Mapping[Any, Any], where: str) -> None:
    """Raise PipelineError for a value that neither file has, though it is needed."""
    for key, expected in known.items():
        if isinstance(expected, dict):
            check_complete(table.get(key, {}), expected, f"[{key}] of {where}")
        elif key is not ... and key not in table and OPTIONAL not in as_tuple(expected):
            raise PipelineError(f"{where} lacks {key}, and so does {SHARED}.toml; say it in one of the two.")


def as_tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)

"""Description of a job in `job.toml`, read strictly: an unknown key is reported with the nearest known one."""

import hashlib
import math
import tomllib
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from common.contracts import check_keys, check_types, evolution, tables_by_name
from common.errors import ArgumentError
from common.protocol import PARSERS, nearest, parse_parameter


@dataclass(frozen=True)
class Parameter:
    """A parameter: type, default (None: required), range (both ends inclusive), choices, help."""

    type: str
    help: str
    default: str | float | bool | None = None
    range: tuple[float, float] | None = None
    choices: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Table:
    """An input or output: a hand-over, a dataset of the lake, or (inputs only) a folder of the raw level by arrival.

    `dates` names the two parameters, first day and day after the last, that select days of a dataset. `window` names
    the parameter with the number of days that are read if no first day is set.
    `optional` is true of a dataset that may not exist: then it is read as one without rows. `sharded` is true of a
    hand-over of which each shard of a mapped job reads its own files only.
    `contracts` are the alternatives that an input by hand-over accepts. `oldest` is the oldest version of `contract`
    whose files a dataset may have: the newer versions only add nullable columns. `when` names the boolean parameter
    without which an output is not written.
    """

    contract: str | None = None
    oldest: str | None = None
    contracts: tuple[str, ...] = ()
    dataset: str | None = None
    raw: str | None = None
    dates: tuple[str, str] | None = None
    window: str | None = None
    when: str | None = None
    optional: bool | None = None
    sharded: bool | None = None

    @property
    def handed_over(self) -> bool:
        return self.dataset is None and self.raw is None

    @property
    def fitting(self) -> tuple[str, ...]:
        """The accepted contracts; none if the table is raw."""
        if self.contract is None:
            return self.contracts
        return evolution.versions(self.contract, self.oldest) if self.oldest else (self.contract,)


@dataclass(frozen=True)
class Job:
    """A job's folder as `job.toml` describes it."""

    name: str
    description: str
    engine: str
    requirements: str | None = None
    mapped_by: str | None = None
    services: tuple[str, ...] = ()  # in addition to the lake, that the job calls: delivery
    inputs: dict[str, Table] = field(default_factory=dict)
    outputs: dict[str, Table] = field(default_factory=dict)
    parameters: dict[str, Parameter] = field(default_factory=dict)
    resources: dict[str, Any] = field(default_factory=dict)
    spark: dict[str, Any] = field(default_factory=dict)


class Resources(TypedDict, total=False):
    """Limits of a Python job."""

    cpu: str
    memory: str
    deadline_seconds: float


class SparkSizes(TypedDict, total=False):
    """Requests of a Spark job to its cluster."""

    driver_memory: str
    executor_memory: str
    executor_cores: int
    conf: dict[str, Any]


def code_folder(main: Path) -> Path | zipfile.Path:
    """Return the folder of `job.toml`: that of `main.py`, else the top of the zip that `common` comes from.

    A cluster puts `main.py` in a folder of its choice, and the other files where Python finds them only after Spark
    has started.
    """
    code = Path(__file__).parents[2]
    folder = main.resolve().parent
    return zipfile.Path(code) if code.is_file() and not (folder / "job.toml").is_file() else folder


def build_identity(folder: Path | zipfile.Path) -> tuple[str, str] | None:
    """Return the fingerprint and the job's name that a build wrote; None in a checkout, whose folder has the name."""
    file = folder / "fingerprint"
    if not file.is_file():
        return None
    fingerprint, name = file.read_text(encoding="utf-8").split()
    return fingerprint, name


def code_fingerprint(folder: Path | zipfile.Path) -> str:
    """Return the fingerprint that a build wrote; in a checkout, a hash of the job's folder, `common` and `sources`."""
    if build := build_identity(folder):
        return build[0]
    digest = hashlib.sha256()
    code = Path(__file__).parents[2]
    for root in (Path(str(folder)), code / "common", code / "sources"):
        for file in sorted(root.rglob("*")):
            if file.suffix in (".py", ".toml"):
                digest.update(f"{file.relative_to(root.parent)}\0".encode() + file.read_bytes())
    return f"checkout-{digest.hexdigest()[:16]}"


def load(folder: Path | zipfile.Path) -> Job:
    """Read a job's folder; ArgumentError names the wrong entry of its `job.toml`."""
    build = build_identity(folder)
    name = build[1] if build else Path(str(folder)).resolve().name
    where = f"{name}/job.toml"
    try:
        document = tomllib.loads((folder / "job.toml").read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ArgumentError(f"{where} cannot be read ({error}); expected a description of the job.") from None
    check_keys(document, {"job", "inputs", "outputs", "parameters", "resources", "spark"}, where)
    tables_by_name(document, where)
    job = document.get("job", {})
    check_keys(job, {"description", "engine", "requirements", "mapped_by", "services"}, f"[job] of {where}")
    if job.get("engine") not in ("python", "spark") or "description" not in job:
        raise ArgumentError(f"[job] of {where} needs a description and an engine, 'python' or 'spark'.")
    check_types(job, Job, f"[job] of {where}")
    tables: dict[str, Any] = {
        kind: {
            role: read_table(settings, f"[{kind}.{role}] of {where}")
            for role, settings in tables_by_name(document[kind], f"[{kind}] of {where}").items()
        }
        for kind in ("inputs", "outputs")
        if kind in document
    }
    parameters = {
        name: read_parameter(settings, f"[parameters.{name}] of {where}")
        for name, settings in tables_by_name(document.get("parameters", {}), f"[parameters] of {where}").items()
    }
    for group, roles in tables.items():
        for role, table in roles.items():
            check_named_parameters(table, parameters, f"[{group}.{role}] of {where}")
    mapped_by = job.get("mapped_by")
    if mapped_by and (mapped_by not in parameters or parameters[mapped_by].type != "integer"):
        raise ArgumentError(f"mapped_by of {where} names '{mapped_by}', expected one of its integer parameters.")
    for role, table in tables.get("inputs", {}).items():
        if table.sharded and not (mapped_by and table.handed_over):
            raise ArgumentError(
                f"[inputs.{role}] of {where} is sharded, which only a hand-over of a mapped job is; remove it."
            )
    if any(table.sharded for table in tables.get("outputs", {}).values()):
        raise ArgumentError(f"[outputs] of {where} has sharded, which only inputs have; remove it.")
    for key, kind in (("resources", Resources), ("spark", SparkSizes)):
        check_keys(document.get(key, {}), set(kind.__annotations__), f"[{key}] of {where}")
        check_types(document.get(key, {}), kind, f"[{key}] of {where}")
    deadline = document.get("resources", {}).get("deadline_seconds", 1)
    if not 0 < deadline < math.inf:
        raise ArgumentError(f"[resources] of {where} has deadline_seconds = {deadline!r}, expected seconds above 0.")
    return Job(
        name=name,
        **{**job, "services": tuple(job.get("services", []))},
        **tables,
        parameters=parameters,
        resources=document.get("resources", {}),
        spark=document.get("spark", {}),
    )


def read_table(settings: dict[str, Any], where: str) -> Table:
    known = {"contract", "oldest", "contracts", "dataset", "raw", "dates", "window", "when", "optional", "sharded"}
    check_keys(settings, known, where)
    if "raw" not in settings and len({"contract", "contracts"} & settings.keys()) != 1:
        raise ArgumentError(
            f'{where} names no contract, expected contract = "name@version", or contracts = […] for alternatives.'
        )
    check_types(settings, Table, where)
    if "oldest" in settings:
        if not {"contract", "dataset"} <= settings.keys():
            raise ArgumentError(f"{where} has oldest, which only a dataset with a contract has; remove it.")
        evolution.check_extends(settings["contract"], settings["oldest"], where)
    if "window" in settings and not {"dataset", "dates"} <= settings.keys():
        raise ArgumentError(f"{where} has window, which only a dataset with dates has; remove it, or add dates.")
    lists: dict[str, Any] = {name: tuple(settings[name]) for name in ("contracts", "dates") if name in settings}
    return Table(**{**settings, **lists})


def check_named_parameters(table: Table, parameters: dict[str, Parameter], where: str) -> None:
    """Raise ArgumentError, with the nearest known name, if a table names a parameter that does not fit."""
    named: list[tuple[str, str | None, str]] = [("dates", name, "date") for name in table.dates or ()]
    named += [("window", table.window, "integer"), ("when", table.when, "boolean")]
    for key, name, kind in named:
        if name is None:
            continue
        fitting = sorted(each for each, parameter in parameters.items() if parameter.type == kind)
        if name not in fitting:
            raise ArgumentError(
                f"{key} of {where} names '{name}', expected a parameter of type {kind}{nearest(name, fitting)}."
            )


def read_parameter(settings: dict[str, Any], where: str) -> Parameter:
    check_keys(settings, {"type", "default", "range", "choices", "help"}, where)
    if settings.get("type") not in PARSERS or "help" not in settings:
        raise ArgumentError(f"{where} needs a help text and a type, one of {', '.join(PARSERS)}.")
    check_types(settings, Parameter, where)
    typed: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()
    }
    return Parameter(**typed)


def parameter_values(job: Job, settings: dict[str, str]) -> dict[str, Any]:
    """Return the typed values of all parameters; ArgumentError if one is unknown, missing, mistyped or out of range.

    A date whose default is the empty string is None unless it is set.
    """
    for name in settings:
        if name not in job.parameters:
            raise ArgumentError(
                f"The parameter '{name}' is unknown to {job.name}{nearest(name, sorted(job.parameters))}."
            )
    return {
        name: parameter_value(name, parameter, settings.get(name, parameter.default))
        for name, parameter in job.parameters.items()
    }


def parameter_value(name: str, parameter: Parameter, value: Any) -> Any:
    if value is None:
        raise ArgumentError(f"The parameter '{name}' is missing; set it with --set {name}=VALUE ({parameter.help}).")
    try:
        return parse_parameter(parameter.type, str(value), parameter.range, parameter.choices)
    except ValueError as error:
        raise ArgumentError(f"The parameter '{name}' is '{value}'{error}.") from None

"""Write schemas/: JSON Schemas of job.toml, contracts, settings of tasks and records of runs, from the code.

airflow_dags/tandem/schemas.py writes those of environments and clusters. .taplo.toml and .vscode/settings.json map
files to schemas for editors; the latter is written here, because it names every job.
"""

import argparse
import dataclasses
import json
import sys
import types
import typing
from pathlib import Path
from typing import Any

from common import contracts
from common.handover.job_toml import Job, Parameter, Resources, SparkSizes, Table, load
from common.protocol import PARSERS

ROOT = Path(__file__).resolve().parents[2]
DRAFT = "https://json-schema.org/draft/2020-12/schema"
PRIMITIVES = {str: "string", int: "integer", float: "number", bool: "boolean", dict: "object"}
TEMPLATE = {"type": "string", "pattern": r"\{[{%]"}  # rendered by Airflow when the task runs
DEPLOY_MODE = {"enum": ["client", "cluster"]}
SPARK_PLACE = {"enum": ["container", "auto", "cluster"], "description": "the environment's, unless this is set"}
CLUSTERS = {
    "cluster.json": "emr_cluster",
    "cluster.emr_serverless.json": "emr_serverless_application",
    "cluster.dataproc.json": "dataproc_cluster",
}
HELP = {
    "cpu": 'Processors, such as "2" or "500m".',
    "memory": 'Such as "4Gi".',
    "driver_memory": "As Java has it, such as 1g.",
    "executor_memory": "As Java has it, such as 1g.",
    "engine": "The kind of the job: a Python container or a Spark application.",
    "requirements": "The hashed requirements file that the job runs on.",
    "mapped_by": "The integer parameter that holds the number of instances of a mapped job.",
    "services": "Services, next to the lake, that the job calls: delivery, the store of products.",
    "contract": "name@version of common/contracts.",
    "oldest": "The oldest version of the contract that files of the dataset may have.",
    "contracts": "Contracts of which any one fits.",
    "dataset": "A dataset of the lake, such as curated/events.",
    "raw": "A folder of the raw level, by day of arrival.",
    "dates": "The parameters of the first day and of the day after the last.",
    "window": "The parameter of the number of days to read if no first day is set.",
    "when": "The boolean parameter without which the output is not written.",
    "at_trigger": "The parameters that the configuration of a run may give over those of the task.",
    "optional": "Whether the dataset may be missing; it then has no rows.",
    "sharded": "Whether each shard of a mapped job reads its own files of the hand-over only.",
    "default": "Without a default the parameter must be given.",
    "range": "Least and greatest value, both inclusive.",
    "nullable": "Whether a row may have no value.",
    "arrays": "Whether the file is a model: a document, and arrays by name.",
    "key": "The column that names the items.",
    "order": "The column that sorts the rows of a key.",
    "compared": "The column whose values compare two versions of a key.",
    "severity": "warn: the manifest and the run's card have a warning. refuse: the task ends with exit code 4.",
    "column": "The text column of the allowed values.",
    "allowed": "The only values that a column may have.",
    "unique": "Columns whose values no two rows share.",
    "volume": "Expect as many rows of a day as on the same weekday of former weeks.",
    "by": "Columns whose values are each expected in their usual number, too.",
    "factor": "How many times more or fewer rows than usual are expected.",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 if a file is out of date")
    if parser.parse_args().check:
        check(ROOT)
    else:
        write(ROOT)


def write(root: Path) -> None:
    """Write the schemas of a checkout; remove those of settings whose job does not exist any more."""
    wanted = schemas(root)
    for file in (root / "schemas/settings").glob("*.schema.json"):
        if file.relative_to(root).as_posix() not in wanted:
            file.unlink()
    for path, text in wanted.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, "utf-8")


def check(root: Path) -> None:
    """Exit with a sentence if a schema is out of date."""
    wanted = schemas(root)
    existing = {file.relative_to(root).as_posix() for file in (root / "schemas/settings").glob("*.schema.json")}
    stale = sorted(existing - wanted.keys()) + [
        path for path, text in wanted.items() if not (root / path).exists() or (root / path).read_text("utf-8") != text
    ]
    if stale:
        sys.exit(f"{', '.join(stale)}: out of date with the code that checks such files; run make format.")


def schemas(root: Path) -> dict[str, str]:
    """Return the schemas of a checkout: paths and texts."""
    jobs = [load(file.parent) for file in sorted(root.glob("jobs/*/job.toml"))]
    documents = {"schemas/job.schema.json": job_schema(), "schemas/contract.schema.json": contract_schema()}
    documents |= source_schemas() | {"schemas/run_record.schema.json": record_schema()}
    documents |= {f"schemas/settings/{job.name}.schema.json": settings_schema(job) for job in jobs}
    texts = {path: json.dumps({"$schema": DRAFT, **schema}, indent=1) + "\n" for path, schema in documents.items()}
    return texts | {".vscode/settings.json": json.dumps(editor_settings(jobs), indent=2) + "\n"}


def editor_settings(jobs: list[Job]) -> dict[str, Any]:
    """Return the settings of VS Code for this folder: the schema of each JSON file that people edit."""
    files = CLUSTERS | {f"{job.name}.json": f"settings/{job.name}" for job in jobs}
    return {
        "json.schemas": [
            {"fileMatch": [f"airflow_dags/*/{file}"], "url": f"./schemas/{schema}.schema.json"}
            for file, schema in files.items()
        ]
    }


def job_schema() -> dict[str, Any]:
    """Return the schema of job.toml."""
    hints, table = typing.get_type_hints(Job), of_class(Table)
    tables = {name for name, hint in hints.items() if typing.get_origin(hint) is dict}
    table["anyOf"] = [{"required": ["raw"]}, {"oneOf": [{"required": ["contract"]}, {"required": ["contracts"]}]}]
    table["dependentRequired"] = {"oldest": ["contract", "dataset"], "window": ["dataset", "dates"]}
    parameter = of_class(Parameter)
    parameter["properties"]["type"] = {"enum": list(PARSERS)}
    job = of_class(Job, without={"name", *tables})
    job["properties"]["engine"] |= {"enum": ["python", "spark"]}
    resources = of_class(Resources)
    resources["properties"]["deadline_seconds"]["exclusiveMinimum"] = 0
    properties: dict[str, Any] = {
        "inputs": by_name({"$ref": "#/$defs/table"}),
        "outputs": by_name({"$ref": "#/$defs/table"}),
        "parameters": by_name(parameter),
        "resources": resources,
        "spark": of_class(SparkSizes),
    }
    assert properties.keys() == tables, "a table of job.toml has no schema"
    return {
        **strict({"job": job, **properties}, ["job"]),
        "title": "The description of a job",
        "$defs": {"table": table},
    }


def contract_schema() -> dict[str, Any]:
    """Return the schema of a contract."""
    column = of_class(contracts.Column)
    column["properties"]["type"] = {"enum": sorted(contracts.TYPES)}
    contract = of_class(contracts.Contract, without={"name", "columns", "product", "checks"})
    contract["properties"] |= {"columns": by_name(column), "product": of_class(contracts.Product)}
    contract["properties"]["checks"] = {"type": "array", "items": check_schema()}
    return {**contract, "title": "The schema of a table that crosses between tasks"}


def check_schema() -> dict[str, Any]:
    """Return the schema of a check of a contract, which has one of three kinds."""
    check = of_class(contracts.Check)
    check["properties"]["severity"]["enum"] = list(contracts.SEVERITIES)
    check["properties"]["volume"]["const"] = True
    check["properties"]["factor"]["exclusiveMinimum"] = 1
    for name in ("allowed", "unique"):
        check["properties"][name]["minItems"] = 1
    check["oneOf"] = [{"required": [kind]} for kind in ("allowed", "unique", "volume")]
    check["dependentRequired"] = {"allowed": ["column"], "column": ["allowed"], "by": ["volume"], "factor": ["volume"]}
    return check


def source_schemas() -> dict[str, dict[str, Any]]:
    """Return the paths and schemas of the files in the folder `sources`."""
    # Imported here, because Airflow's environment, in which some of these schemas are tested, has no sqlglot.
    from common.sources import source
    from common.sources.tracking_plan import EventType

    text, documents = {"type": "string"}, {}
    for kind, columns in source.COLUMNS.items():
        others = {table for tables in source.TABLES.values() for table in tables} - set(source.TABLES[kind])
        schema = of_class(source.Source, without={"name", "kind", *others, *([] if kind == "items" else ["mode"])})
        schema["properties"] |= {table: by_name(text) for table in ("fields", *source.TABLES[kind])}
        required = [name for name, needed in columns.items() if needed]
        schema["properties"]["columns"] = strict(dict.fromkeys(columns, text), required)
        for key, values in (("format", source.FORMATS), ("compression", source.SUFFIXES), ("mode", source.MODES)):
            if key in schema["properties"]:
                schema["properties"][key] |= {"enum": list(values)}
        schema["required"].remove("deliveries")  # its default has the name of the source
        title = f"How deliveries of {kind} map to columns"
        documents[f"schemas/{kind}_source.schema.json"] = {**schema, "title": title}
    plan = strict({"types": by_name(of_class(EventType))}, ["types"])
    documents["schemas/tracking_plan.schema.json"] = {**plan, "title": "The event types that a team knows"}
    return documents


def record_schema() -> dict[str, Any]:
    """Return the schema of the record of a run, which later versions may add fields to."""
    # Imported here, because Airflow's environment, in which some of these schemas are tested, has no msgspec.
    import msgspec

    from common.reporting.record import Record

    return {**msgspec.json.schema(Record), "title": "The record of a run of a pipeline"}


def settings_schema(job: Job) -> dict[str, Any]:
    """Return the schema of a task's settings, which name parameters of its job; strings may be templates."""
    values = {name: of_parameter(parameter) for name, parameter in job.parameters.items()}
    names = [name for name in values if name != job.mapped_by]
    of_run = {"type": "array", "items": {"enum": names}, "uniqueItems": True, "description": HELP["at_trigger"]}
    properties = {
        "parameters": strict(values),
        **({"at_trigger": of_run} if names else {}),
        **(settings_of_spark() if job.engine == "spark" else {}),
    }
    return {**strict(properties), "title": f"The settings of a task that runs {job.name}"}


def settings_of_spark() -> dict[str, Any]:
    """Return the schemas of settings that Spark jobs have in addition to parameters."""
    return {**of_class(SparkSizes)["properties"], "deploy_mode": DEPLOY_MODE, "runtime": SPARK_PLACE}


def of_parameter(parameter: Parameter) -> dict[str, Any]:
    """Return the schema of a parameter's value in a JSON file."""
    schema: dict[str, Any] = {"type": "string"}
    if parameter.type in ("integer", "number", "boolean"):
        schema = {"type": parameter.type}
    if parameter.type == "date":
        schema |= {"pattern": r"^$|^\d{4}-\d{2}-\d{2}$"}
    if parameter.range:
        schema |= dict(zip(("minimum", "maximum"), parameter.range))
    if parameter.choices:
        schema |= {"enum": list(parameter.choices)}
    described: dict[str, Any] = {"description": parameter.help}
    described |= {} if parameter.default is None else {"default": parameter.default}
    return {"anyOf": [schema, TEMPLATE], **described}


def of_class(kind: type, without: typing.Collection[str] = ()) -> dict[str, Any]:
    """Return the schema of a dataclass or typed dictionary; fields without default are required."""
    hints = {name: hint for name, hint in typing.get_type_hints(kind).items() if name not in without}
    properties = {
        name: of_hint(hint) | ({"description": HELP[name]} if name in HELP else {}) for name, hint in hints.items()
    }
    fields = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
    required = [
        field.name
        for field in fields
        if field.name in hints and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    return strict(properties, required)


def of_hint(hint: Any) -> dict[str, Any]:
    """Return the schema of a value of a type."""
    if isinstance(hint, types.UnionType):
        each = [of_hint(kind) for kind in typing.get_args(hint) if kind is not types.NoneType]
        return each[0] if len(each) == 1 else {"type": [schema["type"] for schema in each]}
    if typing.get_origin(hint) is tuple:
        first, last = typing.get_args(hint)
        length = {} if last is ... else {"minItems": 2, "maxItems": 2}
        return {"type": "array", "items": of_hint(first), **length}
    return {"type": PRIMITIVES[typing.get_origin(hint) or hint]}


def strict(properties: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    """Return the schema of a table with these keys and no others."""
    schema = {"type": "object", "additionalProperties": False, "properties": properties}
    return schema | ({"required": required} if required else {})


def by_name(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a table whose keys are names."""
    return {"type": "object", "additionalProperties": schema}


if __name__ == "__main__":
    main()

"""Write schemas/: JSON Schemas of environments and clusters, from the code and interfaces that check them.

A file of either kind may be incomplete, because an environment's table completes it: no schema here requires a key.
"""

import argparse
import dataclasses
import json
import sys
import types
import typing
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from tandem import settings
from tandem.environment import AUTO, CONTAINER, CONTAINER_RUNTIMES, SPARK_RUNTIMES
from tandem.runtimes.cloud_request import model

ROOT = Path(__file__).resolve().parents[2]
DRAFT = "https://json-schema.org/draft/2020-12/schema"
PRIMITIVES: dict[Any, str] = {str: "string", Path: "string", bool: "boolean", int: "integer", float: "number"}
RUNTIMES: dict[str, Mapping[str, type]] = {"container": CONTAINER_RUNTIMES, "spark": SPARK_RUNTIMES}
SHARED = {"code", "registry"}  # fields of runtimes that the environment itself sets
BOTOCORE = {"string": "string", "boolean": "boolean", "float": "number", "double": "number"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 if a file is out of date")
    check = parser.parse_args().check
    for name, schema in schemas().items():
        file = ROOT / "schemas" / f"{name}.schema.json"
        text = json.dumps({"$schema": DRAFT, **schema}, indent=1) + "\n"
        if not check:
            file.write_text(text, "utf-8")
        elif not file.exists() or file.read_text("utf-8") != text:
            sys.exit(f"{file.relative_to(ROOT)}: out of date with the code that checks such files; run make format.")


def schemas() -> dict[str, dict[str, Any]]:
    """The schemas of Airflow's files, by name."""
    return {
        "environment": environment(),
        "emr_cluster": request("emr", "RunJobFlow"),
        "emr_serverless_application": request("emr-serverless", "CreateApplication", without={"clientToken"}),
        "dataproc_cluster": message("Cluster", only={"config", "labels"}),
    }


def environment() -> dict[str, Any]:
    """The schema of environments/*.toml."""
    schema = of_known(settings.KNOWN)
    for kind, runtimes in RUNTIMES.items():
        table = schema["properties"][kind]
        table["properties"]["runtime"] = {"enum": list(runtimes)}
        table["properties"] |= {name: of_class(runtime) for name, runtime in runtimes.items()}
    spark = schema["properties"]["spark"]["properties"]
    spark["auto"]["properties"]["cluster"] = dict(spark["runtime"])
    spark["runtime"]["enum"] = [*SPARK_RUNTIMES, CONTAINER, AUTO]
    return {**schema, "title": "The settings of an environment"}


def of_known(known: Mapping[Any, Any]) -> dict[str, Any]:
    """The schema of a table of settings.KNOWN, in which `...` stands for keys of any name."""
    properties = {}
    for key, expected in known.items():
        if key is ...:
            continue
        properties[key] = of_expected(expected)
    return {
        "type": "object",
        "additionalProperties": of_expected(known[...]) if ... in known else False,
        "properties": properties,
    }


def of_expected(expected: Any) -> dict[str, Any]:
    """The schema of a value of settings.KNOWN: a table, or types."""
    if isinstance(expected, dict):
        return of_known(expected)
    if expected is dict:
        return {"type": "object"}
    kinds = [PRIMITIVES[kind] for kind in settings.as_tuple(expected) if kind is not settings.OPTIONAL]
    return {"type": "number" if "number" in kinds else kinds[0]}


def of_class(runtime: type) -> dict[str, Any]:
    """The schema of the table of a runtime: its fields, except those that the environment sets."""
    hints = typing.get_type_hints(runtime)
    names = [field.name for field in dataclasses.fields(runtime) if field.name not in SHARED]
    return {
        "type": "object",
        "additionalProperties": False,
        "description": (runtime.__doc__ or "").partition("\n")[0],
        "properties": {name: of_hint(hints[name]) for name in names},
    }


def of_hint(hint: Any) -> dict[str, Any]:
    """The schema of a field of a runtime."""
    if isinstance(hint, types.UnionType):
        (hint,) = (each for each in typing.get_args(hint) if each is not types.NoneType)
    return {"type": PRIMITIVES.get(hint, "object")}


def request(service: str, operation: str, without: Collection[str] = ()) -> dict[str, Any]:
    """The schema of a request to AWS, from botocore's model."""
    shape = model(service).operation_model(operation).input_shape
    definitions: dict[str, Any] = {}
    add_shape(shape, definitions)
    schema = definitions.pop(shape.name)
    schema["properties"] = {name: entry for name, entry in schema["properties"].items() if name not in without}
    return {**schema, "title": f"The request {operation}", "$defs": definitions}


def add_shape(shape: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """Add a structure and its parts to the definitions; return a reference to it, or the schema of a value."""
    minimum = {} if "min" not in shape.metadata else {"min": shape.metadata["min"]}
    if shape.type_name == "structure":
        if shape.name not in definitions:
            definitions[shape.name] = {
                "type": "object",
                "additionalProperties": False,
            }  # before its members, for it may contain itself
            members = {name: add_shape(member, definitions) for name, member in shape.members.items()}
            definitions[shape.name]["properties"] = members
        return {"$ref": f"#/$defs/{shape.name}"}
    if shape.type_name == "list":
        items = {"type": "array", "items": add_shape(shape.member, definitions)}
        return items | ({"minItems": minimum["min"]} if minimum else {})
    if shape.type_name == "map":
        return {"type": "object", "additionalProperties": add_shape(shape.value, definitions)}
    if shape.type_name == "string" and shape.metadata.get("enum"):
        return {"anyOf": [{"enum": shape.metadata["enum"]}, {"type": "string"}]}  # a service may add values
    limit = {"minLength" if shape.type_name == "string" else "minimum": minimum["min"]} if minimum else {}
    return {"type": BOTOCORE.get(shape.type_name, "integer"), **limit}


def message(kind: str, only: Collection[str]) -> dict[str, Any]:
    """The schema of a message of Dataproc, from its client's descriptors."""
    from google.cloud import dataproc_v1

    message_type = getattr(dataproc_v1, kind)
    definitions: dict[str, Any] = {}
    descriptor = message_type.pb(message_type()).DESCRIPTOR
    add_message(descriptor, definitions)
    schema = definitions.pop(descriptor.full_name)
    schema["properties"] = {name: schema["properties"][name] for name in sorted(only)}
    return {**schema, "title": f"Dataproc's message {kind}", "$defs": definitions}


def add_message(descriptor: Any, definitions: dict[str, Any]) -> None:
    """Add a message and its parts to the definitions."""
    if descriptor.full_name not in definitions:
        properties: dict[str, Any] = {}
        definitions[descriptor.full_name] = {"type": "object", "additionalProperties": False, "properties": properties}
        for field in descriptor.fields:
            properties[field.name] = of_field(field, definitions)


def of_field(field: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema of a field of a message."""
    inner = field.message_type
    if inner is not None and inner.GetOptions().map_entry:
        return {"type": "object", "additionalProperties": of_field(inner.fields_by_name["value"], definitions)}
    if inner is not None and not inner.full_name.startswith("google.protobuf."):
        add_message(inner, definitions)
        schema: dict[str, Any] = {"$ref": f"#/$defs/{inner.full_name}"}
    elif field.enum_type is not None:
        schema = {"anyOf": [{"enum": [value.name for value in field.enum_type.values]}, {"type": "integer"}]}
    else:
        kinds = {field.CPPTYPE_STRING: "string", field.CPPTYPE_BOOL: "boolean"}
        numbers = {field.CPPTYPE_DOUBLE, field.CPPTYPE_FLOAT}
        integers = {field.CPPTYPE_INT32, field.CPPTYPE_INT64, field.CPPTYPE_UINT32, field.CPPTYPE_UINT64}
        kinds |= dict.fromkeys(numbers, "number") | dict.fromkeys(integers, "integer")
        schema = {} if inner is not None else {"type": kinds[field.cpp_type]}  # durations have several spellings
    return {"type": "array", "items": schema} if field.is_repeated else schema


if __name__ == "__main__":
    main()

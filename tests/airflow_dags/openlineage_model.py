"""OpenLineage's specification as JSON Schemas, made from the classes that its client generates from it."""

import enum
import importlib
import pkgutil
import types
import typing

import attr
import jsonschema
from openlineage.client import event_v2, generated
from openlineage.client.generated import base

SPECIFICATION = "https://openlineage.io/spec/"
SCALARS = {str: "string", int: "integer", float: "number", bool: "boolean"}
ALWAYS = {"producer", "schemaURL", "_producer", "_schemaURL"}  # have defaults in the classes


def check_event(event):
    """Raise ValidationError unless an event, and each of its facets, has the form that the specification demands.

    Airflow's own facets need only be facets.
    """
    check(event, event_v2.RunEvent)
    parts = [event["run"], event["job"], *event.get("inputs", []), *event.get("outputs", [])]
    facets = [each for part in parts for kind in part if kind.endswith("acets") for each in part[kind].values()]
    for facet in facets:
        if facet["_schemaURL"].startswith(SPECIFICATION):
            (kind,) = [each for each in CLASSES if each.__name__.endswith("Facet") and has_url(each, facet)]
            check(facet, kind)


def has_url(kind, facet):
    return kind._get_schema() == facet["_schemaURL"]


def check(value, kind):
    VALIDATOR.evolve(schema=schema(kind)).validate(value)


def schema(kind):
    """The JSON Schema of a type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return {"anyOf": [schema(each) for each in arguments if each is not types.NoneType]}
    if origin is list:
        return {"type": "array", "items": schema(arguments[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": schema(arguments[1])}
    if kind in SCALARS:
        return {"type": SCALARS[kind]}
    if isinstance(kind, enum.EnumType):
        return {"enum": [each.value for each in kind]}
    return {"$ref": f"urn:openlineage#/$defs/{name_of(kind)}"} if kind in CLASSES else {}


def schema_of_class(kind):
    """The JSON Schema of a class: its fields, required without a default, and no others unless it is a base."""
    hints = typing.get_type_hints(kind)
    fields = attr.fields(kind)
    return {
        "type": "object",
        "properties": {each.name: schema(hints[each.name]) for each in fields},
        "required": [each.name for each in fields if each.default is attr.NOTHING or each.name in ALWAYS],
        "additionalProperties": kind.__module__ == base.__name__ and kind.__name__.endswith("Facet"),
    }


def name_of(kind):
    return f"{kind.__module__}.{kind.__name__}"


def classes():
    """All classes that the client generates from the specification."""
    modules = [
        importlib.import_module(f"{generated.__name__}.{each.name}")
        for each in pkgutil.iter_modules(generated.__path__)
    ]
    found = {each for module in modules for each in vars(module).values() if isinstance(each, type) and attr.has(each)}
    return sorted(found, key=name_of)


CLASSES = classes()
DEFINITIONS = {"$id": "urn:openlineage", "$defs": {name_of(each): schema_of_class(each) for each in CLASSES}}
VALIDATOR = jsonschema.Draft202012Validator(DEFINITIONS, format_checker=jsonschema.FormatChecker())

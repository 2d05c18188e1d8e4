"""Check a document for Kubernetes against the models of its Python client, while a pipeline is parsed."""

import re
from typing import Any

from kubernetes.client import models

from tandem.dag_errors import PipelineError, check_known

PLAIN = {"str": str, "int": int, "bool": bool, "float": (int, float)}


def check(document: Any, kind: str, where: str) -> None:
    """Raise PipelineError unless a document is of a kind (`V1Pod`): known keys, right types, no key missing."""
    collection = re.fullmatch(r"(?:list\[|dict[\[(]str, )(.+)[\])]", kind)
    if collection:
        expected = list if kind.startswith("list") else dict
        expect(document, expected, where)
        entries = enumerate(document) if expected is list else document.items()
        for name, entry in entries:
            check(entry, collection[1], f"{where}[{name}]" if expected is list else f"{where}.{name}")
    elif kind in PLAIN:
        expect(document, PLAIN[kind], where)
    elif model := getattr(models, kind, None):
        expect(document, dict, where)
        names = {key: attribute for attribute, key in model.attribute_map.items()}
        for key, value in document.items():
            check_known("key", key, names, where)
            check(value, model.openapi_types[names[key]], f"{where}.{key}")
        try:
            model(**{names[key]: value for key, value in document.items()})
        except ValueError as error:
            raise PipelineError(f"{where} is not a {kind}: {error}.") from None


def expect(value: Any, expected: Any, where: str) -> None:
    if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
        names = {str: "text", bool: "true or false", dict: "an object", list: "a list"}
        raise PipelineError(f"{where} is {value!r}, expected {names.get(expected, 'a number')}.")

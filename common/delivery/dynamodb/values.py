"""Values of documents as DynamoDB's attributes, and back; a list or dict is packed, as the content of an item is."""

from collections.abc import Callable
from typing import Any

from common.delivery.json_values import of_earlier_release, packed, unpacked

Attributes = dict[str, Any]  # of attribute values in DynamoDB's own form

LETTERS: dict[type, Callable[[Any], Attributes]] = {
    str: lambda value: {"S": value},
    bool: lambda value: {"BOOL": value},
    int: lambda value: {"N": str(value)},
    float: lambda value: {"N": repr(value)},
    type(None): lambda value: {"NULL": True},
    list: lambda value: {"B": packed(value)},
    dict: lambda value: {"B": packed(value)},
}


def encode(values: dict[str, Any]) -> Attributes:
    """Return plain values as attributes."""
    return {name: LETTERS[type(value)](value) for name, value in values.items()}


def decode(attributes: Attributes) -> dict[str, Any]:
    """Return attributes as plain values."""
    return {name: decode_value(attribute) for name, attribute in attributes.items()}


def decode_value(attribute: Attributes) -> Any:
    """Return an attribute value as a plain one."""
    ((letter, value),) = attribute.items()
    if letter == "N":
        return int(value) if value.lstrip("-").isdigit() else float(value)
    if letter == "B":
        return unpacked(value)
    if letter in ("L", "M"):  # of release 0.1.0
        raise of_earlier_release()
    return None if letter == "NULL" else value

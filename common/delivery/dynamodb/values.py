"""Plain values as DynamoDB's attribute values, and back."""

from collections.abc import Callable
from typing import Any

Attributes = dict[str, Any]  # of attribute values in DynamoDB's own form

LETTERS: dict[type, Callable[[Any], Attributes]] = {
    str: lambda value: {"S": value},
    bool: lambda value: {"BOOL": value},
    int: lambda value: {"N": str(value)},
    float: lambda value: {"N": repr(value)},
    type(None): lambda value: {"NULL": True},
    list: lambda value: {"L": [encode(each) for each in value]},
    dict: lambda value: {"M": encode_all(value)},
}


def encode(value: Any) -> Attributes:
    """Return a plain value as an attribute value."""
    return LETTERS[type(value)](value)


def encode_all(values: dict[str, Any]) -> Attributes:
    """Return plain values as attributes."""
    return {name: LETTERS[type(value)](value) for name, value in values.items()}


def decode(attribute: Attributes) -> Any:
    """Return an attribute value as a plain one."""
    ((letter, value),) = attribute.items()
    if letter == "N":
        return int(value) if value.lstrip("-").isdigit() else float(value)
    if letter == "L":
        return [decode(each) for each in value]
    if letter == "M":
        return decode_all(value)
    return None if letter == "NULL" else value


def decode_all(attributes: Attributes) -> dict[str, Any]:
    """Return attributes as plain values."""
    return {name: decode(attribute) for name, attribute in attributes.items()}

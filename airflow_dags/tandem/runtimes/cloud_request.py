"""Requests to a cloud in JSON files: merged with an environment's table, and checked while parsing."""

import functools
from collections.abc import Mapping
from typing import Any

from tandem.dag_errors import PipelineError, check_known


def merged(request: Any, over: Any, where: str) -> Any:
    """A request overridden by a table: key by key, and the entries of a list by their `Name`.

    Any other value is replaced, a list by a list too.
    """
    if isinstance(request, list) and isinstance(over, Mapping):
        for name in over:
            check_known("entry", name, [entry["Name"] for entry in request], where)
        return [merged(entry, over.get(entry["Name"], {}), where) for entry in request]
    if isinstance(request, Mapping) and isinstance(over, Mapping):
        changed = {key: merged(request[key], value, where) if key in request else value for key, value in over.items()}
        return {**request, **changed}
    return over


def check_request(service: str, operation: str, request: Mapping[str, Any], where: str) -> None:
    """Raise PipelineError unless a request fits botocore's model of the operation: names, types, required keys.

    Templates are strings here, so they can't stand for numbers.
    """
    from botocore.validate import ParamValidator  # 0.2 s, a cost that only environments with EMR should have

    shape = model(service).operation_model(operation).input_shape
    check_names(shape, request, where)
    report = ParamValidator().validate(request, shape)
    if report.has_errors():
        raise PipelineError(f"{where} is not a valid request {operation}: {report.generate_report().splitlines()[0]}.")


@functools.cache
def model(service: str) -> Any:
    import botocore.session

    return botocore.session.Session().get_service_model(service)


def check_names(shape: Any, value: Any, where: str) -> None:
    """Raise PipelineError for the first key that is not in the interface, at any depth."""
    if shape.type_name == "structure" and isinstance(value, Mapping):
        for name, entry in value.items():
            check_known("key", name, shape.members, where)
            check_names(shape.members[name], entry, f"{where}, {name}")
    if shape.type_name == "list" and isinstance(value, list):
        for number, entry in enumerate(value):
            check_names(shape.member, entry, f"{where}[{number}]")


def client(service: str, region: str | None) -> Any:
    """A client with the credentials that boto3 finds; it retries when the cloud is busy."""
    import boto3  # 0.3 s, too slow for parsing DAGs
    from botocore.config import Config

    config = Config(retries={"mode": "standard", "max_attempts": 8})
    return boto3.session.Session().client(service, region_name=region, config=config)

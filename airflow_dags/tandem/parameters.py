"""Check the parameters of a task as its job would, and declare to Airflow those that a run may set."""

from collections.abc import Iterable, Mapping
from typing import Any

from airflow.sdk import Context, Param
from airflow.sdk.exceptions import AirflowFailException
from jinja2 import Environment, meta

from tandem.dag_errors import PipelineError, check_known
from tandem.protocol import parse_parameter, to_text
from tandem.texts import short

Declarations = Mapping[str, Mapping[str, Any]]  # of a job's parameters, as in job_catalogue.json
JSON_TYPES = {"date": "string"}
TASK_NAMES = {"ti", "task", "task_instance", "task_instance_key_str"}  # names that only a template's own task defines


def check_parameters(declarations: Declarations, values: Mapping[str, Any], where: str) -> None:
    """Raise PipelineError unless a job accepts these values: names, types, ranges, choices, none missing."""
    for name in values:
        check_known("parameter", name, declarations, where)
    for name, parameter in declarations.items():
        value = values.get(name)
        if value is not None:
            check_value(name, parameter, to_text(value), where)
        elif parameter.get("default") is None:
            raise PipelineError(f"{where} lacks the parameter '{name}'; give it a value ({parameter['help']}).")


def check_value(name: str, parameter: Mapping[str, Any], text: str, where: str) -> None:
    """Raise PipelineError unless the text is a value of the parameter."""
    try:
        parse_parameter(parameter["type"], text, parameter.get("range"), parameter.get("choices"))
    except ValueError as error:
        raise PipelineError(f"{where} gives the parameter '{name}' the value {short(text)}{error}.") from None


def airflow_param(parameter: Mapping[str, Any], default: Any) -> Param:
    """A parameter that a run may set, as an Airflow Param: it shows type and help, and refuses invalid values.

    null is allowed, and counts as not set.
    """
    schema: dict[str, Any] = {"type": [JSON_TYPES.get(parameter["type"], parameter["type"]), "null"]}
    if parameter["type"] == "date":
        schema["anyOf"] = [{"format": "date"}, {"maxLength": 0}]
    if "range" in parameter:
        schema["minimum"], schema["maximum"] = parameter["range"]
    if "choices" in parameter:
        schema["enum"] = [*parameter["choices"], None]
    return Param(None if default == "" else default, description=parameter["help"], **schema)


def check_configuration(context: Context) -> Mapping[str, Any]:
    """The configuration of a run; AirflowFailException for a key that no task of its pipeline accepts.

    At the trigger, Airflow checks the values of declared keys, and silently accepts any other key.
    """
    configuration: Mapping[str, Any] = getattr(context["dag_run"], "conf", None) or {}
    try:
        for key in configuration:
            check_known("key", key, context["dag"].params, "The configuration of this run")
    except PipelineError as error:
        raise AirflowFailException(str(error)) from None
    return configuration


def effective_values(
    values: Mapping[str, Any], configuration: Mapping[str, Any], at_trigger: Iterable[str]
) -> dict[str, Any]:
    """The values of a task's parameters, overridden by those of its run; null counts as not set."""
    of_run = {name: configuration[name] for name in at_trigger if configuration.get(name) is not None}
    return {name: value for name, value in {**values, **of_run}.items() if value is not None}


def needs_its_task(value: Any, environment: Environment) -> bool:
    """Return True for a template that only its own task can render, because it uses other tasks' return values."""
    return isinstance(value, str) and not TASK_NAMES.isdisjoint(
        meta.find_undeclared_variables(environment.parse(value))
    )

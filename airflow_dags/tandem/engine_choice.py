"""The engine of a Spark job in a run: the light one in a container, or Spark on a cluster, by the bytes of its inputs.

A run decides once for each task, before its cluster opens, and keeps that for retries: among the return values of
`look_for_input`, because Airflow deletes a task's own ones when it is retried.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from airflow.sdk import Context
from airflow.sdk.definitions.mappedoperator import MappedOperator

from tandem.input_sizes import Unknown, input_bytes
from tandem.parameters import check_configuration, effective_values, needs_its_task
from tandem.runtimes.base import Runtime

FIRST_TASK = "look_for_input"  # of every pipeline with jobs
LIGHT, SPARK = "light", "spark"
NO_PRODUCT = "none"  # instead of a fingerprint, of a runtime that runs the checkout


class Choice(NamedTuple):
    """The engine of a task, and the reason as a part of a sentence."""

    engine: str
    reason: str

    def sentence(self, runtime: str) -> str:
        place = "in a container" if self.engine == LIGHT else "on a cluster"
        return f"It runs {place} ({runtime}): {self.reason}."


class Auto(NamedTuple):
    """A choice that each run makes: a container for inputs of up to `max_bytes`, else the runtime of the task."""

    container: Runtime
    max_bytes: float
    inputs: Mapping[str, Mapping[str, Any]]  # of job.toml
    openers: tuple[str, ...]  # the tasks that open and await the cluster; none if there is nothing to open


class Sharing(NamedTuple):
    """The tasks of a cluster: those that a run chooses the engine of, and those that need the cluster in any case."""

    opener: str  # the task that opens it
    chosen: Sequence[str]
    fixed: Sequence[str]


def kept(context: Context, task_id: str) -> Choice | None:
    """The choice that this run made for a task, None if it made none."""
    instance: Any = context["ti"]
    found = instance.xcom_pull(task_ids=FIRST_TASK, key=key(task_id))
    return Choice(*found) if found else None


def keep(context: Context, task_id: str, choice: Choice) -> None:
    """Keep the choice of this run for a task."""
    push(context, FIRST_TASK, key(task_id), list(choice))


def key(task_id: str) -> str:
    return f"engine: {task_id}"


def push(context: Context, task_id: str, key: str, value: Any) -> None:
    """Store a value as an XCom of another task of this run."""
    from airflow.sdk.execution_time.xcom import XCom

    instance: Any = context["ti"]
    XCom.set(key, value, dag_id=instance.dag_id, run_id=instance.run_id, task_id=task_id)


def decide(context: Context, sharing: Sharing) -> bool:
    """Choose the engine of each task of a cluster and keep it; return True if one of them needs the cluster.

    If one does, all get it: it is open anyway. Otherwise a task whose input does not exist yet chooses at its start.
    """
    choices = {} if sharing.fixed else {name: by_size_early(context, name) for name in sharing.chosen}
    large = [*sharing.fixed, *(name for name, choice in choices.items() if choice and choice.engine == SPARK)]
    for name in sharing.chosen:
        choice = choices.get(name)
        if large and name not in large:
            choice = Choice(SPARK, f"its cluster is open anyway, for '{large[0]}'")
        if choice:
            keep(context, name, choice)
    return bool(large)


def by_size_early(context: Context, task_id: str) -> Choice | None:
    """The choice for a task that has not begun, before its cluster opens; None if its inputs are not known yet."""
    task: Any = context["dag"].get_task(task_id)
    if isinstance(task, MappedOperator):
        task = task.unmap({"shard": 0})
    environment = task.get_template_env(context["dag"])
    late = {name for name, value in task.parameters.items() if needs_its_task(value, environment)}
    values = values_of(task)
    values["parameters"] = {name: value for name, value in task.parameters.items() if name not in late}
    try:
        return by_size(context, task, task.render_template(values, context, environment), late)
    except Unknown:
        return None


def values_of(task: Any) -> dict[str, Any]:
    """The values of a task that the size of its inputs depends on."""
    fingerprint = task.light_request.get("fingerprint", NO_PRODUCT)
    return {"lake": task.lake, "parameters": dict(task.parameters), "fingerprint": fingerprint}


def by_size(context: Context, task: Any, values: Mapping[str, Any], late: Collection[str] = ()) -> Choice:
    """The choice for a task whose values are rendered, except those of the parameters `late`.

    Raises Unknown if a task before it has not run yet, or if it needs one of these parameters.
    """
    if not values["fingerprint"]:
        return Choice(SPARK, "the release names no light image of it")
    declared = {name: entry.get("default") for name, entry in task.declarations.items()}
    given = effective_values(values["parameters"], check_configuration(context), task.at_trigger)
    parameters = {**declared, **given, **dict.fromkeys(set(late) - given.keys(), Unknown)}
    ended = context["task"].get_flat_relative_ids(upstream=True)
    found = input_bytes(context, values["lake"].rstrip("/"), task, parameters, ended)
    limit = as_size(task.auto.max_bytes)
    if found <= task.auto.max_bytes:
        return Choice(LIGHT, f"its inputs have {as_size(found)}, up to {limit} do (spark.auto.max_bytes)")
    return Choice(SPARK, f"its inputs have {as_size(found)}, more than {limit} (spark.auto.max_bytes)")


def as_size(count: float) -> str:
    """A number of bytes as a text for people, such as 12.3 MiB."""
    units = ["bytes", "KiB", "MiB", "GiB"]
    while count >= 1024 and len(units) > 1:
        count /= 1024
        units.pop(0)
    return f"{count:.{0 if count == int(count) else 1}f} {units[0]}"

"""Open a cluster only if a run needs it: before its tasks begin, or within one that turned out to need it."""

import copy
from datetime import UTC, datetime
from typing import Any

from airflow.sdk import BaseOperator, Context

from tandem.engine_choice import Sharing, decide, push
from tandem.recording import nested

NEEDED = "needed"  # an XCom of the task that opens a cluster: False if no task of the run needed it
OPENED = "opened"  # another one, if a task opened the cluster later: the time
CLUSTER = "cluster"  # the XCom of that task: the cluster


class OpenedOnDemand(BaseOperator):
    """The base, before an operator of a provider, of those that open a cluster; None if no task needs it."""

    sharing: Sharing | None = None  # set if runs choose the engine of a task of the cluster

    def execute(self, context: Context) -> Any:
        if self.sharing:
            needed = decide(context, self.sharing)
            context["ti"].xcom_push(NEEDED, needed)
            if not needed:
                self.log.info("No task of this run needs the cluster, so none is opened.")
                return None
        return super().execute(context)


def open_late(context: Context, openers: tuple[str, ...], opening: list[Any]) -> Any:
    """Open a cluster within a task that ran out of memory, wait until it accepts jobs, and return its ID.

    It becomes the return value of the task that opens the cluster: later attempts find it, and the task that closes it.
    `opening` holds the operator at work, for `on_kill`.
    """
    instance: Any = context["ti"]
    first, *others = openers
    with nested():
        push(context, first, OPENED, datetime.now(UTC).isoformat())
        opener = prepared(context, first)
        opening.append(opener)
        cluster = opener.execute(context)
        instance.xcom_push(CLUSTER, cluster)  # if two tasks do this at once, the other one's may replace the next
        push(context, first, "return_value", cluster)
        opening.clear()
        for name in others:
            waiting = prepared(context, name)
            waiting.mode = "poke"
            waiting.execute(context)
    return cluster


def prepared(context: Context, name: str) -> Any:
    """A copy of a task of this run, ready to be executed within another one."""
    task: Any = copy.copy(context["dag"].get_task(name))
    task.sharing = None
    task.render_template_fields(context)
    return task


def opened_first(context: Context, sharing: Sharing | None) -> bool:
    """Return True if the task that opens a cluster did so, or tried to: not if no task of the run needed it then."""
    instance: Any = context["ti"]
    return sharing is None or instance.xcom_pull(task_ids=sharing.opener, key=NEEDED) is not False


def opened_at_all(context: Context, sharing: Sharing | None) -> bool:
    """Return True if any task opened the cluster, or tried to."""
    instance: Any = context["ti"]
    late = sharing and instance.xcom_pull(task_ids=sharing.opener, key=OPENED)
    return bool(late) or opened_first(context, sharing)


def to_close(context: Context, sharing: Sharing | None, stored: Any) -> list[Any]:
    """The IDs of the clusters to close: the stored one, which is None if it was lost, and those that tasks opened."""
    instance: Any = context["ti"]
    values = [instance.xcom_pull(task_ids=name, key=CLUSTER) for name in sharing.chosen] if sharing else []
    found = {each for value in values for each in (value if isinstance(value, list) else [value]) if each}
    return sorted(found | ({stored} if stored or opened_first(context, sharing) else set()), key=str)

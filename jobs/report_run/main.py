"""Report on the run that this task ends: its record and its card, then the index of all runs.

A record is written first, because it is what lasts: a card can be made again from the same files.
"""

from collections.abc import Callable
from typing import TypeVar

from common import protocol
from common.handover import Task, run, storage
from common.reporting import collect, examples, history, index, ingested, lineage, record
from common.reporting.index_entry import entry_of
from common.reporting.page import Extras, render_card
from common.reporting.record import Record, Step
from common.reporting.summary import summarize

Part = TypeVar("Part")


def main(task: Task) -> None:
    found = collect.collect(task.lake, task.dag_id, task.run_id, task.task_id)
    name = protocol.report_name(found.run_after, task.run_id)
    former = history.read(task.lake, task.dag_id, history.FORMER, before=name)
    before = next((each for each in former if each.state == "succeeded"), None)
    no_steps: list[Step] = []
    found.funnel[:0] = attempted(task, "ingested", lambda: ingested.steps(task.lake, found, before), no_steps)
    storage.write(protocol.record_uri(task.lake, task.dag_id, name), record.encode(found))
    card = render_card(found, former, extras(task, found, before)).encode()
    uri = protocol.card_uri(task.lake, task.dag_id, name)
    storage.write(uri, card)
    index.add(task.lake, entry_of(found, history.card_path(uri)))
    task.metrics |= {
        "card": uri.removeprefix(f"{task.lake}/"),
        "summary": summarize(found),
        "state": found.state,
        "tasks": len(found.tasks),
        "former_runs": len(former),
        "card_bytes": len(card),
    }
    task.log("reported", **task.metrics)


def extras(task: Task, found: Record, before: Record | None) -> Extras:
    """Return the parts of the card that need the files of the run, and of the successful one before."""
    return Extras(
        examples=attempted(task, "users", lambda: examples.user_examples(task.lake, found, before), []),
        items=attempted(task, "items", lambda: examples.item_examples(task.lake, found, before), []),
        lineage=attempted(task, "lineage", lambda: lineage.trace_run(task.lake, task.dag_id, task.run_id), None),
    )


def attempted(task: Task, part: str, make: Callable[[], Part], otherwise: Part) -> Part:
    """Return a part of the card; without it if files of it cannot be read: the rest of the card counts more."""
    try:
        return make()
    except Exception as error:
        task.metrics.setdefault("left_out", {})[part] = f"{type(error).__name__}: {error}"[:300]
        task.log("left out", part=part, error=repr(str(error)))
        return otherwise


if __name__ == "__main__":
    run(main)

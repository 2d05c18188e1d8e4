"""State of a job that replaces a dataset from deliveries of which it reads only the new ones.

The state is a second dataset of the task, published first. So it lacks nothing that the first dataset has; a task that
is killed between the two leaves manifests of different tasks, by which the next task knows that the dataset is behind.
"""

from typing import NamedTuple

import pyarrow as pa

from common.engines import arrow
from common.handover import Task
from common.ingestion.ledger import Ledger


class State(NamedTuple):
    """The rows of the state, None before the first publication; the ledger; True if the dataset was made from it."""

    rows: pa.Table | None
    ledger: Ledger
    up_to_date: bool


def load(task: Task, kind: str, state: str, dataset: str) -> State:
    """Return the state of a kind of deliveries by its role and that of the dataset that is made from it.

    Without a state all files are new, whatever the ledger has.
    """
    ledger = Ledger.load(task, kind)
    rows = arrow.former(task, state)
    if rows is None:
        ledger.entries.clear()
    publishers = [seen and seen.document["task"] for seen in (task.replaced[state], task.replaced[dataset])]
    return State(rows, ledger, rows is not None and publishers[0] == publishers[1])

"""Objects that several test modules need, made from the few values that a test is about."""

import copy
from collections.abc import Sequence
from typing import Any

from tandem.runtimes.base import Attempt


def attempt(job: str = "toy", lake: str = "s3://b/l", **values: Any) -> Attempt:
    """The first attempt of the task `t` in the run `r` of the DAG `d`, except for values that are given."""
    task = {"dag_id": "d", "run_id": "r", "task_id": "t", "number": 1, "map_index": None}
    given = {"predecessors": {}, "parameters": {}, "request": {"options": []}, "cluster": None}
    return Attempt(job=job, lake=lake, **{**task, **given, **values})


def changed(document: Any, path: Sequence[Any], value: Any) -> Any:
    """A copy of a JSON document with another value at a path; None removes the value."""
    result = parent = copy.deepcopy(document)
    *steps, last = path
    for step in steps:
        parent = parent[step]
    if value is None:
        del parent[last]
    else:
        parent[last] = value
    return result

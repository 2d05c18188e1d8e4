"""Wait for a cloud's job in Airflow's triggerer, so that its task holds no worker meanwhile.

Airflow has traps here, which the trigger avoids:
- A trigger is cancelled if a person acted on the task, if the triggerer stops, or if another triggerer took over
  because this one was slow. Airflow calls `on_kill` in the first and the last case. Only the first may cancel the job,
  so `on_kill` asks for the task's state.
- Airflow cancels such a trigger again every second until it has ended, and so interrupts `on_kill`. The rest of it runs
  as a task of its own.
- A person's act on a task whose trigger no triggerer runs yet, or any more, cancels nothing. Then the job ends with its
  cluster or at its own limit, and a next attempt of the task cancels it.
- A triggerer that restarts begins anew with what was serialized. So times are absolute, and the service tells when the
  job began.
- `dag.test()` drops the arguments of `defer`, so the event brings back all that the task needs.
- The triggerer does not know the DAGs folder, only the plugins folder (plugins/tandem_triggers.py).
"""

import asyncio
import functools
import importlib
import json
import logging
import math
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict, fields
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from tandem.runtimes.base import Attempt
from tandem.runtimes.polling import PollingRuntime, Submission, Waiting

CLASS = "tandem_triggers.EndOfJob"  # this one, as the triggerer imports it
ENDING: set["asyncio.Task[None]"] = set()  # an event loop keeps no reference to its tasks
log = logging.getLogger(__name__)


class EndOfJob(BaseTrigger):
    """Fires once a worker has something to do again for a job that a service runs."""

    def __init__(self, **kept: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kept = kept  # the arguments of `kept`, which the event brings back

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return CLASS, self.kept

    async def run(self) -> AsyncIterator[TriggerEvent]:
        runtime, handle = await asyncio.to_thread(restored, self.kept)
        waiting = Waiting(runtime, handle, self.kept["since"], self.kept["until"] or math.inf)
        while (end := await asyncio.to_thread(waiting.look)) is None:
            await asyncio.sleep(runtime.poll_seconds)
        yield TriggerEvent({**self.kept, "end": end._asdict()})  # type: ignore[no-untyped-call]

    async def on_kill(self) -> None:
        ending = asyncio.create_task(self.cancel_job())
        ENDING.add(ending)
        ending.add_done_callback(ENDING.discard)
        await asyncio.shield(ending)

    async def cancel_job(self) -> None:
        """Cancel the job if this task does not wait for it any more."""
        if await self.state() == "deferred":
            log.info("Another triggerer waits for this job now, or this task waits for a newer one.")
            return
        runtime, handle = await asyncio.to_thread(restored, self.kept)
        log.warning("%s %s is cancelled, because its task was ended.", runtime.noun, handle.id)
        await asyncio.to_thread(runtime.request_cancel, handle.client, handle)

    async def state(self) -> str | None:
        """The state of the task, None if it does not exist any more."""
        from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
        from asgiref.sync import sync_to_async

        task: Any = self.task_instance
        states = await sync_to_async(RuntimeTaskInstance.get_task_states)(
            dag_id=task.dag_id, task_ids=[task.task_id], run_ids=[task.run_id], map_index=task.map_index
        )
        found: str | None = next(iter(states.get(task.run_id, {}).values()), None)
        return found


def kept(runtime: PollingRuntime, handle: Submission, since: float, until: float | None) -> dict[str, Any]:
    """All that the trigger needs, as JSON: it may run another version of this library than the task."""
    kind = type(runtime)
    return {
        "runtime": f"{kind.__module__}.{kind.__qualname__}",
        "options": asdict(runtime),
        "id": handle.id,
        "attempt": asdict(handle.attempt),
        "since": since,
        "until": until,
    }


def restored(kept: Mapping[str, Any]) -> tuple[PollingRuntime, Submission]:
    """The runtime and the submission of a trigger."""
    runtime, client = shared(kept["runtime"], json.dumps(kept["options"], sort_keys=True))
    return runtime, Submission(kept["id"], attempt(kept), client)


def attempt(kept: Mapping[str, Any]) -> Attempt:
    return Attempt(**known(Attempt, kept["attempt"]))


@functools.cache
def shared(path: str, options: str) -> tuple[PollingRuntime, Any]:
    """A runtime and its client, which all triggers with the same options share: a client takes megabytes."""
    module, _, name = path.rpartition(".")
    kind = getattr(importlib.import_module(module), name)
    runtime: PollingRuntime = kind(**known(kind, json.loads(options)))
    return runtime, runtime.client()


def known(kind: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a dataclass's fields, without those that only another version of it has."""
    names = {field.name for field in fields(kind)}
    return {name: value for name, value in values.items() if name in names}

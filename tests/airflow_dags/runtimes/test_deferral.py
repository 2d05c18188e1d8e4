"""Waiting for a job in Airflow's triggerer: when it ends, what it cancels, what it leaves alone."""

import asyncio
import dataclasses
import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import ClassVar

import factories
import pytest
from airflow.sdk.exceptions import AirflowException
from tandem.operator import JobOperator
from tandem.recording import recording
from tandem.runtimes import deferral, polling
from tandem.runtimes.base import Outcome
from tandem.runtimes.polling import PollingRuntime, Submission


@dataclass(frozen=True, kw_only=True)
class Fake(PollingRuntime):
    """A service that gives the states of a list, and then its last one again and again."""

    name: ClassVar[str] = "fake"
    noun: ClassVar[str] = "Job"
    waiting: ClassVar[tuple[str, ...]] = ("PENDING",)
    ended: ClassVar[tuple[str, ...]] = ("DONE", "CANCELLED")
    states: ClassVar[list[str]] = []
    cancelled: ClassVar[list[str]] = []
    start: ClassVar[datetime | None] = None

    def client(self):
        return "client"

    def poll(self, client, submission):
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return "CANCELLED" if self.cancelled and state != "STUCK" else state, state

    def began(self, response):
        return self.start

    def request_cancel(self, client, submission):
        self.cancelled.append(submission.id)

    def outcome(self, client, submission, response):
        return Outcome(0, None, "", "ended")


@pytest.fixture
def wait(monkeypatch):
    """Waits in a trigger, made from its own serialization, and returns the outcome and what was cancelled."""
    monkeypatch.setattr(Fake, "cancelled", [])
    monkeypatch.setattr(polling, "GRACE_SECONDS", 0)

    def wait(*states, until=None, since=0, start=None, **changes):
        monkeypatch.setattr(Fake, "states", list(states))
        monkeypatch.setattr(Fake, "start", start)
        runtime = Fake(poll_seconds=0.01, pending_seconds=60)
        attempt = factories.attempt(cluster="c", **changes)
        kept = deferral.kept(runtime, Submission("j", attempt, None), time.time() + since, until)
        made = deferral.EndOfJob(**json.loads(json.dumps(kept)))
        event = asyncio.run(anext(made.run())).payload
        assert deferral.attempt(event) == attempt
        return runtime.conclude(Submission("j", attempt, "client"), polling.End(**event["end"])), Fake.cancelled

    return wait


def test_job_is_awaited_through_all_its_states(wait):
    outcome, cancelled = wait("PENDING", "RUNNING", "RUNNING", "DONE")
    assert (outcome, cancelled) == (Outcome(0, None, "", "ended"), [])


def test_deadline_counts_from_the_start_that_the_service_tells(wait):
    """So it is kept by a triggerer that starts anew."""
    hour_ago = datetime.fromtimestamp(time.time() - 3600, UTC)
    outcome, cancelled = wait("RUNNING", start=hour_ago, since=-3700, deadline_seconds=3500)
    assert cancelled == ["j"]
    assert outcome.explanation.startswith("It ran into its deadline of 3500 s; give it more by")
    outcome, cancelled = wait("DONE", start=hour_ago, deadline_seconds=3500)
    assert outcome.explanation == "ended"


def test_job_that_is_not_to_be_cancelled_is_given_up(wait, monkeypatch):
    monkeypatch.setattr(polling, "UNCANCELLED_SECONDS", 0)
    outcome, _ = wait("STUCK", start=datetime.fromtimestamp(time.time() - 60, UTC), deadline_seconds=50)
    assert "Job j was cancelled and is still STUCK." in outcome.explanation
    assert (outcome.exit_code, outcome.guessed) == (1, True)


def test_job_that_does_not_start_in_time_is_cancelled(wait):
    outcome, cancelled = wait("PENDING", since=-61)
    assert (outcome.explanation, cancelled) == ("Job j did not start within 60 s.", ["j"])


def test_execution_timeout_of_task_cancels_its_job(wait):
    outcome, cancelled = wait("RUNNING", until=time.time() - 1)
    assert cancelled == ["j"]
    assert outcome.explanation == "Job j was cancelled, because its task ran into its execution_timeout."


@pytest.mark.parametrize(("state", "cancelled"), [("failed", ["j"]), (None, ["j"]), ("deferred", [])])
def test_only_a_person_cancels_a_job_by_its_trigger(monkeypatch, state, cancelled):
    """A triggerer that was slow loses its triggers to another one, which Airflow takes for the act of a person."""
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    found = {"r": {"t": state}} if state else {}
    monkeypatch.setattr(RuntimeTaskInstance, "get_task_states", staticmethod(lambda **names: found))
    monkeypatch.setattr(Fake, "cancelled", [])
    handle = Submission("j", factories.attempt(cluster="c"), None)
    made = deferral.EndOfJob(**deferral.kept(Fake(), handle, 0, None))
    made._task_instance = SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=-1)

    async def kill():
        killing = asyncio.create_task(made.on_kill())
        await asyncio.sleep(0)
        killing.cancel()  # as Airflow does every second until the trigger has ended
        with pytest.raises(asyncio.CancelledError):
            await killing
        await asyncio.gather(*deferral.ENDING)

    asyncio.run(kill())
    assert Fake.cancelled == cancelled


def test_trigger_of_another_version_of_the_library_is_understood():
    handle = Submission("j", factories.attempt(cluster="c"), None)
    kept = deferral.kept(Fake(poll_seconds=3), handle, 0, None)
    kept = {**kept, "options": {**kept["options"], "new": 1}, "attempt": {**kept["attempt"], "new": 1}}
    del kept["options"]["history"]
    runtime, found = deferral.restored(kept)
    assert runtime == dataclasses.replace(Fake(), poll_seconds=3)
    assert found == handle._replace(client="client")


def test_triggerer_that_cannot_wait_fails_the_task_with_its_reason(tmp_path):
    pushed = {}
    names = {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": -1, "try_number": 1}
    instance = SimpleNamespace(**names, start_date=datetime.now(UTC), log_url="http://airflow/log")
    instance.xcom_push = pushed.__setitem__
    dag = SimpleNamespace(user_defined_macros={"lake": f"file://{tmp_path}"})
    options = {"predecessors": {}, "parameters": {}, "request": {}, "cluster": None, "declarations": {}}
    task = JobOperator(task_id="t", job="toy", runtime=Fake(), lake=f"file://{tmp_path}", **options)
    context = {"ti": instance, "dag": dag, "task": task, "dag_run": SimpleNamespace(start_date=None, conf={})}
    kwargs = {
        "error": "Trigger failure",
        "traceback": ["Traceback:\n", "ModuleNotFoundError: No module named 'tandem'\n"],
    }
    with pytest.raises(AirflowException, match="could not wait for the job: ModuleNotFoundError: No module named"):
        task.resume_execution("__fail__", kwargs, context)
    account = json.loads((tmp_path / "intermediate/d/r/t/attempt-1/scheduler.json").read_text())
    assert (account["state"], account["reason"]) == ("failed", pushed["failure"])
    with pytest.raises(AirflowException, match="could not wait for the job: it did not answer in time; see that it ru"):
        task.resume_execution("__fail__", {"error": "Trigger timeout"}, context)


def test_account_of_an_attempt_that_waited_keeps_its_beginning_and_links(tmp_path):
    names = {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": -1, "try_number": 1}
    instance = SimpleNamespace(**names, start_date=datetime.now(UTC), log_url="http://airflow/log")
    dag = SimpleNamespace(user_defined_macros={"lake": f"file://{tmp_path}"})
    render = SimpleNamespace(render_template=lambda text, context: text)
    context = {"ti": instance, "dag": dag, "task": render, "dag_run": None}
    with recording(context, "toy", "emr") as account:
        began = instance.start_date
        account.links["Cluster"] = "j-1"
        kept = dataclasses.asdict(account)
    instance.start_date = datetime(2100, 1, 1, tzinfo=UTC)
    with recording(context, "toy", "emr", kept):
        pass
    written = json.loads((tmp_path / "intermediate/d/r/t/attempt-1/scheduler.json").read_text())
    assert (datetime.fromisoformat(written["began"]), written["links"]) == (began, {"Cluster": "j-1"})


@pytest.mark.parametrize("other", [{"number": 1}, {"run_id": "other"}, {"task_id": "other"}])
def test_event_of_another_attempt_lets_the_task_find_its_own_job_again(other, monkeypatch):
    options = {"predecessors": {}, "parameters": {}, "request": {}, "cluster": None, "declarations": {}}
    task = JobOperator(task_id="t", job="toy", runtime=Fake(), lake="s3://b/l", **options)
    monkeypatch.setattr(JobOperator, "execute", lambda self, context: "submitted again")
    instance = SimpleNamespace(dag_id="d", run_id="r", task_id="t", try_number=2)
    context = {"ti": instance, "dag_run": SimpleNamespace(start_date=None, conf={})}
    attempt = factories.attempt(**{"number": 2, **other})
    kept = deferral.kept(Fake(), Submission("j", attempt, None), 0, None)
    assert task.resume(context, {**kept, "end": {}, "account": {}}) == "submitted again"

"""Two deployments at once, stopped at every step: nothing that reported success is lost, nothing stays half done."""

import contextlib
import io
import json
import multiprocessing
import threading
import urllib.error
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.errors import TaskError
from common.handover import storage
from tools.deploy import deploy_dags, releases, rollback_jobs
from tools.deploy.releases import Release
from tools.packaging import build

STEPS = 12  # more than a deployment takes: reads and writes of lake and Airflow


class Killed(Exception):
    """A process that ends where it stands."""


class Variables:
    """Airflow's interface for variables: what is written last holds, without a condition."""

    url = "http://airflow"

    def __init__(self) -> None:
        self.variable: dict | None = None

    def ask(self, path: str, body: dict | None = None, method: str | None = None) -> dict:
        pause()
        if body is None and self.variable is None:
            raise error(404)
        if body and method is None and self.variable is not None:
            raise error(409)
        if body:
            self.variable = body
        return dict(self.variable or {})


def error(code: int) -> urllib.error.HTTPError:
    return urllib.error.HTTPError("http://airflow", code, "", None, io.BytesIO())  # type: ignore[arg-type]


turns = threading.local()


def pause() -> None:
    """Let the other deployment run, or end this one, where the test says so."""
    if plan := getattr(turns, "plan", None):
        plan()


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    for name in ("read", "replace", "files"):
        there = getattr(storage, name)
        monkeypatch.setattr(storage, name, stepped(there))


def stepped(function: Callable) -> Callable:
    """A verb of the storage as one step: a conditional write is none to stop in."""

    def call(*arguments):
        pause()
        turns.plan, plan = None, getattr(turns, "plan", None)
        try:
            return function(*arguments)
        finally:
            turns.plan = plan

    return call


def at(step: int, act: Callable[[], None]) -> Callable[[], None]:
    """A plan that acts before one step of a deployment."""
    left = iter([False] * step + [True])

    def plan() -> None:
        if next(left, False):
            turns.plan = None
            act()
            turns.plan = plan

    return plan


def planned(plan: Callable[[], None] | None, act: Callable[[], None]) -> None:
    """Do something by a plan."""
    turns.plan = plan
    try:
        act()
    finally:
        turns.plan = None


def kill() -> None:
    raise Killed


def deploy(lake: str, server: Variables, job: str, fingerprint: str = "1") -> Release:
    """What `make deploy-jobs JOB=…` does once the products are there."""
    seen, tag = releases.current(lake, server)
    release = releases.record(lake, seen.jobs | {job: fingerprint}, seen)
    releases.switch(lake, server, release, tag)
    return release


def outcome(act: Callable[[], Release], done: dict[str, Release], name: str) -> None:
    try:
        done[name] = act()
    except TaskError as failure:
        assert "meanwhile" in str(failure)


@pytest.fixture(params=["new environment", "environment of before", "second release"])
def server(request, lake) -> Variables:
    """Airflow before the two deployments: nothing in it, a release that the lake does not know, or one of the lake."""
    server = Variables()
    if request.param == "environment of before":
        server.variable = {"key": "release", "value": '{"old": "0"}', "description": "release 7"}
    if request.param == "second release":
        deploy(lake, server, "old", "0")
    return server


@pytest.mark.parametrize("step", range(STEPS))
def test_no_successful_deployment_is_lost_at_any_interleaving(lake, server, step):
    done: dict[str, Release] = {}

    def other() -> None:
        outcome(lambda: deploy(lake, server, "b"), done, "b")

    planned(at(step, other), lambda: outcome(lambda: deploy(lake, server, "a"), done, "a"))
    in_place, _ = releases.current(lake, server)
    assert done, "at least one of two deployments succeeds"
    assert set(done) <= set(in_place.jobs), "what reported success is in the release in place"
    assert releases.running(server) == in_place


@pytest.mark.parametrize("step", range(STEPS))
def test_a_deployment_after_a_killed_one_leaves_a_whole_state(lake, server, step):
    planned(at(step, kill), lambda: ended(lambda: deploy(lake, server, "a")))
    release = deploy(lake, server, "b")
    assert releases.running(server) == release == releases.current(lake, server)[0]
    if rest := {job: fingerprint for job, fingerprint in release.jobs.items() if job != "b"}:
        assert releases.before(lake, release).jobs == rest


def ended(act: Callable[[], Release]) -> None:
    with contextlib.suppress(Killed):
        act()


@pytest.mark.parametrize("step", range(STEPS))
def test_a_repeated_deployment_repairs_what_a_killed_one_left(lake, server, step):
    planned(at(step, kill), lambda: ended(lambda: deploy(lake, server, "a")))
    seen, tag = releases.current(lake, server)
    if "a" in seen.jobs and tag:
        releases.tell_airflow(lake, server)
        assert releases.running(server) == seen
    else:
        assert releases.running(server) == seen, "nothing was switched"


def test_a_late_word_to_airflow_is_corrected_by_who_said_it(lake):
    server = Variables()
    deploy(lake, server, "a")
    newer = Release(9, {"a": "2"})

    def other() -> None:
        releases.switch(lake, server, newer, releases.current(lake, server)[1])

    for step in range(STEPS):
        planned(at(step, other), lambda: releases.tell_airflow(lake, server))
        assert releases.running(server) == releases.current(lake, server)[0]


@pytest.fixture
def rollback(lake, monkeypatch) -> Callable[[Variables], tuple[Release, Release]]:
    """`make rollback-jobs` of an environment whose products are all there."""

    def roll_back(server: Variables) -> tuple[Release, Release]:
        monkeypatch.setattr(releases, "airflow", lambda said: server)
        monkeypatch.setattr(rollback_jobs.environment, "load", lambda name: SimpleNamespace())
        monkeypatch.setattr(rollback_jobs.environment, "lake", lambda said: lake)
        return rollback_jobs.roll_back("dev")

    return roll_back


@pytest.mark.parametrize("step", range(STEPS))
def test_a_rollback_beside_a_deployment_loses_neither(lake, rollback, step):
    server = Variables()
    for number in (1, 2):
        deploy(lake, server, "a", str(number))
        storage.write(f"{lake}/code/a/{number}/main.py", b"")
    done: dict[str, Release] = {}

    def other() -> None:
        outcome(lambda: deploy(lake, server, "b"), done, "deployment")

    planned(at(step, other), lambda: outcome(lambda: rollback(server)[1], done, "rollback"))
    in_place, _ = releases.current(lake, server)
    assert releases.running(server) == in_place
    assert in_place in done.values()
    if set(done) == {"deployment", "rollback"}:
        one_after_the_other = ({"a": "2"}, {"a": "1", "b": "1"})  # the deployment first, or the rollback
        assert in_place.jobs in one_after_the_other


@pytest.mark.parametrize("step", range(STEPS))
def test_a_rollback_that_is_killed_is_ended_by_the_next_deployment(lake, rollback, step):
    server = Variables()
    for number in (1, 2):
        deploy(lake, server, "a", str(number))
        storage.write(f"{lake}/code/a/{number}/main.py", b"")
    planned(at(step, kill), lambda: ended(lambda: rollback(server)[1]))
    release = deploy(lake, server, "b")
    assert releases.running(server) == releases.current(lake, server)[0] == release


def note(folder: Path, name: str) -> None:
    build.RELEASE = folder / "release.json"
    product = SimpleNamespace(job=SimpleNamespace(name=name, engine="spark"), fingerprint="1")
    for _ in range(20):
        build.note_release(product)  # type: ignore[arg-type]


def test_builds_that_run_at_once_all_note_their_product(tmp_path):
    names = [f"job_{number}" for number in range(8)]
    with multiprocessing.get_context("fork").Pool(8) as pool:
        pool.starmap(note, [(tmp_path, name) for name in names])
    assert sorted(json.loads((tmp_path / "release.json").read_text())) == names


def test_builds_of_one_bundle_at_once_keep_the_first(tmp_path):
    def second(path: str) -> bytes:
        build.stage(tmp_path / "0123", {"main.py": b"first"})
        return b"second"

    files = SimpleNamespace(items=lambda: [("main.py", second("main.py"))])
    build.stage(tmp_path / "0123", files)  # type: ignore[arg-type]
    assert (tmp_path / "0123" / "main.py").read_bytes() == b"first"


def version(folder: Path, name: str) -> Path:
    new = folder / "versions" / f".{name}" / "airflow_dags"
    new.mkdir(parents=True)
    (new / "dag.py").write_text(name)
    return new


def test_dags_of_two_deployments_at_once_are_not_both_deployed(tmp_path):
    (tmp_path / "versions" / "old").mkdir(parents=True)
    link = tmp_path / "current"
    link.symlink_to("versions/old")
    before = link.resolve()
    deploy_dags.put_in_place(version(tmp_path, "one"), "one", link, before)
    with pytest.raises(TaskError, match="version one in place meanwhile"):
        deploy_dags.put_in_place(version(tmp_path, "two"), "two", link, before)
    assert link.resolve().name == "one"
    deploy_dags.put_in_place(version(tmp_path, "again"), "one", link, before)  # the same DAGs, by both
    assert link.resolve().name == "one"

"""Concurrent deployments, stopped at every step: no reported success is lost, no state stays partial."""

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

from common.errors import ArgumentError, TaskError
from common.handover import storage
from tools.airflow_api import AirflowError
from tools.deploy import deploy_dags, releases, rollback_jobs
from tools.deploy.releases import Release
from tools.packaging import build

STEPS = 12  # more reads and writes of lake and Airflow than a deployment makes


class Killed(Exception):
    """The process ends at once."""


class Variables:
    """Airflow's interface for variables: the last write wins, without a condition."""

    url = "http://airflow"

    def __init__(self) -> None:
        self.variable: dict | None = None

    def call(self, path: str, body: dict | None = None, method: str | None = None) -> dict:
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
    """Run the plan of the test: another deployment, or the end of this one."""
    if plan := getattr(turns, "plan", None):
        plan()


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    for name in ("read", "replace", "files"):
        monkeypatch.setattr(storage, name, as_step(getattr(storage, name)))


def as_step(function: Callable) -> Callable:
    """Make a function of the storage one step: a conditional write can't stop in between."""

    def call(*arguments):
        pause()
        turns.plan, plan = None, getattr(turns, "plan", None)
        try:
            return function(*arguments)
        finally:
            turns.plan = plan

    return call


def at(step: int, act: Callable[[], None]) -> Callable[[], None]:
    """Return a plan that acts before one step of a deployment."""
    left = iter([False] * step + [True])

    def plan() -> None:
        if next(left, False):
            turns.plan = None
            act()
            turns.plan = plan

    return plan


def run_with_plan(plan: Callable[[], None] | None, act: Callable[[], None]) -> None:
    """Act while a plan runs at every step."""
    turns.plan = plan
    try:
        act()
    finally:
        turns.plan = None


def kill() -> None:
    raise Killed


def deploy(lake: str, server: Variables, job: str, fingerprint: str = "1") -> Release:
    """Release a job whose product is uploaded, as `make deploy-jobs JOB=…` does."""
    live, tag = releases.current(lake, server)
    release = releases.record(lake, live.jobs | {job: fingerprint}, live)
    releases.switch(lake, server, release, tag)
    return release


def test_airflow_that_stays_broken_is_named_with_the_live_release(lake: str) -> None:
    class Broken(Variables):
        def call(self, path: str, body: dict | None = None, method: str | None = None) -> dict:
            if body:
                raise AirflowError("Airflow does not answer.")
            return super().call(path, body, method)

    with pytest.raises(TaskError, match=r"release 1 is live, but .* rejected it \(Airflow does not answer.\)"):
        deploy(lake, Broken(), "job")


def outcome(act: Callable[[], Release], done: dict[str, Release], name: str) -> None:
    try:
        done[name] = act()
    except TaskError as failure:
        assert "concurrently" in str(failure)


@pytest.fixture(params=["new environment", "environment of before", "second release"])
def server(request, lake) -> Variables:
    """Airflow before the two deployments: empty, with a release that the lake lacks, or with one of the lake."""
    server = Variables()
    if request.param == "environment of before":
        server.variable = {"key": "release", "value": '{"old": "0"}', "description": "release 7"}
    if request.param == "second release":
        deploy(lake, server, "old", "0")
    return server


@pytest.mark.parametrize("step", range(STEPS))
def test_successful_deployment_survives_any_interleaving(lake, server, step):
    done: dict[str, Release] = {}

    def other() -> None:
        outcome(lambda: deploy(lake, server, "b"), done, "b")

    run_with_plan(at(step, other), lambda: outcome(lambda: deploy(lake, server, "a"), done, "a"))
    live, _ = releases.current(lake, server)
    assert done, "at least one of two deployments succeeds"
    assert set(done) <= set(live.jobs), "a reported success is in the live release"
    assert releases.airflow_release(server) == live


@pytest.mark.parametrize("step", range(STEPS))
def test_deployment_after_a_killed_one_is_consistent(lake, server, step):
    run_with_plan(at(step, kill), lambda: run_until_killed(lambda: deploy(lake, server, "a")))
    release = deploy(lake, server, "b")
    assert releases.airflow_release(server) == release == releases.current(lake, server)[0]
    if rest := {job: fingerprint for job, fingerprint in release.jobs.items() if job != "b"}:
        assert releases.predecessor(lake, release).jobs == rest


def run_until_killed(act: Callable[[], Release]) -> None:
    with contextlib.suppress(Killed):
        act()


@pytest.mark.parametrize("step", range(STEPS))
def test_repeated_deployment_repairs_a_killed_one(lake, server, step):
    run_with_plan(at(step, kill), lambda: run_until_killed(lambda: deploy(lake, server, "a")))
    live, tag = releases.current(lake, server)
    if "a" in live.jobs and tag:
        releases.update_airflow(lake, server)
        assert releases.airflow_release(server) == live
    else:
        assert releases.airflow_release(server) == live, "nothing was switched"


def test_stale_write_to_airflow_is_corrected_by_its_writer(lake):
    server = Variables()
    deploy(lake, server, "a")
    newer = Release(9, {"a": "2"})

    def other() -> None:
        releases.switch(lake, server, newer, releases.current(lake, server)[1])

    for step in range(STEPS):
        run_with_plan(at(step, other), lambda: releases.update_airflow(lake, server))
        assert releases.airflow_release(server) == releases.current(lake, server)[0]


@pytest.fixture
def rollback(lake, monkeypatch) -> Callable[[Variables], tuple[Release, Release]]:
    """`make rollback-jobs` of an environment that has all products."""

    def roll_back(server: Variables) -> tuple[Release, Release]:
        monkeypatch.setattr(releases, "connect", lambda settings: server)
        monkeypatch.setattr(rollback_jobs.environment, "load", lambda name: SimpleNamespace())
        monkeypatch.setattr(rollback_jobs.environment, "lake", lambda settings: lake)
        return rollback_jobs.roll_back("dev")

    return roll_back


def deployed_twice(lake: str) -> Variables:
    """Airflow after two releases of a job whose products are in the lake."""
    server = Variables()
    for number in (1, 2):
        deploy(lake, server, "a", str(number))
        storage.write(f"{lake}/code/a/{number}/main.py", b"")
    return server


@pytest.mark.parametrize("step", range(STEPS))
def test_rollback_concurrent_with_deployment_loses_neither(lake, rollback, step):
    server = deployed_twice(lake)
    done: dict[str, Release] = {}

    def other() -> None:
        outcome(lambda: deploy(lake, server, "b"), done, "deployment")

    run_with_plan(at(step, other), lambda: outcome(lambda: rollback(server)[1], done, "rollback"))
    live, _ = releases.current(lake, server)
    assert releases.airflow_release(server) == live
    assert live in done.values()
    if set(done) == {"deployment", "rollback"}:
        serial_results = ({"a": "2"}, {"a": "1", "b": "1"})  # the deployment first, or the rollback
        assert live.jobs in serial_results


@pytest.mark.parametrize("step", range(STEPS))
def test_killed_rollback_is_completed_by_the_next_deployment(lake, rollback, step):
    server = deployed_twice(lake)
    run_with_plan(at(step, kill), lambda: run_until_killed(lambda: rollback(server)[1]))
    release = deploy(lake, server, "b")
    assert releases.airflow_release(server) == releases.current(lake, server)[0] == release


def test_job_is_released_with_its_light_image(lake):
    jobs = {"count": "1", "count-light": "2", "learn": "3"}
    assert releases.select(["count"], jobs, "It") == {"count": "1", "count-light": "2"}
    assert releases.select(None, jobs, "It") == jobs
    with pytest.raises(ArgumentError, match=r"It has no job 'cuont'; it has count, learn\.$"):
        releases.select(["cuont"], jobs, "It")
    storage.write(f"{lake}/code/count/1/job.toml", b'[job]\ndescription = "Counts."\nengine = "spark"\n')
    storage.write(f"{lake}/code/count/1/fingerprint", b"1 count\n")
    described = json.loads(deploy_dags.released_catalogue(lake, {"count": "1", "count-light": "2"}))
    assert [*described] == ["count"]


def test_release_goes_live_on_any_lake(any_lake):
    server = Variables()
    files = {"main.py": b"1", "code.zip": b"2"}
    assert releases.store(files, f"{any_lake}/code/a/1")
    assert not releases.store(files, f"{any_lake}/code/a/1")
    first = releases.record(any_lake, {"a": "1"}, Release(0, {}))
    releases.switch(any_lake, server, first, None)
    live, tag = releases.current(any_lake, server)
    second = releases.record(any_lake, {"a": "2"}, live)
    releases.switch(any_lake, server, second, tag)
    assert releases.current(any_lake, server)[0] == releases.airflow_release(server) == second
    assert releases.predecessor(any_lake, second) == first
    with pytest.raises(TaskError, match="Another deployment concurrently switched to release 2"):
        releases.switch(any_lake, server, first, tag)


def record_builds(folder: Path, name: str) -> None:
    build.RELEASE = folder / "release.json"
    product = SimpleNamespace(name=name, kind="bundle", fingerprint="1")
    for _ in range(20):
        build.record_build(product)  # type: ignore[arg-type]


def test_concurrent_builds_all_record_their_product(tmp_path):
    names = [f"job_{number}" for number in range(8)]
    with multiprocessing.get_context("fork").Pool(8) as pool:
        pool.starmap(record_builds, [(tmp_path, name) for name in names])
    assert sorted(json.loads((tmp_path / "release.json").read_text())) == names


def test_concurrent_builds_of_one_bundle_keep_the_first(tmp_path):
    def second(path: str) -> bytes:
        build.stage(tmp_path / "0123", {"main.py": b"first"})
        return b"second"

    files = SimpleNamespace(items=lambda: [("main.py", second("main.py"))])
    build.stage(tmp_path / "0123", files)  # type: ignore[arg-type]
    assert (tmp_path / "0123" / "main.py").read_bytes() == b"first"

"""Garbage of a lake: unneeded, unchanged folders, deleted only with --apply; needed ones stay."""

import datetime
import functools
import os
import subprocess
import time
import uuid
from collections.abc import Callable

import pytest

from common import protocol
from common.delivery.store import VERSIONS
from common.handover import manifest, storage
from common.handover.stores import s3
from tools.lake import garbage, retention


@pytest.fixture
def object_lake(moto, monkeypatch) -> str:
    """A lake on moto's S3, whose keys are not paths: an object and a folder of one name, empty segments."""
    for name, value in {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_ENDPOINT_URL": moto}.items():
        monkeypatch.setenv(name, value)
    bucket = f"b{uuid.uuid4().hex}"
    s3.client().create_bucket(Bucket=bucket)
    return f"s3://{bucket}/lake"


@pytest.fixture
def run_retention(run_tool) -> Callable[..., subprocess.CompletedProcess]:
    return functools.partial(run_tool, "tools.lake.retention")


def put(lake: str, name: str, days: int) -> None:
    storage.write(f"{lake}/intermediate/{name}", b"12345")
    if not storage.is_remote(lake):
        file = storage.local(f"{lake}/intermediate/{name}")
        os.utime(file, (file.stat().st_mtime - days * 86_400,) * 2)


def test_unchanged_runs_are_listed_and_deleted_with_apply(lake, run_retention):
    put(lake, "dag/old/task/manifest.json", 9)
    put(lake, "dag/old/task/attempt-1/model/part-0", 10)
    put(lake, "dag/resumed/first/manifest.json", 20)
    put(lake, "dag/resumed/second/attempt-2/rows/part-0", 1)
    storage.write(f"{lake}/curated/items/all/manifest.json", b"{}")
    shown = run_retention("--lake", lake, "--days", "7")
    assert "1 of 2 runs" in shown.stdout
    assert "would be deleted by APPLY=1" in shown.stdout
    assert len(storage.files(lake)) == 5
    assert "1 of 2 runs" in run_retention("--lake", lake, "--days", "7", "--apply").stdout
    left = {file.uri.removeprefix(f"{lake}/") for file in storage.files(lake)}
    assert left == {
        "curated/items/all/manifest.json",
        "intermediate/dag/resumed/first/manifest.json",
        "intermediate/dag/resumed/second/attempt-2/rows/part-0",
    }


def test_all_files_of_runs_are_counted_on_any_lake(any_lake):
    put(any_lake, "dag/run/task/manifest.json", 0)
    put(any_lake, "dag/run/task/attempt-1/rows/part-0", 0)
    put(any_lake, "dag/other/task/manifest.json", 0)
    listed, old = garbage.find(any_lake, 0, set())
    assert {name: len(of_run) for name, of_run in listed.runs.items()} == {"dag/run": 2, "dag/other": 1}
    assert old == []


def age(uri: str, days: float) -> None:
    file = storage.local(uri)
    os.utime(file, (time.time() - days * 86_400,) * 2)


def version(lake: str, partition: str, name: str, days: float) -> str:
    """Write a version of a partition, last changed some days ago."""
    uri = f"{lake}/curated/{partition}/version={name}/part-0"
    storage.write(uri, b"12345")
    age(uri, days)
    return f"version={name}/part-0"


def partition(lake: str, name: str, *paths: str, **more) -> None:
    outputs = {"rows": {"contract": "items@2", "files": [{"path": path, "bytes": 5} for path in paths]}}
    storage.write(f"{lake}/curated/{name}/manifest.json", manifest.to_json({"outputs": outputs, **more}))


def ago(days: float) -> str:
    return (datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=days)).isoformat()


def find(lake: str, live: set[str] | None = None, days: float = 7) -> set[str]:
    """Return the names of the garbage."""
    return {each.name for each in garbage.find(lake, time.time() - days * 86_400, live or set())[1]}


@pytest.mark.parametrize("stray", ["dag", "dag/object", "dag/old", "other", "dag/old/", "dag//task/x", "./dag/x"])
def test_stray_object_does_not_delete_a_run(object_lake, stray):
    client, (bucket, prefix) = s3.client(), s3.bucket_and_key(object_lake)
    for name in ("dag/old/task/manifest.json", "dag/older/task/manifest.json"):
        document = {"started": ago(9), "parents": [], "outputs": {}}
        storage.write(f"{object_lake}/intermediate/{name}", manifest.to_json(document))
    client.put_object(Bucket=bucket, Key=f"{prefix}/intermediate/{stray}", Body=b"")
    later = time.time() + 1000  # all files are old by then
    _, old = garbage.find(object_lake, later, {"dag/older"})
    assert {each.name for each in old} == {"intermediate/dag/old"}
    for each in old:
        assert retention.delete(object_lake, each)
    left = {file.uri.removeprefix(f"{object_lake}/intermediate/") for file in storage.files(object_lake)}
    assert "dag/older/task/manifest.json" in left
    assert "dag/old/task/manifest.json" not in left


@pytest.mark.parametrize(
    ("days", "dropped", "is_garbage"),
    [
        (9, None, True),  # of an attempt that was never published
        (6, None, False),  # such an attempt may still be running
        (9, 8, True),
        (9, 6, False),  # a task may have begun to read it while it was named
        (400, 6, False),
        (400, 100, True),
    ],
)
def test_version_is_garbage_when_old_and_long_unnamed(lake, days, dropped, is_garbage):
    named = version(lake, "items/all", "now-1-aa", 400)
    version(lake, "items/all", "then-1-bb", days)
    partition(lake, "items/all", named, dropped={"version=then-1-bb": ago(dropped)} if dropped else {})
    assert find(lake) == ({"curated/items/all/version=then-1-bb"} if is_garbage else set())


def test_versions_without_a_manifest_stay(lake):
    version(lake, "events/date=2011-06-01", "a-1-aa", 400)
    storage.write(f"{lake}/raw/events/arrival=2011-06-01/version=x/part", b"")
    age(f"{lake}/raw/events/arrival=2011-06-01/version=x/part", 400)
    assert find(lake) == set()


def test_version_that_is_named_by_now_is_not_deleted(lake):
    path = version(lake, "items/all", "a-1-aa", 9)
    partition(lake, "items/all")
    _, (one,) = garbage.find(lake, time.time() - 7 * 86_400, set())
    partition(lake, "items/all", path)
    assert not retention.delete(lake, one)
    partition(lake, "items/all")
    storage.write(f"{lake}/curated/items/all/version=a-1-aa/part-1", b"")  # its process resumes
    assert not retention.delete(lake, one)
    age(f"{lake}/curated/items/all/version=a-1-aa/part-1", 9)
    assert retention.delete(lake, one)
    assert storage.files(f"{lake}/curated/items/all/version=a-1-aa") == []


def test_run_that_resumed_is_not_deleted(lake):
    put(lake, "dag/old/task/manifest.json", 9)
    _, (one,) = garbage.find(lake, time.time() - 7 * 86_400, set())
    put(lake, "dag/old/task/attempt-2/aa/rows/part-0", 0)
    assert not retention.delete(lake, one)


@pytest.mark.parametrize(("started", "dropped", "stays"), [(30, 20, True), (10, 20, False), (10, None, False)])
def test_versions_behind_a_live_product_stay(lake, started, dropped, stays):
    version(lake, "items/all", "then-1-bb", 40)
    partition(lake, "items/all", dropped={"version=then-1-bb": ago(dropped)} if dropped else {})
    parents = [{"role": "items", "uri": f"{lake}/curated/items/all/manifest.json", "digest": "sha256:0"}]
    uri = f"{lake}/intermediate/dag/live/task/manifest.json"
    storage.write(uri, manifest.to_json({"started": ago(started), "parents": parents, "outputs": {}}))
    age(uri, 8)
    assert find(lake, {"dag/live"}) == (set() if stays else {"curated/items/all/version=then-1-bb"})


def test_dropped_version_is_recorded_for_ninety_days():
    now = datetime.datetime.now(datetime.UTC)
    files = [{"path": f"version={name}/part", "bytes": 1} for name in ("a", "b")]
    document = {"outputs": {"rows": {"files": files}}, "dropped": {"version=c": ago(89), "version=d": ago(91)}}
    seen = manifest.Manifest("", document, "", "")
    dropped = manifest.dropped_versions(seen, files[1:], now)
    assert dropped == {"version=a": now.isoformat(), "version=c": document["dropped"]["version=c"]}
    assert manifest.dropped_versions(None, files, now) == {}


def test_only_folders_of_unpublished_processes_are_garbage(lake):
    key = f"{lake}/intermediate/dag/live/task"
    files = [{"path": "attempt-2/cc/rows/part-0", "bytes": 5}]
    for name in ("attempt-1/aa", "attempt-2/bb", "attempt-2/cc"):
        put(lake, f"dag/live/task/{name}/rows/part-0", 9)
    put(lake, "dag/live/task/attempt-1/failure.json", 9)
    put(lake, "dag/live/task/attempt-1/scheduler.json", 9)
    put(lake, "dag/live/report_run/run.json", 9)
    put(lake, "dag/live/never/attempt-1/dd/rows/part-0", 9)  # of a task without a manifest
    put(lake, "dag/live/task/attempt-3/ee/rows/part-0", 1)  # may be running
    document = {"started": ago(9), "parents": [], "outputs": {"rows": {"files": files}}}
    storage.write(f"{key}/manifest.json", manifest.to_json(document))
    assert find(lake, {"dag/live"}) == set(), "readers of the attempt before may be running"
    age(f"{key}/manifest.json", 8)
    found = find(lake, {"dag/live"})
    assert found == {"intermediate/dag/live/task/attempt-1/aa", "intermediate/dag/live/task/attempt-2/bb"}


def test_reports_are_deleted_by_months_after_days_of_their_own(lake, run_retention):
    folder = f"{lake}/{protocol.REPORTS}"
    for name, days in {"cards/dag/2010-06/a.html": 401, "cards/dag/2010-07/b.html": 401, "index.html": 500}.items():
        storage.write(f"{folder}/{name}", b"page")
        age(f"{folder}/{name}", days)
    storage.write(f"{folder}/cards/dag/2010-07/c.html", b"rewritten, because its run was cleared")
    put(lake, "dag/old/task/manifest.json", 9)
    assert "0 of 1 runs" in run_retention("--lake", lake, "--days", "10").stdout
    shown = run_retention("--lake", lake, "--days", "7", "--apply").stdout
    assert "1 of 1 runs" in shown
    assert "1 months of cards or records" in shown
    left = {file.uri.removeprefix(f"{folder}/") for file in storage.files(lake)}
    assert left == {"cards/dag/2010-07/b.html", "cards/dag/2010-07/c.html", "index.html"}


def test_runs_of_published_products_stay(lake, product_table, monkeypatch):
    prefix = product_table.name.removesuffix("recommendations")
    monkeypatch.setattr(retention, "delivery", lambda name: {"store": "dynamodb:", "tables": prefix})
    for name, more in {"live": {}, "gone": {"expires": 1}}.items():
        put(lake, f"dag/{name}/task/manifest.json", 9)
        uri = f"{lake}/intermediate/dag/{name}/task/manifest.json"
        assert product_table.commit({VERSIONS + name: {"manifest": uri, **more}}, {VERSIONS + name: None})
    assert retention.live_runs("dev", lake, True) == {"dag/live"}


def test_nothing_is_deleted_while_tables_are_unreachable(lake, run_retention):
    put(lake, "dag/old/task/manifest.json", 9)
    unreachable = {"DYNAMODB_ENDPOINT": "http://127.0.0.1:9", "AWS_DEFAULT_REGION": "eu-central-1"}
    unreachable |= {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
    arguments = ["--lake", lake, "--days", "7"]
    shown = run_retention(*arguments, **unreachable)
    assert "1 of 1 runs" in shown.stdout
    assert "are not known" in shown.stdout
    refused = run_retention(*arguments, "--apply", **unreachable)
    assert "nothing is deleted" in refused.stderr
    assert len(storage.files(lake)) == 1


def test_environment_sets_the_default_days(lake, run_retention):
    put(lake, "dag/run/task/manifest.json", 10)
    assert "1 of 1 runs" in run_retention("--lake", lake, "--environment", "dev").stdout
    assert "0 of 1 runs" in run_retention("--lake", lake, "--environment", "prod").stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [(["--days", "0"], "DAYS is 0, expected at least 1"), (["--environment", "pord"], "did you mean 'prod'")],
)
def test_invalid_arguments_are_refused(lake, arguments, sentence, run_retention):
    assert sentence in run_retention("--lake", lake, *arguments).stderr

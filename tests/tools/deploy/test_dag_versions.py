"""Versions of DAGs in the lake: one is the newest, the second of two deployments fails, those in use stay."""

import pytest

from common.errors import TaskError
from common.handover import storage
from tools.deploy import dag_versions


def deploy(lake, archive):
    return dag_versions.publish(lake, archive, dag_versions.current(lake))


def names(lake):
    return {file.uri.rpartition("/")[2] for file in storage.files(f"{lake}/dags")} - {"current.json"}


def test_second_of_two_concurrent_deployments_fails(lake):
    first = deploy(lake, b"first")
    before = dag_versions.current(lake)
    one = dag_versions.publish(lake, b"one", before)
    with pytest.raises(TaskError, match=f"concurrently switched to the DAGs of version {one}, so those of this"):
        dag_versions.publish(lake, b"two", before)
    assert dag_versions.current(lake)[0] == one
    assert dag_versions.publish(lake, b"one", before) == one, "the same DAGs, so no conflict"
    assert deploy(lake, b"one") == one
    again = deploy(lake, b"first")
    assert again != first, "a name is used once, so nobody deletes it while it becomes the newest"
    assert [version.partition("-")[0] for version in (first, one, again)] == ["1", "2", "3"]


def test_newest_versions_and_all_from_the_oldest_in_use_stay(lake, monkeypatch):
    monkeypatch.setattr(dag_versions, "KEPT_VERSIONS", 2)
    versions = [deploy(lake, str(number).encode()) for number in range(6)]
    dag_versions.delete_old(lake, {versions[2], versions[4]})
    assert names(lake) == {f"{version}.zip" for version in versions[2:]}
    dag_versions.delete_old(lake, set())
    assert names(lake) == {f"{version}.zip" for version in versions[4:]}

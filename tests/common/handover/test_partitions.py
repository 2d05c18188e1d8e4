"""Index of the days of a dataset: concurrent registrations are all kept."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from common.handover import partitions, storage


def test_concurrently_registered_days_are_all_kept(any_lake):
    dataset = f"{any_lake}/curated/events"
    assert partitions.registered(dataset) == []
    wanted = [{f"2011-01-{number:02}", f"2011-02-{number:02}"} for number in range(1, 9)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda each: partitions.register(dataset, each), wanted))
    assert partitions.registered(dataset) == sorted(set.union(*wanted))
    partitions.register(dataset, {"2010-12-31", "2011-01-01"})
    assert partitions.registered(dataset) == ["2010-12-31", *sorted(set.union(*wanted))]


LOST = {
    "deleted": None,
    "empty": b"",
    "cut off": b'{"days": ["2011-01-01", "2011-',
    "not UTF-8": b"\xff\xfe{}",
    "not an object": b"[]",
    "no days": b"{}",
    "not a list": b'{"days": null}',
    "an empty list": b'{"days": []}',
    "not days": b'{"days": ["yesterday"]}',
}


@pytest.mark.parametrize("content", LOST.values(), ids=LOST)
def test_lost_index_is_rebuilt_from_folders(any_lake, content):
    dataset = f"{any_lake}/curated/events"
    partitions.register(dataset, {"2011-01-01", "2011-01-02"})
    for folder in ("date=2011-01-01", "date=2011-01-02", "date=not-a-day", "_temporary"):
        storage.write(f"{dataset}/{folder}/version=a-1-b/part-0", b"x")
    if content is None:
        storage.delete_files([partitions.index_uri(dataset)])
    else:
        storage.write(partitions.index_uri(dataset), content)
    assert partitions.registered(dataset) == ["2011-01-01", "2011-01-02"]
    partitions.register(dataset, {"2011-01-03"})
    assert json.loads(storage.read(partitions.index_uri(dataset))[0])["days"] == [
        "2011-01-01",
        "2011-01-02",
        "2011-01-03",
    ]


def test_intact_index_avoids_listing(any_lake, monkeypatch):
    dataset = f"{any_lake}/curated/events"
    partitions.register(dataset, {"2011-01-01"})
    monkeypatch.setattr(storage, "folders", lambda folder: pytest.fail("listed"))
    assert partitions.registered(dataset) == ["2011-01-01"]
    partitions.register(dataset, {"2011-01-02"})


def test_dataset_without_days_has_no_index(any_lake):
    partitions.register(f"{any_lake}/curated/events", set())
    assert storage.files(any_lake) == []

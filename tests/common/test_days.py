"""The days of a dataset: none is lost, whoever notes some at the same time."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from common import days, s3, storage


def test_days_that_several_tasks_note_at_the_same_time_are_all_noted(any_lake):
    dataset = f"{any_lake}/curated/events"
    assert days.noted(dataset) == []
    wanted = [{f"2011-01-{number:02}", f"2011-02-{number:02}"} for number in range(1, 9)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda each: days.note(dataset, each), wanted))
    assert days.noted(dataset) == sorted(set.union(*wanted))
    days.note(dataset, {"2010-12-31", "2011-01-01"})
    assert days.noted(dataset) == ["2010-12-31", *sorted(set.union(*wanted))]


def delete(uri):
    if storage.is_s3(uri):
        bucket, key = s3.bucket_and_key(uri)
        s3.client().delete_object(Bucket=bucket, Key=key)
    else:
        storage.local(uri).unlink()


LOST = {
    "deleted": None,
    "empty": b"",
    "cut off": b'{"days": ["2011-01-01", "2011-',
    "no UTF-8": b"\xff\xfe{}",
    "no document": b"[]",
    "no days": b"{}",
    "not a list": b'{"days": null}',
    "an empty list": b'{"days": []}',
    "not days": b'{"days": ["yesterday"]}',
}


@pytest.mark.parametrize("content", LOST.values(), ids=LOST)
def test_lost_index_is_rebuilt_never_taken_for_empty(any_lake, content):
    dataset = f"{any_lake}/curated/events"
    days.note(dataset, {"2011-01-01", "2011-01-02"})
    for folder in ("date=2011-01-01", "date=2011-01-02", "date=not-a-day", "_temporary"):
        storage.write(f"{dataset}/{folder}/version=a-1-b/part-0", b"x")
    if content is None:
        delete(days.document(dataset))
    else:
        storage.write(days.document(dataset), content)
    assert days.noted(dataset) == ["2011-01-01", "2011-01-02"]
    days.note(dataset, {"2011-01-03"})
    assert json.loads(storage.read(days.document(dataset))[0])["days"] == ["2011-01-01", "2011-01-02", "2011-01-03"]


def test_intact_index_is_not_listed(any_lake, monkeypatch):
    dataset = f"{any_lake}/curated/events"
    days.note(dataset, {"2011-01-01"})
    monkeypatch.setattr(storage, "folders", lambda folder: pytest.fail("listed"))
    assert days.noted(dataset) == ["2011-01-01"]
    days.note(dataset, {"2011-01-02"})


def test_dataset_without_days_has_no_index(any_lake):
    days.note(f"{any_lake}/curated/events", set())
    assert storage.files(any_lake) == []

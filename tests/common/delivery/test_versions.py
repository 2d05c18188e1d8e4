"""Rollback to earlier versions, and their expiry."""

import datetime
import itertools

import pytest
from published_versions import BUCKETS, begin, items_that_show, lasting, publish, retire, shown

from common.delivery import versions, writer
from common.delivery.dynamodb.store import DynamoDB
from common.errors import StaleAttempt, TaskError

AT_ONCE, LONG = datetime.timedelta(0), datetime.timedelta(days=14)


def test_each_rollback_shows_the_version_shown_before(product_table: DynamoDB) -> None:
    for name in ("a", "b", "c"):
        publish(product_table, name)
    left, found = versions.roll_back(product_table)
    assert (left["version"], found["version"]) == ("c", "b")
    assert (shown(product_table), shown(product_table, "nobody")) == ("b", "B")
    publish(product_table, "d")
    versions.roll_back(product_table)
    assert shown(product_table) == "b"  # not c, which was rolled back
    versions.roll_back(product_table)
    assert shown(product_table) == "a"
    with pytest.raises(TaskError, match="has no earlier version to roll back to"):
        versions.roll_back(product_table)
    live = versions.pointer(product_table)
    assert live
    assert "expires" not in live.values


def test_rollback_to_a_version_about_to_expire_fails(product_table: DynamoDB) -> None:
    for name in ("a", "b"):
        publish(product_table, name)
    retire(product_table, versions.GRACE / 2)
    with pytest.raises(TaskError, match=r"Version a of .* is no longer kept"):
        versions.roll_back(product_table)
    assert shown(product_table) == "b"


def test_only_replaced_versions_past_their_days_expire(product_table: DynamoDB) -> None:
    begin(product_table, "0")  # never switched to: its task was abandoned
    for name in ("a", "b", "c"):
        publish(product_table, name)
    assert retire(product_table, LONG) == 0
    versions.roll_back(product_table)
    assert retire(product_table, AT_ONCE) == 0  # dates stay; the live version and newer ones get none
    publish(product_table, "d")
    begin(product_table, "e")  # still being written
    retire(product_table, AT_ONCE)
    assert lasting(product_table) == dict.fromkeys("0abcde", 1)
    assert retire(product_table, AT_ONCE) == 2  # b and c; a and the abandoned version have a fortnight
    assert lasting(product_table) == dict.fromkeys("0ade", 1)
    assert retire(product_table, AT_ONCE) == 0
    assert shown(product_table) == "d"


def test_interrupted_expiry_resumes(product_table: DynamoDB, monkeypatch) -> None:
    for name in ("a", "b"):
        publish(product_table, name, users=60)
    retire(product_table, AT_ONCE)
    expire, calls = DynamoDB.expire, itertools.count()

    def stopping(*arguments, **more) -> int:
        if next(calls) == 5:
            raise KeyboardInterrupt
        return expire(*arguments, **more)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(DynamoDB, "expire", stopping)
        retire(product_table, AT_ONCE)
    left = lasting(product_table)
    assert 0 < left["a"] < 60
    assert retire(product_table, AT_ONCE) == left["a"]
    assert lasting(product_table) == {"b": 60}


def test_expiring_items_are_written_again(product_table: DynamoDB) -> None:
    for name in ("a", "b"):
        publish(product_table, name)
    for _ in range(2):
        retire(product_table, AT_ONCE)
    assert lasting(product_table) == {"b": 1}
    written = writer.write(product_table, items_that_show("a"), "a", BUCKETS, True, lambda done: None)
    assert (written["written"], written["found"]) == (1, 0)
    assert lasting(product_table) == {"a": 1, "b": 1}


def test_retired_version_is_remembered_for_a_while(product_table: DynamoDB, monkeypatch) -> None:
    for name in ("a", "b"):
        publish(product_table, name)
    retire(product_table, AT_ONCE)
    monkeypatch.setattr(versions, "REMEMBERED", -LONG)  # as a fortnight later
    retire(product_table, AT_ONCE)
    version = {"version": "a", "computed": "a", "buckets": BUCKETS}
    versions.announce(product_table, version)
    with pytest.raises(StaleAttempt, match=r"Version a .* was refused, or left to expire"):
        versions.refuse_retired(product_table, version)
    retire(product_table, AT_ONCE)
    assert product_table.versions().keys() == {"b"}


def test_items_written_while_their_version_expires_go_next_time(product_table: DynamoDB, monkeypatch) -> None:
    for name in ("a", "b"):
        publish(product_table, name)
    retire(product_table, AT_ONCE)
    remove = versions.remove

    def remove_and_be_late(*arguments) -> None:
        remove(*arguments)
        writer.write(product_table, items_that_show("a"), "a", BUCKETS, True, lambda done: None)
        versions.abandon(product_table, {"version": "a", "computed": "a", "buckets": BUCKETS})

    with monkeypatch.context() as patch:
        patch.setattr(versions, "remove", remove_and_be_late)
        retire(product_table, AT_ONCE)
    assert lasting(product_table) == {"a": 1, "b": 1}
    retire(product_table, AT_ONCE)
    assert lasting(product_table) == {"b": 1}


def test_switch_to_a_retired_version_is_fenced(product_table: DynamoDB) -> None:
    publish(product_table, "a")
    version = begin(product_table, "b")
    versions.abandon(product_table, version)  # changes nothing: it is listed
    seen = versions.pointer(product_table)
    for name in ("kept_until", "retired"):
        entry = versions.listed(product_table, "b")
        assert entry
        assert versions.mark(product_table, seen, entry, datetime.datetime.now(datetime.UTC), name)
    with pytest.raises(StaleAttempt, match="or left to expire before it was complete"):
        versions.switch(product_table, version, seen)
    assert shown(product_table) == "a"


def test_mark_is_refused_once_the_pointer_or_the_version_changed(product_table: DynamoDB) -> None:
    now = datetime.datetime.now(datetime.UTC)
    for name in ("a", "b"):
        publish(product_table, name)
    seen, entry = versions.pointer(product_table), versions.listed(product_table, "a")
    assert seen
    assert entry
    assert versions.mark(product_table, seen, entry, now, "kept_until")
    assert not versions.mark(product_table, seen, entry, now, "kept_until")
    publish(product_table, "c")
    entry = versions.listed(product_table, "a")
    assert entry
    assert not versions.mark(product_table, seen, entry, now, "retired")

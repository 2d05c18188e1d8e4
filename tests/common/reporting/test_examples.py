"""Examples of a card: users and items by name, now and in the former run; what is gone gives less, no error."""

import datetime
import zlib

import pytest
from run_lake import RunLake

from common.handover import storage
from common.reporting import examples
from common.reporting.examples import Had, Shown, item_examples, user_examples
from common.reporting.record import Record, TaskSummary

MOMENT = datetime.datetime(2011, 8, 31, 9, tzinfo=datetime.UTC)
TASKS = ["pairs", "select", "similar"]


def by_hash(names):
    return min(names, key=lambda name: zlib.crc32(name.encode()))


USERS = [f"user {number}" for number in range(10)]  # number + 1 items each
LISTED = [user for user in USERS if user != by_hash(USERS)]
NEW = by_hash(LISTED[6:])


def record(run, dag="daily"):
    tasks = [TaskSummary(task, "succeeded", job="a_job") for task in TASKS]
    return Record(1, "test", dag, run, "manual", MOMENT, "succeeded", tasks=tasks)


def pairs_of(number):
    times = [MOMENT - datetime.timedelta(days=item) for item in range(number + 1)]
    return [
        {"user_id": USERS[number], "item_id": f"i{item}", "events": item + 1, "weight": 1.0, "last_time": time}
        for item, time in enumerate(times)
    ]


def shown_to(user, name, reason="bought before"):
    ranks = {2: "new", 1: "mixed"}
    return [
        {
            "user_id": user,
            "style": style,
            "rank": rank,
            "item_id": name,
            "item_name": f"{name} {rank}",
            "reason": reason,
        }
        for rank, style in ranks.items()
    ]


@pytest.fixture
def shop(lake):
    """A lake with two runs: a user never had rows, one had none in the first, which showed others in reverse order."""
    made = RunLake(lake)
    items = [{"item_id": f"i{number}", "name": f"Item {number}" if number else None} for number in range(4)]
    catalogue = made.partition("curated/items/all", "items/r/items", made.rows("curated/items/all", "items@2", items))
    for run, name, users in (
        ("first", "old", [user for user in LISTED[::-1] if user != NEW]),
        ("second", "new", [*LISTED, None]),
    ):
        folder = f"intermediate/daily/{run}"
        pairs = made.rows(
            f"{folder}/pairs", "interactions@2", [pair for number in range(10) for pair in pairs_of(number)], []
        )
        made.task(f"daily/{run}/pairs", outputs={"pairs": pairs})
        rows = [row for user in users for row in shown_to(user, name)]
        output = made.rows(f"{folder}/select/map-0", "recommendations@2", rows)
        made.task(f"daily/{run}/select", [catalogue], {"rows": output}, map_index=0, shards=2, role="items")
        similar = [
            {
                "item_id": item,
                "rank": rank,
                "similar_item_id": "x",
                "similar_item_name": f"{name} {rank}",
                "reason": why,
            }
            for item, why in (("i0", "by users"), ("i1", "by users"), ("i2", "by name"))
            for rank in (2, 1)
        ]
        made.task(f"daily/{run}/similar", [], {"rows": made.rows(f"{folder}/similar", "similar_items@1", similar)})
    return made


def test_users_with_few_some_and_many_items_are_shown_by_name(shop):
    found = user_examples(shop.root, record("second"), record("first"))
    assert [each.user for each in found] == [by_hash(LISTED[:3]), by_hash(LISTED[3:6]), NEW]
    last = found[-1]
    assert last.had_in_all == int(last.user.removeprefix("user ")) + 1
    assert last.had[:2] == [Had("i0", 1, MOMENT), Had("Item 1", 2, MOMENT - datetime.timedelta(days=1))]
    assert len(last.had) == 5
    assert last.now == [Shown(1, "new 1", "mixed", "bought before"), Shown(2, "new 2", "new", "bought before")]
    assert [each.item for each in found[0].yesterday] == ["old 1", "old 2"]
    assert last.yesterday == []


def test_item_of_each_reason_is_shown(shop):
    found = item_examples(shop.root, record("second"), record("first"))
    assert [each.now for each in found] == [
        [Shown(1, "new 1", reason=why), Shown(2, "new 2", reason=why)] for why in ("by users", "by name")
    ]
    assert found[0].item in ("i0", "i1")
    assert [each.item for each in found[1].yesterday] == ["old 1", "old 2"]


def test_what_is_gone_gives_less(shop):
    now, before = record("second"), record("first")
    storage.delete(f"{shop.root}/curated")
    storage.delete(f"{shop.root}/intermediate/daily/first")
    found = user_examples(shop.root, now, before)
    assert [each.yesterday for each in found] == [None] * 3
    assert found[-1].had[1].item == "i1"  # without the catalogue
    assert item_examples(shop.root, now, None)[0].yesterday is None
    storage.delete(f"{shop.root}/intermediate/daily/second/select/map-0/attempt-1")
    storage.delete(f"{shop.root}/intermediate/daily/second/similar/attempt-1")
    assert user_examples(shop.root, now, before) == item_examples(shop.root, now, before) == []
    assert user_examples(shop.root, record("second", "other"), None) == []


def test_only_first_rows_are_read_and_no_key_is_cut(shop, monkeypatch):
    monkeypatch.setattr(examples, "FIRST_ROWS", 5)  # of the third user not all
    monkeypatch.setattr(examples, "BATCH", 1)
    found = user_examples(shop.root, record("second"), record("first"))
    assert {each.user for each in found} == set(USERS[:2]) & set(LISTED)
    for each in found:
        assert len(each.now) == 2
        assert each.had_in_all == USERS.index(each.user) + 1
        assert each.yesterday is None  # in the first run the first rows are of others

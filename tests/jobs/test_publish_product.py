"""Publications as frontends see them, on moto's server."""

import dataclasses
import datetime
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from recommending_lake import JOBS, Lake, table

from common.delivery import patience, versions, writer
from common.delivery.dynamodb.store import BATCH, DynamoDB
from common.delivery.json_values import packed
from common.engines import arrow
from jobs.publish_product import main as publishing
from jobs.write_product import main as writing
from tools.deploy import aws_policy

CONTRACT = "recommendations@2"
Lists = dict[str | None, list[str]]
STORE = ["--set", "store=dynamodb:"]


class Shop:
    """Runs of write_product and publish_product into one table, each from a lake with fresh recommendations."""

    def __init__(self, folder: Path, store: DynamoDB) -> None:
        self.folder = folder
        self.store = store
        self.numbers = itertools.count()

    def lake(self, lists: Lists, buckets: bool = False, **changes: Any) -> Lake:
        """Return a lake with lists of items by user; `changes` override columns in all rows."""
        rows = [
            {
                "user_id": user,
                "style": "mixed",
                "rank": rank,
                "item_id": item,
                "item_name": item.upper(),
                "score": 0.1,
                **changes,
            }
            for user, items in lists.items()
            for rank, item in enumerate(items, 1)
        ]
        lake = Lake(self.folder / str(next(self.numbers)))
        if buckets:
            content = table(CONTRACT, rows)
            lake.write("select", CONTRACT, lambda task: arrow.write_buckets(task, "rows", content, "user_id"))
        else:
            lake.put("select", CONTRACT, table(CONTRACT, rows))
        time.sleep(0.002)  # the next one is computed later
        return lake

    def run(self, lake: Lake, *arguments: str, attempt: str = "1") -> int:
        """Write the only shard and publish it, with these arguments of publish_product; return the exit code."""
        return self.write(lake, attempt=attempt) or self.switch(lake, *arguments, "--attempt", attempt)

    def write(self, lake: Lake, shard: int = 0, shards: int = 1, attempt: str = "1") -> int:
        return lake.run("write_product", *self.arguments(shards), "--attempt", attempt, map_index=shard)

    def switch(self, lake: Lake, *arguments: str) -> int:
        return lake.run("publish_product", "--from", "parts=write_product", *arguments)

    def arguments(self, shards: int = 1) -> list[str]:
        """Return the arguments of write_product."""
        prefix = self.store.name.removesuffix("recommendations")
        return ["--from", "product=select", "--set", f"tables={prefix}", "--set", f"shards={shards}", *STORE]

    def publish(self, lists: Lists, *arguments: str, **changes: Any) -> int:
        return self.run(self.lake(lists, **changes), *arguments)

    def shown(self, user: str) -> list[str] | None:
        rows = self.store.shown(user)
        return rows and [row["item_id"] for row in rows]

    def items(self) -> list[dict[str, Any]]:
        """Return all items of the table."""
        pages = self.store.client.get_paginator("scan").paginate(TableName=self.store.name)
        return [item for page in pages for item in page["Items"]]

    def lasting(self) -> list[dict[str, Any]]:
        return sorted((item for item in self.items() if "expires" not in item), key=str)


@pytest.fixture
def shop(tmp_path: Path, product_table: DynamoDB) -> Shop:
    return Shop(tmp_path, product_table)


def users(count: int, items: str = "abcde", first: int = 0) -> Lists:
    """Return a default row and `count` users with the same list."""
    return {None: ["default"], **{f"user-{number}": list(items) for number in range(first, first + count)}}


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.splitlines()[-1]


def test_read_takes_two_gets_and_defaults_for_unlisted_keys(shop: Shop) -> None:
    assert shop.shown("a") is None
    assert shop.publish({None: ["cup"], "a": ["lamp", "cup"], "ü": ["pot"]}) == 0
    gets = []
    shop.store.client.meta.events.register("before-send.dynamodb", lambda request, **_: gets.append(request.headers))
    assert shop.shown("a") == ["lamp", "cup"]
    assert [headers["X-Amz-Target"] for headers in gets] == [b"DynamoDB_20120810.GetItem"] * 2
    assert (shop.shown("ü"), shop.shown("nobody")) == (["pot"], ["cup"])
    shown = {"style": "mixed", "item_id": "pot", "item_name": "POT", "score": 0.1, "reason": None}
    assert shop.store.shown("ü") == [shown]


def test_next_version_replaces_the_previous_one_entirely(shop: Shop) -> None:
    assert shop.publish({None: ["cup"], "a": ["lamp", "cup"], "b": ["pot"]}) == 0
    assert shop.publish({None: ["pot"], "a": ["cup", "pot"], "c": ["cup"]}) == 0
    assert [shop.shown(user) for user in "abc"] == [["cup", "pot"], ["pot"], ["cup"]]


@pytest.mark.parametrize(
    ("lists", "arguments", "complaint"),
    [
        (users(7), [], "has 7 keys, 30% fewer than the 10 of the live version; max_key_drop allows 20%"),
        (users(10, "fghij"), [], "have 0% in common with the live version"),
        (users(10, "afghi"), ["--set", "min_overlap=0.21"], "20% in common .* min_overlap requires 21%"),
        (
            {**users(5), **{f"new-{number}": ["default"] for number in range(6)}},
            [],
            "6 of 11 users get only the default rows .* 55%; max_default_share allows 50%",
        ),
        ({}, [], "has no rows, so nothing is published"),
    ],
    ids=["users", "lists", "lists by parameter", "default rows", "nothing"],
)
def test_guard_refuses_before_the_switch_and_the_refused_version_expires(
    shop: Shop, capsys: pytest.CaptureFixture[str], lists: Lists, arguments: list[str], complaint: str
) -> None:
    assert shop.publish(users(10)) == 0
    before = shop.lasting()
    assert shop.publish(lists, *arguments) == 4
    assert re.search(complaint, last_line(capsys))
    assert shop.lasting() == before


def test_parameters_relax_the_guard(shop: Shop) -> None:
    assert shop.publish(users(10)) == 0
    assert shop.publish(users(8)) == 0
    limits = ("max_key_drop=0.5", "min_overlap=0", "max_default_share=1")
    assert shop.publish(users(4, "x"), *(part for limit in limits for part in ("--set", limit))) == 0
    assert shop.shown("user-0") == ["x"]


def test_users_without_rows_count_as_users_with_default_rows(shop: Shop, capsys) -> None:
    lake = Lake(shop.folder / "counted")
    rows = [
        {
            "user_id": "a",
            "style": "mixed",
            "rank": 1,
            "item_id": "cup",
            "item_name": "CUP",
            "score": 0.1,
            "reason": None,
        }
    ]

    def select(task):
        task.metrics["users_with_default_rows_only"] = 2
        arrow.write(task, "rows", table(CONTRACT, rows))

    lake.write("select", CONTRACT, select)
    assert shop.run(lake) == 4
    assert "2 of 3 users get only the default rows" in last_line(capsys)


def test_only_country_may_have_the_rows_of_all_countries(shop: Shop) -> None:
    lake, contract = Lake(shop.folder / "trending"), "trending_items@2"
    row = {"rank": 1, "item_id": "cup", "item_name": "CUP", "score": 1, "people": 3}
    row |= {"weighted_people": 2, "expected_people": 1}
    lake.put("select", contract, table(contract, [{**row, "segment": name} for name in (None, "country=France")]))
    name = shop.store.name.replace("recommendations", "trending_items")
    dataclasses.replace(shop.store, name=name).create(None)
    assert shop.run(lake) == 0


def test_version_computed_before_the_live_one_is_fenced(shop: Shop, capsys) -> None:
    older, newer = shop.lake(users(3, "a")), shop.lake(users(3, "ab"))
    assert shop.run(newer) == 0
    before = shop.items()
    assert shop.run(older) == 5
    assert "shows a newer one" in last_line(capsys)
    assert len(shop.items()) == len(before)
    assert shop.shown("user-0") == ["a", "b"]


@pytest.mark.parametrize(("other", "exit_code", "shown"), [("newer", 5, "c"), ("older", 1, "a")])
def test_pointer_that_moved_after_the_guard_is_left_unchanged(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, other: str, exit_code: int, shown: str
) -> None:
    lakes = {"older": shop.lake(users(3, "a")), "own": shop.lake(users(3, "b")), "newer": shop.lake(users(3, "c"))}
    loose = ["--set", "min_overlap=0"]
    with monkeypatch.context() as patch:

        def guard_and_be_overtaken(*arguments: Any) -> None:
            patch.setattr(publishing, "guard", guard)
            assert shop.run(lakes[other], *loose) == 0
            guard(*arguments)

        guard = publishing.guard
        patch.setattr(publishing, "guard", guard_and_be_overtaken)
        assert shop.run(lakes["own"], *loose) == exit_code
    assert shop.shown("user-0") == [shown]
    if exit_code == 1:  # worth a retry
        assert shop.switch(lakes["own"], *loose, "--attempt", "2") == 0
        assert shop.shown("user-0") == ["b"]


def test_attempt_killed_after_the_switch_is_repeated_safely(shop: Shop) -> None:
    lake = shop.lake(users(3))
    for attempt in "12":
        assert shop.run(lake, attempt=attempt) == 0
    assert lake.manifest("write_product/map-0")["metrics"]["written"] == 0
    with pytest.raises(versions.TaskError, match="has no earlier version"):  # it does not follow itself
        versions.roll_back(shop.store)


def test_killed_task_resumes(shop: Shop, dynamodb: str) -> None:
    assert shop.publish(users(100, "ab")) == 0
    lake = shop.lake(users(400))
    command = [
        sys.executable,
        "-m",
        "tests.programs.write_until_killed",
        *lake.identity("write_product"),
        *shop.arguments(),
        *("--set", "parallel=2", "--map-index", "0"),
    ]
    killed = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(JOBS.parent)})
    assert killed.returncode == -signal.SIGKILL
    stored = len(shop.items()) - 100 - 3  # without the previous version, the entries and the pointer
    assert 0 < stored < 400
    assert shop.shown("user-0") == ["a", "b"]
    assert shop.run(lake, attempt="2") == 0
    metrics = lake.manifest("write_product/map-0")["metrics"]
    assert stored <= metrics["found"] <= stored + 2 * BATCH  # two batches may have been in flight
    assert metrics["written"] == 400 - metrics["found"]
    assert shop.shown("user-399") == list("abcde")


def until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.01)


SLOW_EXPIRY = """
import time
from jobs.publish_product import main as job

job.retire = lambda *arguments: (print("retiring", flush=True), time.sleep(60))
job.run(job.main)
"""


def test_sigterm_after_the_switch_names_the_published_version(shop: Shop) -> None:
    lake = shop.lake(users(3))
    assert shop.write(lake) == 0
    command = [sys.executable, "-c", SLOW_EXPIRY, *lake.identity("publish_product"), "--from", "parts=write_product"]
    environment = {**os.environ, "PYTHONPATH": str(JOBS.parent)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    assert any(line == "retiring\n" for line in process.stdout)
    process.send_signal(signal.SIGTERM)
    last = process.communicate()[1].splitlines()[-1]
    assert process.returncode == 128 + signal.SIGTERM
    live = versions.pointer(shop.store)
    assert live
    assert f"published version {live.values['version']} of {shop.store.name}" in last
    assert shop.switch(lake) == 0


def test_readers_see_whole_versions_and_never_an_older_one(shop: Shop) -> None:
    old = {None: ["old"], **{f"user-{number}": ["old", "both"] for number in range(20)}, "gone": ["old", "both"]}
    new = {None: ["new"], **{f"user-{number}": ["new", "both"] for number in range(20)}, "come": ["new", "both"]}
    assert shop.publish(old) == 0
    ended = threading.Event()
    seen: list[list[tuple[str, Any]]] = [[] for _ in range(3)]

    def read(position: int) -> None:
        turn = itertools.cycle(["user-1", "gone", "user-2", "come", "nobody"])
        while not ended.is_set():
            user = next(turn)
            seen[position].append((user, shop.shown(user)))

    threads = [threading.Thread(target=read, args=[position]) for position in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: all(seen))
    assert shop.publish(new) == 0
    until(lambda: all(reads[-1][1][0] == "new" for reads in seen))
    ended.set()
    for thread in threads:
        thread.join()
    for reads in seen:
        assert {age for _, (age, *_) in reads} == {"old", "new"}
        assert [age for _, (age, *_) in reads] == sorted((age for _, (age, *_) in reads), reverse=True)
        for user, items in reads:
            lists = new if items[0] == "new" else old
            assert items == lists.get(user, lists[None])


def write_shards(lake: Lake, shop: Shop, attempt: str = "1", only: str = "012") -> None:
    for shard in map(int, only):
        assert shop.write(lake, shard, 3, attempt) == 0


def test_shards_write_one_version_that_one_switch_shows(shop: Shop) -> None:
    lists = {**users(40), "same": ["default"]}
    lake = shop.lake(lists, buckets=True)
    write_shards(lake, shop)
    assert shop.shown("user-0") is None
    assert shop.switch(lake) == 0
    assert [shop.shown(user) for user in ("user-0", "user-39", "nobody")] == [list("abcde"), list("abcde"), ["default"]]
    parts = lake.rows("write_product").to_pylist()
    assert len({part["version"] for part in parts}) == 1
    assert all(0 < part["keys"] < 40 for part in parts)
    metrics = lake.manifest("publish_product")["metrics"]
    assert (metrics["items"], metrics["rows"]) == (41, 202)
    assert metrics["default_share"] == round(1 / 41, 4)
    following = shop.lake(users(41, "abcdx"), buckets=True)
    write_shards(following, shop)
    assert shop.switch(following) == 0
    assert following.manifest("publish_product")["metrics"]["overlap"] == pytest.approx(0.8)
    assert versions.roll_back(shop.store)[1]["items"] == 41
    assert [shop.shown(user) for user in ("user-39", "nobody")] == [list("abcde"), ["default"]]


def test_refused_shards_expire_in_all_buckets_and_are_not_published_later(shop: Shop, capsys) -> None:
    assert shop.publish(users(9)) == 0
    before = shop.lasting()
    lake = shop.lake(users(6), buckets=True)
    write_shards(lake, shop)
    assert shop.switch(lake) == 4
    assert shop.lasting() == before
    assert shop.switch(lake, "--set", "max_key_drop=1", "--attempt", "2") == 5
    assert shop.write(lake, 0, 3, "2") == 5
    assert "was refused, or left to expire before it was complete" in last_line(capsys)
    assert shop.lasting() == before


def test_shards_of_another_product_or_missing_ones_are_not_published(shop: Shop, capsys) -> None:
    lake = shop.lake(users(40), buckets=True)
    write_shards(lake, shop, only="01")
    assert shop.switch(lake) == 3
    assert "Task 'write_product' (input 'parts') has published nothing at" in last_line(capsys)
    write_shards(lake, shop, only="2")
    manifest = lake.folder / "lake/intermediate/dag/run/select/manifest.json"
    manifest.write_text(manifest.read_text().replace('"seconds"', '"secs"'))  # made anew
    write_shards(lake, shop, "2", only="1")
    assert shop.switch(lake) == 3
    assert "rerun task 'write_product' with map index 0, 2." in last_line(capsys)
    write_shards(lake, shop, "2", only="02")
    assert shop.switch(lake) == 0
    assert shop.shown("user-7") == list("abcde")


def throttled(client: Any, answers: list[str]) -> Callable[..., Any]:
    """Return a batch_write_item that processes all, half or nothing, by `answers` from the last on."""
    real = client.batch_write_item
    lock = threading.Lock()

    def batch_write_item(RequestItems: dict[str, list[Any]]) -> Any:
        with lock:
            answer = answers.pop() if answers else "all"
        if answer == "nothing":
            raise ClientError({"Error": {"Code": "ProvisionedThroughputExceededException"}}, "BatchWriteItem")
        ((name, requests),) = RequestItems.items()
        taken = requests if answer == "all" else requests[: len(requests) // 2]
        left = requests[len(taken) :]
        if taken:
            real(RequestItems={name: taken})
        return {"UnprocessedItems": {name: left} if left else {}}

    return batch_write_item


def test_unprocessed_items_of_a_throttled_table_are_resent(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    client = shop.store.client
    monkeypatch.setattr(writing, "open_store", lambda *_: shop.store)
    monkeypatch.setattr(client, "batch_write_item", throttled(client, ["half", "nothing", "half"] * 5))
    lake = shop.lake(users(300))
    assert shop.run(lake) == 0
    metrics = lake.manifest("write_product/map-0")["metrics"]
    assert metrics["written"] == 300
    assert metrics["sent_again"] > 15
    monkeypatch.setattr(patience, "PATIENCE", 0.0)
    monkeypatch.setattr(client, "batch_write_item", throttled(client, ["nothing"] * 1000))
    assert shop.publish(users(301)) == 1
    assert "because it is throttled; raise its capacity" in last_line(capsys)
    assert len(shop.items()) == 300 + 3  # two entries and the pointer


@pytest.mark.parametrize("spoilt", ["lost", "changed"])
def test_version_stored_differently_is_not_switched_to(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], spoilt: str
) -> None:
    assert shop.publish(users(5, "a")) == 0

    def write_and_spoil(*arguments: Any) -> Any:
        written = writer.write(*arguments)
        item = next(item for item in shop.items() if item["part"]["S"].startswith(arguments[2]))
        key = {name: item[name] for name in ("part", "id")}
        if spoilt == "lost":
            shop.store.client.delete_item(TableName=shop.store.name, Key=key)
        else:
            shop.store.client.put_item(TableName=shop.store.name, Item={**item, "content": {"B": packed([])}})
        return written

    monkeypatch.setattr(writing, "write", write_and_spoil)
    assert shop.publish(users(5, "ab")) == 1
    expected = "contains 4 items .* expected 5" if spoilt == "lost" else "returns other content for 'user-"
    assert re.search(expected, last_line(capsys))
    assert shop.shown("user-0") == ["a"]


def test_replaced_versions_expire_after_their_days_the_live_one_never(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    for size in (12, 11):
        assert shop.publish(users(size), "--set", "keep_days=3") == 0
    assert all("expires" not in item for item in shop.items())
    (replaced,) = (item for item in shop.items() if "kept_until" in item)
    assert replaced["items"]["N"] == "12"
    assert abs(int(replaced["kept_until"]["N"]) - time.time() - 3 * 86_400) < 3600

    over = {**replaced, "kept_until": {"N": str(int(time.time()) - 1)}}  # as three days later
    shop.store.client.put_item(TableName=shop.store.name, Item=over)
    called: set[str] = set()
    events = shop.store.client.meta.events
    events.register("before-call.dynamodb", lambda model, **_: called.add(f"dynamodb:{model.name}"))
    for job in (writing, publishing):
        monkeypatch.setattr(job, "open_store", lambda *_: shop.store)
    assert shop.run(lake := shop.lake(users(10))) == 0
    # These need the rights of their actions.
    called -= {"dynamodb:TransactWriteItems", "dynamodb:BatchExecuteStatement"}
    called |= {f"dynamodb:{name}" for name in ("ConditionCheckItem", "DeleteItem", "PutItem", "PartiQLUpdate")}
    assert called == set(aws_policy.TABLE), "the policy allows exactly the requests of the two jobs"
    assert lake.manifest("publish_product")["metrics"]["expired"] == 12
    oldest = replaced["version"]["S"]
    for item in shop.items():
        assert ("expires" in item) == (oldest in (item["id"]["S"], item["part"]["S"].partition("/")[0])), item
        late = item["part"]["S"] == "versions"  # remembered, so that no late task lists the version anew
        assert "expires" not in item or (int(item["expires"]["N"]) > time.time() + 86_400) == late
    expiry = shop.store.client.describe_time_to_live(TableName=shop.store.name)["TimeToLiveDescription"]
    assert (expiry["TimeToLiveStatus"], expiry["AttributeName"]) == ("ENABLED", "expires")


def test_product_computed_long_ago_is_published(shop: Shop) -> None:
    lake = shop.lake(users(2))
    manifest = lake.folder / "lake/intermediate/dag/run/select/manifest.json"
    document = json.loads(manifest.read_text())
    ended = datetime.datetime.fromisoformat(document["ended"]) - datetime.timedelta(days=90)
    manifest.write_text(json.dumps({**document, "ended": ended.isoformat(timespec="milliseconds")}))
    assert shop.run(lake) == 0
    assert shop.publish(users(2)) == 0
    assert all("expires" not in item for item in shop.items())


def test_key_that_cannot_be_stored_is_left_out_and_reported(shop: Shop) -> None:
    lists: Lists = {"big": [f"item-{number:05}" for number in range(400)], "small": ["a"], "": ["b"]}
    lists |= {"u" * 1025: ["c"], "\x00\x1b[31m\u2028": ["d"], "ü" * 512: ["e"], "v\n" * 600: ["f"], **users(5)}
    lake = shop.lake(lists, item_name="n" * 1000)  # DynamoDB takes up to 409,600 bytes
    assert shop.run(lake) == 0
    assert lake.manifest("publish_product")["metrics"]["items_left_out"] == 4
    assert lake.manifest("write_product/map-0")["metrics"]["unpublishable_keys"] == {
        "empty_key": {"keys": 1, "examples": ["''"]},
        "long_key": {"keys": 2, "examples": [repr("u" * 40) + "…", repr("v\n" * 20) + "…"]},
        "large_item": {"keys": 1, "examples": ["'big'"]},
    }
    assert [shop.shown(key) for key in ("big", "u" * 1025, "nobody")] == [["default"]] * 3
    assert [shop.shown(key) for key in ("small", "\x00\x1b[31m\u2028", "ü" * 512)] == [["a"], ["d"], ["e"]]
    assert shop.publish(lists, item_name="n" * 960) == 0
    assert len(shop.shown("big") or []) == 400


@pytest.mark.parametrize(
    ("long", "fine", "arguments", "exit_code"),
    [
        (1, 1, (), 0),
        (9, 9, (), 0),
        (10, 90, ("--set", "max_unpublishable_share=0.1"), 0),
        (10, 89, ("--set", "max_unpublishable_share=0.1"), 4),
        (10, 89, ("--set", "max_unpublishable_share=0.2"), 0),
        (2, 1, (), 4),
        (1, 0, (), 4),
        (20, 10, ("--set", "max_unpublishable_share=1"), 0),
    ],
)
def test_share_of_keys_that_cannot_be_stored_is_limited(
    shop: Shop, capsys, long: int, fine: int, arguments: tuple[str, ...], exit_code: int
) -> None:
    lists = {None: ["default"], **{f"{number}" * 1025: ["cup"] for number in range(long)}}
    assert shop.publish({**lists, **{f"user-{number}": ["cup"] for number in range(fine)}}, *arguments) == exit_code
    if exit_code:
        line = last_line(capsys)
        assert f"{long} of {long + fine} keys of {CONTRACT} cannot be stored (it has more than 1,024 bytes" in line
        assert f"max_unpublishable_share allows {'10%' if fine > 1 else '1%'}, so nothing is published" in line
        assert shop.lasting() == []


@pytest.mark.parametrize("changes", [{"rank": 1}, {"item_name": "n" * 205_000}])
def test_default_rows_that_cannot_be_stored_are_refused(shop: Shop, capsys, changes: dict[str, Any]) -> None:
    assert shop.publish({None: ["a", "b"], **{f"user-{n}": [] for n in range(9)}}, **changes) == 4
    line = last_line(capsys)
    assert line.startswith(f"The default rows of {CONTRACT}, those without a key, cannot be stored")
    assert shop.items() == []


@pytest.mark.parametrize(
    ("lists", "changes", "exit_code", "complaint"),
    [
        ({"a": ["cup"]}, {"score": float("nan")}, 3, "has a NaN or infinite number in 'score'"),
        ({"a": ["cup", "pot"]}, {"score": float("inf")}, 3, "has a NaN or infinite number in 'score'"),
        ({"a": ["cup"]}, {"score": 1.7e308}, 0, ""),
        ({"a": ["cup", "pot"]}, {"rank": 1}, 4, "(two rows have the same position: 1)"),
        ({"": ["cup"]}, {}, 4, "(it is empty: 1)"),
        ({"u" * 1025: ["cup"]}, {}, 4, "(it has more than 1,024 bytes: 1)"),
        ({}, {}, 4, "has no rows"),
        ({"a": ["cup"]}, {}, 0, ""),
        ({None: ["cup"]}, {}, 0, ""),
        ({"a": ["cup"]}, {"score": 1e-300}, 0, ""),
        ({"current": ["cup"], "versions": ["pot"], "'\"\\\n": ["a"]}, {}, 0, ""),
    ],
    ids=["NaN", "infinite", "large", "twice", "no key", "long key", "empty", "one user", "default", "tiny", "names"],
)
def test_bad_product_ends_in_a_sentence_and_its_exit_code(
    shop: Shop,
    capsys: pytest.CaptureFixture[str],
    lists: Lists,
    changes: dict[str, Any],
    exit_code: int,
    complaint: str,
) -> None:
    assert shop.publish(lists, **changes) == exit_code
    if complaint:
        assert complaint in last_line(capsys)
        assert shop.lasting() == []
    else:
        assert {user: shop.shown(user or "nobody") for user in lists} == lists


def test_product_of_another_contract_is_refused(shop: Shop, capsys) -> None:
    lake = Lake(shop.folder)
    rows = [
        {
            "user_id": "a",
            "style": "mixed",
            "rank": 1,
            "item_id": "cup",
            "score": 1.0,
            "explained_by_item_id": None,
            "model": "ease",
        }
    ]
    lake.put("select", "predictions@3", table("predictions@3", rows))
    assert shop.run(lake) == 3
    assert "has 0 outputs of contract recommendations@2" in last_line(capsys)


def test_missing_table_and_credentials_end_in_exit_code_2(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    shop.store = dataclasses.replace(shop.store, name=f"missing-{shop.store.name}")
    assert shop.publish(users(1)) == 2
    assert "make create-tables" in last_line(capsys)
    command = [
        sys.executable,
        str(JOBS / "write_product" / "main.py"),
        *shop.lake(users(1)).identity("write_product"),
        *("--map-index", "0"),
    ]
    nobody = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    nobody |= {"AWS_EC2_METADATA_DISABLED": "true", "HOME": str(shop.folder), "AWS_DEFAULT_REGION": "eu-central-1"}
    ended = subprocess.run([*command, *shop.arguments()], env=nobody, capture_output=True, text=True)
    assert ended.returncode == 2
    assert "expected AWS credentials and AWS_DEFAULT_REGION" in ended.stderr.splitlines()[-1]


def test_unreachable_server_is_named_and_worth_a_retry(shop: Shop, capsys, monkeypatch) -> None:
    monkeypatch.setenv("DYNAMODB_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    assert shop.publish(users(1)) == 1
    assert last_line(capsys).startswith("http://127.0.0.1:9 can't be reached; check DYNAMODB_ENDPOINT")

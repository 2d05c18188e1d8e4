"""Each store of products keeps the contract of common.delivery.store.Store, and names its errors."""

import datetime
import os
import random
import threading
import uuid
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from common.delivery import patience
from common.delivery.dynamodb.store import DynamoDB
from common.delivery.dynamodb.values import decode
from common.delivery.json_values import as_json, packed, unpacked
from common.delivery.redis.store import Redis
from common.delivery.store import POINTER, VERSIONS, Place, Store, place_of
from common.delivery.stores import open_store
from common.errors import ArgumentError, TaskError

A, B = VERSIONS + "a", VERSIONS + "b"
SECOND = datetime.timedelta(seconds=1)
KEYS = ["13132", "ü/é", "a b\nc", "*[x]{y}", "\0", "k" * 1024, "é" * 512]
NOISE = "".join(random.Random(1).choices([chr(code) for code in range(32, 127)], k=400_000))  # hardly compresses
CONTENTS = [
    [{"text": "ü\n\0😀", "none": None, "yes": True, "no": False, "number": 1.5, "whole": 7}],
    {"numbers": [1e-130, 2e20, -9.8e125, 0.1 + 0.2, -0.0, 1.0, 0, -(2**63), 2**63 - 1], "empty": [], "map": {"a": ""}},
    [{"text": NOISE}],
    [],
    {},
    [1.0],
    "text",
]


def tag(store: Store, key: str) -> str | None:
    found = store.read(key)[0]
    return found and found.tag


def places(count: int, version: str = "v") -> list[Place]:
    return [place_of(version, 3, f"user-{number}") for number in range(count)]


def test_documents_are_swapped_together_or_not_at_all(any_store: Store) -> None:
    started = datetime.datetime.now(datetime.UTC)
    found, now = any_store.read(POINTER)
    assert (found, any_store.versions()) == (None, {})
    assert started - SECOND <= now <= datetime.datetime.now(datetime.UTC) + SECOND
    values = {"version": "a", "count": 3, "share": 0.1, "content": [{"item": "ü", "none": None}]}
    assert any_store.commit({POINTER: values, A: {"x": 1}}, {POINTER: None, A: None})
    found, _ = any_store.read(POINTER)
    assert found is not None
    assert (found.values, any_store.versions()["a"].values) == (values, {"x": 1})
    first = tag(any_store, A)
    assert not any_store.commit({POINTER: {"x": 2}, B: {"x": 2}}, {POINTER: None, B: None})
    assert not any_store.commit({A: {"x": 2}}, {A: "other"})
    assert not any_store.commit({A: {"x": 2}}, {A: first, POINTER: "other"})
    assert not any_store.commit({A: {"x": 2}}, {A: first, B: "missing"})
    assert (tag(any_store, A), tag(any_store, POINTER), tag(any_store, B)) == (first, found.tag, None)
    assert any_store.commit({B: {"x": 3}, A: {"x": 1}}, {B: None, A: first, POINTER: found.tag})
    assert tag(any_store, A) not in (first, None), "a write of the same values has a new tag"
    assert [*any_store.versions()] == ["a", "b"]
    assert any_store.commit({A: None}, {A: tag(any_store, A), B: tag(any_store, B)})
    assert ([*any_store.versions()], any_store.read(A)[0], tag(any_store, POINTER)) == (["b"], None, found.tag)


def test_of_concurrent_swaps_of_a_document_one_wins(any_store: Store) -> None:
    rounds, threads = 10, 4
    barrier = threading.Barrier(threads)
    wins: list[tuple[str, int]] = []

    def compete(thread: int) -> None:
        for number in range(rounds):
            expected = tag(any_store, POINTER)
            barrier.wait()  # all have seen the same document
            own = f"{VERSIONS}{thread}"  # and nobody else writes this one
            if any_store.commit(
                {POINTER: {"by": thread}, own: {"n": number}}, {POINTER: expected, own: tag(any_store, own)}
            ):
                wins.append((own, number))
            assert any_store.commit({f"{own}-own": {"n": number}}, {f"{own}-own": tag(any_store, f"{own}-own")})
            barrier.wait()

    workers = [threading.Thread(target=compete, args=(thread,)) for thread in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(number for _, number in wins) == [*range(rounds)]
    assert any_store.read(wins[-1][0])[0].values == {"n": rounds - 1}  # type: ignore[union-attr]
    assert {f"{thread}-own" for thread in range(threads)} <= any_store.versions().keys()


def test_items_of_any_key_and_content_are_found_until_they_are_deleted(any_store: Store) -> None:
    version = uuid.uuid4().hex
    contents = {key: packed(content) for key, content in zip(KEYS, CONTENTS, strict=True)}
    items = [(place_of(version, 3, key), content) for key, content in contents.items()]
    assert any_store.put(items) == 0
    assert any_store.put(items[:1]) == 0, "a second time is the same"
    assert any_store.find([place for place, _ in items] + places(3)) == {*KEYS}
    assert any_store.get([place for place, _ in items] + places(150)) == contents
    listed = {key: content for bucket in range(3) for key, content in any_store.items(f"{version}/{bucket}")}
    assert listed == contents
    assert {*any_store.scan(None)} == {place for place, _ in items}
    any_store.erase([place for place, _ in items[:2]] + places(1))
    assert any_store.find([place for place, _ in items]) == {*KEYS[2:]}


@pytest.mark.parametrize("content", CONTENTS, ids=range(len(CONTENTS)))
def test_frontends_read_every_value_as_it_was_written(any_store: Store, content: Any) -> None:
    pointer = {"version": "v", "buckets": 3} | ({"content": content} if isinstance(content, list | dict) else {})
    assert any_store.commit({POINTER: pointer}, {POINTER: None})
    assert any_store.put([(place_of("v", 3, "user"), packed(content))]) == 0
    assert as_json(any_store.shown("user")) == as_json(content), "with the types of numbers"
    if "content" in pointer:
        assert as_json(any_store.shown("nobody")) == as_json(content)


def test_content_is_json_compressed_by_zlib(any_store: Store) -> None:
    """A frontend in any language relies on it."""
    content, place = [{"item": "ü", "score": 0.1, "rank": 1, "reason": None}], place_of("v", 3, "user")
    any_store.put([(place, packed(content))])
    assert any_store.commit({POINTER: {"version": "v", "buckets": 3, "content": content}}, {POINTER: None})
    found = read_raw(any_store, place)
    assert zlib.decompress(found) == '[{"item":"ü","score":0.1,"rank":1,"reason":null}]'.encode()


def read_raw(store: Any, place: Place) -> bytes:
    """Return the content of an item by the client of a store alone."""
    if isinstance(store, DynamoDB):
        key = {"part": {"S": place.part}, "id": {"S": place.key}}
        default = {"part": {"S": "current"}, "id": {"S": "current"}}
        found = [store.client.get_item(TableName=store.name, Key=each)["Item"]["content"] for each in (key, default)]
        assert found[0] == found[1], "one way to decode an item and the default rows"
        return bytes(found[0]["B"])
    if isinstance(store, Redis):
        return bytes(store.client.hget(f"{store.name}:{place.part}", place.key))
    version, _, bucket = place.part.partition("/")
    return bytes(store.table.read_row(f"{bucket}/{version}/{place.key}").cells[0].value)


def test_content_of_an_earlier_release_is_refused() -> None:
    for content in (b'[{"item":"a"}]', b""):
        with pytest.raises(ArgumentError, match="content of an earlier release, expected JSON compressed by zlib"):
            unpacked(content)
    with pytest.raises(ArgumentError, match="set another prefix 'tables'"):
        decode({"version": {"S": "v"}, "content": {"L": [{"M": {"item": {"S": "a"}}}]}})


def test_a_part_expires_or_is_deleted_and_others_last(any_store: Store) -> None:
    mine, others = places(130), places(60, "v2")
    for start in range(0, len(mine), 100):
        any_store.put([(place, b"x") for place in mine[start : start + 100]])
    any_store.put([(place, b"x") for place in others])
    past = int(datetime.datetime.now(datetime.UTC).timestamp()) - 10
    counts = [any_store.expire("v/0", past), any_store.delete("v/1"), any_store.expire("v/2", past)]
    assert sum(counts) == len(mine)
    assert min(counts) > 0
    assert [any_store.expire("v/0", past), any_store.delete("v/1"), any_store.expire("v/2", past)] == [0, 0, 0]
    assert (any_store.find(mine[:100]), any_store.get(mine), [*any_store.items("v/0")]) == (set(), {}, [])
    assert any_store.get(others) == {place.key: b"x" for place in others}
    any_store.put([(mine[0], b"again")])
    assert any_store.get(mine) == {mine[0].key: b"again"}


def test_creation_is_repeatable_and_nothing_is_shown_before_a_publication(any_store: Store) -> None:
    assert any_store.create(None) == []
    assert any_store.shown("user") is None
    any_store.commit({POINTER: {"version": "v", "buckets": 3}}, {POINTER: None})
    assert any_store.exists()
    assert any_store.shown("user") is None
    any_store.put([(place_of("v", 3, "user"), packed([{"item": "a"}]))])
    assert any_store.shown("user") == [{"item": "a"}]
    any_store.commit({POINTER: {"version": "v", "buckets": 3, "content": ["d"]}}, {POINTER: tag(any_store, POINTER)})
    assert [any_store.shown(key) for key in ("nobody", "", "k" * 1025)] == [["d"]] * 3


def test_missing_bigtable_table_and_server_are_named(bigtable: str, monkeypatch) -> None:
    from common.delivery.bigtable import store as module

    store = open_store(bigtable, f"t{uuid.uuid4().hex}", 1)
    assert not store.exists()
    for call in (lambda: store.read(POINTER), lambda: store.put([(places(1)[0], b"x")]), lambda: store.find(places(1))):
        with (
            pytest.raises(ArgumentError, match=r"has no table t.*; create them with make create-tables"),
            store.explained(),
        ):
            call()
    monkeypatch.setenv("BIGTABLE_EMULATOR_HOST", "127.0.0.1:1")
    monkeypatch.setattr(module, "REACH", 0.2)
    gone = open_store(bigtable, "t", 1)
    for call in (
        lambda: gone.read(POINTER),
        lambda: gone.put([(places(1)[0], b"x")]),
        lambda: gone.commit({A: {}}, {A: None}),
    ):
        with (
            pytest.raises(TaskError, match=r"on emulator 127.0.0.1:1 can't be reached; check 'store'"),
            gone.explained(),
        ):
            call()
    with pytest.raises(ArgumentError, match="expected bigtable://PROJECT/INSTANCE"):
        open_store("bigtable://project", "t", 1)
    with pytest.raises(ArgumentError, match="expected dynamodb:, bigtable://PROJECT/INSTANCE or redis:"):
        open_store("bigtabel://project/instance", "t", 1)


def test_missing_google_credentials_are_named(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.delenv("BIGTABLE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(
        ArgumentError, match=r"no Google credentials for bigtable://p/i.*GOOGLE_APPLICATION_CREDENTIALS"
    ):
        open_store("bigtable://p/i", "t", 1)


def test_throttled_rows_of_bigtable_are_repeated_with_an_end(bigtable: str, monkeypatch) -> None:
    from google.api_core.exceptions import ResourceExhausted
    from google.cloud.bigtable.data.exceptions import FailedMutationEntryError, MutationsExceptionGroup

    store: Any = open_store(bigtable, f"t{uuid.uuid4().hex}", 1)
    store.create(None)
    write, sent = store.table.bulk_mutate_rows, []

    def throttle(entries: list[Any], accepted: int) -> None:
        sent.append(len(entries))
        if accepted:
            write(entries[:accepted])
        if left := entries[accepted:]:
            errors = [
                FailedMutationEntryError(number, entry, ResourceExhausted("slow")) for number, entry in enumerate(left)
            ]
            raise MutationsExceptionGroup(errors, len(entries))

    monkeypatch.setattr(patience.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(store.table, "bulk_mutate_rows", lambda entries: throttle(entries, 4))
    assert store.put([(place, b"x") for place in places(10)]) == 6 + 2
    assert sent == [10, 6, 2]
    assert len(store.find(places(10))) == 10
    monkeypatch.setattr(patience, "PATIENCE", 0.0)
    monkeypatch.setattr(store.table, "bulk_mutate_rows", lambda entries: throttle(entries, 0))
    with pytest.raises(TaskError, match=r"accepted no requests for 0 s, because it is throttled; add nodes"):
        store.put([(place, b"x") for place in places(10)])


def test_swap_whose_response_was_lost_is_done_once(bigtable: str, redis: str, monkeypatch) -> None:
    from google.api_core.exceptions import ServiceUnavailable

    tables: Any = open_store(bigtable, f"t{uuid.uuid4().hex}", 1)
    tables.create(None)
    swap, swaps = tables.table.check_and_mutate_row, []

    def lose(*arguments: Any, **options: Any) -> bool:
        swaps.append(swap(*arguments, **options))
        raise ServiceUnavailable("connection reset")

    monkeypatch.setattr(patience.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(tables.table, "check_and_mutate_row", lose)
    assert tables.commit({A: {"x": 1}}, {A: None})
    assert tables.commit({A: {"x": 2}}, {A: tag(tables, A)})
    assert swaps == [False, True], "the second matched the generation, the first found none"
    hashes: Any = open_store(redis, f"t{uuid.uuid4().hex}", 1)
    run = hashes.client.eval
    monkeypatch.setattr(
        hashes.client, "eval", lambda *arguments: run(*arguments) and run(*arguments)
    )  # as its retry does
    assert hashes.commit({A: {"x": 1}}, {A: None})
    assert hashes.versions()["a"].values == {"x": 1}


def test_refusals_of_redis_are_named(redis: str, tmp_path: Path, monkeypatch) -> None:
    from redis.exceptions import ReadOnlyError

    monkeypatch.setattr("common.delivery.redis.store.ATTEMPTS", 1)
    right = open_store(redis, "t", 1)
    monkeypatch.setenv("REDIS_URL", "redis://:wrong@" + right.url.rpartition("@")[2])  # type: ignore[attr-defined]
    refused = open_store(redis, "t", 1)
    sentence = r"Redis at 127.0.0.1:\d+ refuses these credentials"
    with pytest.raises(ArgumentError, match=sentence) as caught, refused.explained():
        refused.read(POINTER)
    assert "wrong@" not in str(caught.value)
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")
    gone = open_store(redis, "t", 1)
    with pytest.raises(TaskError, match=r"Redis at 127.0.0.1:1 can't be reached"), gone.explained():
        gone.read(POINTER)
    monkeypatch.setenv("REDIS_URL", "127.0.0.1:1")
    with pytest.raises(ArgumentError, match="REDIS_URL can't be used"):
        open_store(redis, "t", 1).exists()
    monkeypatch.delenv("REDIS_URL")
    with pytest.raises(ArgumentError, match=r"REDIS_URL is not set, expected redis://"):
        open_store(redis, "t", 1)
    with pytest.raises(ArgumentError, match="set the address in REDIS_URL"):
        open_store("redis://127.0.0.1", "t", 1)
    answers = iter([ReadOnlyError("You can't write against a read only replica.")] * 2)

    def fail_over(*arguments: Any) -> Any:
        for error in answers:
            raise error
        return read(*arguments)

    read = right.client.eval  # type: ignore[attr-defined]
    monkeypatch.setattr(patience.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(right.client, "eval", fail_over)  # type: ignore[attr-defined]
    assert right.read(A)[0] is None


def test_redis_that_would_evict_or_is_full_is_refused(serve_redis: Callable[..., AbstractContextManager[None]]) -> None:
    with serve_redis("--maxmemory", "3mb", "--maxmemory-policy", "allkeys-lru"):
        store = open_store("redis:", "t", 1)
        for call in (lambda: store.create(None), lambda: store.put([(places(1)[0], b"x")])):
            with pytest.raises(
                ArgumentError, match=r"maxmemory-policy allkeys-lru.*set maxmemory-policy to noeviction"
            ):
                call()
    with serve_redis("--maxmemory", "3mb"):
        store = open_store("redis:", "t", 1)
        with pytest.raises(TaskError, match=r"memory of Redis at .* is full.*keep_days"), store.explained():
            for place in places(40):
                store.put([(place, b"x" * 100_000)])


def test_redis_cluster_is_one_store(serve_redis: Callable[..., AbstractContextManager[None]]) -> None:
    from redis import Redis, RedisCluster

    with serve_redis("--cluster-enabled", "yes"):
        with Redis.from_url(os.environ["REDIS_URL"]) as node:
            node.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            while "cluster_state:ok" not in str(node.execute_command("CLUSTER", "INFO")):
                pass
        store: Any = open_store("redis:", "t", 2)
        assert isinstance(store.client, RedisCluster)
        assert store.create(None) == []
        test_documents_are_swapped_together_or_not_at_all(store)
        test_items_of_any_key_and_content_are_found_until_they_are_deleted(store)
        test_a_part_expires_or_is_deleted_and_others_last(open_store("redis:", "t2", 2))

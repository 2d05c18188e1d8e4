"""The promises of docs/delivery.md on each store of products."""

import contextlib
import random
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from interruptions import Killed, check_end, end_of_retry
from publications import AT_ONCE, BUCKETS, HOUR, Interrupted, Product

from common.delivery import versions
from common.delivery.json_values import packed
from common.delivery.store import Store
from common.delivery.stores import open_store
from common.errors import TaskError
from jobs.write_product import main as writing

KILLS = 6
USERS = 40  # of a publication that is killed; more cost moto the square


@pytest.fixture
def product(tmp_path: Path, store_url: str, any_store: Store, monkeypatch: pytest.MonkeyPatch) -> Product:
    monkeypatch.setattr(writing, "bucket_count", lambda product, rows: BUCKETS)  # not 16: each costs requests
    return Product(tmp_path, store_url, any_store, monkeypatch)


def another(product: Product) -> Store:
    store = open_store(product.url, f"t{uuid.uuid4().hex}-recommendations", 4)
    store.create(None)
    return store


def killed() -> None:
    raise Killed


def test_version_is_written_beside_the_live_one_and_checked_before_the_switch(product: Product, capsys) -> None:
    product.publish("a")
    product.compute("b")
    put = product.store.put
    for spoilt in (lambda items: put(items[1:]), lambda items: put([(place, packed(["other"])) for place, _ in items])):
        with product.monkeypatch.context() as patch:
            patch.setattr(type(product.store), "put", lambda store, items, spoilt=spoilt: spoilt(items))
            assert product.run("b") == 1
        assert "the pointer was not moved, rerun the task" in capsys.readouterr().err.splitlines()[-1]
        assert product.shown() == "a"
    assert product.run("b") == 0
    assert product.shown() == "b"
    assert product.lasting() == {"a", "b"}


def test_older_versions_and_those_computed_before_a_rollback_are_fenced(product: Product, capsys) -> None:
    product.compute("older")
    product.compute("slow", age=HOUR)
    product.publish("a", "b")
    assert (product.run("older"), product.run("slow"), product.shown()) == (5, 5, "b")
    assert "shows a newer one" in capsys.readouterr().err.splitlines()[-1]
    product.compute("newer")
    versions.roll_back(product.store, "Ada")
    assert (product.run("b"), product.run("newer"), product.shown()) == (5, 5, "a")
    assert "because Ada rolled" in capsys.readouterr().err.splitlines()[-1]
    product.compute("last", age=-HOUR)  # a clock that is ahead: the store's time is taken
    assert (product.run("last"), product.shown()) == (0, "last")
    with pytest.raises(TaskError, match="has no earlier version"):
        for _ in range(3):  # to a, which follows nothing
            versions.roll_back(product.store, "Ada")
    assert product.shown() == "a"


def test_guard_refuses_and_the_items_of_the_refused_version_are_removed(product: Product) -> None:
    product.publish("a")
    product.compute("few", users=2)
    assert (product.run("few"), product.shown(), product.lasting()) == (4, "a", {"a"})
    product.compute("fewer", users=2)
    assert product.run("fewer", None, "max_key_drop=0.9") == 0
    assert (product.shown(users=2), product.metrics("fewer")["items_before"]) == ("fewer", 5)


def test_pointer_that_moves_during_a_publication_is_left(product: Product) -> None:
    product.publish("a", "b")
    for name in ("c", "newer", "last"):
        product.compute(name)
    copies = [product.copy(another(product)) for _ in range(2)]
    calls = Interrupted(product.store, -1, killed)
    assert product.run("c", calls) == 0
    switch = [number for number, name in enumerate(calls.called) if name == "commit"][2]  # listed, completed, switched
    copy = copies[0]
    assert copy.run("c", Interrupted(copy.store, switch, lambda: copy.run("newer"))) == 5
    assert copy.shown() == "newer"
    copy = copies[1]
    assert copy.run("c", Interrupted(copy.store, switch, lambda: versions.roll_back(copy.store, "Ada"))) == 5
    assert copy.shown() == "a"


def test_replaced_versions_are_removed_after_their_days_and_the_live_one_never(product: Product) -> None:
    product.publish("a", "b", "c")
    product.end_keeping()
    assert product.shown() == "c"
    product.publish("d")
    assert (product.shown(), product.lasting()) == ("d", {"c", "d"})
    product.end_keeping()
    product.compute("e")
    copy = product.copy(another(product))
    calls = Interrupted(copy.store, -1, killed)
    assert copy.run("e", calls) == 0
    for number in (number for number, name in enumerate(calls.called) if name == "expire"):
        copy = product.copy(another(product))
        assert copy.run("e", Interrupted(copy.store, number, killed)) == 1
        assert (copy.run("e"), copy.lasting(), copy.shown()) == (0, {"d", "e"}, "e"), "the retry resumes"
    product = copy
    assert product.lasting() == {"d", "e"}
    with pytest.raises(TaskError, match="is no longer kept"):
        for _ in range(2):
            versions.roll_back(product.store, "Ada")


# tests/jobs/test_publication_races.py interrupts DynamoDB, at each of its requests.
@pytest.mark.system
@pytest.mark.parametrize("store_url", ["bigtable", "redis"], indirect=True)
@pytest.mark.parametrize("action", ["rollback", "newer", "older", "killed before", "killed after"])
def test_publication_interrupted_at_any_call_ends_right(product: Product, action: str) -> None:
    product.publish("a", "b", "c")
    for name in ("older", "d", "newer", "last"):
        product.compute(name)
    product.end_keeping("a")
    first = product.copy(another(product))
    calls = Interrupted(first.store, -1, killed)
    assert (first.run("d", calls), first.lasting()) == (0, {"b", "c", "d"})
    for number in range(len(calls.called)):
        copy = product.copy(another(product))
        before: list[str] = []
        codes: list[int] = []

        def interrupt(copy: Product = copy, before: list[str] = before, codes: list[int] = codes) -> None:
            before.append(copy.shown())
            if action == "rollback":
                versions.roll_back(copy.store, "Ada")
            elif action in ("newer", "older"):
                codes.append(copy.run(action))
            else:
                raise Killed

        code = copy.run("d", Interrupted(copy.store, number, interrupt, action == "killed after"))
        where = f"{action} at call {number}, {calls.called[number]}"
        switched, shown = before == ["d"], copy.shown()
        check_end(action, switched, codes, code, shown, where)
        retried = copy.run("d")  # as Airflow does
        assert (retried, copy.shown()) == end_of_retry(action, shown), where
        assert not copy.unlisted(), where


@pytest.mark.system
def test_publications_killed_at_random_points_resume_and_readers_see_whole_versions(product: Product) -> None:
    order, ends = ["first", "v0"], []
    for name in order:  # the first one takes longer: the process that is forked imports everything
        product.compute(name, USERS)
        began = time.monotonic()
        assert wait(product.start(name, 1)) == 0
        duration = time.monotonic() - began
    with reading(product, order) as seen:
        for number in range(1, KILLS + 1):
            name = f"v{number}"
            product.compute(name, USERS)
            order.append(name)
            process = product.start(name, 1)
            process.join(random.uniform(0, duration))
            process.kill()
            ends.append(wait(process))
            assert product.shown() in (order[-2:] if ends[-1] == -signal.SIGKILL else [name])
            attempt = 1
            while ends[-1] == -signal.SIGKILL and attempt < 4:
                attempt += 1
                process = product.start(name, attempt)
                process.join(random.uniform(0, duration) if attempt < 3 else None)
                process.kill()
                if (code := wait(process)) != -signal.SIGKILL:
                    assert code == 0
                    break
            assert product.shown() == name
    assert seen
    assert -signal.SIGKILL in ends
    assert not product.unlisted()
    for _ in range(2):
        product.end_keeping()
        versions.retire(product.store, AT_ONCE, lambda done, total: None)
    assert product.lasting() == {order[-1]}


def wait(process: Any) -> int:
    process.join()
    return int(process.exitcode)


@contextlib.contextmanager
def reading(product: Product, order: list[str]) -> Iterator[list[str]]:
    """Read concurrently as frontends do; fail if a user is shown less than a version, or an older one than before."""
    seen: list[str] = []
    faults: list[str] = []
    ended = threading.Event()

    def read() -> None:
        store = open_store(product.url, product.store.name, 1)
        while not ended.wait(0.02):  # moto's server is in this process
            content = store.shown(f"user-{random.randrange(USERS)}")
            shown = content[-1]["item_id"]
            if len(content) != 2 or (seen and order.index(shown) < order.index(seen[-1])):
                faults.append(f"{content} after {seen[-1]}")
            seen.append(shown)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield seen
    finally:
        ended.set()
        reader.join()
    assert not faults
    assert seen[-1] in order[-2:]

"""Publications interrupted at each of their requests, and clocks that disagree."""

import datetime
import email.utils
import itertools
import json
import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from interruptions import InterruptedCalls, Killed, check_end, end_of_retry
from recommending_lake import Lake, table

from common.delivery import versions
from common.delivery.dynamodb.store import DynamoDB, store_time
from common.delivery.json_values import unpacked
from common.delivery.store import POINTER, VERSIONS, Document
from common.errors import StaleAttempt
from jobs.publish_product import main as publishing
from jobs.write_product import main as writing

CONTRACT = "recommendations@2"
AT_ONCE = datetime.timedelta(0)
HOUR = datetime.timedelta(hours=1)
USERS = ("user-1", "user-2")


class Interrupted(InterruptedCalls):
    """A client of DynamoDB of which one request is interrupted."""

    names: ClassVar = {
        "batch_execute_statement",
        "batch_get_item",
        "batch_write_item",
        "delete_item",
        "get_item",
        "put_item",
        "query",
        "transact_write_items",
    }


class Store:
    """A table with a, b and c published, and the runs that may publish into it."""

    def __init__(self, folder: Path, store: DynamoDB, monkeypatch: pytest.MonkeyPatch) -> None:
        self.table, self.monkeypatch = store, monkeypatch
        monkeypatch.setattr(writing, "bucket_count", lambda product, rows: 3)  # not 16: each costs requests
        self.lakes = {}
        for name in ("a", "b", "c", "older", "d", "newer", "last"):
            self.lakes[name] = lake_of(folder / name, name)
        date(self.lakes["last"], datetime.datetime.now(datetime.UTC) + HOUR)  # replaced by the time of publication
        for name in "abc":
            assert self.run(name) == 0
        self.expire_kept("a")
        self.items = scan(self.table)

    def reset(self) -> None:
        """Switch to a new table with the initial content of this one."""
        self.table = replace(self.table, name=f"t{uuid.uuid4().hex}-recommendations")
        self.table.create(None)
        self.table.write([{"PutRequest": {"Item": item}} for item in self.items])

    def run(self, name: str, client: Any = None) -> int:
        """Return the exit code of a publication."""
        lake = self.lakes[name]
        for task in ("write_product/map-0", "publish_product"):
            (lake.folder / f"lake/intermediate/dag/run/{task}/manifest.json").unlink(missing_ok=True)
        prefix, used = self.table.name.removesuffix("recommendations"), client or self.table.client
        with self.monkeypatch.context() as patch:
            for job in (writing, publishing):
                patch.setattr(job, "open_store", lambda url, name, threads: DynamoDB(used, name, threads))
            arguments = ("--from", "product=select", "--set", f"tables={prefix}", "--set", "parallel=1")
            arguments += ("--set", "store=dynamodb:")
            return lake.run("write_product", *arguments, map_index=0) or lake.run(
                "publish_product", "--from", "parts=write_product", "--set", "parallel=1"
            )

    def roll_back(self) -> None:
        versions.roll_back(self.table, "Ada")

    def shown(self) -> str:
        """Return the version that frontends read; assert that it is complete and does not expire."""
        live = versions.pointer(self.table)
        assert live is not None
        name = live.values["version"]
        (entry,) = (item for item in scan(self.table) if item["id"]["S"] == name)
        assert not {"kept_until", "retired", "expires"} & {*entry, *live.values}
        parts = [item for item in scan(self.table) if item["part"]["S"].startswith(f"{name}/")]
        assert len(parts) == len(USERS)
        assert not any("expires" in item for item in parts)
        (shown,) = {self.table.shown(user)[1]["item_id"] for user in USERS}
        return str(shown)

    def expire_kept(self, *names: str) -> None:
        """End the time for which the named versions, or all, are kept."""
        over = {"N": str(int(time.time()) - 1)}
        for entry in scan(self.table):
            if "kept_until" in entry and (not names or unpacked(entry["content"]["B"])[0]["item_id"] in names):
                self.table.write([{"PutRequest": {"Item": {**entry, "kept_until": over}}}])

    def unlisted(self) -> set[str]:
        """Return the versions with lasting items but no entry, so that no publication would expire them."""
        items = [item for item in scan(self.table) if "expires" not in item]
        listed = {item["id"]["S"] for item in items if item["part"]["S"] == "versions"}
        return {version for item in items for version, slash, _ in [item["part"]["S"].partition("/")] if slash} - listed

    def lasting(self) -> set[str]:
        """Return the versions with items that do not expire."""
        items = [item for item in scan(self.table) if "expires" not in item]
        return {unpacked(item["content"]["B"])[-1]["item_id"] for item in items if item["part"]["S"] != "current"}


def lake_of(folder: Path, name: str) -> Lake:
    """Return a lake with fresh recommendations that show a name."""
    lake = Lake(folder)
    rows = [
        {"user_id": user, "style": "mixed", "rank": rank, "item_id": item, "item_name": item, "score": 0.1}
        for user in (*USERS, None)
        for rank, item in enumerate(["both", name] if user else [name], 1)
    ]
    lake.put("select", CONTRACT, table(CONTRACT, rows))
    date(lake, datetime.datetime.now(datetime.UTC) - HOUR / 2)
    return lake


NUMBERS = itertools.count()


def date(lake: Lake, ended: datetime.datetime) -> None:
    """Set when the product was computed; each call adds a millisecond more."""
    manifest = lake.folder / "lake/intermediate/dag/run/select/manifest.json"
    document = json.loads(manifest.read_text())
    ended += datetime.timedelta(milliseconds=next(NUMBERS))
    manifest.write_text(json.dumps({**document, "ended": ended.isoformat(timespec="milliseconds")}))


def scan(store: DynamoDB) -> list[dict[str, Any]]:
    pages = store.client.get_paginator("scan").paginate(TableName=store.name, ConsistentRead=True)
    return [item for page in pages for item in page["Items"]]


@pytest.fixture
def store(tmp_path: Path, product_table: DynamoDB, monkeypatch: pytest.MonkeyPatch) -> Store:
    return Store(tmp_path, product_table, monkeypatch)


STEPS = ["switched", "c gets its date", "a is retired"]  # transactions


def switch_in(called: list[str]) -> int:
    """Return the number of the request that switched."""
    return [number for number, name in enumerate(called) if name == "transact_write_items"][STEPS.index("switched")]


def steps(store: Store) -> dict[int, str]:
    """Return the requests of a publication by number, the first of each run of equal ones."""
    store.reset()
    client = Interrupted(store.table.client, -1, lambda: None)
    assert store.run("d", client) == 0
    assert client.called.count("transact_write_items") == len(STEPS)
    assert "a" not in store.lasting()
    called = [f"{name} after the switch" if number > switch_in(client.called) else name
              for number, name in enumerate(client.called)]  # fmt: skip
    return {number: name for number, name in enumerate(called) if number == 0 or name != called[number - 1]}


@pytest.mark.system
@pytest.mark.parametrize("action", ["rollback", "newer", "older", "killed before", "killed after"])
def test_publication_interrupted_at_any_request_ends_right(store: Store, action: str) -> None:
    killed = action.startswith("killed")

    def kill() -> None:
        raise Killed

    def interrupt() -> None:
        before.append(store.shown())
        if action == "rollback":
            store.roll_back()
        else:
            codes.append(store.run(action))

    for number in steps(store):
        store.reset()
        before: list[str] = []
        codes: list[int] = []
        client = Interrupted(store.table.client, number, kill if killed else interrupt, action == "killed after")
        code = store.run("d", client)
        where = f"{action} at request {number}, {client.called[number]}"
        switched = before == ["d"]
        shown = store.shown()
        check_end(action, switched, codes, code, shown, where)
        assert (code == 0) <= (shown == "d" or switched or action == "newer"), where
        retried = store.run("d")  # as Airflow does
        assert (retried, store.shown()) == end_of_retry(action, shown), where
        assert not store.unlisted(), where


def leave_nothing(store: Store, where: str) -> None:
    """Publish once more and end the time of all others: assert that all their items expire."""
    assert store.run("last") == 0, where
    for _ in range(2):
        store.expire_kept()
        versions.retire(store.table, AT_ONCE, lambda done, total: None)
    assert store.lasting() == {"last"}, where
    assert store.shown() == "last", where


def test_retry_after_a_rollback_is_fenced_and_the_next_run_publishes(store: Store, capsys) -> None:
    assert store.run("d") == 0
    store.roll_back()
    for name in ("d", "newer"):  # newer was computed before the rollback, too
        assert store.run(name) == 5
        sentence = capsys.readouterr().err.splitlines()[-1]
        assert "because Ada rolled" in sentence
        assert sentence.endswith("rerun the pipeline to compute a new one.")
    assert store.shown() == "c"
    assert store.run("last") == 0
    assert store.run("d") == 5
    store.roll_back()
    assert (store.shown(), store.run("last")) == ("c", 5)


def test_slower_run_of_older_input_is_fenced(store: Store, capsys) -> None:
    date(store.lakes["older"], datetime.datetime.now(datetime.UTC) - HOUR / 4)  # computed after d, from older input
    assert (store.run("d"), store.run("older")) == (0, 5)
    assert "because its oldest input was taken at" in capsys.readouterr().err.splitlines()[-1]
    assert store.shown() == "d"


def test_second_rollback_goes_one_version_further(store: Store) -> None:
    for shown in ("b", "a"):
        if shown == "a":
            store.monkeypatch.setattr(versions, "GRACE", -HOUR)
        store.roll_back()
        assert store.shown() == shown
    assert [store.run(name) for name in ("b", "c", "d")] == [5, 5, 5]


@pytest.mark.parametrize("number", range(5))
def test_rollback_interrupted_by_a_publication_changes_nothing(store: Store, number: int) -> None:
    client = Interrupted(store.table.client, number, lambda: codes.append(store.run("d")))
    codes: list[int] = []
    try:
        versions.roll_back(replace(store.table, client=client), "Ada")
        done = True
    except versions.TaskError as error:
        assert "moved concurrently" in str(error)
        done = False
    if number < 4:  # c, or d, was live when it read the pointer
        assert codes == [0]
        assert (done, store.shown()) == ((True, "c") if number == 0 else (False, "d"))
    else:
        assert (done, codes, store.shown()) == (True, [], "b")


def test_rollback_during_expiry_saves_the_version_or_is_refused(store: Store) -> None:
    store.monkeypatch.setattr(versions, "GRACE", -HOUR)
    store.expire_kept()
    rolled: list[bool] = []

    def roll_back() -> None:
        try:
            store.roll_back()
            rolled.append(True)
        except versions.TaskError as error:
            assert "is no longer kept" in str(error)
            rolled.append(False)

    for number in range(40):
        store.reset()
        store.expire_kept("b")
        rolled.clear()
        client = Interrupted(store.table.client, number, roll_back)
        versions.retire(replace(store.table, client=client), AT_ONCE, lambda done, total: None)
        if not rolled:
            break
        assert store.shown() == ("b" if rolled[0] else "c")
        if number < 2:
            assert rolled == [True]
    assert number > 5


def test_failure_after_the_switch_is_reported_and_resumes(store: Store) -> None:
    def refuse() -> None:
        raise RuntimeError("no more")

    numbers = [number for number, name in steps(store).items() if name.endswith("after the switch")]
    for number in numbers[1:]:  # the first one reads the pointer, as part of the switch
        store.reset()
        client = Interrupted(store.table.client, number, refuse)
        assert store.run("d", client) == 0, client.called[-1]
        metrics = store.lakes["d"].manifest("publish_product")["metrics"]
        assert metrics["expiry_error"] == "RuntimeError: no more"
        assert store.shown() == "d"
        leave_nothing(store, client.called[-1])


@pytest.mark.system  # interrupts each of some 20 requests
def test_version_retired_while_it_is_written_leaks_nothing(store: Store) -> None:
    def let_expire() -> None:
        assert store.run("newer") == 0
        for _ in range(2):
            store.expire_kept()
            versions.retire(store.table, AT_ONCE, lambda done, total: None)

    for number in [number for number in steps(store) if number > 3]:
        store.reset()
        client = Interrupted(store.table.client, number, let_expire)
        code = store.run("d", client)
        if client.called[:number].count("transact_write_items") > STEPS.index("switched"):
            assert code == 0
            break
        assert code in (1, 5)
        assert store.run("d") == 5
        assert store.shown() == "newer"
        leave_nothing(store, client.called[number])


class Clock:
    """Shifts the time of a table's server against that of this machine."""

    def __init__(self, store: Store, ahead: datetime.timedelta) -> None:
        self.ahead = ahead
        store.table.client.meta.events.register("after-call.dynamodb", self.change)

    def now(self) -> datetime.datetime:
        return datetime.datetime.now(datetime.UTC) + self.ahead

    def change(self, parsed: dict[str, Any], **_: Any) -> None:
        parsed["ResponseMetadata"]["HTTPHeaders"]["date"] = email.utils.format_datetime(self.now())


@pytest.mark.parametrize("ahead", [-2 * HOUR, AT_ONCE, 2 * HOUR], ids=["behind", "right", "ahead"])
@pytest.mark.parametrize("producer", [-5 * HOUR, AT_ONCE, 5 * HOUR], ids=["behind", "right", "ahead"])
def test_no_clock_blocks_a_product_or_undoes_a_rollback(
    tmp_path: Path, store: Store, ahead: datetime.timedelta, producer: datetime.timedelta
) -> None:
    """The first product has the date of a producer's clock, all others the store's; publishers have this machine's."""
    clock = Clock(store, ahead)
    store.items = []
    store.reset()
    date(store.lakes["a"], clock.now() - HOUR + producer)
    date(store.lakes["b"], clock.now() - HOUR / 60)
    assert store.run("a") == 0
    assert store.run("b") == (0 if producer <= AT_ONCE else 5)
    date(store.lakes["c"], clock.now() + HOUR)  # replaced by the time of publication
    assert store.run("c") == 0
    store.roll_back()
    time.sleep(1)  # the store's clock has whole seconds; this machine's adds no fraction if it is wrong
    assert [store.run(name) for name in ("b", "c")] == [0 if producer <= AT_ONCE else 5, 5]  # b may be live
    date(store.lakes["d"], clock.now() + datetime.timedelta(seconds=2))
    assert store.run("d") == 0
    store.roll_back()
    assert store.run("d") == 5


@pytest.mark.parametrize("ahead", [HOUR, 1000 * HOUR])
def test_live_version_dated_in_the_future_does_not_block(store: Store, ahead: datetime.timedelta) -> None:
    """A release that ignored the store's clock could leave such a version."""
    future = versions.timestamp(datetime.datetime.now(datetime.UTC) + ahead)
    live = versions.pointer(store.table)
    assert live
    for key in (POINTER, VERSIONS + live.values["version"]):
        found = store.table.read(key)[0]
        assert found
        assert store.table.commit({key: {**found.values, "computed": future}}, {key: found.tag})
    assert store.run("d") == 0
    store.roll_back()
    assert (store.run("d"), store.shown()) == (5, "c")
    assert store.run("last") == 0


def test_store_time_keeps_the_second_of_the_store() -> None:
    for ahead in (-HOUR, datetime.timedelta(seconds=-1), AT_ONCE, datetime.timedelta(seconds=1), HOUR):
        sent = (datetime.datetime.now(datetime.UTC) + ahead).replace(microsecond=0)
        header = {"ResponseMetadata": {"HTTPHeaders": {"date": email.utils.format_datetime(sent)}}}
        assert sent <= store_time(header) < sent + versions.SECOND


def test_refusal_after_a_rollback_names_person_and_time() -> None:
    version = {"version": "v", "computed": "2026-01-01T00:00:00.000+00:00"}
    current = {**version, "version": "u", "rolled_back": "2026-01-01T00:00:00.000+00:00", "rolled_back_by": "Ada"}
    with pytest.raises(StaleAttempt, match=r"because Ada rolled t back at 2026-01-01T00:00:00.000\+00:00"):
        versions.refuse_older(
            DynamoDB(None, "t", 1), version, Document(current, ""), datetime.datetime.now(datetime.UTC)
        )

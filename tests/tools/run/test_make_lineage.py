"""`make lineage`: from a live version to deliveries, and a user's rows on the way; unknown names are refused."""

import dataclasses
import datetime
import os
import subprocess
import zlib

import pytest
from run_lake import RunLake

from common import protocol
from common.delivery.json_values import packed
from common.delivery.store import POINTER, place_of
from common.errors import ArgumentError, InputError
from common.handover import storage
from common.reporting import record
from common.reporting.record import Published, Record
from tools import environment, tables
from tools.packaging.fingerprint import ROOT
from tools.run import lineage

RUN = "manual__2011-09-01T02:00:00+00:00"
MOMENT = datetime.datetime(2011, 8, 31, 9, tzinfo=datetime.UTC)
VERSION = "2011-09-01T02:00:00.000Z-01234567"
USERS = [next(f"user-{n}" for n in range(99) if zlib.crc32(f"user-{n}".encode()) % 2 == bucket) for bucket in (0, 1)]


def events(user, day, count):
    time, arrival = MOMENT.replace(day=day), (MOMENT + datetime.timedelta(days=1)).date()
    row = {"source": "shop", "user_id": user, "type": "purchase", "time": time, "arrival": arrival}
    return [{**row, "event_id": f"{user} {day} {number}"} for number in range(count)]


@pytest.fixture
def shop(lake, monkeypatch):
    """A lake with a product of two users, in two buckets, made of two days of events."""
    monkeypatch.setattr(lineage.console, "_width", 200)
    made = RunLake(lake)
    first, second = USERS
    days = {
        "date=2011-08-30": [*events(first, 30, 2), *events(second, 30, 5)],
        "date=2011-08-31": events(first, 31, 1),
    }
    partitions = [
        made.partition(f"curated/events/{day}", "in/r/ingest", made.rows(f"curated/events/{day}", "events@3", rows))
        for day, rows in days.items()
    ]
    folder = f"intermediate/daily/{protocol.encode(RUN)}"
    pairs = [[{"user_id": user, "item_id": "i"}] for user in USERS]
    output = made.rows(f"{folder}/pairs", "interactions@2", *pairs, buckets=True)
    interactions = made.task(f"daily/{RUN}/pairs", partitions, {"interactions": output})
    shown = [{"user_id": user, "rank": rank, "item_id": "i"} for user in USERS for rank in (1, 2)]
    output = made.rows(f"{folder}/select", "recommendations@2", shown)
    select = made.task(f"daily/{RUN}/select", [interactions], {"recommendations": output})
    part = made.task(f"daily/{RUN}/write", [select], {"part": {"contract": "published_part@2", "rows": 1}})
    made.task(f"daily/{RUN}/publish", [part], metrics={"table": "t", "version": VERSION, "rows": 4})
    made.task(f"daily/{RUN}/publish_other", [interactions], metrics={"table": "o", "version": "other", "rows": 4})
    return made


def settings(prefix="none-", name="dev"):
    loaded = environment.load(name)
    return dataclasses.replace(loaded, table={**loaded.table, "delivery": {**loaded["delivery"], "tables": prefix}})


def publish(table, made_by):
    """Make a version live, with own rows of the first user."""
    live = {"version": VERSION, "buckets": 16, "manifest": made_by, "content": [{"rank": 1, "item_name": "Trend"}]}
    assert table.commit({POINTER: live}, {POINTER: None})
    table.put([(place_of(VERSION, 16, USERS[0]), packed([{"rank": 1, "item_name": "Lamp [red]"}]))])


def lines(capsys):
    """Return the printed lines without borders, their words separated by single spaces."""
    text = capsys.readouterr().out
    return [" ".join(line.replace("│", " ").split()) for line in text.splitlines()]


def test_live_version_is_traced_with_a_users_rows(shop, product_table, capsys):
    prefix = product_table.name.removesuffix("recommendations")
    folder = f"{shop.root}/intermediate/daily/{protocol.encode(RUN)}"
    publish(product_table, f"{folder}/select/manifest.json")
    lineage.show(shop.root, settings(prefix), "recommendations", USERS[0])
    shown = lines(capsys)
    assert shown[0] == f"recommendations {VERSION}"
    assert [line.split()[1] for line in shown if line.startswith("└── ")] == [
        "publish",
        "write",
        "select",
        "pairs",
        "curated/events",
        "ingest",
    ]
    assert shop.digest(f"{folder}/pairs/manifest.json") in shown
    assert "└── curated/events 2 days, 2011-08-30 to 2011-08-31, 8 rows, 2011-09-01 02:00" in shown
    assert "└── ingest deleted since" in shown
    assert "daily/select recommendations 2 attempt-1/rows/part-00000.parquet" in shown
    assert "daily/pairs interactions 1 0 attempt-1/rows/part-00000.parquet" in shown
    assert "2011-08-30 shop 2 raw/events/arrival=2011-09-01" in shown
    assert "2011-08-31 shop 1 raw/events/arrival=2011-09-01" in shown
    assert f"Frontends read own rows of {product_table.name}" in shown
    assert "1 Lamp [red]" in shown
    lineage.show(shop.root, settings(prefix), "recommendations", USERS[1])
    assert f"Frontends read the default rows of {product_table.name}" in lines(capsys)
    with pytest.raises(
        ArgumentError, match=r"User 'nobody' has no rows in the 4 files of this lineage \(0 can't be read\)"
    ):
        lineage.show(shop.root, settings(prefix), "recommendations", "nobody")


def test_version_is_traced_from_its_rows_after_its_publication_is_gone(shop, product_table, capsys):
    folder = f"{shop.root}/intermediate/daily/{protocol.encode(RUN)}"
    publish(product_table, f"{folder}/select/manifest.json")
    for name in ("publish", "write"):
        storage.delete(f"{folder}/{name}")
    prefix = product_table.name.removesuffix("recommendations")
    lineage.show(shop.root, settings(prefix), "recommendations", None)
    assert any(line.startswith("└── select") for line in lines(capsys))
    with pytest.raises(InputError, match=r"was made by .*, which is not in file:///elsewhere; give its lake"):
        lineage.show("file:///elsewhere", settings(prefix), "recommendations", None)


def test_newest_version_by_records_is_traced_without_a_table(shop, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(tables, "LOCAL", tmp_path / "none")
    monkeypatch.delenv("DYNAMODB_ENDPOINT", raising=False)
    with pytest.raises(InputError, match="has published recommendations; run its pipeline, or correct LAKE or ENV"):
        lineage.show(shop.root, settings(name="laptop"), "recommendations", None)
    for run, product, version in (
        (RUN, "recommendations@2", VERSION),
        ("other", "similar_items@1", "v"),
        ("bad", "x", None),
    ):
        published = [Published(product, "t", version)]
        due = MOMENT if run == RUN else MOMENT + datetime.timedelta(days=1)
        found = Record(record.FORMAT, "laptop", "daily", run, "manual", due, "succeeded", published=published)
        uri = protocol.record_uri(shop.root, "daily", protocol.report_name(due, run))
        storage.write(uri, record.encode(found))
    storage.delete(f"{shop.root}/intermediate/daily/{protocol.encode(RUN)}/select/attempt-1")
    lineage.show(shop.root, settings(name="laptop"), "recommendations", USERS[0])
    shown = lines(capsys)
    assert any(line.startswith("1 files of this lineage can't be read") for line in shown)
    assert "└── publish 4 rows, 2011-09-01 02:00" in shown
    assert "curated/events: 3 rows" in shown


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--product", "recommendation"], "There is no product 'recommendation'; did you mean 'recommendations'."),
        (["--product", "recommendations", "--user", ""], "The user ID is empty, expected USER=ID, or no USER."),
    ],
)
def test_unknown_names_are_refused(monkeypatch, arguments, sentence):
    monkeypatch.setattr("sys.argv", ["lineage", *arguments])
    with pytest.raises(SystemExit, match=sentence):
        lineage.main()


def test_login_name_in_variable_user_is_no_user():
    command = ["make", "-n", "-o", "setup", "lineage", "PRODUCT=recommendations"]
    shown = [
        subprocess.run(
            [*command, *more], cwd=ROOT, capture_output=True, text=True, env=os.environ | {"USER": "root"}
        ).stdout
        for more in ([], ["USER=ann"])
    ]
    assert ["--user" in text for text in shown] == [False, True]

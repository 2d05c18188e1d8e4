"""Deliveries that still name forgotten people: ingestion drops their lines without a trace."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from events import event
from pyspark.sql import SparkSession
from recommending_lake import Lake

from common.ingestion import suppression

GONE = "Zoë 4711"
USERS = [GONE, "17", "Zoë", "4711", "171"]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path)


def deliver(lake: Lake, dataset: str, lines: list[bytes], name: str = "a") -> None:
    file = lake.folder / "lake" / "raw" / dataset / "arrival=2011-01-05" / f"{name}.jsonl.gz"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(gzip.compress(b"".join(line + b"\n" for line in lines)))


def event_of(user: Any, number: int, **changes: Any) -> bytes:
    return json.dumps(event(number, user_id=user, item_id="17", quantity=17, **changes)).encode()


def change(user: Any, **changes: Any) -> bytes:
    row = {"user_id": user, "time": "2011-01-01T00:00:00Z", "change": "subscribe", "plan": "free", **changes}
    return json.dumps(row, ensure_ascii=False).encode()


def unusable(make: Any) -> list[bytes]:
    """Return an unusable line of each user, and two without a user."""
    lines = [make(user, time="never") for user in USERS]
    return [
        *lines,
        b'{"user_id": "Zo\\u00eb 4711", "quantity',
        b'{"user_id": 17, "x',
        b'{"user_id": "171", "x',
        b"\xff",
        b"{",
    ]


def every_byte(lake: Lake) -> str:
    """Return all values of all tables below curated and intermediate, as text."""
    files = [file for level in ("curated", "intermediate") for file in (lake.folder / "lake" / level).rglob("*")]
    texts = [repr(pq.read_table(file).to_pylist()) for file in files if file.suffix == ".parquet"]
    return "".join([*texts, *(file.read_text() for file in files if file.suffix == ".json")])


@pytest.mark.parametrize("bad", ["lines", "file"])
def test_events_of_forgotten_users_leave_no_trace(lake: Lake, session: SparkSession, bad: str) -> None:
    aside = unusable(lambda user, **more: event_of(user, 0, **more))
    good = [event_of(user, number) for number, user in enumerate([*USERS, 17, None])]
    deliver(lake, "events", [*good, *(aside if bad == "lines" else [])])
    deliver(lake, "events", [*aside, *[b"{"] * 10, *good] if bad == "file" else [event_of("x", 100)], "b")
    suppression.add(lake.root, [GONE, "17"])
    assert lake.run("ingest_events", "--set", f"max_quarantined_share={0.9 if bad == 'lines' else 0.1}") == 0
    kept = sorted(str(user) for user in lake.dataset("curated/events")["user_id"].to_pylist())
    assert kept == sorted(["Zoë", "4711", "171", "None", *(["x"] if bad == "lines" else [])])
    metrics = lake.manifest("ingest_events")["metrics"]
    assert metrics["suppressed"] == (3 + 4 if bad == "lines" else 3 + 3 + 4)
    quarantine = lake.rows("ingest_events")
    assert quarantine.num_rows == metrics["unusable"] == (6 if bad == "lines" else 16 + 4)
    assert not suppressed_in(quarantine["content"].to_pylist(), lake)
    assert GONE not in every_byte(lake)


CLICKS = """
description = "Clicks, in which people are visitors."
format = "json"
[fields]
visitor = "string"
at = "bigint"
[columns]
user_id = "visitor"
type = "'click'"
time = "timestamp_seconds(at)"
"""


def test_forgotten_people_are_found_by_the_expression_of_a_source(
    lake: Lake, session: SparkSession, make_sources: Callable[..., Path]
) -> None:
    make_sources({"clicks/events.toml": CLICKS})
    clicks = [{"visitor": GONE, "at": 1294221600}, {"visitor": GONE, "at": -1}, {"visitor": GONE, "at": "x"}]
    lines = [*map(json.dumps, [*clicks, {"visitor": "Zoë", "at": 1294221600}]), '{"visitor": "Zoë 4711", "at']
    file = lake.folder / "lake" / "raw" / "events" / "clicks" / "arrival=2011-01-05" / "a.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text("".join(f"{line}\n" for line in lines))
    suppression.add(lake.root, [GONE])
    assert lake.run("ingest_events") == 0
    assert lake.dataset("curated/events")["user_id"].to_pylist() == ["Zoë"]
    assert lake.manifest("ingest_events")["metrics"]["suppressed"] == 4
    assert GONE not in every_byte(lake)


@pytest.mark.parametrize("bad", ["lines", "file"])
def test_changes_of_forgotten_users_leave_no_trace(lake: Lake, bad: str) -> None:
    good = [change(user) for user in [*USERS, 17]]
    idle = [change(GONE, time="2010-01-01T00:00:00Z", change="cancel", plan=None)]
    deliver(lake, "users", [*good, *idle, *(unusable(change) if bad == "lines" else [])])
    deliver(lake, "users", [*unusable(change), *[b"{"] * 10, *good] if bad == "file" else [change("x")], "b")
    suppression.add(lake.root, [GONE, "17"])
    assert lake.run("ingest_users", "--set", f"max_quarantined_share={0.9 if bad == 'lines' else 0.1}") == 0
    kept = sorted(lake.dataset("curated/users")["user_id"].to_pylist())
    assert kept == sorted(["Zoë", "4711", "171", *(["x"] if bad == "lines" else [])])
    metrics = lake.manifest("ingest_users")["metrics"]
    assert metrics["suppressed"] == (3 + 1 + 4 if bad == "lines" else 3 + 1 + 3 + 4)
    quarantine = lake.rows("ingest_users")
    assert quarantine.num_rows == metrics["unusable"] == (6 if bad == "lines" else 16 + 3)
    assert not suppressed_in(quarantine["content"].to_pylist(), lake)
    assert GONE not in every_byte(lake)


def suppressed_in(contents: list[str], lake: Lake) -> list[str]:
    people = suppression.load(lake.root)
    assert people
    return [content for content in contents if people.named_in(content)]


def test_delivery_of_forgotten_users_only_succeeds(lake: Lake, session: SparkSession) -> None:
    deliver(lake, "events", [event_of(GONE, 1)])
    deliver(lake, "users", [change(GONE)])
    suppression.add(lake.root, [GONE])
    assert lake.run("ingest_events") == 0
    assert lake.manifest("ingest_events")["metrics"]["suppressed"] == 1


def test_list_without_its_key_stops_ingestion(lake: Lake, capsys) -> None:
    deliver(lake, "users", [change("x")])
    suppression.add(lake.root, [GONE])
    (lake.folder / "lake" / "suppression" / "key").unlink()
    assert lake.run("ingest_users") == 3
    assert "suppression/key is missing" in capsys.readouterr().err

"""Periods of plans, from deliveries of any sources that repeat and contradict each other."""

import gzip
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recommending_lake import Lake

from common.ingestion import suppression

ARRIVAL = "2011-02-01"


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path)


def deliver(lake: Lake, *rows: dict | str, arrival: str = ARRIVAL) -> None:
    file = lake.folder / "lake" / "raw" / "users" / f"arrival={arrival}" / "users.jsonl.gz"
    file.parent.mkdir(parents=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    file.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode()))


def row(day: int, change: str, plan: str | None = "basic", user: str = "ann", **more: str) -> dict:
    return {"user_id": user, "time": f"2011-01-{day:02}T00:00:00Z", "change": change, "plan": plan, **more}


def history(lake: Lake, user: str = "ann") -> list[tuple]:
    """Return first day, last day, plan, country, platform of each period."""
    rows = [row for row in lake.dataset("curated/users").to_pylist() if row["user_id"] == user]
    day = lambda time: time and time.day  # noqa: E731
    return [(day(r["since"]), day(r["until"]), r["plan"], r["country"], r["platform"]) for r in rows]


def test_changes_and_cancellations_become_periods(lake: Lake) -> None:
    deliver(
        lake,
        row(9, "cancel", None),
        row(1, "subscribe", "free", country="Norway", platform="ios"),
        row(5, "change", "premium", platform="web"),
        row(20, "subscribe", "basic"),
    )
    assert lake.run("ingest_users") == 0
    assert history(lake) == [
        (1, 5, "free", "Norway", "ios"),
        (5, 9, "premium", "Norway", "web"),
        (9, 20, None, "Norway", "web"),
        (20, None, "basic", "Norway", "web"),
    ]


def test_users_do_not_inherit_from_each_other(lake: Lake) -> None:
    deliver(lake, row(1, "subscribe", user="ann", country="Norway"), row(2, "subscribe", user="bob"))
    assert lake.run("ingest_users") == 0
    assert history(lake, "ann") == [(1, None, "basic", "Norway", None)]
    assert history(lake, "bob") == [(2, None, "basic", None, None)]


def test_last_arrival_wins_among_contradictory_changes(lake: Lake) -> None:
    deliver(lake, row(1, "subscribe", "premium"), row(1, "subscribe", "basic"), arrival="2011-02-03")
    deliver(lake, row(1, "subscribe", "free"), row(3, "change", "free"), arrival="2011-02-01")
    assert lake.run("ingest_users") == 0
    assert [(since, plan) for since, _, plan, *_ in history(lake)] == [(1, "basic"), (3, "free")]


def test_repeated_change_begins_no_period(lake: Lake) -> None:
    deliver(lake, row(1, "subscribe"), row(1, "subscribe"), row(4, "change"), row(6, "subscribe"))
    assert lake.run("ingest_users") == 0
    assert history(lake) == [(1, None, "basic", None, None)]


def test_unusable_lines_are_quarantined_with_line_and_reason(lake: Lake) -> None:
    bad = {
        "not a JSON object": "{",
        "no user ID": row(1, "subscribe", user=""),
        "unknown change": row(1, "renew"),
        "unknown plan": row(1, "change", "gold"),
        "bad time": {**row(1, "change"), "time": "yesterday"},
        "time after the arrival": {**row(1, "change"), "time": "2011-02-03T00:00:00Z"},
        "cancels a plan that the user does not have": row(1, "cancel", user="bob"),
    }
    deliver(lake, row(1, "subscribe"), *bad.values())
    assert lake.run("ingest_users", "--set", "max_quarantined_share=0.9") == 0
    found = [(entry["line"], entry["reason"]) for entry in lake.rows("ingest_users").to_pylist()]
    assert found == list(enumerate(bad, start=2))
    assert lake.rows("ingest_users")["content"].to_pylist()[0] == "{"
    assert history(lake) == [(1, None, "basic", None, None)]
    metrics = lake.manifest("ingest_users")["metrics"]
    assert (metrics["lines"], metrics["unusable"], metrics["cancellations_of_nothing"]) == (8, 6, 1)


def test_integer_ids_are_text_and_other_json_is_unusable(lake: Lake) -> None:
    deliver(lake, row(1, "subscribe"), {**row(2, "change", "free"), "user_id": 7}, "[1]", "3", '"text"', "null")
    assert lake.run("ingest_users", "--set", "max_quarantined_share=1") == 0
    assert lake.manifest("ingest_users")["metrics"]["reasons"] == {"not a JSON object": 4}
    assert history(lake, "7") == [(2, None, "free", None, None)]


def test_mostly_unusable_deliveries_are_refused(lake: Lake, capsys) -> None:
    deliver(lake, row(1, "subscribe"), *[row(1, "renew")] * 10)
    assert lake.run("ingest_users") == 4
    message = "10 of 11 records are unusable, at most 5.0% of a file may be: unknown change (10)"
    assert message in capsys.readouterr().err
    assert not (lake.folder / "lake" / "curated" / "users" / "all" / "manifest.json").exists()


def test_missing_and_ungzipped_deliveries_are_input_errors(lake: Lake, capsys) -> None:
    (lake.folder / "lake").mkdir()
    assert lake.run("ingest_users") == 3
    folder = lake.folder / "lake" / "raw" / "users" / "arrival=2011-02-01"
    folder.mkdir(parents=True)
    (folder / "users.jsonl.gz").write_text("{}")
    assert lake.run("ingest_users") == 3
    assert "users.jsonl.gz: not gzip" in capsys.readouterr().err.splitlines()[-1]


CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["ann", "bob"]),
        st.integers(1, 9),
        st.sampled_from(["subscribe", "change", "cancel"]),
        st.sampled_from(["free", "basic"]),
        st.sampled_from(["ios", "web", None]),
    ),
    max_size=12,
    unique_by=lambda change: change[:2],
)


def reference(changes: list[tuple]) -> list[tuple]:
    """Return user, first day, last day, plan and platform of each period, one change after the other."""
    periods: list[list[Any]] = []
    for user, day, change, plan, platform in sorted(changes):
        last = periods[-1] if periods and periods[-1][0] == user else None
        cancelled = last is None or last[5] == "cancel"
        if change == "cancel" and cancelled:
            continue
        platform = platform or (last[4] if last else None)
        plan = None if change == "cancel" else plan
        if last and (last[3], last[4]) == (plan, platform):
            last[5] = change
            continue
        if last:
            last[2] = day
        periods.append([user, day, None, plan, platform, change])
    return [tuple(period[:5]) for period in periods]


@settings(max_examples=15)
@given(CHANGES, st.randoms(use_true_random=False), st.integers(1, 3))
def test_order_of_arrival_does_not_matter(changes: list[tuple], shuffled: Any, files: int) -> None:
    expected = reference(changes)
    shuffled.shuffle(changes)
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake(Path(folder))
        rows = [row(day, change, plan, user, platform=platform) for user, day, change, plan, platform in changes]
        for number in range(files):
            deliver(lake, *rows[number::files], arrival=f"2011-02-0{1 + number}")
        code = lake.run("ingest_users")
        assert code == (0 if expected else 4)
        users = sorted({period[0] for period in expected})
        found = [(user, *period[:3], period[4]) for user in users for period in history(lake, user)]
        assert found == expected


SUBSCRIPTIONS = """
description = "Subscriptions of a music service."
format = "csv"
compression = "gzip"
keep = "event <> 'login'"

[fields]
account = "bigint"
at = "double"
event = "string"
tier = "string"
age = "int"

[columns]
user_id = "concat('m-', account)"
time = "timestamp_seconds(at)"
change = "case event when 'start' then 'subscribe' when 'stop' then 'cancel' else event end"
plan = "upper(tier)"

[attributes]
age = "age"
"""
MakeSources = Callable[[dict[str, str]], Path]


def test_source_maps_plans_changes_and_attributes(lake: Lake, make_sources: MakeSources) -> None:
    make_sources({"music/users.toml": SUBSCRIPTIONS})
    file = lake.folder / "lake" / "raw" / "users" / "music" / "arrival=2011-02-01" / "a.csv.gz"
    file.parent.mkdir(parents=True)
    lines = [
        "account,at,event,tier,age", "1,1293840000,start,gold,30", "1,1294185600.5,change,platinum,",
        "1,1294185700,change,platinum,31", "1,1294531200,stop,,", "2,1293840000,login,,", "2,1293840000,pause,gold,",
        "x,1293840000,start,gold,", "2,1293840000,start,gold,old", "7,1293840000,start,gold,70",
    ]  # fmt: skip
    file.write_bytes(gzip.compress("\n".join(lines).encode()))
    suppression.add(lake.root, ["m-7"])
    assert lake.run("ingest_users") == 0
    rows = lake.dataset("curated/users").to_pylist()
    found = [(r["user_id"], r["since"].day, r["plan"], dict(r["attributes"])) for r in rows]
    assert found == [
        ("m-1", 1, "GOLD", {"age": "30"}),
        ("m-1", 5, "PLATINUM", {"age": "30"}),
        ("m-1", 5, "PLATINUM", {"age": "31"}),
        ("m-1", 9, None, {"age": "31"}),
    ]
    metrics = lake.manifest("ingest_users")["metrics"]
    assert metrics["reasons"] == {"unknown change": 1, "bad account": 1, "bad age": 1}
    assert (metrics["lines"], metrics["not_kept"], metrics["suppressed"]) == (9, {"music": 1}, 1)
    assert metrics["users_by_plan"] == {"GOLD": 0, "PLATINUM": 0}
    content = lake.rows("ingest_users").to_pylist()
    assert sorted(entry["line"] for entry in content) == [7, 8, 9]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (('plan = "upper(tier)"', 'plan = "upper(teir)"'), "'teir'"),
        (('change = "case', 'chnge = "case'), "chnge in [columns] of sources/music/users.toml is not a column"),
        (('time = "timestamp_seconds(at)"', 'time = "at"'), "expected a timestamp, or text in ISO 8601"),
        (('plan = "upper(tier)"', 'plan = "age / 2"'), "of type DOUBLE, expected text or a whole number"),
    ],
)
def test_wrong_source_of_users_is_refused(
    lake: Lake, make_sources: MakeSources, capsys, change: tuple[str, str], sentence: str
) -> None:
    make_sources({"music/users.toml": SUBSCRIPTIONS.replace(*change)})
    (lake.folder / "lake").mkdir()
    assert lake.run("ingest_users") == 2
    assert sentence in capsys.readouterr().err.splitlines()[-1]

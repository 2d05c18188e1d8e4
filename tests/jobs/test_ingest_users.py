"""Periods of plans, from deliveries of any sources that repeat and contradict each other."""

import datetime
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recommending_lake import Lake, killed_before

from common.engines import arrow
from common.handover import Task
from common.ingestion import suppression
from common.ingestion.arrow import periods

ARRIVAL = "2011-02-01"


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path)


def deliver(lake: Lake, *rows: dict | str, arrival: str = ARRIVAL) -> Path:
    file = lake.folder / "lake" / "raw" / "users" / f"arrival={arrival}" / "users.jsonl.gz"
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    file.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode()))
    return file


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


CHANGE = st.tuples(
    st.sampled_from(["ann", "bob"]),
    st.integers(1, 9),
    st.sampled_from(["subscribe", "change", "cancel"]),
    st.sampled_from(["free", "basic"]),
    st.sampled_from(["ios", "web", None]),
)
FILES = st.lists(st.lists(CHANGE, max_size=6), min_size=1, max_size=3)


def reference(files: list[list[tuple]]) -> list[tuple]:
    """Return user, first day, last day, plan and platform of each period, one change after the other."""
    last_of_moment = {change[:2]: change for file in files for change in file}
    periods: list[list[Any]] = []
    for user, day, change, plan, platform in sorted(last_of_moment.values(), key=lambda each: each[:2]):
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


def changes_of(number: int, rows: list[tuple]) -> pa.Table:
    """Return rows of user_changes@1 of the file with this number, which arrived two files a day."""
    names = ("user_id", "time", "change", "plan", "platform")
    table = [
        dict(zip(names, row, strict=True))
        | {"time": datetime.datetime(2011, 1, row[1], tzinfo=datetime.UTC), "row": position}
        | {"source": "shop", "arrival": datetime.date(2011, 2, 1 + number // 2), "file": str(number)}
        | {"attributes": [("seen", row[4])] if row[4] else None}
        for position, row in enumerate(rows)
    ]
    return pa.Table.from_pylist(table, periods.CHANGES)


@settings(max_examples=12)
@given(FILES, FILES, st.randoms(use_true_random=False))
def test_deliveries_in_any_order_and_again_equal_all_at_once(
    files: list[list[tuple]], earlier: list[list[tuple]], shuffled: Any
) -> None:
    taken = [*enumerate(files)]
    shuffled.shuffle(taken)
    taken = [*enumerate(earlier[: len(files)]), *taken]  # earlier contents of some of the files
    known, users = periods.CHANGES.empty_table(), periods.USERS.empty_table()
    for number, rows in taken:
        new = changes_of(number, rows)
        kept, touched = periods.without_files(known, [str(number)])
        touched = pa.chunked_array([*touched.chunks, *new["user_id"].chunks], pa.string())
        users = periods.renew(users, [kept, new], touched).users
        known = pa.concat_tables([kept, new])
    expected = reference(files)
    found = [(each["user_id"], each["since"].day, each["until"] and each["until"].day) for each in users.to_pylist()]
    assert found == [period[:3] for period in expected]
    assert [*zip(users["plan"].to_pylist(), users["platform"].to_pylist())] == [period[3:] for period in expected]
    seen = [dict(each or ()).get("seen") for each in users["attributes"].to_pylist()]
    assert seen == users["platform"].to_pylist()
    assert known.num_rows == sum(map(len, files))


def published(lake: Lake, dataset: str) -> str:
    return (lake.folder / "lake" / "curated" / dataset / "all" / "manifest.json").read_text()


def test_new_deliveries_add_to_the_known_changes(lake: Lake) -> None:
    first = [row(5, "cancel", None), row(9, "change", "premium"), row(1, "subscribe", user="bob")]
    deliver(lake, *first, arrival="2011-02-01")
    assert lake.run("ingest_users") == 0
    assert [entry["line"] for entry in lake.rows("ingest_users").to_pylist()] == [1]
    assert history(lake) == [(9, None, "premium", None, None)]

    deliver(lake, row(1, "subscribe", "free"), arrival="2011-02-02")  # late: it has a plan that the first one cancels
    assert lake.run("ingest_users", task="late") == 0
    expected = [(1, 5, "free", None, None), (5, 9, None, None, None), (9, None, "premium", None, None)]
    assert history(lake) == expected and history(lake, "bob") == [(1, None, "basic", None, None)]
    metrics = lake.manifest("late")["metrics"]
    assert (metrics["files_new"], metrics["lines"], metrics["cancellations_of_nothing"]) == (1, 1, 0)
    assert (metrics["users"], metrics["periods"], metrics["users_by_plan"]) == (2, 4, {"basic": 1, "premium": 1})

    before = published(lake, "users"), published(lake, "user_changes")
    assert lake.run("ingest_users", task="nothing") == 0
    assert (published(lake, "users"), published(lake, "user_changes")) == before
    document = lake.manifest("nothing")
    assert (document["metrics"]["files_new"], document["metrics"]["lines"]) == (0, 0)
    assert [*document["outputs"]] == ["quarantine"]

    deliver(lake, *first[1:], arrival="2011-02-01")  # the same file again, without the cancellation
    assert lake.run("ingest_users", task="changed") == 0
    assert history(lake) == [(1, 9, "free", None, None), (9, None, "premium", None, None)]
    assert lake.manifest("changed")["metrics"]["files_changed"] == 1

    for lost, lines in (("user_changes", 3), ("users", 0)):  # the state; the dataset that is made from it
        (lake.folder / "lake" / "curated" / lost / "all" / "manifest.json").unlink()
        assert lake.run("ingest_users", task=f"lost_{lost}") == 0
        assert history(lake) == [(1, 9, "free", None, None), (9, None, "premium", None, None)]
        assert lake.manifest(f"lost_{lost}")["metrics"]["lines"] == lines


def test_kill_between_the_two_publications_is_repaired(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    deliver(lake, row(1, "subscribe"), arrival="2011-02-01")
    assert lake.run("ingest_users") == 0
    file = deliver(lake, row(3, "change", "premium"), arrival="2011-02-02")
    with killed_before("users"):
        assert lake.run("ingest_users", task="killed") == 1
    assert history(lake) == [(1, None, "basic", None, None)]
    file.unlink()  # so the next task reads nothing
    assert lake.run("ingest_users", task="next") == 0
    assert history(lake) == [(1, 3, "basic", None, None), (3, None, "premium", None, None)]


def test_ingestion_that_was_overtaken_changes_nothing(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    deliver(lake, row(1, "subscribe"), arrival="2011-02-01")
    write_rows = arrow.write_rows

    def overtaken(task: Task, role: str, rows: Any) -> None:
        monkeypatch.setattr(arrow, "write_rows", write_rows)
        deliver(lake, row(3, "change", "premium"), arrival="2011-02-02")
        assert lake.run("ingest_users", task="quick") == 0
        write_rows(task, role, rows)

    monkeypatch.setattr(arrow, "write_rows", overtaken)
    assert lake.run("ingest_users", task="slow") in (1, 5)
    assert history(lake) == [(1, 3, "basic", None, None), (3, None, "premium", None, None)]


def test_bad_delivery_after_a_good_one_leaves_the_users(lake: Lake) -> None:
    deliver(lake, row(1, "subscribe"), arrival="2011-02-01")
    assert lake.run("ingest_users") == 0
    stray = lake.folder / "lake" / "raw" / "users" / "arrival=2011-02-02" / "README.txt"
    stray.parent.mkdir()
    stray.write_text("Hello.")
    before = published(lake, "users")
    assert lake.run("ingest_users", task="stray") == 0
    assert published(lake, "users") == before
    assert lake.manifest("stray")["metrics"]["files_quarantined"] == 1
    assert lake.run("ingest_users", task="next") == 0
    assert lake.manifest("next")["metrics"]["files_quarantined"] == 0


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
    assert (metrics["users"], metrics["users_without_plan"], metrics["users_by_plan"]) == (1, 1, {})
    content = lake.rows("ingest_users").to_pylist()
    assert sorted(entry["line"] for entry in content) == [7, 8, 9]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (('plan = "upper(tier)"', 'plan = "upper(teir)"'), "'teir'"),
        (('change = "case', 'chnge = "case'), "chnge in [columns] of sources/music/users.toml is not a column"),
        (('time = "timestamp_seconds(at)"', 'time = "at"'), "expected a timestamp, or text in ISO 8601"),
        (('plan = "upper(tier)"', 'plan = "age / 2"'), "of type double, expected text or a whole number"),
    ],
)
def test_wrong_source_of_users_is_refused(
    lake: Lake, make_sources: MakeSources, capsys, change: tuple[str, str], sentence: str
) -> None:
    make_sources({"music/users.toml": SUBSCRIPTIONS.replace(*change)})
    (lake.folder / "lake").mkdir()
    assert lake.run("ingest_users") == 2
    assert sentence in capsys.readouterr().err.splitlines()[-1]

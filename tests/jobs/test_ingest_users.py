"""Periods of plans, from deliveries that repeat and contradict each other."""

import gzip
import json
from pathlib import Path

import pytest
from recommending_lake import Lake

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

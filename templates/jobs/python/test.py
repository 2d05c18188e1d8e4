"""Items by users: counting, and refusal of an empty result."""

import datetime
from pathlib import Path

import pytest
from recommending_lake import Lake, table

NOW = datetime.datetime(2011, 6, 1, 12, tzinfo=datetime.UTC)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Three users: two bought the cup, one twice; one bought the pot, one returned it, one unknown user bought it."""
    rows = [
        {
            "event_id": f"e{n}",
            "user_id": user,
            "item_id": item,
            "type": kind,
            "quantity": 1,
            "unit_price": 1.0,
            "time": NOW,
        }
        for n, (user, item, kind) in enumerate(
            [
                ("ann", "cup", "purchase"),
                ("ann", "cup", "purchase"),
                ("bob", "cup", "purchase"),
                ("bob", "pot", "purchase"),
                ("cid", "pot", "cancellation"),
                (None, "pot", "purchase"),
            ]
        )
    ]
    lake = Lake(tmp_path)
    lake.put_day("events", "events@3", table("events@3", rows), "curated/events", NOW.date())
    return lake


def test_users_who_chose_an_item_are_counted_once(lake: Lake) -> None:
    assert lake.run("new_job", "--set", "min_users=1") == 0
    assert lake.rows("new_job").to_pylist() == [{"item_id": "cup", "users": 2}, {"item_id": "pot", "users": 1}]
    assert lake.manifest("new_job")["metrics"] == {"items": 2}


def test_item_with_too_few_users_is_left_out(lake: Lake) -> None:
    assert lake.run("new_job") == 0
    assert lake.rows("new_job")["item_id"].to_pylist() == ["cup"]


def test_result_without_items_is_refused(lake: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    assert lake.run("new_job", "--set", "min_users=3") == 4
    assert "No item was chosen by 3 users" in capsys.readouterr().err.splitlines()[-1]

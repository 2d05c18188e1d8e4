"""The synthetic shop: reproducible, as dirty as documented, and as long-tailed as the real one."""

import gzip
import json
import subprocess
import sys
from collections import Counter
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from common.handover import storage
from tools.data.generate_data import generate
from tools.data.load_sample import SOURCE
from tools.data.shop_model import PLANS, Settings

SMALL = Settings(users=300, items=120, events=6_000, seed=3, days=75, start=date(2025, 1, 1))


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    generate(SMALL, "raw", f"file://{folder}", 2)
    return folder


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("curated")
    generate(SMALL, "curated", f"file://{folder}", 1)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def lines(folder: Path, name: str) -> list[tuple[str, str]]:
    """Return day of arrival and text of each delivered line."""
    return [
        (file.parent.name.removeprefix("arrival="), line)
        for file in sorted((folder / "raw" / name).rglob("*.jsonl.gz"))
        for line in gzip.decompress(file.read_bytes()).decode().splitlines()
    ]


def usable(delivered: list[tuple[str, str]]) -> list[tuple[str, dict]]:
    """Return the complete lines."""
    return [(arrival, json.loads(line)) for arrival, line in delivered if line.endswith("}") and '"time"' in line]


def events_of(folder: Path) -> pd.DataFrame:
    """Return the curated events, read from the files that the manifests name."""
    files = []
    for manifest in sorted((folder / "curated" / "events").glob("*/manifest.json")):
        output = json.loads(manifest.read_text())["outputs"]["events"]
        files += [str(manifest.parent / file["path"]) for file in output["files"]]
    return ds.dataset(files).to_table().to_pandas()


def test_bytes_depend_on_the_seed_not_on_processes(raw: Path, tmp_path: Path) -> None:
    generate(SMALL, "raw", f"file://{tmp_path}/one", 1)
    assert contents(tmp_path / "one") == contents(raw)
    other = Settings(**{**vars(SMALL), "seed": 4})
    generate(other, "raw", f"file://{tmp_path}/other", 2)
    one, two = ({text for _, text in lines(folder, "events")} for folder in (raw, tmp_path / "other"))
    assert not one & two


def test_existing_shop_is_kept_and_not_mixed_with_another(raw: Path, tmp_path: Path) -> None:
    before = contents(raw)
    assert generate(SMALL, "raw", f"file://{raw}", 2) == 0
    with pytest.raises(ValueError, match="contains raw data already, expected an empty lake"):
        generate(SMALL, "curated", f"file://{raw}", 2)
    assert contents(raw) == before
    arguments = ["--lake", f"file://{tmp_path}/lake", "--items", "0"]
    process = subprocess.run(
        [sys.executable, "-m", "tools.data.generate_data", *arguments], capture_output=True, text=True
    )
    assert process.returncode == 2
    assert process.stderr.splitlines()[-1].endswith("--items is 0, expected 1 to 2,430,000.")


def test_deliveries_match_curated_events_and_are_dirty(raw: Path, curated: Path) -> None:
    delivered = lines(raw, "events")
    whole = usable(delivered)
    expected = events_of(curated)
    assert set(expected["source"]) == {"generated_shop"}
    assert (expected["arrival"] >= expected["time"].dt.date).all()
    expected = expected.drop(columns=["source", "arrival"]).dropna(axis=1, how="all")
    assert len(expected) == pytest.approx(SMALL.events, rel=0.05)
    once = pd.DataFrame([event for _, event in whole]).drop_duplicates().set_index("event_id").sort_index()
    once["time"] = pd.to_datetime(once["time"])
    same = {"check_dtype": False, "check_like": True}
    pd.testing.assert_frame_equal(once, expected.set_index("event_id").sort_index(), **same)
    assert len(whole) / len(expected) == pytest.approx(1.02, abs=0.006)
    assert 0 < len(delivered) - len(whole) < 0.004 * len(expected)
    late = Counter(
        (date.fromisoformat(arrival) - date.fromisoformat(event["time"][:10])).days for arrival, event in whole
    )
    assert set(late) <= set(range(7))
    assert 0.02 < 1 - late[0] / len(whole) < 0.06


def test_nobody_buys_before_subscribing_or_after_cancelling(raw: Path, curated: Path) -> None:
    subscriptions: dict[str, dict[str, str]] = {}
    plans: dict[str, list] = {}
    for _, change in sorted(usable(lines(raw, "users")), key=lambda each: each[1]["time"]):
        subscriptions.setdefault(change["user_id"], {})[change["change"]] = change["time"]
        plans.setdefault(change["user_id"], []).append((change["change"], change["plan"]))
        assert change["plan"] in PLANS
    cancelled = {user for user, changes in subscriptions.items() if "cancel" in changes}
    assert 0.02 < len(cancelled) / len(subscriptions) < 0.3
    events = events_of(curated).dropna(subset="user_id")
    for user, of_user in events.groupby("user_id"):
        times = of_user["time"].dt.strftime("%Y-%m-%dT%H:%M:%SZ")
        assert subscriptions[str(user)]["subscribe"] <= times.min()
        assert times.max() <= subscriptions[str(user)].get("cancel", "9")
        assert plans[str(user)][0][0] == "subscribe"


def test_users_cancel_with_the_recorded_probability(tmp_path: Path) -> None:
    generate(Settings(20_000, 50, 60_000, 1, 196, date(2025, 1, 1)), "curated", f"file://{tmp_path}", 2)
    truth = pq.read_table(tmp_path / "truth" / "cancellations").to_pandas()
    assert truth["cut"].nunique() == 7
    assert 0.02 < truth["cancelled"].mean() < 0.08
    for _, part in truth.groupby(pd.qcut(truth["probability"], 5), observed=True):
        error = np.sqrt((part["probability"] * (1 - part["probability"])).sum()) / len(part)
        assert part["cancelled"].mean() == pytest.approx(part["probability"].mean(), abs=4 * error)
    # Users without a purchase in the four weeks before a cut cancel more often.
    events = events_of(tmp_path).dropna(subset="user_id")
    cut = pd.Timestamp("2025-05-21", tz="UTC")
    month = events[(events["time"] < cut) & (events["time"] >= cut - pd.Timedelta(days=28))]
    at_cut = truth[truth["cut"] == cut.date()]
    bought = at_cut["user_id"].isin(month["user_id"])
    assert at_cut[~bought]["cancelled"].mean() > 2 * at_cut[bought]["cancelled"].mean()


def shape(user: pd.Series, item: pd.Series, visit: pd.Series) -> dict[str, float]:
    """Return shares of the top 1 %, 10 % and 50 % of items and users, share of repeat purchases, basket sizes."""
    figures = {}
    for name, column in (("items", item), ("users", user)):
        counts = np.sort(column.value_counts().to_numpy())[::-1]
        for share in (0.01, 0.1, 0.5):
            figures[f"share of the first {share:.0%} of {name}"] = (
                counts[: int(len(counts) * share)].sum() / counts.sum()
            )
    baskets = pd.DataFrame({"user": user, "item": item, "visit": visit}).drop_duplicates()
    figures["bought again"] = 1 - len(baskets.drop_duplicates(["user", "item"])) / len(baskets)
    visits = baskets.drop_duplicates(["user", "visit"])["user"].value_counts()
    figures["users who came once"] = (visits == 1).mean()
    lengths = visit.value_counts()
    return figures | {f"basket, {part:.0%}": lengths.quantile(part) / 100 for part in (0.25, 0.5, 0.75, 0.95)}


@pytest.mark.system  # a shop as large as the real one
def test_long_tail_repeats_and_visits_match_the_real_shop(tmp_path: Path) -> None:
    real = pq.read_table(SOURCE).to_pandas()
    real = real[(real["customer_id"] > 0) & (real["quantity"] > 0) & real["stock_code"].str.match(r"^\d{5}")]
    real = real[~real["invoice"].str.startswith("C")]
    size = Settings(users=8_000, items=4_400, events=len(real), seed=1, days=638, start=date(2009, 12, 1))
    generate(size, "curated", f"file://{tmp_path}", 2)
    made = events_of(tmp_path).dropna(subset="user_id")
    made = made[made["type"] == "purchase"].sort_values(["user_id", "time"])
    away = (made["user_id"] != made["user_id"].shift()) | (made["time"].diff() > pd.Timedelta(minutes=30))
    expected = shape(real["customer_id"], real["stock_code"], real["invoice"])
    found = shape(made["user_id"], made["item_id"], away.cumsum())
    assert found == pytest.approx(expected, abs=0.08)


def test_shop_on_any_lake(any_lake: str) -> None:
    generate(SMALL, "curated", f"{any_lake}", 2)
    assert len(storage.folders(f"{any_lake}/curated/events")) == SMALL.days

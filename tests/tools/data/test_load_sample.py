"""The sample as a delivery: complete, as dirty as the source, reproducible, and not loaded twice."""

import csv
import datetime
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.handover import storage
from tools.data import load_sample

ROWS = [
    ("489434", "85048", 'SIGN "HOME"', 12, datetime.datetime(2009, 12, 1, 7, 45), 6.95, 13085, "United Kingdom"),
    ("489434", "POST", None, 1, datetime.datetime(2009, 12, 1, 7, 45), 18.0, 13085, 'Cote "d\'Ivoire"'),
    ("C489449", "85048", "SIGN, HOME", -3, datetime.datetime(2009, 12, 1, 9, 0), 6.95, None, "EIRE"),
    ("489450", "47503J ", "wrong", -7, datetime.datetime(2009, 12, 3, 0, 0), 0.0, 0, "France"),
    ("489450", "85048", "SIGN, HOME", 2, datetime.datetime(2009, 12, 3, 0, 0), 1e-7, 0, "France"),
]
NAMES = ["invoice", "stock_code", "description", "quantity", "invoice_date", "price", "customer_id", "country"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    file = tmp_path / "shop" / "transactions.parquet"
    file.parent.mkdir()
    table = pa.table({name: [row[number] for row in ROWS] for number, name in enumerate(NAMES)})
    large = {name: pa.large_string() for name in ("invoice", "stock_code", "description", "country")}
    kinds = [pa.field(field.name, large.get(field.name, field.type)) for field in table.schema]
    pq.write_table(table.cast(pa.schema(kinds)), file)
    return file


def delivered(lake: str) -> dict[str, bytes]:
    return {file.uri.removeprefix(f"{lake}/raw/"): storage.read(file.uri)[0] for file in storage.files(f"{lake}/raw")}


def test_every_row_becomes_an_event_of_its_day(source: Path, any_lake: str) -> None:
    assert load_sample.load(source, any_lake) == 3
    files = delivered(any_lake)
    days = {
        name: [json.loads(line) for line in gzip.decompress(files[name]).splitlines()]
        for name in files
        if name.startswith("events/")
    }
    assert list(days) == ["events/arrival=2009-12-01/events.jsonl.gz", "events/arrival=2009-12-03/events.jsonl.gz"]
    first, second, third = days["events/arrival=2009-12-01/events.jsonl.gz"]
    assert first == {
        "event_id": "489434-1",
        "user_id": "13085",
        "item_id": "85048",
        "type": "purchase",
        "quantity": 12,
        "unit_price": 6.95,
        "time": "2009-12-01T07:45:00Z",
        "country": "United Kingdom",
    }
    assert (second["event_id"], second["item_id"], second["country"]) == ("489434-2", "POST", 'Cote "d\'Ivoire"')
    assert (third["event_id"], third["type"], third["quantity"], third["user_id"]) == (
        "C489449-1",
        "cancellation",
        3,
        None,
    )
    odd, last = days["events/arrival=2009-12-03/events.jsonl.gz"]
    assert (odd["type"], odd["quantity"], odd["user_id"], odd["item_id"]) == ("purchase", -7, None, "47503J ")
    assert (last["event_id"], last["unit_price"]) == ("489450-2", 1e-7)


def test_items_are_listed_with_all_their_descriptions(source: Path, lake: str) -> None:
    load_sample.load(source, lake)
    text = delivered(lake)["items/arrival=2009-12-03/items.csv"].decode()
    assert list(csv.reader(text.splitlines())) == [
        ["item_id", "description", "seen"],
        ["47503J ", "wrong", "2009-12-03T00:00:00Z"],
        ["85048", 'SIGN "HOME"', "2009-12-01T07:45:00Z"],
        ["85048", "SIGN, HOME", "2009-12-03T00:00:00Z"],
        ["POST", "", "2009-12-01T07:45:00Z"],
    ]


def test_load_is_reproducible_and_skips_a_loaded_lake(source: Path, lake: str, tmp_path: Path) -> None:
    load_sample.load(source, lake)
    load_sample.load(source, f"file://{tmp_path}/second")
    assert delivered(lake) == delivered(f"file://{tmp_path}/second")
    assert load_sample.load(source, lake) == 0


@pytest.mark.parametrize("change", ["missing", "longer", "source"])
def test_changed_files_are_reloaded(source: Path, lake: str, change: str) -> None:
    load_sample.load(source, lake)
    before = delivered(lake)
    file = storage.local(f"{lake}/raw/events/arrival=2009-12-01/events.jsonl.gz")
    if change == "missing":
        file.unlink()
    elif change == "longer":
        file.write_bytes(file.read_bytes() + b"x")
    else:
        pq.write_table(pq.read_table(source).slice(0, 3), source)
    assert load_sample.load(source, lake) > 0
    events = "events/arrival=2009-12-01/events.jsonl.gz"
    assert delivered(lake)[events] == before[events]
    assert load_sample.load(source, lake) == 0

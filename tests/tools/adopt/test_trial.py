"""Files brought to a lake: the ingestion takes them, and agrees with the report of the dry run."""

import gzip
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from tests.recommending_lake import Lake
from tools.adopt import adopt, trial

ROWS = 200


def events() -> list[dict]:
    return [
        {"user": f"u{n % 20}", "sku": f"i{n % 7}", "action": "buy" if n % 5 else "view", "ts": 1700000000 + n * 7000}
        for n in range(ROWS)
    ]


def csv_file(path: Path) -> dict[str, int]:
    """Write a CSV with dirty records; return how many the ingestion leaves out, by reason."""
    lines = [",".join(events()[0]), *(",".join(map(str, event.values())) for event in events())]
    lines += ["u1,i1,buy,soon", "u1,i1,buy", lines[0], "u1,i1,,1700000000"]
    content = "".join(line + "\n" for line in lines).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return {"bad ts": 1, "another number of fields than the header": 1, "header again": 1, "no type": 1}


def json_file(path: Path) -> dict[str, int]:
    """Write JSON lines with arrays of products, some empty, and dirty records."""
    records = [
        {"uid": each["user"], "event": each["action"], "time": each["ts"], "items": [{"sku": each["sku"]}] * (n % 3)}
        for n, each in enumerate(events())
    ]
    lines = [*map(json.dumps, records), "{", json.dumps(records[0] | {"time": "soon"}), json.dumps({"items": []})]
    path.write_text("".join(line + "\n" for line in lines), "utf-8")
    return {"not a JSON object": 1, "bad time": 1, "no type": 1}


def parquet_file(path: Path) -> dict[str, int]:
    table = pa.Table.from_pylist(events()).append_column("price", pa.array([1.5] * ROWS))
    pq.write_table(table, path)
    return {}


FILES = {"a.csv.gz": csv_file, "b.jsonl": json_file, "c.parquet": parquet_file}


@pytest.mark.parametrize("name", FILES)
def test_ingestion_agrees_with_the_dry_run(session, tmp_path, own_sources, name):
    reasons = FILES[name](tmp_path / name)
    adopted = adopt.adopt({"events": tmp_path / name}, "shop", Console(file=io.StringIO()))
    trial.deliver(adopted, tmp_path / "lake")
    lake = Lake(tmp_path)
    assert lake.run("ingest_events") == 0
    metrics = lake.manifest("ingest_events")["metrics"]
    assert metrics["reasons"] == {reason: count for reason, count, _ in adopted.report.reasons} == reasons
    assert metrics["events"] + metrics["duplicates"] == adopted.report.events >= ROWS


def test_new_try_begins_with_an_empty_lake(tmp_path, own_sources):
    csv_file(tmp_path / "a.csv")
    adopted = adopt.adopt({"events": tmp_path / "a.csv"}, "shop", Console(file=io.StringIO()))
    (tmp_path / "lake" / "curated").mkdir(parents=True)
    (tmp_path / "lake" / "curated" / "old").write_text("events of a former mapping")
    trial.deliver(adopted, tmp_path / "lake")
    (file,) = (path for path in (tmp_path / "lake").rglob("*") if path.is_file())
    assert file.parts[-4:-2] == ("events", "shop") and file.name == "events.csv"


@pytest.mark.parametrize(
    ("file", "name"), [("My-Clicks.csv.gz", "my_clicks"), ("u.data", "u"), ("2019-Oct.csv", "file_2019_oct")]
)
def test_name_is_made_of_the_files_name(file, name):
    assert trial.name_of(Path("folder") / file) == name

"""Deliveries of odd records through both engines: the same events, the same quarantine, the same metrics."""

import datetime
import gzip
import itertools
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import SparkSession
from recommending_lake import Lake

ROOT = Path(__file__).parents[2]
ARRIVAL = "arrival=2024-03-01"
SHOP = """
description = "A source of a test."
format = "json"
compression = "gzip"
[fields]
id = "string"
user = "string"
item = "string"
type = "string"
at = "string"
n = "bigint"
price = "double"
stars = "double"
vip = "boolean"
tags = "array<string>"
[columns]
event_id = "id"
user_id = "user"
item_id = "item"
type = "type"
time = "at"
quantity = "n"
unit_price = "price"
position = "stars"
[context]
price = "price"
vip = "vip"
tags = "tags"
both = "concat(item, '-', n)"
[rules]
"no item" = "item != ''"
"too many" = "n < 1000"
"""
ORDERS = """
description = "A source of a test."
format = "json"
compression = "gzip"
each = "order.lines"
keep = "kind != 'ping'"
[fields]
kind = "string"
user = "struct<id: string, age: int>"
order = "struct<at: string, total: double, lines: array<struct<sku: string, n: bigint>>>"
[columns]
user_id = "user.id"
item_id = "entry.sku"
type = "kind"
time = "order.at"
quantity = "entry.n"
value = "order.total / 3"
[context]
age = "user.age"
user = "user"
"""
ROWS = """
description = "A source of a test."
format = "parquet"
[fields]
user = "bigint"
at = "timestamp"
score = "double"
page = "struct<query: string, n: bigint>"
[columns]
user_id = "user"
type = "'seen'"
time = "at"
value = "score"
[context]
page = "page"
score = "score"
"""
GOOD = {"id": '"e1"', "user": '"u"', "item": '"i"', "type": '"view"', "at": '"2024-02-29T10:00:00Z"', "n": "1",
        "price": "1.5", "stars": "3", "vip": "true", "tags": '["a","b"]'}  # fmt: skip
VALUES = [
    "null", '""', '"x"', '"17"', "17", "0", "-0", "-0.0", "1.0", "1e3", "1.5E-7", "2.5", "-5", "true", "false",
    "[]", "{}", "[1]", '["a"]', '["a",1]', '["a",1.5]', '[["a"]]', '{"a":1}', "NaN", "Infinity", "-Infinity",
    "nan", "1e999", "1,", "", "9223372036854775807", "9223372036854775808", "-9223372036854775808",
    "18446744073709551616", "1" * 40, "0.1" + "1" * 30, '"a\\u0000"', '"\\u007f"', '"\x7f"', '"\\n"', '"\\u00e9"',
    '"é"', '"\u2028"', '"\\ud83d\\ude00"', '"\\ud83d"', '"😀"', '"a\\\\ud83d"', '"\\/"', '"a\tb"',
    '"' + "x" * 1024 + '"', '"' + "é" * 513 + '"', '" "', '"\ufeff"', "'x'", "01", '"2024-02-29"', '"2023-02-29"',
    '"2024-03-02T23:59:59.999999Z"', '"2024-03-03"', '"1970-01-01"', '"1969-12-31T23:59:59Z"',
    '"2024-02-29T10:00:00+14:00"', '"2024-02-29 10:00"', '"2024-02-29T10:00:00.123456789Z"',
    '"9999-12-31T23:59:59Z"', '"2024-02-29T24:00:00Z"', "1709200800000", '"0000-01-01"', "1000", "1e15",
    "123456789.125", "0.001", "1e22", "1e-5",
]  # fmt: skip
LINES: list[Callable[[bytes], bytes]] = [
    lambda line: line + b"\r", lambda line: b" \t" + line, lambda line: line + line, lambda line: b"",
    lambda line: b"  ", lambda line: line[:-1], lambda line: line[:-1] + b",}", lambda line: line + b"\0",
    lambda line: b"\xef\xbb\xbf" + line, lambda line: b"[" + line + b"]", lambda line: b"null",
    lambda line: line[:-1] + b',"more":[1,{"a":NaN}]}', lambda line: line[:-1] + b',"more":[1,2,]}',
    lambda line: line[:-1] + b',"more":{"b":[null,true]}}', lambda line: line[:-1] + b',"more":"M\xfcller"}',
    lambda line: line[:-1] + b',"more":"nan, inf"}', lambda line: line[:-1] + b',"user":"other"}',
    lambda line: line[:-1] + b',"us\\u0065r":"other"}',
    lambda line: line[:-1] + b',"more":"' + b"x" * (1 << 20) + b'"}', lambda line: line[:-1] + b',"User":"other"}',
    lambda line: line[:-1] + b',"more":1e999}',
    lambda line: line[:-1] + b',"more":' + b"[" * 500 + b"]" * 500 + b"}",
]  # fmt: skip


def line_of(values: dict[str, str]) -> bytes:
    return ("{" + ",".join(f'"{name}":{text}' for name, text in values.items()) + "}").encode("utf-8", "surrogatepass")


def shop_lines() -> list[bytes]:
    """Return lines with each odd value of each field, some with two of them, and odd lines, between good ones."""
    chance = random.Random(1)
    number = itertools.count()
    lines = [line_of({**GOOD, "id": f'"g{next(number)}"'}) for _ in range(50)]
    for name in GOOD:
        for value in VALUES:
            lines.append(line_of({**GOOD, "id": f'"e{next(number)}"', name: value}))
    for _ in range(300):
        odd = {name: chance.choice(VALUES) for name in chance.sample(list(GOOD), 2)}
        lines.append(line_of({**GOOD, "id": f'"p{next(number)}"', **odd}))
    for name in GOOD:
        lines.append(line_of({key: text for key, text in GOOD.items() if key != name}))
    lines += [change(line_of({**GOOD, "id": f'"l{next(number)}"'})) for change in LINES]
    return lines + lines[:60]


def order_lines() -> list[bytes]:
    orders: list[str] = []
    for value in VALUES:
        for form in (
            '{"kind":%s,"user":{"id":"u","age":3},"order":{"at":"2024-02-29","lines":[{"sku":"a","n":1}]}}',
            '{"kind":"buy","user":%s,"order":{"at":"2024-02-29","total":1,"lines":[{"sku":"a","n":1},{"sku":"b"}]}}',
            '{"kind":"buy","user":{"id":%s,"age":3},"order":{"at":"2024-02-29","lines":[{"sku":"a","n":1}]}}',
            '{"kind":"ping","user":{"id":"u","age":%s},"order":{"at":"2024-02-29","lines":[{"sku":"a","n":1}]}}',
            '{"kind":"buy","user":{"id":"u","age":%s},"order":{"at":"2024-02-29","lines":[{"sku":"a","n":1}]}}',
            '{"kind":"buy","user":{"id":"u"},"order":{"at":"2024-02-29","total":%s,"lines":[{"sku":"a","n":1}]}}',
            '{"kind":"buy","user":{"id":"u"},"order":{"at":"2024-02-29","lines":%s}}',
            '{"kind":"buy","user":{"id":"u"},"order":%s}',
            '{"kind":"buy","user":{"id":"u"},"order":{"at":"2024-02-29","lines":[{"sku":"a","n":1},{"sku":%s,"n":2}]}}',
            '{"kind":"buy","user":{"id":"u"},"order":{"at":"2024-02-29","lines":[{"sku":"a","n":1},{"sku":"b","n":%s}]}}',
        ):
            orders.append(form % value)
    return [each.encode("utf-8", "surrogatepass") for each in orders]


def deliver(lake: Path, name: str, lines: list[bytes]) -> None:
    file = lake / "raw" / "events" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(gzip.compress(b"".join(line + b"\n" for line in lines)))


def outcome(lake: Lake) -> dict[str, Any]:
    """Return the events, the quarantine and the metrics of a run, in an order."""
    events = sorted(lake.dataset("curated/events").to_pylist(), key=lambda row: (row["source"], row["event_id"]))
    quarantine = sorted(lake.rows("ingest_events").to_pylist(), key=lambda row: (row["file"], row["line"] or 0))
    for row in quarantine:
        row["file"] = row["file"].removeprefix(lake.root)
    metrics = lake.manifest("ingest_events")["metrics"]
    return {"events": events, "quarantine": quarantine, "metrics": metrics}


def test_odd_records_have_one_outcome_on_both_engines(
    session: SparkSession, tmp_path: Path, make_sources: Callable[[dict[str, str]], Path]
) -> None:
    folder = make_sources({"shop/events.toml": SHOP, "orders/events.toml": ORDERS, "rows/events.toml": ROWS})
    spark, light = Lake(tmp_path / "spark"), Lake(tmp_path / "light")
    deliver(tmp_path / "spark/lake", f"shop/{ARRIVAL}/a.jsonl.gz", shop_lines())
    deliver(tmp_path / "spark/lake", f"orders/{ARRIVAL}/a.jsonl.gz", order_lines())
    at = datetime.datetime(2024, 2, 29, 10, 0, 0, 123456, datetime.UTC)
    scores = [1.5, None, 1e22, -0.0, 12345678.9, 1e-5, float("nan"), 0.1]
    page = pa.array([None, {"query": 'a"\\\n\u2028é', "n": 1}] * 4, pa.struct({"query": pa.string(), "n": pa.int32()}))
    rows = tmp_path / f"spark/lake/raw/events/rows/{ARRIVAL}/a.parquet"
    rows.parent.mkdir(parents=True)
    times = pa.array([at, None] * 2 + [at] * 4, pa.timestamp("us", "UTC"))
    pq.write_table(pa.table({"user": list(range(8)), "at": times, "score": scores, "page": page}), rows)
    shutil.copytree(tmp_path / "spark", tmp_path / "light")
    more = ["--set", "max_quarantined_share=1"]
    program = [sys.executable, str(ROOT / "tests/programs/ingest_light.py"), str(folder)]
    arguments = [*light.identity("ingest_events"), *more]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*program, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert spark.run("ingest_events", *more) == 0
    expected, found = outcome(spark), outcome(light)
    assert found["quarantine"] == expected["quarantine"]
    assert found["events"] == expected["events"]
    assert found["metrics"] == expected["metrics"]

"""A lake with deliveries of random sources: fields of any name and type, in all formats, some of them spoilt."""

import csv
import datetime
import decimal
import gzip
import io
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import tomlkit

from benchmarks.conformance_lakes import TEXTS, TIMES, VALUES, edited
from common.engines.duck import arrow_type
from common.sources.expressions import quoted

SOURCES, RECORDS = 24, 40
NOON = datetime.datetime(2012, 2, 28, 12, tzinfo=datetime.UTC)
NAMES = ["user", "Item ID", "user.id", "a'b", 'a"b', "`t`", "select", "_file", "_number", "x?y", "é", "1", "context"]
SCALARS = ["string", "bigint", "double", "boolean", "timestamp", "date", "decimal(10,2)"]
NESTED = [
    "struct<`a'b`: string, n: bigint>",
    "array<string>",
    "array<struct<`a.b`: string, n: double>>",
    "struct<at: timestamp, on: date, n: decimal(5,1)>",
    "map<string, date>",
]
ROWS: dict[str, list[Any]] = {  # of Parquet
    "string": [*TEXTS, None],
    "bigint": [0, -5, 2**62, None],
    "double": [0.5, -0.0, 1e300, None],
    "boolean": [True, False, None],
    "timestamp": [NOON, NOON.replace(year=1969), NOON.replace(microsecond=1), None],
    "date": [NOON.date(), None],
    "decimal(10,2)": [decimal.Decimal("-1.50"), None],
    NESTED[0]: [{"a'b": "x", "n": 3}, {"a'b": None, "n": 4}, None],
    NESTED[1]: [[], ["x", None], None],
    NESTED[2]: [[{"a.b": "x", "n": 0.5}, None], [], [{"a.b": "", "n": None}]],
    NESTED[3]: [
        None,
        {"at": NOON, "on": NOON.date(), "n": decimal.Decimal("2.5")},
        {"at": None, "on": None, "n": None},
    ],
    NESTED[4]: [None, [], [("k", NOON.date()), ("l", None)]],
}
FORMATS = ["json", "json", "csv", "parquet"]
PLAN = '[types.view]\ndescription = "A view."\nverb = "viewed"\nweight = "1"\ntarget = true\n'


def fill(lake: Path) -> None:
    """Fill a lake with the sources, and a delivery of each in its raw level."""
    draw = random.Random(1)
    (lake / "sources").mkdir(parents=True)
    (lake / "sources/tracking_plan.toml").write_text(PLAN)
    for number in range(SOURCES):
        source = random_source(draw)
        folder = lake / f"sources/random_{number:02}"
        folder.mkdir()
        (folder / "events.toml").write_text(tomlkit.dumps(source))
        suffix = {"gzip": ".gz", "none": ".txt"}.get(source.get("compression", ""), ".parquet")
        file = lake / f"raw/events/{folder.name}/arrival=2012-03-02/delivered{suffix}"
        file.parent.mkdir(parents=True)
        file.write_bytes(delivery(draw, source))


def random_source(draw: random.Random) -> dict[str, Any]:
    """Return the document of a source."""
    form = draw.choice(FORMATS)
    source: dict[str, Any] = {"description": "Anything.", "format": form}
    if form != "parquet":
        source["compression"] = draw.choice(["gzip", "none"])
    if form == "csv":
        source |= {"delimiter": draw.choice(",;\t|"), "encoding": draw.choice(["utf-8", "latin-1", "utf-16"])}
    kinds = SCALARS if form == "csv" else SCALARS + NESTED
    fields = {name: draw.choice(kinds) for name in draw.sample(NAMES, draw.randint(2, 6))}
    arrays = [name for name, kind in fields.items() if kind.startswith("array<struct")]
    columns = {"type": "'view'", "time": "cast(arrival as timestamp)"}
    if arrays:
        source |= {"each": quoted(arrays[0]), "each_optional": draw.random() < 0.5}
        columns["item_id"] = "entry.`a.b`"
    for name, kind in fields.items():
        if kind in ("string", "bigint"):
            columns.setdefault("user_id", quoted(name))
        elif kind == "timestamp" and draw.random() < 0.5:
            columns["time"] = quoted(name)
        elif kind == "double":
            columns.setdefault("value", quoted(name))
    context = {f"c{position}": text_of(quoted(name), kind) for position, (name, kind) in enumerate(fields.items())}
    return source | {"fields": fields, "columns": columns, "context": context}


def text_of(field: str, kind: str) -> str:
    """Return the expression of a field as text."""
    if kind == "double":
        return f"cast(cast({field} as decimal(38, 6)) as string)"
    if kind.startswith("map"):
        return f"cast(element_at({field}, 'k') as string)"
    if kind.startswith("array"):
        return f"{field}[0]" if kind == "array<string>" else f"{field}[0].`a.b`"
    if kind.startswith("struct"):
        return f"{field}.`a'b`" if "string" in kind else f"concat_ws(' ', {field}.at, {field}.on, {field}.n)"
    return field if kind in ("string", "bigint") else f"cast({field} as string)"


def delivery(draw: random.Random, source: dict[str, Any]) -> bytes:
    """Return the content of a file of a source."""
    fields = source["fields"]
    if source["format"] == "parquet":
        columns = {name: draw.choices(ROWS[kind], k=RECORDS) for name, kind in fields.items()}
        sink = pa.BufferOutputStream()
        schema = pa.schema([(name, arrow_type(kind)) for name, kind in fields.items()])
        pq.write_table(pa.table(columns, schema=schema), sink)
        return bytes(sink.getvalue())
    records = [{name: value(draw, kind) for name, kind in fields.items()} for _ in range(RECORDS)]
    if source["format"] == "json":
        lines = [json.dumps({**each, "more": [1.5]}, ensure_ascii=draw.random() < 0.5) for each in records]
        encoding = "utf-8"
    else:
        text = io.StringIO()
        writer = csv.writer(text, delimiter=source["delimiter"], lineterminator="\n")
        writer.writerows([list(fields), *([flat(each) for each in record.values()] for record in records)])
        lines, encoding = text.getvalue().split("\n"), source["encoding"]
    spoilt = [lines[0], *(edited(draw, line) if draw.random() < 0.1 else line for line in lines[1:])]
    content = "".join(f"{line}\n" for line in spoilt).encode(encoding, "replace")
    return gzip.compress(content) if source["compression"] == "gzip" else content


def value(draw: random.Random, kind: str) -> Any:
    """Return a value of JSON that mostly fits a type."""
    if draw.random() < 0.05:
        return draw.choice(VALUES)
    if kind == NESTED[3]:
        return draw.choice(
            [None, {}, {"at": draw.choice(TIMES), "on": draw.choice(TIMES), "n": draw.choice(["1.25", "x", 7])}]
        )
    if kind.startswith("struct"):
        return draw.choice([None, {}, {"a'b": draw.choice(TEXTS), "n": draw.choice(VALUES), "more": {}}])
    if kind.startswith("map"):
        return draw.choice([None, {}, {"k": draw.choice(TIMES)}, {"k": None, "é": draw.choice(TIMES)}])
    if kind == "array<string>":
        return draw.choices([*TEXTS, None], k=draw.randint(0, 3))
    if kind.startswith("array"):
        entries: list[Any] = [{"a.b": draw.choice(TEXTS), "n": 0.5}, {"n": 2}, {}, None]
        return draw.choices(entries, k=draw.randint(0, 3))
    fitting: dict[str, list[Any]] = {
        "string": [*TEXTS, 7, None],
        "bigint": [0, -1, 2**63 - 1, -(2**63), None],
        "double": [0.0, -0.5, 1e300, 12, None],
        "boolean": [True, False, None],
        "timestamp": TIMES,
        "date": [each[:10] for each in TIMES],
    }
    fits: list[Any] = fitting.get(kind, ["1.5", "-12345678.99", "0", "1e3"])
    return draw.choice(fits)


def flat(found: Any) -> str:
    """Return a value of JSON as a field of CSV."""
    return found if isinstance(found, str) else "" if found is None else json.dumps(found)

"""Ingestion of events from sources of all formats, in one run; and sources with wrong expressions."""

import datetime
import gzip
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from pyspark.sql import SparkSession
from recommending_lake import Lake

from common import sources
from common.errors import ArgumentError
from common.ingestion.engine import parsing
from common.sources import source

DAY = datetime.datetime(2024, 5, 1, 10, tzinfo=datetime.UTC)
MILLIS = int(DAY.timestamp() * 1000)
HEAD = 'description = "A source of a test."\n'
PLAN = """
[types.purchase]
description = "A line of an order."
target = true
[types.cancellation]
description = "Reverses a line of an order."
reverses = "purchase"
"""
CLICKS = """
format = "csv"
[fields]
visitor = "string"
device = "string"
article = "string"
at = "bigint"
seconds = "double"
[columns]
user_id = "coalesce(visitor, device)"
item_id = "article"
type = "'view'"
time = "timestamp_millis(at)"
value = "seconds"
[context]
device = "device"
"""
ORDERS = """
format = "json"
compression = "zstd"
each = "order.lines"
keep = "event IN ('bought', 'returned')"
[fields]
event = "string"
id = "string"
user = "struct<id: string>"
order = "struct<at: string, lines: array<struct<sku: string, n: bigint>>>"
[columns]
event_id = "id"
user_id = "user.id"
item_id = "entry.sku"
type = "if(event = 'bought', 'purchase', 'cancellation')"
time = "order.at"
quantity = "entry.n"
[rules]
"no quantity" = "entry.n > 0"
"""
RATINGS = """
format = "csv"
header = false
delimiter = "\\t"
quote = ""
encoding = "latin-1"
[fields]
user = "bigint"
title = "string"
stars = "double"
at = "bigint"
[columns]
user_id = "user"
item_id = "title"
type = "'rating'"
time = "timestamp_seconds(at)"
value = "stars"
quantity = "stars"
"""
PLAYS = """
format = "parquet"
[fields]
user = "bigint"
song = "string"
at = "timestamp"
page = "struct<query: string, place: bigint>"
[columns]
user_id = "user"
item_id = "song"
type = "if(song IS NULL, 'search', 'play')"
time = "at"
[context]
query = "page.query"
"""
WIDE = """
format = "csv"
encoding = "utf-16"
[fields]
who = "string"
at = "timestamp"
[columns]
user_id = "who"
type = "'visit'"
time = "at"
"""
ODD = """
format = "json"
compression = "none"
each = "`line items`"
[fields]
_file = "string"
_number = "bigint"
_entry = "string"
"d'or?" = "double"
when = "timestamp"
on = "struct<days: array<date>>"
"line items" = "array<struct<`a'b`: string, `1`: string>>"
[columns]
user_id = "_file"
item_id = "entry.`a'b`"
type = "'view'"
time = "timestamp_millis(_number)"
[context]
entry = "_entry"
first = "entry.`1`"
"""
BOXES = """
format = "parquet"
each = "`tags.all`"
[fields]
"user.id" = "string"
"tags.all" = "array<string>"
[columns]
user_id = "`user.id`"
item_id = "entry"
type = "'view'"
time = "cast(arrival as timestamp)"
"""


def csv_of(*rows: str) -> bytes:
    return "".join(f"{row}\n" for row in rows).encode()


HEADER = "visitor,device,article,at,seconds,unused"
GOOD_CLICKS = [f"u{n},d,a{n},{MILLIS},1.5,x" for n in range(300)]
BAD_CLICKS = {  # by line of the file, after its header and 300 good rows
    302: ("short,row", "another number of fields than the header"),
    303: (HEADER, "header again"),
    304: (f"u,d,a,{MILLIS}.5,1,x", "bad at"),
    305: (f"u,d,a,{MILLIS},many,x", "bad seconds"),
    306: (f"u,d,a,{MILLIS},NaN,x", "bad value"),
    307: ("u,d,a,,1,x", "bad time"),
    308: ("u,d,a,1714557600000000,1,x", "time after the arrival"),
}
ORDER_LINES: list = [
    {"event": "bought", "id": "o1", "user": {"id": 7}, "order": {"at": "2024-05-01T10:00:00Z", "lines": [
        {"sku": "cup", "n": 2}, {"sku": "pot", "n": 1}, {"sku": "hat", "n": 0}]}},
    {"event": "returned", "id": "o2", "user": {"id": "bob"}, "order": {"at": "2024-05-01", "lines": [
        {"sku": "cup", "n": 1}]}},
    {"event": "viewed", "id": "o3", "order": {"at": "2024-05-01", "lines": [{"sku": "cup"}]}},
    {"event": "bought", "id": "o4", "order": {"at": "2024-05-01", "lines": []}},
    {"event": "bought", "id": "o5", "order": {"at": "2024-05-01", "lines": [{"sku": "cup", "n": "two"}]}},
    {"event": "bought", "id": "o6", "user": {"id": 1.5}, "order": {"at": "2024-05-01", "lines": [
        {"sku": "cup", "n": 1}]}},
]  # fmt: skip


def deliver(lake: Lake, name: str, content: bytes) -> None:
    file = lake.folder / "lake" / "raw" / "events" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def parquet_of(twice: str | None = None, **columns: list) -> bytes:
    """Return a table as Parquet; `twice` is one more column."""
    table = pa.table(columns)
    sink = pa.BufferOutputStream()
    pq.write_table(table.append_column(twice, table.column(0)) if twice else table, sink)
    return sink.getvalue().to_pybytes()


@pytest.fixture(scope="module")
def ingested(session: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    """A lake after one run on deliveries of all formats."""
    folder = tmp_path_factory.mktemp("ingested")
    lake = Lake(folder)
    texts = {
        "clicks": CLICKS,
        "orders": ORDERS,
        "ratings": RATINGS,
        "plays": PLAYS,
        "wide": WIDE,
        "odd": ODD,
        "boxes": BOXES,
    }
    for name, text in texts.items():
        (folder / "sources" / name).mkdir(parents=True)
        (folder / "sources" / name / "events.toml").write_text(HEAD + text)
    (folder / "sources" / "tracking_plan.toml").write_text(PLAN)
    day = "arrival=2024-05-02"
    bad = [text for text, _ in BAD_CLICKS.values()]
    quoted = [f'"Ann ""A"" Lee",d,a,{MILLIS},,"x\ny"', "", f",device,a,{MILLIS},2,", f'Bob,d,"a\n1",{MILLIS},,x']
    deliver(lake, f"clicks/{day}/a.csv", b"\xef\xbb\xbf" + csv_of(HEADER, *GOOD_CLICKS, *bad, *quoted))
    deliver(lake, f"clicks/{day}/bad.csv", csv_of(HEADER, *[f"u,d,a,{at},1,x" for at in [MILLIS, *[""] * 11, MILLIS]]))
    deliver(lake, f"clicks/{day}/empty.csv", b"")
    deliver(lake, f"clicks/{day}/other.csv", csv_of("user,item", "1,2"))
    deliver(lake, f"clicks/{day}/packed.csv.gz", gzip.compress(csv_of(HEADER, f"late,d,a,{MILLIS},1,x")))
    lines = b"".join(json.dumps(line).encode() + b"\n" for line in [*ORDER_LINES, "{"])
    deliver(lake, f"orders/{day}/a.zst", zstandard.compress(lines))
    deliver(lake, f"orders/{day}/cut.zst", zstandard.compress(lines)[:-5])
    deliver(lake, f"orders/{day}/plain.zst", lines)
    seconds = MILLIS // 1000
    rows = [f'1\tCafé "Olé\t4\t{seconds}', f"1\tM\t4.5\t{seconds}", f"1\tN\t3\t{MILLIS * 1000}", "1\tO\t3"]
    deliver(lake, f"ratings/{day}/u.data", "".join(f"{row}\n" for row in rows).encode("latin-1"))
    deliver(lake, f"ratings/{day}/utf8.data", f"2\tCafé\t4\t{seconds}\n".encode())
    page = pa.array([None, {"query": "love", "n": 1}], pa.struct({"query": pa.string(), "n": pa.int64()}))
    at = pa.array([DAY, DAY], pa.timestamp("us", "UTC"))
    plays = {"user": pa.array([1, 2], pa.int32()), "song": ["Hey Jude", None], "at": at}
    deliver(lake, f"plays/{day}/a.parquet", parquet_of(**plays, page=page))
    deliver(lake, f"plays/{day}/b.parquet", parquet_of(**plays))
    deliver(lake, f"plays/{day}/c.parquet", parquet_of(**plays, page=["x", "y"]))
    deliver(lake, f"plays/{day}/d.parquet", b"PAR1")
    texts = pa.array([None, "a"], pa.large_string()).dictionary_encode()  # as pandas and polars write them
    deliver(lake, f"plays/{day}/texts.parquet", parquet_of(**plays | {"user": pa.nulls(2), "song": texts}, page=page))
    deliver(lake, f"plays/{day}/e.parquet", parquet_of(**plays | {"song": [1.5, 2.5]}, page=page))
    deliver(lake, f"plays/{day}/f.parquet", parquet_of(**plays | {"user": [DAY.date(), None]}, page=page))
    deliver(lake, f"plays/{day}/g.parquet", parquet_of(**plays, page=[{"query": 1}, None]))
    deliver(lake, f"plays/{day}/h.parquet", parquet_of(**plays, page=[[{"query": "x"}], None]))
    parts = pa.StructArray.from_arrays([pa.array(["x", "y"])] * 2, ["query", "Query"])
    deliver(lake, f"plays/{day}/i.parquet", parquet_of(**plays, page=page, twice="user"))
    deliver(lake, f"plays/{day}/j.parquet", parquet_of(**plays, page=page, twice="SONG"))
    deliver(lake, f"plays/{day}/k.parquet", parquet_of(**plays, page=parts))
    deliver(lake, f"wide/{day}/a.csv", "who,at\nZoë,2024-05-01 10:00:00\n".encode("utf-16"))
    deliver(lake, f"wide/{day}/b.csv", b"who,at\nAnn,2024-05-01\n")
    deliver(lake, f"wide/{day}/c.csv", "who,at\nBob,2024-05-01\n".encode("utf-16") + b"\n")  # half a character
    odd = {
        "_file": 1,
        "_number": MILLIS,
        "_entry": "e",
        "line items": [{"a'b": "cup", "1": "x"}, {"a'b": 2, "1": None}],
    }
    wrong = [{"_file": 1.5}, {"_number": "1"}, {"d'or?": ""}, {"when": 0}, {"when": "2024-05-01T10:00Z"}]
    wrong += [{"on": {"days": ["2024-05-01", "day"]}}, {"line items": [{"a'b": True}]}]
    unfit = [odd | {"line items": [{}]} | each for each in wrong]
    deliver(lake, f"odd/{day}/a.jsonl", b"".join(json.dumps(each).encode() + b"\n" for each in [odd, *unfit]))
    deliver(lake, f"boxes/{day}/a.parquet", parquet_of(**{"user.id": ["u1"], "tags.all": [["a", "b"]]}))
    deliver(lake, f"click/{day}/a.csv", b"x")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "folder", lambda: folder / "sources")
        assert lake.run("ingest_events") == 0
    yield lake


def events_of(lake: Lake, name: str) -> list[dict]:
    rows = [row for row in lake.dataset("curated/events").to_pylist() if row["source"] == name]
    return sorted(rows, key=lambda row: (row["event_id"], row["user_id"] or ""))


def quarantined(lake: Lake, name: str) -> dict[int | None, str]:
    rows = lake.rows("ingest_events").to_pylist()
    return {row["line"]: row["reason"] for row in rows if row["file"].endswith(f"/{name}")}


def test_rows_of_csv_are_quarantined_with_line_and_reason(ingested: Lake) -> None:
    reasons = {line: reason for line, (_, reason) in BAD_CLICKS.items()}
    assert quarantined(ingested, "clicks/arrival=2024-05-02/a.csv") == {**reasons, 313: "bad item ID"}
    assert quarantined(ingested, "empty.csv") == {None: "empty"}
    assert quarantined(ingested, "other.csv")[None].startswith("its first line does not name visitor")


def test_quotes_line_feeds_and_empty_text_are_read_as_csv_says(ingested: Lake) -> None:
    clicks = {row["user_id"]: row for row in events_of(ingested, "clicks")}
    assert len(clicks) == 300 + 3
    assert clicks["device"]["context"] == [("device", "device")]
    assert clicks["u7"]["value"] == 1.5 and clicks["u7"]["time"] == DAY
    assert clicks["late"]["item_id"] == clicks['Ann "A" Lee']["item_id"] == "a"


def test_each_entry_of_an_array_is_an_event(ingested: Lake) -> None:
    orders = [(row["event_id"], row["user_id"], row["item_id"], row["type"], row["quantity"])
              for row in events_of(ingested, "orders")]  # fmt: skip
    assert orders == [
        ("o1-0", "7", "cup", "purchase", 2),
        ("o1-1", "7", "pot", "purchase", 1),
        ("o2-0", "bob", "cup", "cancellation", 1),
    ]
    assert quarantined(ingested, "a.zst") == {
        1: "no quantity",
        5: "a value of another type than its field",
        6: "bad id",
        7: "not a JSON object",
    }


def test_bad_zstd_is_left_out(ingested: Lake) -> None:
    assert quarantined(ingested, "cut.zst") == {None: "zstd that is cut off"}
    assert quarantined(ingested, "plain.zst") == {None: "not zstd"}


def test_tsv_without_header_in_another_character_set(ingested: Lake) -> None:
    (rating,) = events_of(ingested, "ratings")
    assert (rating["user_id"], rating["item_id"], rating["value"], rating["quantity"]) == ("1", 'Café "Olé', 4.0, 4)
    assert len(rating["event_id"]) == 32
    assert quarantined(ingested, "u.data") == {
        2: "bad quantity",
        3: "bad time",
        4: "another number of fields than [fields]",
    }
    assert quarantined(ingested, "utf8.data") == {None: "its text is UTF-8, not latin-1"}


def test_parquet_is_read_by_name_and_misfits_are_named(ingested: Lake) -> None:
    plays = sorted(events_of(ingested, "plays"), key=lambda row: row["user_id"] or "")
    assert [(row["user_id"], row["item_id"], row["type"], row["context"]) for row in plays if row["user_id"]] == [
        ("1", "Hey Jude", "play", None),
        ("2", None, "search", [("query", "love")]),
    ]
    others = {(row["item_id"], row["type"], row["event_id"]) for row in plays if not row["user_id"]}
    lines = [
        '{"at":"2024-05-01T10:00:00.000Z"}',
        '{"song":"a","at":"2024-05-01T10:00:00.000Z","page":{"query":"love"}}',
    ]
    ids = [hashlib.md5(line.encode()).hexdigest() for line in lines]
    assert others == {(None, "search", ids[0]), ("a", "play", ids[1])}
    assert quarantined(ingested, "b.parquet") == {None: "it lacks the columns page; it has user, song, at"}
    page = "struct<query: string, place: bigint>"
    assert quarantined(ingested, "c.parquet") == {None: f"its column 'page' is string, expected {page}"}
    assert quarantined(ingested, "d.parquet") == {None: "not Parquet"}
    assert quarantined(ingested, "e.parquet") == {None: "its column 'song' is double, expected string"}
    assert quarantined(ingested, "f.parquet") == {None: "its column 'user' is date, expected bigint"}
    assert quarantined(ingested, "g.parquet") == {None: f"its column 'page' is struct<query: bigint>, expected {page}"}
    found = "array<struct<query: string>>"
    assert quarantined(ingested, "h.parquet") == {None: f"its column 'page' is {found}, expected {page}"}
    for file, name in {"i": "user", "j": "song", "k": "query"}.items():
        reason = f"it has the column '{name}' twice, whatever the case"
        assert quarantined(ingested, f"{file}.parquet") == {None: reason}


def test_character_set_that_is_not_the_files_leaves_it_out(ingested: Lake) -> None:
    assert [row["user_id"] for row in events_of(ingested, "wide")] == ["Zoë"]
    for name in ("b", "c"):
        assert quarantined(ingested, f"wide/arrival=2024-05-02/{name}.csv") == {None: "its text is not utf-16"}


def test_fields_may_have_any_names(ingested: Lake) -> None:
    found = [(row["user_id"], row["item_id"], row["context"]) for row in events_of(ingested, "odd")]
    assert found == [("1", "cup", [("entry", "e"), ("first", "x")]), ("1", "2", [("entry", "e")])]
    reasons = {2: "bad file", 3: "bad number", 4: "bad d'or?", 5: "bad when", 6: "bad when", 7: "bad on"}
    reasons[8] = "a value of another type than its field"
    assert quarantined(ingested, "odd/arrival=2024-05-02/a.jsonl") == reasons
    assert [(row["user_id"], row["item_id"]) for row in events_of(ingested, "boxes")] == [("u1", "a"), ("u1", "b")]


def test_rows_of_a_bad_csv_have_their_lines_in_the_file(ingested: Lake) -> None:
    reasons = dict.fromkeys(range(2, 15), "bad time")
    reasons[2] = reasons[14] = "in a file with too many unusable records"
    assert quarantined(ingested, "bad.csv") == reasons


def test_folder_of_no_source_is_left_out_with_the_nearest(ingested: Lake) -> None:
    reason = quarantined(ingested, "click/arrival=2024-05-02/a.csv")[None]
    assert reason == "raw/events/click is not a source's folder; did you mean 'raw/events/clicks'"


def test_each_record_is_counted_once(ingested: Lake) -> None:
    metrics = ingested.manifest("ingest_events")["metrics"]
    assert metrics["not_kept"] == {"orders": 2}
    assert metrics["unknown_types"] == {"view": 307, "play": 2, "rating": 1, "search": 2, "visit": 1}
    assert metrics["events_by_type"] == {"purchase": 2, "cancellation": 1}
    others = metrics["duplicates"] + metrics["unusable"] + sum(metrics["not_kept"].values()) + metrics["suppressed"]
    assert metrics["lines"] == metrics["events"] + others


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        ("\"'view'\"", '"seconds"', "type in [columns] of sources/clicks/events.toml is 'seconds', of type double"),
        ('"seconds"', '"article"', "value in [columns] of sources/clicks/events.toml is 'article', of type string"),
        ('"timestamp_millis(at)"', '"at"', "time in [columns] of sources/clicks/events.toml is 'at', of type bigint"),
        ('"article"', '"article.name"', "item_id in [columns] of sources/clicks/events.toml"),
        ("[context]", "[rules]\nodd = \"seconds\"\n[context]", "'odd' in [rules] of sources/clicks/events.toml"),
    ],
)  # fmt: skip
def test_type_is_refused_before_any_data_is_read(
    session: SparkSession, make_sources: Callable[..., Path], before: str, after: str, sentence: str
) -> None:
    head, _, columns = CLICKS.partition("[columns]")
    make_sources({"clicks/events.toml": f"{HEAD}{head}[columns]{columns.replace(before, after, 1)}"})
    (clicks,) = source.load("events")
    with pytest.raises(ArgumentError) as refused:
        parsing.check(session, clicks)
    assert sentence in str(refused.value)

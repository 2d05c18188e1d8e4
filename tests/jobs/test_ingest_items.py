"""Catalogue from contradictory descriptions, and from the deliveries of any sources."""

import datetime
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from recommending_lake import Lake, killed_before

from common.ingestion.arrow import catalogue
from common.ingestion.arrow.mapping import Mapping
from common.sources.source import load as load_sources

MakeSources = Callable[[dict[str, str]], Path]
UTC = datetime.UTC

HEADER = "item_id,description,seen\n"


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path)


def names(lake: Lake) -> dict[str, str]:
    return {row["item_id"]: row["name"] for row in lake.dataset("curated/items").to_pylist()}


@pytest.mark.parametrize(
    "descriptions, name",
    [
        (["PAPER  BAG ", "crushed"], "PAPER BAG"),
        (["PAPER BAG", "LARGE PAPER BAG"], "LARGE PAPER BAG"),
        (["LARGE PAPER BAG", "PAPER BAG", ""], "PAPER BAG"),
        (["PAPER BAG", "FOUND"], "PAPER BAG"),
        (["SOMBRERO", "Glow In The Dark Shot Glasses"], "SOMBRERO"),
        (["Glow In The Dark Shot Glasses", "given away"], "Glow In The Dark Shot Glasses"),
        (["BAG 125g SWIRLY MARBLES", "?"], "BAG 125g SWIRLY MARBLES"),
        (['BOX, "GREEN"', "22719"], 'BOX, "GREEN"'),
    ],
)
def test_best_kind_of_description_wins_then_the_last_seen(lake: Lake, descriptions: list[str], name: str) -> None:
    quoted = ['"' + text.replace('"', '""') + '"' for text in descriptions]
    lines = [f"22719,{text},2011-01-{day + 1:02}T00:00:00Z\n" for day, text in enumerate(quoted)]
    lake.raw_items("2011-02-01", HEADER + "".join(lines))
    assert lake.run("ingest_items") == 0
    assert names(lake) == {"22719": name}


def test_rows_without_stock_code_or_name_are_quarantined(lake: Lake) -> None:
    lake.raw_items(
        "2011-02-01",
        HEADER
        + "85123A,WHITE HOLDER,2011-01-01T00:00:00Z\nPOST,POSTAGE FEE,2011-01-01T00:00:00Z\n"
        + "20852,given away,2011-01-01T00:00:00Z\n20852,,2011-01-01T00:00:00Z\n",
    )
    assert lake.run("ingest_items") == 4  # more than half of the rows, as of another shop's catalogue
    assert lake.run("ingest_items", "--set", "max_dropped_share=0.75") == 0
    assert lake.dataset("curated/items").to_pylist() == [
        {
            **dict.fromkeys(("available_from", "available_until", "attributes")),
            "item_id": "85123A",
            "name": "WHITE HOLDER",
            "family": "85123",
        }
    ]
    quarantine = [(row["line"], row["reason"], row["content"]) for row in lake.rows("ingest_items").to_pylist()]
    assert quarantine == [
        (3, "no stock code: five digits at the beginning", "POST,POSTAGE FEE,2011-01-01T00:00:00Z"),
        (4, "no description is a name", "20852,given away,2011-01-01T00:00:00Z"),
        (5, "no description is a name", "20852,,2011-01-01T00:00:00Z"),
    ]
    assert lake.manifest("ingest_items")["metrics"] == {
        "files_new": 1,
        **dict.fromkeys(("files_changed", "files_waiting", "files_deleted"), 0),
        "lines": 4,
        "unusable": 0,
        "reasons": {},
        "files_quarantined": 0,
        "files_left_out": 0,
        "not_kept": {},
        "items": 1,
        "items_with_several_names": 0,
        "dropped": {"no description is a name": 2, "no stock code: five digits at the beginning": 1},
        "dropped_share": 0.75,
    }


def test_deliveries_are_read_together(lake: Lake) -> None:
    lake.raw_items("2011-02-01", HEADER + "22719,OLD NAME,2011-01-01T00:00:00Z\n22720,KEPT ITEM,2011-01-01T00:00:00Z\n")
    lake.raw_items("2011-02-02", HEADER + "22719,NEW NAME,2011-02-01T00:00:00Z\n")
    assert lake.run("ingest_items") == 0
    assert names(lake) == {"22719": "NEW NAME", "22720": "KEPT ITEM"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("item_id,name\n1,2\n", "its first line does not name item_id, description, seen"),
        ("item_id\0", "its first line does not name item_id, description, seen"),
    ],
)
def test_file_that_is_not_a_list_of_items_is_named(lake: Lake, capsys, text: str, reason: str) -> None:
    lake.raw_items("2011-02-01", text)
    assert lake.run("ingest_items") == 3
    assert f"arrival=2011-02-01/items.csv: {reason}" in capsys.readouterr().err.splitlines()[-1]


def test_missing_delivery_is_an_input_error(lake: Lake) -> None:
    assert lake.run("ingest_items") == 3


def deliver(lake: Lake, path: str, content: bytes) -> None:
    """Write a file of a delivery, `SOURCE/DAY/NAME`."""
    source, day, name = path.split("/")
    file = lake.folder / "lake" / "raw" / "items" / source / f"arrival={day}" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def items(lake: Lake) -> dict[str, dict[str, Any]]:
    """Return the columns of each item that are not null, without its ID."""
    rows = lake.dataset("curated/items").to_pylist()
    assert [row["item_id"] for row in rows] == sorted({row["item_id"] for row in rows})
    found = {}
    for row in rows:
        row["attributes"] = row["attributes"] and dict(row["attributes"])
        item = row.pop("item_id")
        found[item] = {name: value for name, value in row.items() if value is not None}
    return found


def source(head: str, fields: str, columns: str, more: str = "") -> str:
    return f'description = "x"\n{head}\n[fields]\n{fields}\n[columns]\nitem_id = "id"\n{columns}\n{more}'


PROPERTIES = source(
    'format = "csv"\nmode = "increments"\nkeep = "property != \'790\'"',
    'timestamp = "bigint"\nid = "bigint"\nproperty = "string"\nvalue = "string"',
    """time = "timestamp_millis(timestamp)"
family = "if(property = 'categoryid', value, null)"
available_until = "if(property = 'available' and value = '0', timestamp_millis(timestamp), null)"
""",
    """[attributes]
brand = "if(property = 'brand', value, null)"
size = "if(property = 'size', value, null)"
""",
)


@pytest.mark.parametrize("fold", [1, 2, 5, 1_000_000])
def test_change_log_of_properties_becomes_the_last_value_of_each(
    lake: Lake, make_sources: MakeSources, monkeypatch: pytest.MonkeyPatch, fold: int
) -> None:
    monkeypatch.setattr(catalogue, "FOLD", fold)
    make_sources({"shop/items.toml": PROPERTIES})
    log = [
        (3000, 1, "categoryid", "9"), (1000, 1, "categoryid", "8"), (2000, 1, "brand", "old"), (2000, 1, "790", "n1:2"),
        (4000, 2, "available", "0"), (5000, 2, "available", "1"), (2000, 1, "brand", "new"), (9000, 1, "brand", ""),
    ]  # fmt: skip
    for day, part in (("2011-01-01", log[:3]), ("2011-01-02", log[3:])):
        rows = "".join(f"{','.join(map(str, row))}\n" for row in part)
        deliver(lake, f"shop/{day}/properties_part1.csv", f"timestamp,id,property,value\n{rows}".encode())
    assert lake.run("ingest_items") == 0
    assert items(lake) == {
        "1": {"family": "9", "attributes": {"brand": "new"}},
        "2": {"available_until": datetime.datetime(1970, 1, 1, 0, 0, 4, tzinfo=UTC)},
    }
    metrics = lake.manifest("ingest_items")["metrics"]
    assert (metrics["lines"], metrics["not_kept"], metrics["unusable"]) == (8, {"shop": 1}, 0)


def merged(
    mapping: Mapping, state: pa.Table, files: dict[str, list[tuple]], again: list[str]
) -> tuple[pa.Table, pa.Table]:
    """Return the items and the new state after files of rows (item, time, name, preference, size) were read."""
    day_of = {path: datetime.date(2011, 1, 1 + int(path[-1]) % 2) for path in files}
    result = catalogue.Catalogue([mapping], state, [(day_of[path], path) for path in files])
    for path, rows in files.items():
        columns = dict(zip(("item_id", "time", "name", "preference", "attribute size"), zip(*rows), strict=True))
        table = pa.table({**columns, "__position": range(len(rows))})
        result.add(mapping, day_of[path], path, table)
        result.end_file(True)
    result.add_state(again, [])
    result.judge()
    return result.items(), result.new_state()


def test_increments_in_any_order_and_again_equal_all_at_once(make_sources: MakeSources) -> None:
    columns = 'name = "name"\npreference = "preference"\ntime = "time"\n[attributes]\nsize = "size"'
    fields = 'id = "string"\ntime = "timestamp"\nname = "string"\npreference = "double"\nsize = "string"'
    make_sources({"shop/items.toml": source('format = "parquet"\nmode = "increments"', fields, columns)})
    (mapping,) = map(Mapping, load_sources("items"))
    shuffled = random.Random(5)
    moments = [datetime.datetime(2011, 1, 1, hour, tzinfo=UTC) for hour in range(3)]

    def row() -> tuple:
        choose = shuffled.choice
        return choose("ab"), choose(moments), choose(["X", "Y", None]), choose([1.0, 2.0, None]), choose([None, *"stu"])

    files = {f"raw/items/{number}": [row() for _ in range(5)] for number in range(4)}
    empty = catalogue.STATE.empty_table()
    items, state = merged(mapping, empty, files, [])
    assert {row["item_id"] for row in items.to_pylist()} == {"a", "b"} and None not in items["name"].to_pylist()
    for _ in range(2):
        order = shuffled.sample([*files], len(files))
        found = empty
        for path in [*order, order[0]]:  # one is taken twice, as after a kill
            result, found = merged(mapping, found, {path: files[path]}, [path])
        assert result.equals(items)
        assert found.equals(state)


def manifest_of(lake: Lake, dataset: str) -> str:
    return (lake.folder / "lake" / "curated" / dataset / "all" / "manifest.json").read_text()


def test_new_increments_merge_into_the_known_items(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    lake.raw_items("2011-02-01", HEADER + "22719,OLD NAME,2011-01-05T00:00:00Z\n22720,KEPT ITEM,2011-01-01T00:00:00Z\n")
    assert lake.run("ingest_items") == 0
    notes = "".join(f"2{number},damages,2011-02-01T00:00:00Z\n" for number in (1111, 2222))
    lake.raw_items("2011-02-02", HEADER + "22719,OLDER NAME,2011-01-02T00:00:00Z\n" + notes)
    assert lake.run("ingest_items", task="late") == 0
    assert names(lake) == {"22719": "OLD NAME", "22720": "KEPT ITEM"}
    metrics = lake.manifest("late")["metrics"]
    assert (metrics["files_new"], metrics["lines"], metrics["items"]) == (1, 3, 2)
    assert metrics["dropped"] == {"no description is a name": 2}
    assert [row["line"] for row in lake.rows("late").to_pylist()] == [3, 4]

    before = manifest_of(lake, "items"), manifest_of(lake, "item_state")
    assert lake.run("ingest_items", task="nothing") == 0
    assert (manifest_of(lake, "items"), manifest_of(lake, "item_state")) == before
    assert [*lake.manifest("nothing")["outputs"]] == ["quarantine"]

    lake.raw_items("2011-02-01", HEADER + "22720,KEPT ITEM,2011-01-01T00:00:00Z\n")  # the file that won is another
    with killed_before("items"):
        assert lake.run("ingest_items", task="killed") == 1
    assert names(lake)["22719"] == "OLD NAME"
    assert lake.run("ingest_items", task="changed") == 0
    assert names(lake) == {"22719": "OLDER NAME", "22720": "KEPT ITEM"}
    (lake.folder / "lake" / "curated" / "item_state" / "all" / "manifest.json").unlink()
    assert lake.run("ingest_items", task="lost_state") == 0
    assert names(lake) == {"22719": "OLDER NAME", "22720": "KEPT ITEM"}


def test_sources_of_any_format_fill_one_catalogue(lake: Lake, make_sources: MakeSources) -> None:
    make_sources(
        {
            "books/items.toml": source(
                'format = "csv"\ndelimiter = ";"\nencoding = "latin-1"',
                'id = "string"\ntitle = "string"\nyear = "int"',
                'name = "title"',
                '[attributes]\nyear = "year"\n[rules]\n"no year" = "year > 0"',
            ),
            "films/items.toml": source(
                'format = "json"\ncompression = "zstd"\neach = "films"',
                'films = "array<struct<id: string, meta: struct<title: string, from: timestamp>>>"',
                'name = "entry.meta.title"\navailable_from = "entry.meta.from"',
            ).replace('item_id = "id"', 'item_id = "entry.id"'),
            "prices/items.toml": source(
                'format = "parquet"',
                'id = "bigint"\nprice = "decimal(8, 2)"\nat = "timestamp"',
                'time = "at"',
                '[attributes]\nprice = "price"',
            ),
        }
    )
    books = '"id";"title";"year"\n"1";"Müller\nund; Söhne";"1999"\n2;"";2000\n3;A;0\n4;B\n5;"C";two\n'.encode("latin-1")
    deliver(lake, "books/2011-01-05/b.csv", books)
    films = [
        {"films": [{"id": "f1", "meta": {"title": "Alien", "from": "2011-03-01 00:00:00"}}, {"id": 1, "meta": None}]},
        {"films": []},
        {"films": [{"id": "f2", "meta": {"title": 5.5}}]},
    ]
    content = "".join(json.dumps(each) + "\n" for each in films).encode()
    deliver(lake, "films/2011-01-06/f.jsonl.zst", zstandard.compress(content))
    at = [datetime.datetime(2011, 1, day, tzinfo=UTC) for day in (1, 2)]
    table = pa.table({"id": [1, 1], "price": [1.5, 2.25], "at": at, "more": ["x", "y"]})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    deliver(lake, "prices/2011-01-04/p.parquet", sink.getvalue().to_pybytes())
    assert lake.run("ingest_items") == 0
    assert items(lake) == {
        "1": {"attributes": {"price": "2.25"}},
        "2": {"attributes": {"year": "2000"}},
        "f1": {"name": "Alien", "available_from": datetime.datetime(2011, 3, 1, tzinfo=UTC)},
    }
    metrics = lake.manifest("ingest_items")["metrics"]
    assert metrics["reasons"] == {
        "bad name": 1, "another number of fields than the header": 1, "bad year": 1,
        "a value of another type than its field": 1,
    }  # fmt: skip
    assert metrics["not_kept"] == {"films": 1} and metrics["dropped"] == {"no year": 1}
    quarantine = {(row["line"], row["reason"]) for row in lake.rows("ingest_items").to_pylist()}
    assert quarantine == {(2, "bad name"), (5, "no year"), (6, "another number of fields than the header"),
                          (7, "bad year"), (3, "a value of another type than its field")}  # fmt: skip


def test_newest_full_delivery_is_the_catalogue(lake: Lake, make_sources: MakeSources) -> None:
    full = source('format = "csv"', 'id = "string"\ntitle = "string"', 'name = "title"')
    make_sources({"shop/items.toml": full, "other/items.toml": full})
    deliver(lake, "other/2011-01-01/a.csv", b"id,title\n9,Kept\n")
    deliver(lake, "shop/2011-01-01/a.csv", b"id,title\n1,Old\n2,Gone\n")
    deliver(lake, "shop/2011-01-02/a.csv", b"id,title\n1,New\n")
    deliver(lake, "shop/2011-01-02/b.csv", b"title,id\nOther,3\n")
    found = lambda: {item: row["name"] for item, row in items(lake).items()}  # noqa: E731
    assert lake.run("ingest_items") == 0
    assert found() == {"1": "New", "3": "Other", "9": "Kept"}

    deliver(lake, "shop/2011-01-01/b.csv", b"id,title\n4,Late\n")
    before = manifest_of(lake, "items")
    assert lake.run("ingest_items", task="late") == 0
    assert manifest_of(lake, "items") == before

    deliver(lake, "shop/2011-01-02/c.csv", b"id,title\n5,More\n")  # the rest of the newest day
    assert lake.run("ingest_items", task="more") == 0
    assert found() == {"1": "New", "3": "Other", "5": "More", "9": "Kept"}

    deliver(lake, "shop/2011-01-03/a.csv", b"id,title\n1,Newest\n")
    assert lake.run("ingest_items", "--set", "max_key_drop=0.5", task="newest") == 0
    assert found() == {"1": "Newest", "9": "Kept"}
    assert lake.manifest("newest")["metrics"]["lines"] == 1

    deliver(lake, "shop/2011-01-04/a.csv", b"")
    assert lake.run("ingest_items", task="empty") == 0
    assert found() == {"1": "Newest", "9": "Kept"}
    assert lake.run("ingest_items", task="after") == 0
    assert lake.manifest("after")["metrics"]["files_new"] == 0


def test_items_that_break_a_rule_of_their_source_are_dropped_with_all_rows(
    lake: Lake, make_sources: MakeSources
) -> None:
    rule = '[item_rules]\n"not sold any more" = "available_until IS NULL"'
    text = source('format = "csv"', 'id = "string"\nend = "string"', 'available_until = "end"', rule)
    make_sources({"shop/items.toml": text, "other/items.toml": text.replace(rule, "")})
    deliver(lake, "shop/2011-01-01/a.csv", b"id,end\n1,\n2,2012-01-01\n2,\n3,\n4,\n")
    deliver(lake, "other/2011-01-01/a.csv", b"id,end\n1,2010-01-01\n5,2010-01-01\n")
    assert lake.run("ingest_items", "--set", "max_dropped_share=0.6") == 0
    assert list(items(lake)) == ["3", "4", "5"]
    assert lake.manifest("ingest_items")["metrics"]["dropped"] == {"not sold any more": 4}
    files = [Path(row["file"]).parts[-3:] for row in lake.rows("ingest_items").to_pylist()]
    assert sorted(parts[0] for parts in files) == ["other", "shop", "shop", "shop"]


@pytest.mark.parametrize(
    ("content", "code", "sentence"),
    [
        (b"id,title\n", 4, "0 of 0 records are unusable"),
        (b"id,title\n" + b"x\n" * 10 + b"1,a\n" * 5, 4, "another number of fields than the header (10)"),
        (b"id,title\n1,skip\n", 4, "The deliveries leave no row"),
        (b"id,title\n1,bad\n2,a\n3,bad\n", 4, "2 of 3 usable rows break a rule of their source, at most 50.0% may"),
        (b"number;title\n1,a\n", 3, "its first line does not name id, title"),
        (b"", 3, "a.csv: empty"),
        ("id,title\n1,M\u00fcller\n".encode("utf-16"), 3, "its first line does not name id, title"),
    ],
)
def test_catalogue_that_cannot_be_right_is_refused(
    lake: Lake, make_sources: MakeSources, capsys: pytest.CaptureFixture, content: bytes, code: int, sentence: str
) -> None:
    more = '[rules]\n"bad title" = "title != \'bad\'"'
    head = 'format = "csv"\nkeep = "title != \'skip\'"'
    make_sources({"shop/items.toml": source(head, 'id = "string"\ntitle = "string"', 'name = "title"', more)})
    deliver(lake, "shop/2011-01-01/a.csv", content)
    assert lake.run("ingest_items") == code
    assert sentence in capsys.readouterr().err.splitlines()[-1]
    assert not (lake.folder / "lake" / "curated" / "items" / "all" / "manifest.json").exists()


GOODS = b"".join(b"%d,Good\n" % number for number in range(30))


@pytest.mark.parametrize(
    ("content", "reasons"),
    [
        (b"\xef\xbb\xbfid,title\n" + GOODS, {}),
        (b'"id","title"\r\n' + GOODS.replace(b"\n", b"\r\n"), {}),
        (b"id,title,more\n" + GOODS.replace(b"\n", b',"x\ny"\n'), {}),
        (b"id,title\n" + GOODS + b'99,"two, with ""quotes"""\n', {}),
        (b"id,title\n" + GOODS + b"1\n2,a,b\n\n", {"another number of fields than the header": 2}),
        (b"id,title\n" + GOODS + b"id,title\n", {"header again": 1}),
        (b"id,title\n" + GOODS + b"7,M\xfcller\n", {"not UTF-8": 1}),
        (b"id,title\n" + GOODS + b'8,"open\n', {"not CSV": 1}),
        (b"id,title\n" + GOODS + b",nobody\n", {"no item ID": 1}),
    ],
    ids=["mark", "quotes", "more columns", "escaped", "ragged", "header", "latin", "open", "no ID"],
)
def test_odd_csv_is_read_or_quarantined_by_row(
    lake: Lake, make_sources: MakeSources, content: bytes, reasons: dict[str, int]
) -> None:
    make_sources({"shop/items.toml": source('format = "csv"', 'id = "string"\ntitle = "string"', 'name = "title"')})
    deliver(lake, "shop/2011-01-01/a.csv", content)
    assert lake.run("ingest_items") == 0
    assert {str(number) for number in range(30)} <= items(lake).keys()
    assert lake.manifest("ingest_items")["metrics"]["reasons"] == reasons
    assert lake.rows("ingest_items").num_rows == sum(reasons.values())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (('name = "title"', 'name = "titel"'), "name in [columns] of sources/shop/items.toml"),
        (('name = "title"', 'name = "id + 0.5"'), "of type"),
        (('name = "title"', 'name = "title = 5"'), "takes the text title for a number"),
        (('name = "title"', 'preference = "title"'), "is 'title', of type string, expected a number"),
        (('name = "title"', 'time = "id"'), "expected a timestamp, or text in ISO 8601"),
        (('title = "string"', 'title = "strng"'), "expected a type"),
        (('name = "title"', '[rules]\n"x" = "title"'), "'x' in [rules] of sources/shop/items.toml is 'title', of type"),
        (('name = "title"', '[item_rules]\n"x" = "name"'), "expected a condition"),
        (('name = "title"', "[attributes]\nx = \"split(title, ',')\""), "expected a single value"),
    ],
)
def test_wrong_source_is_refused_before_data_is_read(
    lake: Lake, make_sources: MakeSources, capsys: pytest.CaptureFixture, change: tuple[str, str], sentence: str
) -> None:
    text = source('format = "csv"', 'id = "bigint"\ntitle = "string"', 'name = "title"').replace(*change)
    make_sources({"shop/items.toml": text})
    (lake.folder / "lake").mkdir()
    assert lake.run("ingest_items") == 2
    assert sentence in capsys.readouterr().err.splitlines()[-1]

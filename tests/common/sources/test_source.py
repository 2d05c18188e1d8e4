"""Files of sources: values, defaults, and a sentence for each mistake that loading finds."""

import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from common.errors import ArgumentError
from common.sources import expressions, source

SHIPPED = sorted((Path(__file__).parents[3] / "sources").glob("*/*.toml"))
CLICKS = """
description = "Clicks of a news site."
format = "json"

[fields]
visitor = "string"
article = "string"
at = "bigint"
page = "struct<path: string, tags: array<struct<name: string>>>"

[columns]
user_id = "visitor"
item_id = "article"
type = "'view'"
time = "timestamp_millis(at)"
"""


def test_defaults_are_plain_files_in_a_folder_of_the_source(make_sources: Callable[..., Path]) -> None:
    make_sources({"clicks/events.toml": CLICKS, "clicks/README.md": "", "books/items.toml": ""})
    (clicks,) = source.load("events")
    assert (clicks.name, clicks.deliveries, clicks.suffix) == ("clicks", "raw/events/clicks", "")
    assert clicks.columns["time"] == "timestamp_millis(at)"


@pytest.mark.parametrize("kind", sorted({file.stem for file in SHIPPED}))
def test_shipped_sources_can_be_loaded(kind: str) -> None:
    assert [found.name for found in source.load(kind)] == [file.parent.name for file in SHIPPED if file.stem == kind]


def test_folder_in_the_documentation_can_be_loaded() -> None:
    page = (Path(__file__).parents[3] / "docs" / "sources.md").read_text("utf-8")
    shown = re.findall(r"`sources/video/(\w+)\.toml`, for [^\n]*\n```toml\n(.*?)```", page, re.DOTALL)
    assert [source.read("video", kind, tomllib.loads(text)).kind for kind, text in shown] == ["events", "items"]


def test_list_of_functions_in_the_documentation_is_complete() -> None:
    page = (Path(__file__).parents[3] / "docs" / "sources.md").read_text("utf-8")
    (shown,) = re.findall(r"cannot compute\.\n```\n(.*?)```", page, re.DOTALL)
    assert shown.split() == sorted(expressions.FUNCTIONS)


def test_entry_has_the_type_of_the_array_that_each_names() -> None:
    text = CLICKS.replace("description", 'each = "page.tags"\ndescription', 1)
    found = source.read("clicks", "events", tomllib.loads(text + 'value = "size(page.tags)"\nplatform = "entry.name"'))
    assert found.known_fields["entry"] == "STRUCT<name: STRING>"
    assert found.known_fields["arrival"] == "date"


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        ("format =", "fromat =", "The key 'fromat' in sources/clicks/events.toml is unknown; did you mean 'format'."),
        ('"json"', '"jsn"', "format of sources/clicks/events.toml is 'jsn'; did you mean 'json'."),
        ('"json"', '"csv"', "page in [fields] of sources/clicks/events.toml is 'struct<path: string,"),
        ('"json"', '"json"\nheader = true', "header of sources/clicks/events.toml has no effect on json files"),
        ('"json"', '"parquet"\ncompression = "zstd"', "has no effect on parquet files; remove it."),
        ('"json"', '"json"\ncompression = "zip"', "is 'zip'; did you mean 'gzip'."),
        ("[fields]", '[fields]\n__v = "string"', "__v in [fields] of sources/clicks/events.toml begins with __, as"),
        (
            "[fields]",
            '[fields]\nPage = "string"',
            "has 'Page' and 'page', expected names that differ in more than case.",
        ),
        ('"json"', '"csv"\nencoding = "latin-99"', "is 'latin-99', expected a character set of Python"),
        ('"json"', '"csv"\ndelimiter = ";;"', "delimiter of sources/clicks/events.toml is ';;', expected one ASCII"),
        ('"json"', '"json"\ndeliveries = "raw/items"', "is 'raw/items', expected raw/events or a folder inside"),
        ('"json"', '"json"\ndeliveries = "raw/events/../x"', "expected raw/events or a folder inside"),
        (
            '"json"',
            '"json"\neach = "page.path"',
            "each of sources/clicks/events.toml is 'page.path', expected the path",
        ),
        ('"json"', '"json"\neach_optional = true', "has no effect without each"),
        ('"json"', '"csv"\nheader = "no"', "header of sources/clicks/events.toml is 'no', expected true or false."),
        ("type = \"'view'\"\n", "", "[columns] of sources/clicks/events.toml has no type, which each of the events"),
        (
            "user_id =",
            "user =",
            "user in [columns] of sources/clicks/events.toml is not a column; did you mean 'user_id'",
        ),
        ('"visitor"', '"visiter"', "names 'visiter', which is not a field; did you mean 'visitor'"),
        ('"visitor"', '"page.pth"', "names 'pth', which is not a field of 'page'; did you mean 'path'"),
        ('"visitor"', '"coalesc(visitor)"', "calls the function 'coalesc'; did you mean 'coalesce'"),
        ('"visitor"', '"count(visitor)"', "calls the function 'count'"),
        ('"visitor"', '"(select max(x) from y)"', "expected one expression over the fields of one record"),
        ('"visitor"', "\"split_part(visitor, '-', 0)\"", "asks for position 0; the first is 1"),
        ('"visitor"', '"element_at(page.tags, 0).name"', "asks for position 0; the first is 1"),
        ('"visitor"', '"current_date"', "expected one expression over the fields of one record"),
        ('"visitor"', '"visitor +"', "user_id in [columns] of sources/clicks/events.toml is not Spark SQL"),
        ('"visitor"', "7", "user_id in [columns] of sources/clicks/events.toml is 7, expected a text."),
        ('at = "bigint"', 'at = "bigin"', "at in [fields] of sources/clicks/events.toml is 'bigin', expected a type"),
    ],
)
def test_mistake_is_named_with_file_key_and_remedy(before: str, after: str, sentence: str) -> None:
    document = tomllib.loads(CLICKS.replace(before, after, 1))
    with pytest.raises(ArgumentError) as refused:
        source.read("clicks", "events", document)
    assert sentence in str(refused.value)
    assert "sources/clicks/events.toml" in str(refused.value)


def test_two_sources_with_one_folder_are_refused(make_sources: Callable[..., Path]) -> None:
    shared = CLICKS.replace("format", 'deliveries = "raw/events/web"\nformat', 1)
    make_sources({"clicks/events.toml": shared, "views/events.toml": shared})
    with pytest.raises(ArgumentError, match=r"sources/clicks/events\.toml and sources/views/events\.toml both have"):
        source.load("events")


def test_no_source_and_broken_toml_are_refused(make_sources: Callable[..., Path]) -> None:
    make_sources({})
    with pytest.raises(ArgumentError, match=r"No folder in sources has events\.toml"):
        source.load("events")
    make_sources({"clicks/events.toml": "format = csv"})
    with pytest.raises(ArgumentError, match=r"sources/clicks/events\.toml is not TOML"):
        source.load("events")


def test_file_of_a_misspelt_kind_is_refused(make_sources: Callable[..., Path]) -> None:
    make_sources({"clicks/events.toml": CLICKS, "clicks/event.toml": CLICKS})
    with pytest.raises(ArgumentError, match=r"sources/clicks/event\.toml is not read; did you mean 'events'"):
        source.load("events")

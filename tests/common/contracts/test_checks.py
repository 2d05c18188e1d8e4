"""Checks that a contract states: a wrong one is named in one sentence, with the nearest known word."""

import dataclasses

import pytest

from common import contracts
from common.contracts import Check, Contract, evolution
from common.errors import ArgumentError

COLUMNS = """description = "Rows."
[columns]
user_id = { type = "string" }
style = { type = "string" }
rank = { type = "int64" }
score = { type = "float64" }
words = { type = "map" }
"""
ARRIVAL = 'arrival = { type = "date", nullable = true }\n'


def parse(check: str, columns: str = COLUMNS) -> tuple[Check, ...]:
    return contracts.parse("rows@1", f"{columns}[[checks]]\n{check}").checks


def test_checks_are_read_in_their_order() -> None:
    text = 'allowed = ["a"]\ncolumn = "style"\nseverity = "warn"\n[[checks]]\nunique = ["user_id", "rank"]\n'
    text += 'severity = "refuse"\n[[checks]]\nvolume = true\nby = ["style"]\nfactor = 2\nseverity = "warn"\n'
    assert parse(text, COLUMNS + ARRIVAL) == (
        Check("warn", column="style", allowed=("a",)),
        Check("refuse", unique=("user_id", "rank")),
        Check("warn", volume=True, by=("style",), factor=2),
    )


@pytest.mark.parametrize(
    ("check", "sentence"),
    [
        (
            'unique = ["user_id"]',
            r"severity of \[\[checks\]\] 1 of contract rows@1 is ''; expected one of warn, refuse",
        ),
        ('unique = ["user_id"]\nseverity = "warm"', "severity of .* is 'warm'; did you mean 'warn'"),
        ('uniqe = ["user_id"]\nseverity = "warn"', "The key 'uniqe' in .* is unknown; did you mean 'unique'"),
        ('unique = "user_id"\nseverity = "warn"', "unique of .* is 'user_id', expected a list of texts"),
        ('unique = ["user"]\nseverity = "warn"', "unique of .* has 'user'; did you mean 'user_id'"),
        ('unique = ["score"]\nseverity = "warn"', "unique of .* has 'score', a float64, expected one of boolean, date"),
        ('unique = ["words"]\nseverity = "warn"', "unique of .* has 'words', a map, expected one of"),
        ('unique = []\nseverity = "warn"', "states unique, expected one of allowed, unique, volume with a value"),
        ('allowed = []\ncolumn = "style"\nseverity = "warn"', "states allowed, expected one of .* with a value"),
        ('severity = "warn"', "states nothing, expected one of allowed, unique, volume"),
        (
            'unique = ["rank"]\nallowed = ["a"]\ncolumn = "style"\nseverity = "warn"',
            "states allowed and unique, expected one of",
        ),
        ('allowed = ["a"]\nseverity = "warn"', "has no column, expected one next to allowed values only"),
        ('unique = ["rank"]\ncolumn = "style"\nseverity = "warn"', "has a column, expected one next to allowed"),
        ('allowed = ["a"]\ncolumn = "stile"\nseverity = "warn"', "column of .* has 'stile'; did you mean 'style'"),
        (
            'allowed = ["1"]\ncolumn = "rank"\nseverity = "warn"',
            "column of .* has 'rank', a int64, expected one of str",
        ),
        ('allowed = [1]\ncolumn = "rank"\nseverity = "warn"', r"allowed of .* is \[1\], expected a list of texts"),
        ('volume = true\nseverity = "warn"', "states volume, which needs the date column 'arrival'"),
        ('volume = true\nby = ["rank"]\nseverity = "warn"', "by of .* has 'rank', a int64, expected one of string"),
        ('volume = true\nby = ["county"]\nseverity = "warn"', "by of .* has 'county'; expected one of"),
        ('volume = true\nfactor = 1\nseverity = "warn"', "factor of .* is 1, expected more than 1"),
        ('unique = ["rank"]\nby = ["style"]\nseverity = "warn"', "has by or factor without volume"),
    ],
)
def test_wrong_check_is_one_sentence(check: str, sentence: str) -> None:
    with pytest.raises(ArgumentError, match=sentence) as raised:
        parse(check)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("checks", ['checks = "unique"\n', "[checks]\nunique = true\n", "checks = [1]\n"])
def test_checks_are_tables(checks: str) -> None:
    with pytest.raises(ArgumentError, match=r"rows@1 is .*, expected (tables \[\[checks\]\]|a table)\."):
        contracts.parse("rows@1", f'{checks}description = "Rows."\n' if "[c" not in checks else COLUMNS + checks)


ALLOWED = Check("refuse", column="style", allowed=("a", "b"))
UNIQUE = Check("refuse", unique=("user_id", "rank"))


@pytest.mark.parametrize(
    ("old", "new", "texts"),
    [
        ([], [ALLOWED, UNIQUE], []),
        ([ALLOWED, UNIQUE], [UNIQUE, ALLOWED], []),
        ([ALLOWED], [dataclasses.replace(ALLOWED, allowed=("b",))], []),
        ([UNIQUE], [dataclasses.replace(UNIQUE, unique=("user_id",))], []),
        ([dataclasses.replace(UNIQUE, severity="warn"), Check("refuse", volume=True)], [], []),
        (
            [ALLOWED],
            [dataclasses.replace(ALLOWED, allowed=("a", "b", "c"))],
            ["'style' no longer refuses other values"],
        ),
        ([UNIQUE], [dataclasses.replace(UNIQUE, severity="warn")], ["rows with the same user_id, rank are no longer"]),
        ([UNIQUE, ALLOWED], [], ["rows with the same", "'style' no longer"]),
    ],
)
def test_check_that_readers_may_rely_on_is_not_loosened(old: list[Check], new: list[Check], texts: list[str]) -> None:
    versions = [Contract("rows@1", "Rows.", checks=tuple(checks)) for checks in (old, new)]
    found = evolution.compare(*versions)
    assert len(found) == len(texts)
    assert all(text in difference.text for text, difference in zip(texts, found, strict=True))
    assert all("readers may rely on it" in difference.migration for difference in found)

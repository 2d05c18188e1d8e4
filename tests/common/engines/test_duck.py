"""Expressions of sources that DuckDB must not evaluate, and their types; values: tests/spark/test_expressions.py."""

import pyarrow as pa
import pytest

from common.engines import duck
from common.errors import ArgumentError

KINDS = {"s": "string", "n": "bigint", "x": "double", "st": "struct<a: string>"}
FIELDS = pa.schema([(name, duck.arrow_type(kind)) for name, kind in KINDS.items()])


@pytest.mark.parametrize(
    "case",
    [
        "n + 1",
        "n * 2",
        "cast(n as int)",
        "timestamp_millis(n)",
        "timestamp_micros(n * 2)",
        "cast(x as bigint)",
        "-n - 2",
    ],
)
def test_overflow_is_null(case: str) -> None:
    assert duck.evaluate(pa.table({"n": [2**63 - 1], "x": [1e20]}), {"v": case})["v"].to_pylist() == [None]


def test_text_that_is_cast_to_another_type_keeps_its_lines() -> None:
    assert duck.evaluate(pa.table({"s": ["a\nb"]}), {"v": "cast(s as binary)"})["v"].to_pylist() == [b"a\nb"]


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("s = 12", "takes the text s for a number; cast it: CAST(s AS DOUBLE)"),
        ("s + 1", "takes the text s for a number"),
        ("cast(x as string)", "makes text of the number x; cast it to BIGINT or DECIMAL(20, 2) before"),
        ("concat(s, x)", "makes text of the number x"),
        ("split(s, ',', 2)", "has a limit in split; leave it out"),
        ("regexp_replace(s, 'a', s)", "write it in quotes"),
        ("to_timestamp(s, 'EEE')", "has the letters EEE in a pattern of times"),
        ("lower(st)", "cannot be evaluated (Binder Error"),
        ("s +", "cannot be evaluated"),
    ],
)
def test_expression_on_which_engines_disagree_is_refused(case: str, reason: str) -> None:
    with pytest.raises(ArgumentError) as error:
        duck.Translator(FIELDS).sql_of(case)
    assert str(error.value).startswith(f"The expression {case} ") and reason in str(error.value)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("struct<a: string, b: array<double>>", pa.struct([("a", pa.string()), ("b", pa.list_(pa.float64()))])),
        ("map<string, int>", pa.map_(pa.string(), pa.int32())),
        ("decimal(8, 2)", pa.decimal128(8, 2)),
        ("timestamp", pa.timestamp("us", "UTC")),
    ],
)
def test_types_of_fields_are_those_of_spark(text: str, kind: pa.DataType) -> None:
    assert duck.arrow_type(text) == kind


@pytest.mark.parametrize("text", ["strng", "", "struct<a: strng>", "array<>", "interval"])
def test_unknown_type_is_refused(text: str) -> None:
    with pytest.raises(ArgumentError, match="expected one of string, bigint"):
        duck.arrow_type(text)

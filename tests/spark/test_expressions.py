"""Expressions of sources have the same values in DuckDB as in Spark, on values at the edges."""

import datetime
import decimal
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from common.engines import duck

UTC = datetime.UTC
TEXTS = [
    "", "abc", "Äö x", " pad ", "a,b,,c", "12", "-1.5", "1e3", "0", "true", None, "2011-01-05",
    "2011-01-05T10:00:00+02:00", "2011-01-05 10:00:00.5", "a.b|c", "😀z", "line\nbreak", "it's \"q\" \\ ",
    "Hello World-x",
    '{"a": {"b": [1, "x"]}, "c": 1.50, "d": null, "e": "t"}', "05/Jan/2011 07:08 PM", "2011-02-30", "20110105", "a_b%",
    "1_000", "1d", "2.5F", " 7\t", "\n.5", "-.", "5.", "+1", "+-1", "1e400", "NaN", "-inf", "1,5", "1e", "1.005",
    "t", " YES ", "\tn", "on", "+1 ", "2147483648", "-129", "1e5 ", "99999999.995", "Infinity", "epoch", "now", "2011",
    "2011-01 ", "2011-1-5", "+2011-01-05", "2011-01-05abc", "2011-01-05T10", "2011-01-05 10:00:00\t", "2011-01-05Tabc",
    "2011-01-05T10:00:00Z", "2011-01-05T24:00:00", "2011-01-05T10:60:00", "2011-01-05 10:00:00.1234567 +0530",
    "2011-01-05T10:00Z", "2011-01-05T10:00 UTC", "2011-01-05T10Z", "2011-01-05T10:00:00UTC",
    "2011-01-05 10:00:00Asia/Tokyo",
    "2011-01-05T10:00:00+0260", "2011-01-05 1:2:3 Z", "2011-01-05 10:00:00 UTC", "2011-01-05T1:2:3", "2011-01-05\x00",
    "\u00a0x\u00a0", " y\u2003 ", "\t z\n",
]  # fmt: skip
NUMBERS = [0, 1, -1, 25, None, 1294221600000, -5, 3, 2, -1294221600123]
REALS = [0.5, 1.5, 2.5, -0.5, -2.5, 0.285, None, 0.0, -1.0, 1294221600.5, 3.0, 1.005, 1e-10, -1e-10]
TIMES = [
    datetime.datetime(2011, 1, 5, 10, 0, 0, 500000, UTC),
    None,
    datetime.datetime(1969, 12, 31, 23, 59, 59, 0, UTC),
]
FIELDS = {
    "s": ("string", TEXTS),
    "n": ("bigint", NUMBERS),
    "i": ("int", [0, 1, -1, 7, None, 2_500_000]),
    "x": ("double", REALS),
    "b": ("boolean", [True, False, None]),
    "timestamp": ("timestamp", TIMES),
    "a": ("array<string>", [["p", "q", "r"], [], None, [None, "z"]]),
    "st": ("struct<a: string, order: bigint>", [{"a": "u", "order": 5}, {"a": None, "order": None}, None]),
    "ar": ("array<struct<id: string, x: double>>", [[{"id": "i", "x": 1.5}, {"id": "j", "x": None}], [], None]),
}
EXPRESSIONS = """
coalesce(s, 'none') · nullif(s, '') · if(s = 'abc', 1, 2) · if(b, s, null)
case s when 'abc' then 1 when '12' then 2 end · case when n > 0 then 'p' when n < 0 then 'm' else null end
cast(s as int) · cast(s as bigint) · cast(s as double) · cast(s as boolean) · cast(s as timestamp) · cast(s as date)
cast(s as decimal(10, 2)) · cast(s as float) · try_cast(s as tinyint) · try_cast(s as boolean) · cast(n as string)
cast(s as decimal(38, 6)) · cast(x as decimal(10, 2)) · cast(timestamp as double) · timestamp_millis(i)
cast(i as string) · cast(x as bigint) · cast(n as double)
cast(b as string) · cast(b as int) · cast(i as timestamp) · cast(timestamp as string) · cast(timestamp as bigint)
cast(timestamp as date) · cast(cast(x as bigint) as string) · try_cast(s as int) · try_cast(s as double)
try_cast(x as int) · concat(s, 'x') · concat(s, '-', n) · s || i · concat_ws('-', s, 'x', null) · concat_ws(',', a)
lower(s) · upper(s) · upper('straße') · initcap(s) · trim(s) · ltrim(s) · rtrim(s) · trim(BOTH 'a' FROM s)
replace(s, 'a', 'ZZ') · replace(s, 'a') · length(s) · lpad(s, 5, '0') · rpad(s, 5, '0') · lpad(s, 5)
lpad(s, 2, 'xy') · substring(s, 1, 3) · substring(s, 0, 3) · substring(s, 2) · substring(s, -2, 2) · substring(s, -3)
substring(s, 2, 0) · substr(s, i, 2) · left(s, 2) · left(s, 0) · left(s, -1) · right(s, 2) · right(s, -1)
split(s, ',') · split(s, '[.|]') · split(s, ',')[1] · split(s, ',')[9] · split_part(s, ',', 2)
split_part(s, ',', -1) · split_part(s, ',', 9) · element_at(a, 1) · element_at(a, -1) · element_at(a, 9) · a[0] · a[1]
a[9] · a[-1] · a[i] · ar[0].id · ar[1].x · element_at(ar, 1).x · st.a · st.order + 1 · get(a, 0) · get(a, 9)
get(a, -1) · size(a) · size(ar) · size(split(s, ',')) · array_contains(a, 'z') · array_contains(a, 'p')
array_join(a, ',') · array_join(a, ',', 'NULL') · regexp_extract(s, '([0-9]+)', 1)
regexp_extract(s, '([a-z])([a-z])', 2) · regexp_extract(s, '[a-z]+', 0) · regexp_extract(s, '([a-z]+)')
regexp_extract(s, '(\\\\d+)-(\\\\d+)', 2) · regexp_replace(s, '[a-z]', 'X') · regexp_replace(s, '([a-z])', '<$1>')
regexp_replace(s, 'b', '') · s rlike '^[0-9]+$' · s rlike '\\\\d' · rlike(s, 'b') · s not rlike 'b' · s like 'a%'
s not like 'a%' · s like '%\\\\_%' · s like '_bc' · s ilike 'A%' · to_timestamp(s) · to_timestamp(s, 'yyyy-MM-dd')
to_timestamp(s, "yyyy-MM-dd'T'HH:mm:ssXXX") · to_timestamp(s, 'yyyy-MM-dd HH:mm:ss.S')
to_timestamp(s, 'dd/MMM/yyyy hh:mm a') · to_timestamp(s, 'yyyyMMdd') · to_date(s) · to_date(s, 'yyyy-MM-dd')
to_date(timestamp) · date_add(to_date(timestamp), 3) · date_add(to_date(s), i) · timestamp_millis(n)
timestamp_seconds(i) · timestamp_seconds(x) · timestamp_micros(n) · timestamp > timestamp '2001-01-01 00:00:00'
timestamp > '2011-01-01' · date'2011-01-05' · abs(i) · abs(x) · abs(n) · round(x) · round(x, 1) · round(x, 2)
round(n, -1) · round(cast(s as decimal(10, 2)), 1) · floor(x) · ceil(x) · floor(n) · greatest(i, n) · greatest(x, 1.0)
least(i, n) · least(s, 'b') · log(x) · ln(x) · log(2, x) · log10(x) · log1p(x) · exp(i) · sqrt(x) · pow(x, 2)
pow(x, 0.5) · x / 0 · i / 2 · n / i · i % 3 · n % i · x % 2 · i div 2 · n div i · n + 1 · i * 2 · x * i · -i · n + x
x - 1.5 · md5(s) · sha2(s, 256) · get_json_object(s, '$.a.b[0]') · get_json_object(s, '$.a.b[1]')
get_json_object(s, '$.a') · get_json_object(s, '$.d') · get_json_object(s, '$.e') · get_json_object(s, '$.zz')
s = 'abc' · s <> 'abc' · s <=> null · s is null · s is not null · s in ('abc', '12') · s not in ('abc', '12')
n between 0 and 3 · not b · b and n > 0 · b or n > 0 · s > 'a' · s = "abc" · 'it\\'s' · 'a\\\\b' · 1.5 · 1e3 · null
true · `s` · S · cast(null as string) · if(s = 'abc', s, null)
"""
CASES = [case for line in EXPRESSIONS.strip().splitlines() for case in line.split(" · ")]
NAMES = [f"c{number}" for number in range(len(CASES))]


def records() -> list[dict[str, Any]]:
    """Return records in which each value of a field meets several of the others."""
    return [{name: values[row % len(values)] for name, (_, values) in FIELDS.items()} for row in range(2 * len(TEXTS))]


def plain(value: Any) -> Any:
    """Return a value without the differences of types that contracts do not have."""
    if isinstance(value, datetime.datetime):
        return value.astimezone(UTC).replace(tzinfo=None)
    if isinstance(value, (float, decimal.Decimal)):
        return None if value != value else pytest.approx(float(value), rel=1e-12)
    return value


@pytest.fixture(scope="module")
def spark_values(session: SparkSession) -> dict[str, list[Any]]:
    former = session.conf.get("spark.sql.ansi.enabled")
    session.conf.set("spark.sql.ansi.enabled", "false")
    try:
        frame = session.createDataFrame(records(), ", ".join(f"{name} {kind}" for name, (kind, _) in FIELDS.items()))
        rows = frame.coalesce(1).select(*(F.expr(case).alias(name) for name, case in zip(NAMES, CASES))).collect()
    finally:
        session.conf.set("spark.sql.ansi.enabled", former)
    return {case: [row[name] for row in rows] for name, case in zip(NAMES, CASES)}


@pytest.fixture(scope="module")
def table() -> pa.Table:
    schema = pa.schema([(name, duck.arrow_type(kind)) for name, (kind, _) in FIELDS.items()])
    return pa.Table.from_pylist(records(), schema)


@pytest.fixture(scope="module")
def duck_values(table: pa.Table) -> dict[str, list[Any]]:
    found = duck.evaluate(table, dict(zip(NAMES, CASES)))
    return {case: found[name].to_pylist() for name, case in zip(NAMES, CASES)}


@pytest.mark.parametrize("case", CASES)
def test_expression_has_the_values_of_spark(
    case: str, table: pa.Table, duck_values: dict[str, list[Any]], spark_values: dict[str, list[Any]]
) -> None:
    expected = [plain(value) for value in spark_values[case]]
    for record, value, wanted in zip(table.to_pylist(), duck_values[case], expected, strict=True):
        value = None if value != value else value
        value = value.replace(tzinfo=None) if isinstance(value, datetime.datetime) else value
        assert (float(value) if isinstance(value, decimal.Decimal) else value) == wanted, record

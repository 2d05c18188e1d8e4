"""SQL of DuckDB for the texts that Spark makes of values: numbers as Java writes them, and JSON."""

import pyarrow as pa

from common.engines import duck
from common.engines.duck import quoted

MACROS = """
    CREATE OR REPLACE TEMP MACRO _scientific(digits, exponent) AS
        digits[1] || '.' || coalesce(nullif(rtrim(digits[2:], '0'), ''), '0') || 'E' || exponent;
    CREATE OR REPLACE TEMP MACRO _real(sign, text) AS sign || CASE
        WHEN contains(text, 'e') THEN
            _scientific(replace(split_part(text, 'e', 1), '.', ''), CAST(split_part(text, 'e', 2) AS INT))
        WHEN CAST(text AS DOUBLE) >= 1e7 THEN _scientific(replace(text, '.', ''), strpos(text, '.') - 2)
        ELSE _scientific(ltrim(text[3:], '0'), strlen(ltrim(text[3:], '0')) - strlen(text[3:]) - 1) END;
    CREATE OR REPLACE TEMP MACRO _java(number) AS CASE
        WHEN isnan(number) THEN 'NaN'
        WHEN isinf(number) THEN CASE WHEN number > 0 THEN 'Infinity' ELSE '-Infinity' END
        WHEN number = 0 OR abs(number) BETWEEN 1e-3 AND 9999999.999999999 THEN CAST(number AS VARCHAR)
        ELSE _real(CASE WHEN number < 0 THEN '-' ELSE '' END, CAST(abs(number) AS VARCHAR)) END;
"""


def text_of(sql: str, kind: pa.DataType) -> str:
    """SQL of a value as Spark casts it to text; of one with parts as JSON."""
    if pa.types.is_floating(kind):
        return f"_java({sql})"
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return duck.text_of_time(sql)
    return json_of(sql, kind) if pa.types.is_nested(kind) else f"CAST({sql} AS VARCHAR)"


def json_of(sql: str, kind: pa.DataType) -> str:
    """SQL of a value as Spark's to_json writes it; null for null."""
    if pa.types.is_struct(kind):
        parts = [
            f"{duck.literal(_name(each.name))} || {json_of(f'{sql}.{quoted(each.name)}', each.type)}" for each in kind
        ]
        return f"CASE WHEN {sql} IS NOT NULL THEN '{{' || concat_ws(',', {', '.join(parts)}) || '}}' END"
    if pa.types.is_list(kind):
        entry = f"coalesce({json_of('_entry', kind.value_type)}, 'null')"
        return f"'[' || array_to_string(list_transform({sql}, lambda _entry: {entry}), ',') || ']'"
    if pa.types.is_map(kind):
        item = f"to_json(_pair.key) || ':' || coalesce({json_of('_pair.value', kind.item_type)}, 'null')"
        return f"'{{' || array_to_string(list_transform(map_entries({sql}), lambda _pair: {item}), ',') || '}}'"
    if pa.types.is_timestamp(kind):
        return f"strftime({sql}, '\"%Y-%m-%dT%H:%M:%S.%gZ\"')"
    if pa.types.is_date(kind):
        return f"strftime({sql}, '\"%Y-%m-%d\"')"
    if pa.types.is_floating(kind):
        return f"CASE WHEN isfinite({sql}) THEN _java({sql}) ELSE '\"' || _java({sql}) || '\"' END"
    return f"CAST(to_json({sql}) AS VARCHAR)" if pa.types.is_string(kind) else f"CAST({sql} AS VARCHAR)"


def _name(name: str) -> str:
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}":'

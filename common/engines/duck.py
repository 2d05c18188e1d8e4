"""Spark SQL expressions of a source, evaluated over Arrow tables by DuckDB with the results that Spark has.

sqlglot translates; the functions below replace the nodes that it translates to something else than Spark computes with
`spark.sql.ansi.enabled = false`: there a bad cast, a division by zero and an index outside of an array are null.
Null on purpose, different from Spark: a number that its type cannot hold, which Spark wraps around or replaces by a
limit; a text of a time without a date, to which Spark adds today; what follows a JSON object, with the object; and some
texts that nobody means, such as hexadecimal fractions, years below 0 or above 999,999, and digits of other scripts. The
case of a few letters differs: of ligatures, of the Turkish dotted I, and of the Greek sigma at the end of a word.
"""

import re
from collections.abc import Callable, Mapping

import duckdb
import pyarrow as pa
import sqlglot
from duckdb import DuckDBPyConnection
from sqlglot import exp
from sqlglot.dialects.spark import Spark
from sqlglot.errors import SqlglotError

from common.errors import ArgumentError

RECORDS = "__records"  # the name of the table in translated expressions; a field of a struct may not be taken for it
INTEGERS = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT"}
REALS = {"FLOAT", "DOUBLE"}
TIMESTAMP = "TIMESTAMP WITH TIME ZONE"
ARROW_TYPES = {
    "VARCHAR": pa.string(),
    "TEXT": pa.string(),
    "TINYINT": pa.int8(),
    "SMALLINT": pa.int16(),
    "INT": pa.int32(),
    "BIGINT": pa.int64(),
    "FLOAT": pa.float32(),
    "DOUBLE": pa.float64(),
    "BOOLEAN": pa.bool_(),
    "DATE": pa.date32(),
    "TIMESTAMP": pa.timestamp("us", "UTC"),
    "TIMESTAMPTZ": pa.timestamp("us", "UTC"),
}
SPACE = r"[\x00-\x20\x7f]*"  # what Spark drops around a text
NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
DAY = "[0-9]{4,6}-[0-9]{1,2}-[0-9]{1,2}"
HOUR = "(?:[01]?[0-9]|2[0-3])"
MINUTE = f"{HOUR}:[0-5]?[0-9]"
OFFSET = "[+-](?:0[0-9]|1[0-8])(?::?[0-5][0-9]){0,2}"
ZONE = f"(?:Z|{OFFSET}| (?:[A-Z]{{3}}|[A-Z][A-Za-z]+(?:/[A-Z][A-Za-z_]+)+))?"
INTEGER_TYPES = ("TINYINT", "SMALLINT", "INT", "BIGINT")
# Texts that DuckDB casts to a type as Spark does, and what Spark ignores before and after them.
FORMS = {
    **dict.fromkeys(INTEGER_TYPES, ("[+-]?[0-9]+", "", r"(?:\.[0-9]*)?")),
    **dict.fromkeys(("REAL", "DOUBLE"), (rf"{NUMBER}|[+-]?(?i:inf|infinity)|(?i:nan)", "", "[dDfF]?")),
    "DECIMAL": (NUMBER, "", ""),
    "BOOLEAN": ("(?i:t|true|y|yes|1|f|false|n|no|0)", "", ""),
    "DATE": (DAY, r"\+?", "(?:[ T](?s:.*))?"),
    "TIMESTAMPTZ": (rf"{DAY}(?:[ T]{MINUTE}(?::[0-5]?[0-9](?:\.[0-9]*)?{ZONE})?)?", r"\+?", ""),
}
# Shorter texts, with their replacements by those forms.
SHORT_DAYS = [
    (rf"^({SPACE}\+?[0-9]{{4,6}})({SPACE})$", r"\1-01-01\2"),
    (rf"^({SPACE}\+?[0-9]{{4,6}}-[0-9]{{1,2}})({SPACE})$", r"\1-01\2"),
]
SHORT = {
    **{kind: [(rf"^({SPACE}[+-]?)\.", r"\10.")] for kind in INTEGER_TYPES},
    "DATE": SHORT_DAYS,
    "TIMESTAMPTZ": [
        *SHORT_DAYS,
        (rf"^({SPACE}\+?{DAY}[ T]{HOUR})({SPACE})$", r"\1:00\2"),
        ("(:[0-9.]+)([A-Z][A-Za-z])", r"\1 \2"),
        (f"(:[0-9]+:[0-9.]+) ([+-][0-9:]+|Z)({SPACE})$", r"\1\2\3"),
        (f"(:[0-9.]+[+-])([0-9](?::[0-5][0-9])?{SPACE})$", r"\10\2"),
    ],
}
# Letters of Java's patterns of times: the format of DuckDB, and the text that it stands for.
TIME_LETTERS = {
    "yyyy": ("%Y", "[0-9]{4}"),
    "yy": ("%y", "[0-9]{2}"),
    "MMM": ("%b", "[A-Z][a-z]{2}"),
    "MM": ("%m", "[0-9]{2}"),
    "M": ("%m", "[0-9]{1,2}"),
    "dd": ("%d", "[0-9]{2}"),
    "d": ("%d", "[0-9]{1,2}"),
    "HH": ("%H", "[0-9]{2}"),
    "H": ("%H", "[0-9]{1,2}"),
    "hh": ("%I", "[0-9]{2}"),
    "mm": ("%M", "[0-9]{2}"),
    "ss": ("%S", "[0-9]{2}"),
    **{"S" * digits: ("%f", f"[0-9]{{{digits}}}") for digits in range(1, 7)},
    "a": ("%p", "(?:AM|PM)"),
    "X" * 3: ("%z", "(?:[+-][0-9]{2}:[0-9]{2})"),  # an offset such as +02:00, or Z, which `java_time` replaces
}


def connect(database: str = ":memory:") -> DuckDBPyConnection:
    """Open a database whose expressions neither read files nor depend on this machine's time zone."""
    connection = duckdb.connect(database)
    connection.execute("SET TimeZone = 'UTC'; SET autoinstall_known_extensions = false")
    return connection


def evaluate(table: pa.Table, expressions: Mapping[str, str]) -> pa.Table:
    """Return the values of expressions over a table's columns, one column per name."""
    translator = Translator(table.schema)
    columns = [f"{translator.sql_of(text)} AS {quoted(name)}" for name, text in expressions.items()]
    with connect() as connection:
        connection.register(RECORDS, table)
        return connection.sql(f"SELECT {', '.join(columns)} FROM {RECORDS}").to_arrow_table()


def arrow_type(spark_type: str) -> pa.DataType:
    """Return the Arrow type of a type in Spark's DDL; ArgumentError if there is none."""
    try:
        return from_data_type(exp.DataType.build(spark_type, dialect="spark"))
    except (SqlglotError, LookupError, ValueError):
        known = "string, bigint, double, boolean, date, timestamp, decimal(p,s), array<…>, struct<name: …>, map<…>"
        raise ArgumentError(f"'{spark_type}' is not a type of a field, expected one of {known}.") from None


def spelled(kind: pa.DataType) -> str:
    """Return an Arrow type of a value without parts as DuckDB has it."""
    if pa.types.is_decimal(kind):
        return f"DECIMAL({kind.precision},{kind.scale})"
    return next(name for name, each in reversed(ARROW_TYPES.items()) if each == kind)


def spark_type(kind: str) -> str:
    """Return a type of DuckDB as Spark SQL has it, for a message."""
    return "void" if kind == '"NULL"' else exp.DataType.build(kind, dialect="duckdb").sql("spark").lower()


def from_data_type(kind: exp.DataType) -> pa.DataType:
    if kind.this in (exp.DType.ARRAY, exp.DType.LIST):
        return pa.list_(from_data_type(kind.expressions[0]))
    if kind.this == exp.DType.MAP:
        return pa.map_(*(from_data_type(each) for each in kind.expressions))
    if kind.this == exp.DType.STRUCT and kind.expressions:
        return pa.struct([(each.name, from_data_type(each.args["kind"])) for each in kind.expressions])
    if kind.this == exp.DType.DECIMAL:
        precision, scale = [int(each.name) for each in kind.expressions] or [10, 0]
        return pa.decimal128(precision, scale)
    return ARROW_TYPES[kind.this.name]


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def rendered(node: exp.Expr) -> str:
    """Return DuckDB's SQL of a node; quotes keep words such as `timestamp` from being keywords."""
    return node.sql(dialect="duckdb", identify=True)


class Translator:
    """Translates expressions over a table RECORDS with the columns of a schema."""

    def __init__(self, schema: pa.Schema) -> None:
        self.connection = connect()
        self.connection.register(RECORDS, schema.empty_table())

    def sql_of(self, text: str) -> str:
        """Return DuckDB's SQL of an expression; ArgumentError if it does not fit the types of its columns."""
        try:
            root = exp.Paren(this=sqlglot.parse_one(text, read="spark"))
            for node in reversed(list(root.bfs())):  # operands before the node that has them
                if rule := RULES.get(type(node)):
                    if sql := rule(self, node):
                        node.replace(exp.Paren(this=sqlglot.parse_one(sql, read="duckdb")))
                elif isinstance(node, (exp.EQ, exp.NEQ, exp.LT, exp.LTE, exp.GT, exp.GTE, exp.Add, exp.Sub, exp.Mul)):
                    self.refuse_text_with_number(node)
            sql = rendered(root) if isinstance(root.this, exp.Column) else f"TRY({rendered(root)})"
            self.kind(sql)
        except (SqlglotError, duckdb.Error) as error:
            reason = str(error).splitlines()[0]
            raise ArgumentError(f"The expression {text} cannot be evaluated ({reason}); correct it.") from None
        except Mismatch as error:
            raise ArgumentError(f"The expression {text} {error}.") from None
        return sql

    def kind(self, node: exp.Expr | str) -> str:
        """Return DuckDB's type of an expression."""
        sql = node if isinstance(node, str) else rendered(node)
        return str(self.connection.sql(f"SELECT {sql} FROM {RECORDS}").types[0])

    def is_number(self, node: exp.Expr) -> bool:
        return self.kind(node) in INTEGERS | REALS or self.kind(node).startswith("DECIMAL")

    def refuse_text_with_number(self, node: exp.Binary) -> None:
        for one, other in ((node.left, node.right), (node.right, node.left)):
            if self.is_number(one) and self.kind(other) == "VARCHAR" and not isinstance(other, exp.Literal):
                raise Mismatch(f"takes the text {other.sql('spark')} for a number; cast it: CAST({other} AS DOUBLE)")


class Mismatch(Exception):
    """Engines disagree about a part of an expression; the message ends a sentence."""


Rule = Callable[[Translator, exp.Expr], str | None]


def cast(types: Translator, node: exp.Expr) -> str | None:
    """Values of texts, numbers of fractions and of times, and texts of times."""
    operand, source = rendered(node.this), types.kind(node.this)
    target = node.args["to"].sql("duckdb").replace("TIMESTAMP", "TIMESTAMPTZ").replace("TZTZ", "TZ")
    if source == "VARCHAR" and kind_of(target) in FORMS:
        return from_text(operand, target, whole=bool(node.args.get("safe")))
    if target in INTEGER_TYPES:
        if source in REALS or source.startswith("DECIMAL"):
            return f"TRY_CAST(trunc({operand}) AS {target})"
        if source == TIMESTAMP:
            return f"TRY_CAST(floor(epoch_us({operand}) / 1000000) AS {target})"
    if target == "TEXT":
        if source in (TIMESTAMP, "DATE"):
            return text_of_time(operand)
        refuse_text_of_real(types, node.this)
    if target == "TIMESTAMPTZ" and source in INTEGERS | REALS:
        return seconds_to_time(operand)
    if target in ("REAL", "DOUBLE") and source == TIMESTAMP:
        return f"CAST(epoch_us({operand}) AS {target}) / 1000000"
    if target.startswith("DECIMAL") and source in REALS:
        return f"TRY_CAST(CAST({operand} AS TEXT) AS {target})"  # by its decimal digits, as 0.285 to 0.29
    return f"TRY_CAST({operand} AS {target})"


def kind_of(target: str) -> str:
    """Return a type without its numbers, as DECIMAL of DECIMAL(10, 2)."""
    return target.partition("(")[0]


def from_text(operand: str, target: str, whole: bool = False) -> str:
    """Return SQL of the value of a text in a type of FORMS. If `whole`, as of try_cast, an integer has no fraction.

    Most texts have a form that DuckDB casts; the others are brought into it.
    """
    form, before, after = FORMS[kind_of(target)]
    complete, short = operand, SHORT.get(kind_of(target), [])
    if whole and target in INTEGER_TYPES:
        after, short = "", []
    for pattern, replacement in short:
        complete = f"regexp_replace({complete}, {literal(pattern)}, {literal(replacement)})"
    rest = f"regexp_extract({complete}, {literal(f'^{SPACE}{before}({form}){after}{SPACE}$')}, 1)"
    usual = f"regexp_full_match({operand}, {literal(form)})"
    return f"TRY_CAST(CASE WHEN {usual} THEN {operand} ELSE {rest} END AS {target})"


def refuse_text_of_real(types: Translator, node: exp.Expr) -> None:
    if types.kind(node) in REALS:
        raise Mismatch(f"makes text of the number {node.sql('spark')}; cast it to BIGINT or DECIMAL(20, 2) before")


def concat(types: Translator, node: exp.Expr) -> str | None:
    for operand in node.expressions or (node.args["this"], node.expression):
        refuse_text_of_real(types, operand)
        if types.kind(operand) in (TIMESTAMP, "DATE"):
            operand.replace(exp.Paren(this=sqlglot.parse_one(text_of_time(rendered(operand)), read="duckdb")))
    return None


def text_of_time(operand: str) -> str:
    """Return SQL of the text of a timestamp, without its zone, or of a date; Spark writes + before longer years."""
    text = rf"regexp_replace(CAST({operand} AS TEXT), '\+00$', '')"
    return f"CASE WHEN year({operand}) > 9999 THEN '+' ELSE '' END || {text}"


def seconds_to_time(seconds: str) -> str:
    return f"TRY(make_timestamptz(CAST(trunc({seconds} * 1000000::BIGINT) AS BIGINT)))"


def java_time(node: exp.Expr) -> str:
    """Return SQL of a timestamp from text by the pattern of a node; null if the text is not exactly of this form."""
    pattern = (Spark().generator().format_time(node) or "")[1:-1].replace("\\'", "'")
    operand, form, text = rendered(node.this), "", ""
    for literally, letter, more, other in re.findall(r"'([^']*)'|([A-Za-z])(\2*)|([^A-Za-z])", pattern):
        other = other or literally
        if letter and letter + more not in TIME_LETTERS:
            raise Mismatch(f"has the letters {letter + more} in a pattern of times, expected {', '.join(TIME_LETTERS)}")
        step = TIME_LETTERS[letter + more] if letter else (other.replace("%", "%%"), re.escape(other))
        form, text = form + step[0], text + step[1]
        if letter == "X":
            operand = f"replace({operand}, 'Z', '+00:00')"
    guarded = f"CASE WHEN regexp_full_match({operand}, {literal(text)}) THEN {operand} END"
    return f"CAST(try_strptime({guarded}, {literal(form)}) AS TIMESTAMPTZ)"


def literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def to_date(types: Translator, node: exp.Expr) -> str:
    if node.args.get("format"):
        return f"TRY_CAST({java_time(node)} AS DATE)"
    operand = rendered(node.this)
    return from_text(operand, "DATE") if types.kind(node.this) == "VARCHAR" else f"TRY_CAST({operand} AS DATE)"


def rounded(types: Translator, node: exp.Expr) -> str:
    """Half up by the decimal digits of the number, as 0.285 to 0.29."""
    operand, digits = rendered(node.this), rendered(node.args["decimals"]) if node.args.get("decimals") else "0"
    if types.kind(node.this) not in REALS:
        return f"TRY(round({operand}, {digits}))"
    exact = f"round(TRY_CAST(CAST({operand} AS TEXT) AS DECIMAL(38, 10)), {digits})"
    return f"coalesce(CAST({exact} AS DOUBLE), {operand})"


def logarithm(types: Translator, node: exp.Expr) -> str:
    number = rendered(node.expression if node.args.get("expression") else node.this)
    base = f"log({rendered(node.this)}, {number})" if node.args.get("expression") else f"ln({number})"
    return f"CASE WHEN {number} > 0 THEN {base} END"


def log_of_one_more(number: str) -> str:
    """SQL of ln(1 + x), exact for small x: Kahan's correction, as DuckDB has only ln."""
    corrected = f"ln(1 + {number}) * {number} / (1 + {number} - 1)"
    return f"CASE 1 + {number} WHEN 1 THEN {number} WHEN {number} THEN ln({number}) ELSE {corrected} END"


def replacement(types: Translator, node: exp.Expr) -> str:
    r"""Groups of a replacement are $1 in Java and \1 in DuckDB."""
    if not isinstance(node.args["replacement"], exp.Literal):
        raise Mismatch("has a replacement in regexp_replace that is not a literal; write it in quotes")
    text = re.sub(
        r"\\(.)|\$([0-9])",
        lambda found: f"\\{found[2]}" if found[2] else found[1].replace("\\", "\\\\"),
        node.args["replacement"].this,
    )
    return f"regexp_replace({rendered(node.this)}, {rendered(node.expression)}, {literal(text)}, 'g')"


def part_of(types: Translator, node: exp.Expr) -> str:
    """Position 0 of a substring is its first letter."""
    start = rendered(node.args["start"])
    length = f", {rendered(node.args['length'])}" if node.args.get("length") else ""
    return f"substring({rendered(node.this)}, CASE WHEN {start} = 0 THEN 1 ELSE {start} END{length})"


def trimmed(types: Translator, node: exp.Expr) -> str | None:
    """Trim spaces alone, not those of other widths."""
    if node.expression:
        return None
    name = {"LEADING": "ltrim", "TRAILING": "rtrim"}.get(node.args.get("position") or "", "trim")
    return f"{name}({rendered(node.this)}, ' ')"


def like(types: Translator, node: exp.Expr) -> str | None:
    word = "ILIKE" if isinstance(node, exp.ILike) else "LIKE"
    no = "NOT " if node.args.get("negate") else ""
    return rf"{rendered(node.this)} {no}{word} {rendered(node.expression)} ESCAPE '\'"


def contains(types: Translator, node: exp.Expr) -> str:
    """An array without the value, but with a null, may contain it."""
    array = rendered(node.this)
    found = f"list_contains({array}, {rendered(node.expression)})"
    return f"CASE WHEN {found} THEN true WHEN len({array}) > list_count({array}) THEN NULL ELSE {found} END"


def json_value(types: Translator, node: exp.Expr) -> str:
    operand = rendered(node.this)
    return f"CASE WHEN json_valid({operand}) THEN {operand} ->> {rendered(node.expression)} END"


def entry(types: Translator, node: exp.Expr) -> str | None:
    """Positions in an array begin with 0, which sqlglot changes only in literals; element_at begins with 1."""
    (index,) = node.expressions
    if node.args.get("offset") or isinstance(index, exp.Literal) or types.kind(node.this).startswith("MAP"):
        return None
    position = rendered(index)
    return f"CASE WHEN {position} >= 0 THEN {rendered(node.this)}[{position} + 1] END"


def named(types: Translator, node: exp.Expr) -> str | None:
    """Functions that sqlglot passes through by their names."""
    operands = [rendered(each) for each in node.expressions]
    match node.name.lower(), operands:
        case "timestamp_millis", [number]:
            return f"TRY(make_timestamptz(CAST({number} AS BIGINT) * 1000))"
        case "timestamp_micros", [number]:
            return f"TRY(make_timestamptz({number}))"
        case "timestamp_seconds", [number]:
            return seconds_to_time(number)
        case "log1p", [number]:
            return f"CASE WHEN {number} > -1 THEN {log_of_one_more(number)} END"
        case "get", [array, index]:
            return f"CASE WHEN {index} >= 0 THEN {array}[{index} + 1] END"
        case _:
            return None


def split(types: Translator, node: exp.Expr) -> None:
    if node.args.get("limit"):
        raise Mismatch("has a limit in split; leave it out")


RULES: dict[type[exp.Expr], Rule] = {
    exp.Cast: cast,
    exp.TryCast: cast,
    exp.Concat: concat,
    exp.ConcatWs: concat,
    exp.DPipe: concat,
    exp.StrToTime: lambda types, node: java_time(node),
    exp.TsOrDsToDate: to_date,
    exp.TsOrDsAdd: lambda types, node: (
        f"CAST({rendered(node.this)} + CAST({rendered(node.expression)} AS INT) AS DATE)"
    ),
    exp.Round: rounded,
    exp.Floor: lambda types, node: f"TRY_CAST(floor({rendered(node.this)}) AS BIGINT)",
    exp.Ceil: lambda types, node: f"TRY_CAST(ceil({rendered(node.this)}) AS BIGINT)",
    exp.Ln: logarithm,
    exp.Log: logarithm,
    exp.Mod: lambda types, node: f"{rendered(node.this)} % nullif({rendered(node.expression)}, 0)",
    exp.RegexpReplace: replacement,
    exp.RegexpSplit: split,
    exp.Substring: part_of,
    exp.Left: lambda types, node: f"left({rendered(node.this)}, greatest({rendered(node.expression)}, 0))",
    exp.Right: lambda types, node: f"right({rendered(node.this)}, greatest({rendered(node.expression)}, 0))",
    exp.Like: like,
    exp.ILike: like,
    exp.Replace: lambda types, node: (
        None if node.args.get("replacement") else f"replace({rendered(node.this)}, {rendered(node.expression)}, '')"
    ),
    exp.Trim: trimmed,
    exp.Upper: lambda types, node: f"upper(replace({rendered(node.this)}, 'ß', 'SS'))",
    exp.ArraySize: lambda types, node: f"coalesce(len({rendered(node.this)}), -1)",
    exp.ArrayContains: contains,
    exp.JSONExtractScalar: json_value,
    exp.Bracket: entry,
    exp.Anonymous: named,
}

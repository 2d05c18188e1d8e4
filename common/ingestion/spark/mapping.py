"""Events of records: the columns that a source's expressions give, each with the reason if it is not used."""

import contextlib
import re
from collections.abc import Iterable, Iterator

from py4j.protocol import Py4JJavaError
from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import (
    ArrayType,
    BooleanType,
    ByteType,
    DataType,
    DateType,
    DecimalType,
    DoubleType,
    FloatType,
    IntegerType,
    LongType,
    MapType,
    ShortType,
    StringType,
    StructType,
    TimestampNTZType,
    TimestampType,
)

from common.contracts import CONTROL, MAX_BYTES
from common.errors import ArgumentError
from common.ingestion import records
from common.ingestion.events import COLUMNS, NOT_KEPT, TEXTS, TYPES
from common.ingestion.spark.reading import INTERNAL
from common.sources import expressions
from common.sources.expressions import quoted
from common.sources.source import ARRIVAL, ENTRY, Source

WHOLE = (ByteType, ShortType, IntegerType, LongType)
FRACTIONAL = (FloatType, DoubleType, DecimalType)
TIMES = (TimestampType, TimestampNTZType, DateType)
EXPECTED = {  # the types of an expression, for a message
    **dict.fromkeys(TEXTS, ((StringType, *WHOLE), "text or a whole number")),
    "time": ((StringType, *TIMES), "a timestamp, or text in ISO 8601"),
    **dict.fromkeys(("value", "quantity", "unit_price", "position"), ((*WHOLE, *FRACTIONAL), "a number")),
}
MAX_WHOLE = 2.0**63
# Errors of Spark about a value: of SQL's class 22, and a wrong regular expression.
FAILED = re.compile(r"\[[A-Z_.]+\] (?P<value>[^\n]*?)\.? SQLSTATE: 22|PatternSyntaxException: (?P<pattern>[^\n]*)")


@contextlib.contextmanager
def lenient(session: SparkSession) -> Iterator[None]:
    """Make expressions that are analysed within give null for a value that they cannot compute, not an error."""
    former = session.conf.get("spark.sql.ansi.enabled")
    session.conf.set("spark.sql.ansi.enabled", "false")
    try:
        yield
    finally:
        session.conf.set("spark.sql.ansi.enabled", former)


@contextlib.contextmanager
def expression_errors(files: Iterable[str]) -> Iterator[None]:
    """Replace Spark's error about a value by ArgumentError, in one sentence with the sources' files."""
    try:
        yield
    except (PySparkException, Py4JJavaError) as error:  # Spark 4 raises either
        if not (failed := FAILED.search(str(error))):
            raise
        raise ArgumentError(
            f"An expression of {' or '.join(files)} fails on a record ({failed['value'] or failed['pattern']}); "
            "correct the positions and the regular expressions there."
        ) from None


def check_types(session: SparkSession, source: Source) -> dict[str, DataType]:
    """Return the types of the expressions of columns and context; ArgumentError names one of a wrong type.

    Spark analyses them on a frame without rows, so nothing is read.
    """
    fields = ", ".join(f"CAST(NULL AS {kind}) AS {quoted(name)}" for name, kind in source.known_fields.items())
    try:
        empty = session.sql(f"SELECT {fields}")
    except AnalysisException as error:
        raise ArgumentError(f"[fields] of {source.file} has a type that Spark refuses: {first_line(error)}") from None

    texts = {source.where(name, "columns"): text for name, text in source.columns.items()}
    texts |= {source.where(name, "context"): text for name, text in source.context.items()}
    conditions = {source.where(f"'{reason}'", "rules"): text for reason, text in source.rules.items()}
    if source.keep is not None:
        conditions[source.where("keep")] = source.keep
    with lenient(session):
        kinds = types_of(empty, texts | conditions)
    for where, text in conditions.items():
        if not isinstance(kinds[where], BooleanType):
            raise ArgumentError(f"{where} is {text!r}, of type {kinds[where].simpleString()}, expected a condition.")
    types = {}
    for name, text in source.columns.items():
        where = source.where(name, "columns")
        types[name] = kinds[where]
        expected, words = EXPECTED[name]
        if not isinstance(types[name], expected):
            raise ArgumentError(
                f"{where} is {text!r}, of type {types[name].simpleString()}, expected {words}; cast it, or correct "
                "the types in [fields]."
            )
    return types | {f"context {name}": kinds[source.where(name, "context")] for name in source.context}


def types_of(empty: DataFrame, texts: dict[str, str]) -> dict[str, DataType]:
    """Return the types of expressions, by their place; ArgumentError names one that Spark refuses.

    They are analysed together, and one by one only if Spark refuses one.
    """
    try:
        fields = empty.select(*[F.expr(text).alias(where) for where, text in texts.items()]).schema
        return {field.name: field.dataType for field in fields}
    except AnalysisException as error:
        if len(texts) == 1:
            ((where, text),) = texts.items()
            raise ArgumentError(f"{where} is {text!r}, which Spark refuses: {first_line(error)}") from None
        return {name: kind for each in texts.items() for name, kind in types_of(empty, dict([each])).items()}


def expression(text: str) -> Column:
    """Return the column of an expression."""
    return F.expr(expressions.without_overflow(text))


def first_line(error: AnalysisException) -> str:
    """Return Spark's message without its class, its SQLSTATE and its plan."""
    message = str(error).splitlines()[0].partition("] ")
    return (message[2] or message[0]).partition(" SQLSTATE")[0].rstrip(". ") + "."


def mapped(frame: DataFrame, source: Source, types: dict[str, DataType], reason_of_usable: str | None) -> DataFrame:
    """Return the events of records, with `date`, and `reason`: null if an event is used.

    An event that is not used has no columns, but the size (`bytes`) and the beginning (`content`) of its record. With
    `reason_of_usable` no event is used. `person` is the user ID of any record that has one. `entry` is the number of
    an entry of a record's array, from 0; null of a record without one. Columns that the source does not name are
    missing, because a cache, a shuffle and a sort of nulls cost nearly as much as those of values.
    """
    session = frame.sparkSession
    if ARRIVAL not in source.fields:
        frame = frame.withColumn(ARRIVAL, F.col("__arrival"))
    with lenient(session):
        if source.each:
            frame = frame.select("*", F.posexplode_outer(F.expr(source.each)).alias("__entry", ENTRY))
        else:
            frame = frame.withColumn("__entry", F.lit(0))
        valued = frame.select(
            *INTERNAL, "__entry", *values(source, types), *conditions(source), context(source, types).alias("context")
        )
    if source.each:
        valued = valued.withColumn("event_id", F.concat("event_id", F.lit("-"), F.coalesce("__entry", F.lit(0))))
    reasoned = valued.withColumn("reason", F.coalesce(reason(source), F.lit(reason_of_usable)))
    bad = F.col("reason").isNotNull()
    shown = bad & (F.col("reason") != NOT_KEPT)
    named = [name for name in COLUMNS if name in {"event_id", *source.columns}]
    if source.context:
        named.append("context")
    columns = {"source": F.lit(source.name), **{name: F.col(name) for name in named}}
    return reasoned.select(
        F.col("__arrival").alias("arrival"),
        F.col("__position").alias("line_position"),
        F.col("__file").alias("file"),
        F.col("__entry").cast("bigint").alias("entry"),
        "reason",
        F.col("user_id").alias("person"),
        *[F.when(~bad, column).alias(name) for name, column in columns.items()],
        F.when(~bad, F.to_date("time")).alias("date"),
        F.when(shown, F.col("__bytes")).alias("bytes"),
        F.when(shown, F.substring(F.col("__text").cast("binary"), 1, records.MAX_KEPT)).alias("content"),
    )


def values(source: Source, types: dict[str, DataType]) -> Iterator[Column]:
    """Yield the columns of events, null where a value cannot be one, and for each a column `__bad NAME`."""
    for name in COLUMNS:
        text = source.columns.get(name)
        column, bad = F.lit(None).cast(TYPES[name]), F.lit(False)
        if text is not None:
            given = expression(text)
            if name in TEXTS:
                column = F.nullif(given.cast("string"), F.lit(""))
                bad = F.coalesce(column.rlike(CONTROL), F.lit(False))
            elif name == "time":
                column = given.cast("timestamp") if isinstance(types[name], TIMES) else iso_time(given)
            elif name in ("quantity", "position") and isinstance(types[name], FRACTIONAL):
                whole = (given == F.floor(given)) & (F.abs(given) < MAX_WHOLE)
                column, bad = F.when(whole, given.cast("bigint")), given.isNotNull() & ~whole
            elif name in ("quantity", "position"):
                column = given.cast("bigint")
            else:
                finite = F.abs(given.cast("double")) < float("inf")
                column, bad = F.when(finite, given.cast("double")), given.isNotNull() & ~finite
        if name == "event_id":
            hashed = F.md5(F.col("__text").cast("binary"))
            column = F.coalesce(column, hashed)
        yield column.alias(name)
        yield bad.alias(f"__bad {name}")


def iso_time(text: Column) -> Column:
    """Return the moment of text in ISO 8601, by the rule of common/ingestion/records.py."""
    with_seconds = F.regexp_replace(text, "^(.{10}[T ].{5})", "$1:00")  # Spark parses no zone after minutes
    whole = F.when(F.substring(text, 17, 1) == ":", text).otherwise(with_seconds)
    return F.when(text.rlike(rf"^{records.TIME}\z"), F.try_to_timestamp(whole))


def conditions(source: Source) -> Iterator[Column]:
    """Yield the conditions of a source: `__keep`, and `__rule N` for each of its rules."""
    yield (F.lit(True) if source.keep is None else expression(source.keep)).alias("__keep")
    for number, condition in enumerate(source.rules.values()):
        yield expression(condition).alias(f"__rule {number}")


def context(source: Source, types: dict[str, DataType]) -> Column:
    """Return the map of everything else that a source names, without empty values; null if nothing is left."""
    pairs: list[Column] = []
    for name, text in source.context.items():
        nested = isinstance(types[f"context {name}"], (StructType, ArrayType, MapType))
        pairs += [F.lit(name), F.to_json(expression(text)) if nested else expression(text).cast("string")]
    if not pairs:
        return F.lit(None).cast("map<string, string>")
    filled = F.map_filter(F.create_map(*pairs), lambda _, value: value.isNotNull() & (value != ""))
    return F.when(F.size(filled) > 0, filled)


def reason(source: Source) -> Column:
    """Return the first reason why a record is not used, null if it is; see common/ingestion/records.py."""
    latest = F.timestamp_add("DAY", F.lit(1 + records.CLOCKS_AHEAD.days), F.col("__arrival").cast("timestamp"))
    reasons = [
        F.col("__problem"),
        F.when(~F.col("__keep"), NOT_KEPT),
        F.col("__misfit"),
        F.when(F.col("__keep").isNull(), NOT_KEPT),
    ]
    if source.each and not source.each_optional:
        reasons.append(F.when(F.col("__entry").isNull(), NOT_KEPT))
    for name in [name for name in COLUMNS if name in source.columns]:
        label = records.label(name)
        bad = F.col(f"__bad {name}")
        if name in TEXTS:
            bad = bad | F.coalesce(F.octet_length(name) > MAX_BYTES, F.lit(False))
        if name == "type":
            reasons.append(F.when(F.col(name).isNull(), records.missing(label)))
        if name == "time":
            reasons.append(
                F.when(~F.coalesce(F.col(name) >= F.lit(records.FIRST_TIME), F.lit(False)), records.BAD_TIME)
            )
            # One clock that is years ahead would move the end of every window without an end.
            reasons.append(F.when(F.col(name) >= latest, records.AFTER_ARRIVAL))
        else:
            reasons.append(F.when(bad, records.bad(label)))
    for number, rule in enumerate(source.rules):
        reasons.append(F.when(~F.coalesce(F.col(f"__rule {number}"), F.lit(False)), rule))
    return F.coalesce(*reasons)

"""Records of deliveries as rows of Spark, with the fields of their source, and the reason if a record has none.

Spark itself reads gzipped JSON lines, and Parquet. Other files are read by Python on the workers, because Spark drops
rows of broken CSV silently, and its own reader of zstd needs native libraries.
"""

import functools
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import (
    ArrayType,
    AtomicType,
    BinaryType,
    DataType,
    DateType,
    DecimalType,
    LongType,
    MapType,
    StringType,
    StructField,
    StructType,
    TimestampType,
    VariantType,
)

from common.engines import frames
from common.handover.storage import File, in_parallel
from common.ingestion import csv_rows, deliveries, records
from common.ingestion.deliveries import Survey, Unreadable
from common.ingestion.events import Delivered
from common.sources.expressions import quoted
from common.sources.source import Source

INTERNAL = ["__file", "__arrival", "__position", "__text", "__bytes", "__problem", "__misfit"]  # next to the fields
LINE = INTERNAL[:5]
READER = {
    "lineSep": "\n",
    "mapreduce.input.linerecordreader.line.maxlength": str(records.MAX_RECORD + 2),  # longer lines are dropped
    "recursiveFileLookup": "true",  # folder names do not become columns
    "__globPaths__": "false",  # brackets in names are literal
}
JSON = {"allowNonNumericNumbers": "false", "allowSingleQuotes": "false"}
END = "end of line e1f7c2d0"  # an object with it is appended to each line; it follows if the line is one object
# Texts that Spark may have made of another value; others may look the same.
SUSPICIOUS = r"^(?:[\[{]|true$|false$|-?[0-9]+[.E]|\x22-?Infinity\x22$)"
AS_TEXT = (DateType, DecimalType, TimestampType)  # types of fields that JSON has as text
# Types of values that are no text and, as far as they tell, no integer.
OTHERS = r"^(?:DOUBLE|FLOAT|BOOLEAN|OBJECT|ARRAY|DECIMAL\((?:[0-9]|1[0-8]),|DECIMAL\([0-9]+,[1-9])"
ROW = StructType(
    [
        StructField("__file", LongType()),
        StructField("__position", LongType()),
        StructField("__bytes", LongType()),
        StructField("__problem", StringType()),
        StructField("__content", BinaryType()),
        StructField("__values", ArrayType(StringType())),
    ]
)
Row = tuple[int, int, int, str | None, bytes, list[str] | None]


def by_spark(delivered: Delivered) -> bool:
    """Return True for lines that Spark's own reader reads, in order and without those that are too long."""
    return delivered.source.format == "json" and delivered.file.uri.endswith(".gz")


def survey_or_reason(delivered: Delivered) -> Survey | str:
    """Return the survey of a text file, or the reason why it can't be read."""
    source, file = delivered.source, delivered.file
    try:
        found = deliveries.survey(file)
        if source.format == "csv":
            deliveries.refuse_utf8(file, source.encoding)
            next(rows_of(file, source), None)  # reads the header
            if not deliveries.has_ascii(source.encoding):
                deque(deliveries.lines(file, source.encoding), maxlen=0)  # to the end, as text
    except Unreadable as error:
        return str(error)
    return found


def rows_of(file: File, source: Source) -> Iterator[tuple[deliveries.Line, list[str] | str]]:
    """Yield the rows of a CSV file, each with the values of the source's fields, or with the reason."""
    dialect = csv_rows.Dialect(source.delimiter, source.quote, source.header, source.encoding)
    return csv_rows.rows(deliveries.lines(file, source.encoding), list(source.fields), dialect)


def read_text(item: tuple[int, File], source: Source) -> Iterator[Row]:
    """Yield the lines or CSV rows of a file as values of ROW; the values of JSON lines are parsed later."""
    number, file = item
    if source.format == "json":
        for line in deliveries.lines(file):
            yield number, line.number, line.size, records.TOO_LONG if line.too_long else None, line.content, None
        return
    for line, row in rows_of(file, source):
        if isinstance(row, str):
            yield number, line.number, line.size, row, line.content, None
        else:
            yield number, line.number, line.size, None, line.content, row


def records_of(session: SparkSession, source: Source, files: dict[int, Delivered]) -> DataFrame:
    """Return the records of files of one source, by number: INTERNAL, then the source's fields.

    `__position` is the number of a record in its file; of lines that Spark reads, it ascends by one from any number.
    `__problem` is the reason why a record has no fields, `__misfit` that a value has another type than its field.
    """
    if source.format == "parquet":
        return parquet_records(session, source, files)
    native = {number: each for number, each in files.items() if by_spark(each)}
    others = {number: each for number, each in files.items() if not by_spark(each)}
    parts = []
    if native:
        lines = spark_lines(session, native)
        parts.append(lines.withColumn("__bytes", F.octet_length("__text").cast("bigint")))
    if others:
        parts.append(python_rows(session, source, others))
    if source.format == "csv":
        return csv_fields(source, parts[0])
    return functools.reduce(DataFrame.unionByName, [json_fields(source, part) for part in parts])


def spark_lines(session: SparkSession, files: dict[int, Delivered]) -> DataFrame:
    """Return each line with its file, its day of arrival and its position.

    A gzipped file can't be split, so its lines have consecutive positions. A line's number is its position minus that
    of the file's first line, without counting.
    """
    lines = session.read.options(**READER).text([each.file.uri for each in files.values()])
    with_positions = lines.select(
        F.col("value").alias("__text"),
        F.col("_metadata.file_path").alias("path"),
        F.monotonically_increasing_id().alias("__position"),
        F.lit(None).cast("string").alias("__problem"),
    )
    return with_positions.join(F.broadcast(paths(session, lines, files)), "path").drop("path")


def paths(session: SparkSession, frame: DataFrame, files: dict[int, Delivered]) -> DataFrame:
    """Return the number and the day of arrival of each file, by the path in Spark's metadata."""
    numbers = {each.file.uri: number for number, each in files.items()}
    rows = []
    for path in frame.inputFiles():  # percent-encoded
        number = numbers[unquote(path)]
        spellings = {path, path.replace("file:///", "file:/", 1)}  # Hadoop's file systems begin either way
        rows += [(spelling, number, files[number].arrival) for spelling in spellings]
    return frames.small_table(session, {"path": "STRING", "__file": "BIGINT", "__arrival": "DATE"}, rows)


def python_rows(session: SparkSession, source: Source, files: dict[int, Delivered]) -> DataFrame:
    """Return the lines or rows of files as Python on the workers reads them."""
    items = [(number, each.file) for number, each in files.items()]
    slices = min(len(items), 8 * session.sparkContext.defaultParallelism)
    rows = session.sparkContext.parallelize(items, slices).flatMap(functools.partial(read_text, source=source))
    frame = session.createDataFrame(rows, ROW, verifySchema=False)
    arrivals = [(number, each.arrival) for number, each in files.items()]
    known = frames.small_table(session, {"__file": "BIGINT", "__arrival": "DATE"}, arrivals)
    return frame.join(F.broadcast(known), "__file").withColumn("__text", F.col("__content").cast("string"))


def json_fields(source: Source, lines: DataFrame) -> DataFrame:
    """Return the records in lines of JSON, one object each."""
    fields = in_json(StructType.fromDDL(ddl(source.fields)))
    array = ArrayType(StructType([*fields, StructField(END, StringType())]))
    kind = StructType([StructField(END, array), StructField("_corrupt_record", StringType())])
    appended = F.concat(F.lit(f'{{"{END}":['), "__text", F.lit(f',{{"{END}":"{END}"}}]}}'))
    parsed = lines.withColumn("__parsed", F.from_json(appended, kind, JSON))
    objects, record = F.col("__parsed")[END], F.get(F.col("__parsed")[END], F.lit(0))
    corrupt = F.col("__parsed")["_corrupt_record"].isNotNull()  # a value that does not fit, or broken JSON within it
    one = (F.size(objects) == 2) & (F.get(objects, F.lit(1))[END] == END) & record.isNotNull()
    escapes = F.replace("__text", F.lit("\\\\"), F.lit(""))
    problem = F.coalesce(
        F.col("__problem"),
        F.when(~F.is_valid_utf8("__text"), records.NOT_UTF8),
        F.when(F.contains("__text", F.lit("\\u")), F.when(escapes.rlike(records.HALF), records.HALF_A_PAIR)),
        F.when(~F.coalesce(one, F.lit(False)), records.NOT_JSON),
        F.when(corrupt & F.try_parse_json("__text").isNull(), records.NOT_JSON),
    )
    rows = parsed.withColumn("__problem", problem).withColumn("__misfit", misfit(source, fields, record, corrupt))
    return cast_fields(source, rows, {name: F.when(problem.isNull(), record[name]) for name in source.fields})


def in_json(kind: DataType) -> DataType:
    """Return the type of a field, or a part of it, in JSON, which has times, dates and decimals as text."""
    return with_types(kind, lambda each: StringType() if isinstance(each, AS_TEXT) else each)


def misfit(source: Source, fields: StructType, record: Column, corrupt: Column) -> Column:
    """Return the reason of a record of which a value has another type than its field, as Spark reports or converts."""
    reasons = []
    for path, kind in parts_of(fields):
        label = records.bad(records.label(path[-1]))
        value = functools.reduce(lambda column, name: column[name], path, record)
        if isinstance(kind, StringType):
            if path[0] not in source.searched:
                reasons.append(F.when(converted(path, kind, value), label))
            continue
        raw = F.get_json_object("__text", "$" + "".join(map(json_step, path)))
        reasons.append(F.when(corrupt & value.isNull() & raw.isNotNull(), label))
        if has_text(kind) and not isinstance(kind, StructType):
            reasons.append(F.when(converted(path, kind, value), records.MISFIT))
    return F.coalesce(*reasons, F.when(corrupt, records.MISFIT))


def json_step(name: str) -> str:
    """Return a name as a step of a path in JSON, in the notation that can have its characters."""
    return f".{name}" if "'" in name or "?" in name else f"['{name}']"


def parts_of(kind: StructType, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], DataType]]:
    """Yield the path and the type of each field, and of each field in a struct; arrays are not entered."""
    for each in kind.fields:
        yield (*above, each.name), each.dataType
        if isinstance(each.dataType, StructType):
            yield from parts_of(each.dataType, (*above, each.name))


def converted(path: tuple[str, ...], kind: DataType, value: Column) -> Column:
    """Return true if a text in a value of a type was neither text nor an integer in JSON.

    Spark converts any value to text, so the few that look like a number, a boolean, an object or an array are parsed
    once more, as values that know their types.
    """
    nested = with_texts(kind, VariantType())
    for step in reversed(path):
        nested = StructType([StructField(step, nested)])
    parsed: Column = F.from_json("__text", nested, JSON)
    for step in path:
        parsed = parsed[step]
    if isinstance(kind, StringType):  # of a suspicious text
        other = F.schema_of_variant(parsed) != "STRING"
    else:
        other = any_text(parsed, kind, lambda text: F.schema_of_variant(text).rlike(OTHERS))
    suspicious = F.coalesce(any_text(value, kind, lambda text: text.rlike(SUSPICIOUS)), F.lit(False))
    return F.when(suspicious, F.coalesce(other, F.lit(False))).otherwise(False)


def with_types(kind: DataType, change: Callable[[DataType], DataType]) -> DataType:
    """Return a type of which the parts that have none themselves are changed."""
    if isinstance(kind, StructType):
        return StructType([StructField(each.name, with_types(each.dataType, change)) for each in kind.fields])
    if isinstance(kind, ArrayType):
        return ArrayType(with_types(kind.elementType, change))
    if isinstance(kind, MapType):
        return MapType(kind.keyType, with_types(kind.valueType, change))
    return change(kind)


def with_texts(kind: DataType, text: DataType) -> DataType:
    """Return a type with another one instead of text."""
    return with_types(kind, lambda each: text if isinstance(each, StringType) else each)


def has_text(kind: DataType) -> bool:
    return bool(with_texts(kind, BinaryType()) != kind)


def any_text(value: Column, kind: DataType, test: Callable[[Column], Column]) -> Column:
    """Return true if a text in a value of a type passes a test, else false or null."""
    if isinstance(kind, StructType):
        parts = [any_text(value[each.name], each.dataType, test) for each in kind.fields if has_text(each.dataType)]
        return functools.reduce(lambda one, other: one | F.coalesce(other, F.lit(False)), parts, F.lit(False))
    if isinstance(kind, ArrayType):
        return F.exists(value, lambda entry: any_text(entry, kind.elementType, test))
    if isinstance(kind, MapType):
        return F.exists(F.map_values(value), lambda item: any_text(item, kind.valueType, test))
    return test(value)


def csv_fields(source: Source, rows: DataFrame) -> DataFrame:
    """Return the records in rows of CSV: empty text is null, and other text is cast."""
    texts = {name: F.nullif(F.get("__values", F.lit(at)), F.lit("")) for at, name in enumerate(source.fields)}
    return cast_fields(source, rows.withColumn("__misfit", F.lit(None).cast("string")), texts)


def cast_fields(source: Source, frame: DataFrame, values: dict[str, Column]) -> DataFrame:
    """Return the fields, cast from values that have another type; what cannot be cast is a misfit."""
    raw = {name: f"__raw {name}" for name in source.fields}
    plain = frame.select(*LINE, "__problem", "__misfit", *[values[name].alias(raw[name]) for name in source.fields])
    found, wanted = plain.schema, StructType.fromDDL(ddl(source.fields))
    fields, bad = [], []
    for name, kind in source.fields.items():
        given = F.col(quoted(raw[name]))
        if found[raw[name]].dataType == wanted[name].dataType:
            fields.append(given.alias(name))
            continue
        cast = F.expr(f"try_cast({quoted(raw[name])} AS {kind})")
        fields.append(cast.alias(name))
        bad.append(F.when(lost(given, cast, wanted[name].dataType), records.bad(records.label(name))))
    misfit = F.coalesce("__misfit", *bad).alias("__misfit") if bad else F.col("__misfit")
    return plain.select(*LINE, "__problem", misfit, *fields)


def lost(value: Column, cast: Column, kind: DataType) -> Column:
    """Return true if a value, or a part of it, cannot be cast to a type."""
    if in_json(kind) == kind and not isinstance(kind, AtomicType):
        return F.lit(False)
    if isinstance(kind, StructType):
        parts = [lost(value[each.name], cast[each.name], each.dataType) for each in kind.fields]
        return functools.reduce(Column.__or__, parts)
    if isinstance(kind, ArrayType):
        of_entries = F.zip_with(value, cast, lambda one, other: lost(one, other, kind.elementType))
        return F.coalesce(F.exists(of_entries, lambda each: each), F.lit(False))
    if isinstance(kind, MapType):
        return lost(F.map_values(value), F.map_values(cast), ArrayType(kind.valueType))
    return value.isNotNull() & cast.isNull()


def with_schemas(session: SparkSession, files: dict[int, Delivered]) -> tuple[dict[int, Delivered], dict[int, str]]:
    """Return the Parquet files with their schemas, and the reasons why others cannot be read, from their footers."""

    def schema_or_reason(delivered: Delivered) -> StructType | str:
        try:
            found = session.read.options(__globPaths__="false").parquet(delivered.file.uri).schema
        except (PySparkException, Py4JJavaError) as error:  # Spark 4 raises either
            if isinstance(error, PySparkException) and error.getCondition() == "COLUMN_ALREADY_EXISTS":
                return records.repeated(error.getMessageParameters()["columnName"].strip("`"))
            return "not Parquet" if delivered.file.bytes else "empty, not Parquet"
        return unfit(delivered.source, found) or found

    results = dict(zip(files, in_parallel(schema_or_reason, list(files.values())), strict=True))
    readable = {
        number: replace(files[number], schema=found) for number, found in results.items() if not isinstance(found, str)
    }
    return readable, {number: reason for number, reason in results.items() if isinstance(reason, str)}


def unfit(source: Source, schema: StructType) -> str | None:
    """Return the reason why a Parquet file lacks a source's fields, None if it has them."""
    missing = [name for name in source.fields if name not in schema.names]
    if missing:
        return f"it lacks the columns {', '.join(missing)}; it has {', '.join(schema.names)}"
    wanted = StructType.fromDDL(ddl(source.fields))
    for name, kind in source.fields.items():
        found = kind_of(schema[name].dataType)
        if not records.castable(found, kind_of(wanted[name].dataType)):
            return f"its column '{name}' is {records.words_of(found)}, expected {kind}"
    return None


def kind_of(kind: DataType) -> records.Kind:
    """Return a type as `records.castable` takes it."""
    if isinstance(kind, StructType):
        return {each.name: kind_of(each.dataType) for each in kind}
    if isinstance(kind, ArrayType):
        return (kind_of(kind.elementType),)
    if isinstance(kind, MapType):
        return kind_of(kind.keyType), kind_of(kind.valueType)
    return str(kind.simpleString())


def parquet_records(session: SparkSession, source: Source, files: dict[int, Delivered]) -> DataFrame:
    """Return the rows of Parquet files; those of equal columns are read together."""
    wanted = StructType.fromDDL(ddl(source.fields))
    groups: dict[StructType, dict[int, Delivered]] = {}
    for number, each in files.items():
        assert each.schema is not None
        groups.setdefault(each.schema, {})[number] = each
    parts = []
    for found, group in groups.items():
        # Fields inside of structs are taken by name; other values are cast.
        kinds = [(wanted if "<" in source.fields[name] else found)[name] for name in source.fields]
        reader = session.read.options(recursiveFileLookup="true", __globPaths__="false")
        frame = reader.schema(StructType(kinds)).parquet(*[each.file.uri for each in group.values()])
        text = F.to_json(F.struct(*[quoted(name) for name in source.fields]))
        rows = frame.select(
            F.col("_metadata.file_path").alias("path"),
            (F.col("_metadata.row_index") + 1).alias("__position"),
            *[F.lit(None).cast("string").alias(name) for name in ("__problem", "__misfit")],
            text.alias("__text"),
            F.octet_length(text).cast("bigint").alias("__bytes"),
            *[F.col(quoted(name)) for name in source.fields],
        )
        located = rows.join(F.broadcast(paths(session, frame, group)), "path").drop("path")
        parts.append(cast_fields(source, located, {name: F.col(quoted(name)) for name in source.fields}))
    return functools.reduce(DataFrame.unionByName, parts)


def ddl(fields: dict[str, Any]) -> str:
    """Return fields with their types as a schema of Spark SQL."""
    return ", ".join(f"{quoted(name)} {kind}" for name, kind in fields.items())

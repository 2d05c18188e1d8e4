"""build_interactions and ingest_events compared with duckdb and naive Spark, on generated data.

Each run is a new process. Ours is the job itself, on DuckDB, and by spark-submit with the memory of its `job.toml`.
"Only parsing" is the minimum of `ingest_events`: Spark reads the lines, parses them and drops the result.
"""

import argparse
import datetime
import json
import subprocess
import sys
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.dataset as ds

from benchmarks import engines, measure
from benchmarks.engines import ENGINES
from benchmarks.measure import Measurement
from tools.data.generate_data import generate
from tools.data.shop_model import Settings

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".tandem" / "benchmarks"
PEERS_PYTHON = ROOT / ".venv-peers" / "bin" / "python"
START, DAYS = datetime.date(2025, 1, 1), {"curated": 364, "raw": 28}
CUTS = {"": START + datetime.timedelta(364), "_before_test": START + datetime.timedelta(334),
        "_before_tuning": START + datetime.timedelta(304)}  # fmt: skip
HALF_LIFE = 90.0  # days; the defaults of build_interactions


def shop(events: int, level: str) -> Path:
    """Return a lake with `events` events, generated if missing."""
    folder = FOLDER / f"{level}-{events}"
    generate(Settings(events // 50, 20_000, events, 1, DAYS[level], START), level, f"file://{folder}", 2)
    return folder


def naive_session(memory: str) -> Any:
    """Start Spark with its defaults, on this machine."""
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master("local[*]").config("spark.driver.memory", memory)
    quiet = {"spark.ui.enabled": "false", "spark.log.level": "ERROR", "spark.sql.session.timeZone": "UTC"}
    return builder.config(map=quiet).config("spark.driver.host", "127.0.0.1").getOrCreate()


def naive_interactions(lake: Path) -> dict[str, Any]:
    """Drop duplicates, aggregate for each cut, join, sort globally; with Spark's default of 200 partitions."""
    from pyspark.sql import functions as F

    spark = naive_session("2g")
    output = f"{lake}/peers/naive-{uuid.uuid4().hex[:8]}"
    started = time.perf_counter()
    events = spark.read.parquet(f"file://{lake}/curated/events/*/*/*.parquet").dropDuplicates(["event_id"])
    events = events.where("user_id IS NOT NULL").withColumn(
        "signed", F.when(F.col("type") == "purchase", F.col("quantity")).otherwise(-F.col("quantity"))
    )
    result = None
    for name, cut in CUTS.items():
        age = (F.unix_timestamp(F.lit(cut).cast("timestamp")) - F.unix_timestamp("time")) / 86_400
        pairs = (
            events.where(F.col("time") < F.lit(str(cut)))
            .withColumn("strength", F.col("signed") * F.pow(F.lit(2.0), -age / HALF_LIFE))
            .groupBy("user_id", "item_id")
            .agg(
                F.log1p(F.greatest(F.lit(0.0), F.sum("strength"))).cast("float").alias(f"weight{name}"),
                F.count(F.when(F.col("signed") > 0, 1)).alias(f"events{name}"),
                F.max(F.when(F.col("signed") > 0, F.col("time"))).alias(f"last_time{name}"),
                F.min(F.when(F.col("signed") > 0, F.col("time"))).alias(f"first_time{name}"),
            )
        )
        result = pairs if result is None else result.join(pairs, ["user_id", "item_id"], "left")
    assert result is not None
    result = result.drop("first_time_before_test", "first_time_before_tuning")
    kept = result.where("weight > 0 OR weight_before_test > 0 OR weight_before_tuning > 0")
    kept.orderBy("user_id", "item_id").write.parquet(f"file://{output}")
    return {"output": output, "work": time.perf_counter() - started}


DUCKDB_INTERACTIONS = """
import duckdb, sys, time
lake, output, *cuts = sys.argv[1:]
started = time.perf_counter()
names = ["", "_before_test", "_before_tuning"]
columns = ", ".join(
    f"CAST(ln(1 + greatest(0, coalesce(sum(signed * pow(2.0, -(epoch(TIMESTAMP '{cut}') - epoch(time)) / 86400 / 90)) "
    f"FILTER (time < TIMESTAMP '{cut}'), 0))) AS FLOAT) AS weight{name}, "
    f"count(*) FILTER (time < TIMESTAMP '{cut}' AND signed > 0) AS events{name}, "
    f"max(time) FILTER (time < TIMESTAMP '{cut}' AND signed > 0) AS last_time{name}"
    for name, cut in zip(names, cuts)
)
duckdb.sql("SET preserve_insertion_order = false; SET TimeZone = 'UTC'")
duckdb.sql(f'''
    COPY (
        SELECT * FROM (
            SELECT user_id, item_id, {columns}, min(time) FILTER (signed > 0) AS first_time
            FROM (
                SELECT user_id, item_id, time::TIMESTAMP AS time,
                       CASE type WHEN 'purchase' THEN quantity ELSE -quantity END AS signed
                FROM read_parquet('{lake}/curated/events/*/*/*.parquet') WHERE user_id IS NOT NULL
            ) WHERE time < TIMESTAMP '{cuts[0]}' GROUP BY user_id, item_id
        ) WHERE weight > 0 OR weight_before_test > 0 OR weight_before_tuning > 0
        ORDER BY user_id, item_id
    ) TO '{output}' (FORMAT parquet, COMPRESSION zstd)''')
print('{"output": "%s", "work": %f}' % (output, time.perf_counter() - started))
"""


EVENT = (
    "event_id STRING, user_id STRING, item_id STRING, type STRING, quantity BIGINT, unit_price DOUBLE, "
    "time STRING, country STRING"
)


def parse_only(lake: Path) -> dict[str, Any]:
    """Read and parse lines with the settings of our jobs; drop the result."""
    from pyspark.sql import functions as F

    from common.engines.spark.session import SETTINGS

    spark = naive_session("1g")
    for name, value in SETTINGS.items():
        if name.startswith("spark.sql."):
            spark.conf.set(name, value)
    started = time.perf_counter()
    lines = spark.read.text(f"file://{lake}/raw/events/generated_shop/*/*.gz")
    event = lines.select(F.from_json("value", EVENT).alias("event")).select("event.*")
    event.write.format("noop").mode("overwrite").save()
    return {"work": time.perf_counter() - started}


def naive_ingest(lake: Path) -> dict[str, Any]:
    """Read lines with a schema, drop those without an ID or a time and duplicates, write by date."""
    from pyspark.sql import functions as F

    spark = naive_session("1g")
    output = f"{lake}/peers/naive-{uuid.uuid4().hex[:8]}"
    started = time.perf_counter()
    events = (
        spark.read.schema(EVENT)
        .json(f"file://{lake}/raw/events/generated_shop/*/*.gz")
        .where("event_id > '' AND time IS NOT NULL")
    )
    once = events.withColumn("date", F.to_date("time")).dropDuplicates(["date", "event_id"])
    once.write.partitionBy("date").parquet(f"file://{output}")
    return {"output": output, "work": time.perf_counter() - started}


DUCKDB_INGEST = """
import duckdb, sys, time
lake, output = sys.argv[1:]
started = time.perf_counter()
duckdb.sql("SET preserve_insertion_order = false; SET TimeZone = 'UTC'; SET memory_limit = '3GB'")
duckdb.sql(f'''
    COPY (
        SELECT DISTINCT ON (date, event_id) *, time::DATE AS date
        FROM read_json('{lake}/raw/events/generated_shop/*/*.gz', format = 'newline_delimited', ignore_errors = true,
            columns = {{
            event_id: 'VARCHAR', user_id: 'VARCHAR', item_id: 'VARCHAR', type: 'VARCHAR', quantity: 'BIGINT',
            unit_price: 'DOUBLE', time: 'TIMESTAMP', country: 'VARCHAR'}})
        WHERE event_id > '' AND time IS NOT NULL
    ) TO '{output}' (FORMAT parquet, COMPRESSION zstd, PARTITION_BY (date), OVERWRITE true)''')
print('{"output": "%s", "work": %f}' % (output, time.perf_counter() - started))
"""

VARIANTS = {
    "naive_interactions": naive_interactions,
    "parse_only": parse_only,
    "naive_ingest": naive_ingest,
}


def command_of(variant: str, lake: Path) -> list[str]:
    """Return the command of a variant of this file."""
    return [sys.executable, "-m", "benchmarks.preprocessing", "--variant", variant, "--lake", str(lake)]


def sums(output: str, job: str) -> dict[str, Any]:
    """Return rows and sums of an output, to compare results."""
    folder = Path(output)
    if (folder / "manifest.json").exists() and job == "build_interactions":
        folder = next(folder.glob("attempt-1/*/interactions"))
    elif job == "ingest_events" and (folder / "manifest.json").exists():
        return {"rows": json.loads((folder / "manifest.json").read_bytes())["metrics"]["events"]}
    source = ds.dataset(str(folder), format="parquet")
    found: Counter[str] = Counter()
    columns = ["weight", "events"] if job == "build_interactions" else []
    for batch in source.to_batches(columns=columns):
        found["rows"] += batch.num_rows
        for name in columns:
            found[name] += pc.sum(batch[name]).as_py() or 0
    return {name: round(float(value), -1) if name == "weight" else value for name, value in found.items()}


def compare(job: str, commands: dict[str, list[str]], runs: int, title: str, command: str) -> None:
    """Run all commands, print and record the table and the sums of the results."""
    found = measure.alternate(commands, runs)
    work: dict[str, measure.Column] = {"without start, s": lambda one: one.figures["work"]}
    results = {
        name: sums(many[-1].figures["output"], job) for name, many in found.items() if "output" in many[-1].figures
    }
    lines = [measure.table(found, work), ""]
    lines += [
        f"- {name}: {', '.join(f'{key} {value:,.0f}' for key, value in each.items())}" for name, each in results.items()
    ]
    lines += [spark_note(many[-1]) for many in found.values() if "spilled" in many[-1].figures]
    lines.append(measure.versions("pyspark", "pyarrow", "duckdb", "sqlframe") + f", {peers_version()}")
    measure.record(title, command, "\n".join(lines))


def spark_note(one: Measurement) -> str:
    return (
        f"- ours, Spark, by its own metrics: shuffles {one.figures['shuffles']:.0f}, "
        f"shuffled {one.figures['shuffled'] / 2**20:,.0f} MiB, spilled {one.figures['spilled'] / 2**20:,.0f} MiB"
    )


def peers_version() -> str:
    program = "from importlib.metadata import version; print('of peers: duckdb', version('duckdb'))"
    return subprocess.run([str(PEERS_PYTHON), "-c", program], capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--large", action="store_true", help="10 and 50 million events instead of 1 million")
    parser.add_argument("--runs", type=int, default=3, help="of each variant")
    parser.add_argument("--job", choices=["build_interactions", "ingest_events"], help="only this job")
    parser.add_argument("--engine", choices=ENGINES, help="only this engine of ours")
    parser.add_argument("--without-slowest", action="store_true", help="omit naive Spark")
    parser.add_argument("--events", type=int, nargs="*", help="other sizes")
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--lake", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.variant:
        print(json.dumps(VARIANTS[arguments.variant](arguments.lake)))
        return
    command = " ".join(["python -m benchmarks.preprocessing", *sys.argv[1:]])
    ours = [arguments.engine] if arguments.engine else list(ENGINES)
    for events in arguments.events or ([10_000_000, 50_000_000] if arguments.large else [1_000_000]):
        slow = events <= 10_000_000 and not arguments.without_slowest
        output = str(FOLDER / f"duckdb-{uuid.uuid4().hex[:8]}")
        if arguments.job != "ingest_events":
            lake = shop(events, "curated")
            cuts = [str(cut) for cut in CUTS.values()]
            commands = {
                **{ENGINES[engine]: engines.command(engine, lake, "build_interactions") for engine in ours},
                "duckdb": [str(PEERS_PYTHON), "-c", DUCKDB_INTERACTIONS, str(lake), f"{output}.parquet", *cuts],
            }
            if slow:
                commands["naive Spark"] = command_of("naive_interactions", lake)
            compare(
                "build_interactions",
                commands,
                arguments.runs,
                f"build_interactions, {events:,} curated events",
                command,
            )
        if arguments.job != "build_interactions":
            lake = shop(events, "raw")
            commands = {
                **{ENGINES[engine]: engines.command(engine, lake, "ingest_events") for engine in ours},
                "only parsing": command_of("parse_only", lake),
                "duckdb": [str(PEERS_PYTHON), "-c", DUCKDB_INGEST, str(lake), output],
            }
            if slow:
                commands["naive Spark"] = command_of("naive_ingest", lake)
            compare("ingest_events", commands, arguments.runs, f"ingest_events, {events:,} raw events", command)


if __name__ == "__main__":
    main()

"""Functions of pyspark on the light engine: the values that Spark has, to the bit."""

import os
import struct
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from tests.function_cases import evaluate, write_rows

ROOT = Path(__file__).parents[2]


def test_each_function_has_the_values_of_spark(session: SparkSession, tmp_path: Path) -> None:
    rows, light = tmp_path / "rows", tmp_path / "light"
    rows.mkdir()
    light.mkdir()
    write_rows(str(rows))
    program = ROOT / "tests" / "programs" / "evaluate_functions.py"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, str(program), str(rows), str(light)], check=True, env=environment)
    for kind, of_spark in evaluate(session, str(rows)).items():
        of_light = pq.read_table(light / f"{kind}.parquet")
        keys = of_spark.column(0).to_pylist()
        assert of_light.column(0).to_pylist() == keys
        for name in of_spark.column_names:
            expected, found = (
                dict(zip(keys, map(exact, each[name].to_pylist()), strict=True)) for each in (of_spark, of_light)
            )
            assert found == expected, f"{name} {kind}"


def exact(value: Any) -> Any:
    """Return a value that equals only the same one: floats by their bits, whole decimals as numbers."""
    match value:
        case float():
            return "NaN" if value != value else struct.pack(">d", value)
        case Decimal():
            return int(value)
        case list():
            return [exact(each) for each in value]
        case dict():
            return {name: exact(each) for name, each in value.items()}
        case _:
            return value

"""A lake for the shape of a test's folder: its sources, and all jobs with one Spark."""

import datetime
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tastes import DAYS

from common import sources

if TYPE_CHECKING:
    from pipeline import Shop
    from pyspark.sql import SparkSession

pytest.register_assert_rewrite("pipeline")  # before it is imported


@pytest.fixture
def shop(
    session: "SparkSession",
    dynamodb: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> "Shop":
    """A lake to which the shape's files arrive on the day after the last visit; jobs read the shape's sources."""
    monkeypatch.setattr(sources, "folder", lambda: request.path.parent / "sources")
    arrival = request.module.START + datetime.timedelta(days=DAYS)
    from pipeline import Shop

    return Shop(tmp_path, arrival, f"t{uuid.uuid4().hex}-")

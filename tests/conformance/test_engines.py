"""Spark jobs give on DuckDB the results that they give on Spark: rows, manifests, quarantine, exit codes, sentences."""

import pytest

from benchmarks import conformance
from benchmarks.conformance import Result, Run
from benchmarks.conformance_broken import CASES

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[Run, Result]:
    """Return all results, of one process per engine."""
    return {result.run: result for result in conformance.compare(tmp_path_factory.mktemp("lakes"))}


@pytest.mark.parametrize("run", list(conformance.runs()), ids=lambda run: f"{run.job}: {run.data}")
def test_engines_agree(results: dict[Run, Result], run: Run) -> None:
    result = results[run]
    assert not result.difference
    assert (result.rows > 0) == (result.code == 0)
    assert (result.code == 0) == (run.data not in CASES or run.data.startswith("unused"))

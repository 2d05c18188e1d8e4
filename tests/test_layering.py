"""Who may import whom: business logic knows nothing of scheduling, scheduling nothing of business logic."""

import ast
import sys
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
BARE = {
    "task",
    "command_line",
    "job",
    "manifest",
    "storage",
    "lake",
    "inputs",
    "days",
    "suppression",
    "s3",
    "contracts",
    "heartbeat",
    "failures",
    "records",
    "deliveries",
    "csv_rows",
}  # must start on a bare node
ALLOWED = {
    **{f"common.{name}": {"boto3", "botocore"} for name in BARE},
    "common.engines.spark": {"boto3", "botocore", "pyspark", "py4j"},
    "common.engines.arrow": {"boto3", "botocore", "numpy", "pyarrow"},
    "common.delivery": {"boto3", "botocore", "numpy", "pyarrow"},
    "common.churn": {"numpy", "pyarrow", "sklearn", "threadpoolctl"},
    "common.recommending": {"numpy", "scipy", "sklearn", "threadpoolctl"},
}


@pytest.fixture(scope="module")
def graph():
    return grimp.build_graph("common", include_external_packages=True, cache_dir=None)


def imported(file):
    """The top-level names of all modules that a file imports, at whatever depth of the code."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.partition(".")[0]


def test_every_part_of_common_has_a_rule(graph):
    assert set(graph.find_children("common")) == set(ALLOWED)
    assert {"pyspark", "pyarrow", "sklearn", "boto3"} & graph.modules >= {"pyspark", "pyarrow", "boto3"}


@pytest.mark.parametrize("part", sorted(ALLOWED))
def test_common_needs_only_what_its_layer_allows(graph, part):
    upstream = {
        module for module in {part, *graph.find_descendants(part)} for module in graph.find_upstream_modules(module)
    }
    external = {module for module in upstream if not module.startswith("common.") and module != "common"}
    assert external - set(sys.stdlib_module_names) <= ALLOWED[part]


@pytest.mark.parametrize("part", sorted(BARE))
def test_the_base_of_common_reaches_no_layer_above(graph, part):
    above = {"common.engines.spark", "common.engines.arrow", "common.recommending", "common.churn"}
    assert not graph.find_upstream_modules(f"common.{part}") & above


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("common", {"jobs", "tools", "airflow", "tandem", "airflow_dags"}),
        ("jobs", {"tools", "airflow", "tandem", "airflow_dags", "jobs"}),
        ("airflow_dags", {"jobs", "common", "tools"}),
    ],
)
def test_no_file_crosses_the_border(folder, forbidden):
    files = list((ROOT / folder).rglob("*.py"))
    assert len(files) > 5
    crossing = {(str(file.relative_to(ROOT)), name) for file in files for name in imported(file) if name in forbidden}
    assert not crossing

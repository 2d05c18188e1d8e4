"""Imports of the whole repository: no circle, none uphill, no third-party package in a room that must not have it.

Business logic and scheduling do not import each other.
"""

import ast
import graphlib
import sys
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
# From the lowest room to the highest: a module imports from its own room and from lower ones.
ROOMS = [
    "common.protocol",
    "common.errors",
    "common.contracts",
    "common.sources",
    "common.handover",
    "common.engines",
    "common.ingestion",
    "common.delivery",
    "common.recommending",
    "common.churn",
    "common.reporting",
    "jobs",
    "tools.command_line",
    "tools.environment",
    "tools.airflow_api",
    "tools.tables",
    "tools.packaging",
    "tools.lake",
    "tools.deploy",
    "tools.run",
    "tools.data",
    "tools.sandbox",
    "tools.adopt",
    "tools.scaffold",
    "benchmarks",
]
STORES = {"boto3", "botocore", "google", "requests"}
LIGHT = {*STORES, "duckdb", "fsspec", "numpy", "pyarrow", "pyspark", "sqlframe", "sqlglot"}
# Packages that a room may load next to the standard library and lower rooms: it must start without others.
PACKAGES = {
    "common.protocol": set(),
    "common.errors": set(),
    "common.contracts": set(),
    "common.sources": {"sqlglot"},
    "common.handover": STORES,
    "common.ingestion.deliveries": {*STORES, "zstandard"},
    "common.ingestion.csv_rows": {*STORES, "zstandard"},
    "common.ingestion.records": set(),
    "common.ingestion.ledger": STORES,
    "common.ingestion.suppression": STORES,
    "common.ingestion.arrow": {*STORES, "duckdb", "numpy", "pandas", "pyarrow", "sqlglot", "zstandard"},
    "common.ingestion.spark": {*LIGHT, "py4j", "zstandard"},
    "common.ingestion.light": {*LIGHT, "pandas", "zstandard"},
    "common.ingestion.engine": {*LIGHT, "pandas", "py4j", "zstandard"},
    "common.engines.schemas": {"pyspark"},
    "common.engines.spark": {*STORES, "pyspark", "py4j"},
    "common.engines.light": LIGHT,
    "common.engines.frames": {*LIGHT, "py4j"},  # of one engine: the bundle of a Spark job has no module of the other
    "common.engines.arrow": {*STORES, "numpy", "pyarrow"},
    "common.engines.arrays": {*STORES, "numpy", "pyarrow"},
    "common.engines.catalogue": {*STORES, "numpy", "pyarrow"},
    "common.engines.duck": {"duckdb", "pyarrow", "sqlglot"},
    "common.engines.interactions": {*STORES, "numpy", "pyarrow"},
    "common.delivery": {*STORES, "numpy", "pyarrow", "redis"},
    "common.delivery.store": set(),
    "common.delivery.bigtable": {"google"},
    "common.delivery.redis": {"redis"},
    "common.recommending": {"numpy", "scipy", "sklearn", "threadpoolctl"},
    "common.churn": {"numpy", "pyarrow", "sklearn", "threadpoolctl"},
    "common.reporting": {*STORES, "jinja2", "markupsafe", "msgspec", "numpy", "pyarrow", "vl_convert"},
}
FORBIDDEN = {
    "common": {"jobs", "tools", "benchmarks", "airflow", "tandem", "airflow_dags", "tests"},
    "jobs": {"tools", "benchmarks", "airflow", "tandem", "airflow_dags", "jobs", "tests"},
    "airflow_dags": {"jobs", "common", "tools", "benchmarks", "tests"},
    "tools": {"jobs", "benchmarks", "airflow_dags", "tests"},
    "benchmarks": {"airflow_dags", "tests"},
}


@pytest.fixture(scope="module")
def graph():
    return grimp.build_graph("common", "tools", "benchmarks", include_external_packages=True, cache_dir=None)


@pytest.fixture(scope="module")
def tandem():
    sys.path.insert(0, str(ROOT / "airflow_dags"))
    try:
        return grimp.build_graph("tandem", cache_dir=None)
    finally:
        sys.path.pop(0)


def room(module):
    """Return the position of a module's room, None for a module outside of all."""
    found = [position for position, name in enumerate(ROOMS) if module == name or module.startswith(f"{name}.")]
    return found[0] if found else None


def circle(graph):
    """Return a circle of imports, empty if there is none; a package and its modules may import each other."""
    sorter = graphlib.TopologicalSorter()
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            if not imported.startswith(f"{module}."):
                sorter.add(module, imported)
    try:
        sorter.prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def imports(file):
    """Yield the names of all modules that a file imports, at any depth of its code."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module


def test_every_module_has_a_room(graph):
    own = [module for module in graph.modules if module.startswith(("common.", "tools."))]
    assert len(own) > 100
    assert [module for module in own if room(module) is None] == []


def test_no_import_runs_uphill(graph):
    uphill = [
        (module, imported)
        for module in graph.modules
        for imported in graph.find_modules_directly_imported_by(module)
        if room(module) is not None and room(imported) is not None and room(imported) > room(module)
    ]
    assert uphill == []


def test_jobs_tools_and_common_have_no_circle(graph):
    assert circle(graph) == []


def test_dags_have_no_circle(tandem):
    assert len(tandem.modules) > 30
    assert circle(tandem) == []


def test_circle_is_found():
    graph = grimp.ImportGraph()
    graph.add_import(importer="a", imported="b")
    graph.add_import(importer="b", imported="a")
    assert set(circle(graph)) == {"a", "b"}


@pytest.mark.parametrize("name", PACKAGES)
def test_room_loads_only_its_packages(graph, name):
    modules = {name, *graph.find_descendants(name)}
    upstream = modules.union(*(graph.find_upstream_modules(module) for module in modules))
    external = {module for module in upstream if module.partition(".")[0] not in ("common", "tools", "benchmarks")}
    assert external - set(sys.stdlib_module_names) <= PACKAGES[name]


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_no_file_crosses_the_wall(folder):
    files = list((ROOT / folder).rglob("*.py"))
    assert len(files) > 5
    crossing = {
        (str(file.relative_to(ROOT)), name)
        for file in files
        for name in imports(file)
        if name.partition(".")[0] in FORBIDDEN[folder]
    }
    assert crossing == set()


def test_no_test_imports_another():
    files = list((ROOT / "tests").rglob("*.py"))
    assert len(files) > 50
    crossing = {
        (str(file.relative_to(ROOT)), name)
        for file in files
        for name in imports(file)
        if name.rpartition(".")[2].startswith("test_")
    }
    assert crossing == set()

"""A fingerprint changes with every file of a product, and with nothing else."""

import copy
import shutil
from collections.abc import Iterable
from pathlib import Path

import grimp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_checkout import FILES, LIGHT, write

from common import contracts
from common.errors import ArgumentError
from common.handover.job_toml import Job
from tools.packaging.fingerprint import (
    ACTIVATE,
    ROOT,
    Product,
    ProductFile,
    job_of,
    jobs,
    module_file,
    product,
    products,
)


def fingerprints(root: Path) -> dict[str, str]:
    return {name: product(name, root).fingerprint for name in products(root)}


def changed(root: Path, path: str, text: str) -> set[str]:
    """Write new content to one file; return the products whose fingerprints change."""
    before = fingerprints(root)
    write(root, {path: text})
    after = fingerprints(root)
    return {name for name in before if before[name] != after[name]}


@pytest.mark.parametrize(
    ("path", "jobs"),
    {
        "common/far.py": {"learn", "count"},
        "common/near.py": {"learn"},
        "common/lonely.py": set(),
        "common/__init__.py": {"learn", "count"},
        "common/contracts/rows@1.toml": {"learn", "count"},
        "common/contracts/other@1.toml": set(),
        "requirements/learning.txt": {"learn"},
        "requirements/spark.txt": {"count"},
        "requirements/airflow.txt": set(),
        "dockerfiles/python-job.Dockerfile": {"learn"},
        "dockerfiles/spark-job.Dockerfile": {"count"},
        "dockerfiles/start.py": {"learn"},
        "jobs/learn/main.py": {"learn"},
        "jobs/learn/job.toml": {"learn"},
        "jobs/learn/words.txt": {"learn"},
        "jobs/learn/help/er.py": {"learn"},
        "jobs/learn/__init__.py": set(),
        "jobs/learn/test_main.py": set(),
        "jobs/learn/tests/words.txt": set(),
        "jobs/learn/.main.py.swp": set(),
        "jobs/learn/__pycache__/main.cpython-311.pyc": set(),
        "README.md": set(),
    }.items(),
)
def test_change_affects_only_the_jobs_that_use_the_file(checkout, path, jobs):
    assert changed(checkout, path, FILES.get(path, "") + "# changed\n") == jobs


SOURCES = {
    "common/sources/__init__.py": "",
    "common/sources/source.py": "",
    "common/sources/tracking_plan.py": "",
    "sources/tracking_plan.toml": "",
    "jobs/ingest/job.toml": '[job]\ndescription = "Ingests."\nengine = "python"\n[inputs.new]\nraw = "raw/events"\n',
    "jobs/ingest/main.py": "from common.sources import source\n",
    "jobs/weigh/job.toml": '[job]\ndescription = "Weighs."\nengine = "python"\n',
    "jobs/weigh/main.py": "from common.sources import tracking_plan\n",
}


def test_source_affects_only_the_jobs_that_read_its_kind(checkout):
    write(checkout, SOURCES)
    assert changed(checkout, "sources/shop/events.toml", "") == {"ingest"}
    assert changed(checkout, "sources/shop/events.toml", "# changed\n") == {"ingest"}
    assert changed(checkout, "sources/shop/users.toml", "") == set()
    assert changed(checkout, "sources/tracking_plan.toml", "# changed\n") == {"weigh"}


def test_base_image_counts_for_images_not_for_bundles(checkout):
    learn, count = (product(name, checkout, "other:1").fingerprint for name in ("learn", "count"))
    assert learn != product("learn", checkout).fingerprint
    assert count == product("count", checkout).fingerprint


def test_spark_job_on_either_engine_has_two_products_each_with_its_engine(checkout):
    write(checkout, LIGHT)
    assert products(checkout) == ["count", "learn", "sum", "sum-light"]
    bundle, light = (product(name, checkout) for name in ("sum", "sum-light"))
    both = {f"common/{name}.py" for name in ("__init__", "engines/__init__", "engines/frames/__init__")}
    both |= {"common/engines/frames/engine.py", "jobs/sum/main.py", "jobs/sum/job.toml"}
    both |= {"common/engines/light/__init__.py", "common/engines/light/activate.py"}  # which says that it is not active
    assert {path for path in bundle.files if path.startswith(("common/", "jobs/"))} == both | {
        f"common/{name}.py" for name in ("engines/spark/__init__", "engines/spark/io", "near", "far")
    }
    assert {path for path in light.files if path.startswith(("common/", "jobs/"))} == both | {
        f"common/engines/light/{name}.py" for name in ("files", "submit")
    }
    assert light.files["requirements.txt"].content == b"duckdb==2.0.0\n"
    assert (bundle.kind, light.kind) == ("bundle", "light")


@pytest.mark.parametrize(
    ("path", "names"),
    {
        "common/engines/light/submit.py": {"sum-light"},
        "common/engines/light/activate.py": {"sum", "sum-light"},
        "common/engines/spark/io.py": {"sum"},
        "common/engines/frames/engine.py": {"sum", "sum-light"},
        "common/far.py": {"sum", "learn", "count"},
        "requirements/light.txt": {"sum-light"},
        "requirements/spark.txt": {"sum", "count"},
        "dockerfiles/python-job.Dockerfile": {"sum-light", "learn"},
        "dockerfiles/spark-job.Dockerfile": {"sum", "count"},
        "jobs/sum/main.py": {"sum", "sum-light"},
    }.items(),
)
def test_change_affects_only_the_products_that_contain_the_file(checkout, path, names):
    write(checkout, LIGHT)
    assert changed(checkout, path, {**FILES, **LIGHT}[path] + "# changed\n") == names


def test_light_image_of_a_job_for_spark_only_is_refused(checkout):
    for job in ("count", "learn"):
        with pytest.raises(ArgumentError, match=rf"{job} has no light image, because its code does not reach common\."):
            product(f"{job}-light", checkout)


def test_versions_that_a_dataset_may_have_are_in_the_product(checkout, monkeypatch):
    monkeypatch.setattr(contracts, "FOLDER", checkout / "common/contracts")
    contracts.load.cache_clear()
    dataset = '[inputs.visits]\ndataset = "curated/visits"\ncontract = "visits@3"\noldest = "visits@1"\n'
    versions = {f"common/contracts/visits@{number}.toml": 'description = "Visits."\n' for number in range(5)}
    write(checkout, {**versions, "jobs/learn/job.toml": FILES["jobs/learn/job.toml"] + dataset})
    found = [path for path in product("learn", checkout).files if "visits@" in path]
    assert sorted(found) == [f"common/contracts/visits@{number}.toml" for number in (1, 2, 3)]
    contracts.load.cache_clear()


def test_new_name_of_a_file_counts(checkout):
    write(checkout, {"jobs/learn/a.txt": "x"})
    before = fingerprints(checkout)
    (checkout / "jobs/learn/a.txt").rename(checkout / "jobs/learn/b.txt")
    assert {name for name, old in before.items() if fingerprints(checkout)[name] != old} == {"learn"}


def test_line_endings_times_order_and_location_do_not_count(checkout, tmp_path):
    other = tmp_path / "elsewhere" / "copy"
    for path, text in reversed(FILES.items()):
        file = other / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.replace("\n", "\r\n").encode())
        file.chmod(0o600)
    assert fingerprints(other) == fingerprints(checkout)
    for name in jobs(checkout):
        one, two = (product(name, root) for root in (checkout, other))
        assert {path: file.content for path, file in one.files.items()} == {
            path: file.content for path, file in two.files.items()
        }


def test_binary_files_are_taken_unchanged(checkout):
    file = checkout / "jobs/learn/table.bin"
    file.write_bytes(b"\0\r\n")
    assert product("learn", checkout).files["jobs/learn/table.bin"].content == b"\0\r\n"


def test_each_module_has_its_shortest_chain_of_imports(checkout):
    write(checkout, {"jobs/learn/main.py": "from common import near\n"})
    files = product("learn", checkout).files
    assert files["common/far.py"].reason == "main.py → common.near → common.far"
    write(checkout, {"jobs/learn/helper.py": "import common.far\n"})
    assert product("learn", checkout).files["common/far.py"].reason == "helper.py → common.far"


def test_relative_late_and_package_imports_are_followed(checkout):
    write(checkout, {"jobs/learn/main.py": "def late():\n    from common.parts.one import x\n"})
    modules = {path for path in product("learn", checkout).files if path.startswith("common/parts/")}
    assert modules == {
        f"common/parts/{name}.py" for name in ("__init__", "one", "two", "four", "deep/__init__", "deep/three")
    }


def test_templates_of_a_module_are_in_the_product(checkout):
    assert changed(checkout, "common/near/page.html", "<p>") == {"learn"}
    assert product("learn", checkout).files["common/near/page.html"].reason == "a template of common.near"


def test_missing_file_is_reported(checkout):
    (checkout / "common/contracts/rows@1.toml").unlink()
    with pytest.raises(ArgumentError, match=r"learn needs common/contracts/rows@1\.toml"):
        product("learn", checkout)


@pytest.fixture(scope="module")
def graph():
    return grimp.build_graph("common", "jobs", cache_dir=None)


@pytest.mark.parametrize("name", products())
def test_modules_of_real_products_agree_with_grimp(graph, name):
    """A bundle is without the light engine but for its switch, a light image without Spark."""
    light = name != job_of(name)
    within = copy.deepcopy(graph)
    for room in ("common.engines", "common.ingestion"):
        without = f"{room}.{'spark' if light else 'light'}"
        for module in {without, *within.find_descendants(without)} - {"common.engines.light", ACTIVATE}:
            within.remove_module(module)
    starts = {f"jobs.{job_of(name)}.main", *(["common.engines.light.submit"] if light else [])}
    reached = starts.union(*map(within.find_upstream_modules, starts))
    reached = {module for module in reached if module.startswith("common")}
    above = {module[:position] for module in reached for position, letter in enumerate(module) if letter == "."}
    files = {module_file(module, ROOT).relative_to(ROOT).as_posix() for module in reached | above}
    assert files == {path for path in product(name).files if path.startswith("common/") and path.endswith(".py")}


def test_changed_module_affects_exactly_its_importers(graph, tmp_path):
    for folder in ("common", "jobs", "requirements", "dockerfiles", "sources"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    before = fingerprints(ROOT)
    assert fingerprints(tmp_path) == before
    of_light = {"common.engines.spark.files": {False}, "common.engines.light.files": {True}}
    for module in (*of_light, "common.recommending.ease", "common.handover.storage"):
        file = module_file(module, tmp_path)
        importers = {each.split(".")[1] for each in graph.find_downstream_modules(module) if each.startswith("jobs.")}
        file.write_text(file.read_text() + "#\n")
        after = fingerprints(tmp_path)
        assert {name for name in before if before[name] != after[name]} == {
            name
            for name in before
            if job_of(name) in importers and (name != job_of(name)) in of_light.get(module, {False, True})
        }
        before = after


PATHS = st.text("ab/\0\n=", max_size=4)


@given(*[st.dictionaries(PATHS, st.binary(max_size=3))] * 2)
def test_different_files_have_different_fingerprints(one, other):
    job = Job("toy", "A toy.", "python")

    def fingerprint(files: Iterable[tuple[str, bytes]]) -> str:
        return Product(job, {path: ProductFile(content, "", "") for path, content in files}, {}).fingerprint

    assert (fingerprint(one.items()) == fingerprint(other.items())) == (one == other)
    assert fingerprint(one.items()) == fingerprint(reversed(one.items()))

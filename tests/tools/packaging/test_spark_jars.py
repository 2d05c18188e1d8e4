"""The libraries of Spark for object stores: each matches its pin, and fingerprints of Spark jobs include the pins."""

import shutil

import pytest

from common.errors import TaskError
from tools.packaging import spark_jars
from tools.packaging.fingerprint import ROOT, product


@pytest.fixture
def jars(tmp_path, monkeypatch):
    """Two libraries as fetched, and their pins."""
    (tmp_path / "jars").mkdir()
    for name in ("one.jar", "two.jar"):
        (tmp_path / "jars" / name).write_text(name)
    monkeypatch.setattr(spark_jars, "JARS", tmp_path / "jars")
    monkeypatch.setattr(spark_jars, "PINNED", tmp_path / "spark-jars.sha256")
    fetched = {file.name: file for file in (tmp_path / "jars").iterdir()}
    spark_jars.PINNED.write_text(
        "".join(f"{spark_jars.digest(jar)}  {name}\n" for name, jar in sorted(fetched.items()))
    )
    return fetched


@pytest.mark.parametrize("changed", ["content", "missing", "one too many", "unpinned"])
def test_library_that_differs_from_its_pin_is_refused(jars, tmp_path, changed):
    spark_jars.check(jars, spark_jars.pinned())
    assert [jar.name for jar in spark_jars.added_jars()] == ["one.jar", "two.jar"]
    if changed == "content":
        jars["two.jar"].write_text("another")
    if changed == "missing":
        jars.pop("two.jar").unlink()
    if changed == "one too many":
        jars["three.jar"] = shutil.copy(jars["two.jar"], tmp_path / "three.jar")
    if changed == "unpinned":
        spark_jars.PINNED.write_text(spark_jars.PINNED.read_text().splitlines()[0] + "\n")
    with pytest.raises(SystemExit, match=r"(two|three)\.jar is .*, expected"):
        spark_jars.check(jars, spark_jars.pinned())
    if changed in ("content", "missing"):
        with pytest.raises(TaskError, match=r"two\.jar differs from the library"):
            spark_jars.added_jars()


@pytest.mark.parametrize("name", ["requirements/spark-jars.sha256", "requirements/build.txt"])
def test_fingerprints_of_spark_jobs_change_with_pins(name):
    wanted = product("ingest_events")
    assert wanted.files[name].content == (ROOT / name).read_bytes()
    assert name in wanted.files["Dockerfile"].content.decode()


def test_every_requirement_of_products_is_pinned_by_hash():
    for file in (ROOT / "requirements").glob("*.txt"):
        entries = file.read_text().replace("\\\n", "").splitlines()
        unpinned = [line for line in entries if line and not line.startswith("#") and "--hash=sha256:" not in line]
        assert unpinned == [], file.name

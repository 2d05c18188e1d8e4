"""Products: reproducible, self-contained bundles, and images by fingerprint with their labels."""

import datetime
import functools
import gzip
import io
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import uuid
import zipfile
from pathlib import Path

import pytest
from small_checkout import FILES, LIGHT, write

from common.errors import TaskError
from common.handover import storage
from common.protocol import image
from tools.packaging import build, spark_jars
from tools.packaging.base_image import BASE_IMAGE, with_digest
from tools.packaging.fingerprint import product, products, select_jobs
from tools.run import submit


@pytest.fixture(autouse=True)
def dist(tmp_path, monkeypatch):
    """Write products to a temporary folder instead of the checkout."""
    monkeypatch.setattr(build, "DIST", tmp_path / "dist")
    monkeypatch.setattr(build, "BASES", tmp_path / "dist" / "bases.json")


def test_bundle_has_the_same_bytes_in_every_checkout(checkout, tmp_path):
    other = tmp_path / "other"
    for path, text in reversed(FILES.items()):
        write(other, {path: text.replace("\n", "\r\n")})
        os.utime(other / path, (0, 0))
        (other / path).chmod(0o600)
    assert build.bundle_files(product("count", checkout)) == build.bundle_files(product("count", other))


def test_zip_of_bundle_has_fixed_times_rights_and_order(checkout, tmp_path):
    wanted = product("count", checkout)
    build.build_bundle(wanted)
    folder = tmp_path / "dist" / "count" / wanted.fingerprint
    assert sorted(file.name for file in folder.iterdir()) == [
        *("code.zip", "contents", "fingerprint", "job.toml", "main.py", "submit.txt")
    ]
    entries = zipfile.ZipFile(folder / "code.zip").infolist()
    assert [entry.filename for entry in entries] == [
        *("common/__init__.py", "common/contracts/rows@1.toml", "common/far.py", "fingerprint", "job.toml")
    ]
    assert {(entry.date_time, entry.external_attr >> 16, entry.compress_type) for entry in entries} == {
        ((1980, 1, 1, 0, 0, 0), 0o100644, zipfile.ZIP_STORED)
    }
    assert (folder / "fingerprint").read_text() == f"{wanted.fingerprint} count\n"


def test_bundle_and_image_contain_the_sources_of_a_job(tmp_path):
    code = tmp_path / "code.zip"
    code.write_bytes(build.code_files(product("ingest_events"))["code.zip"])
    program = "from common.sources import source; print(*[each.file for each in source.load('events')])"
    environment = {**os.environ, "PYTHONPATH": str(code)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.stdout.split() == sorted(
        f"{each.relative_to(build.ROOT)}" for each in build.ROOT.glob("sources/*/events.toml")
    )
    assert not any(name.endswith("users.toml") for name in zipfile.ZipFile(code).namelist())
    assert "app/sources/generated_shop/users.toml" in build.context_files(product("ingest_users"))


def test_bundle_contains_its_command_with_sizes_of_the_job(checkout):
    text = build.bundle_files(product("count", checkout))["submit.txt"].decode()
    assert text == (
        "spark-submit --master yarn --deploy-mode cluster --name count --conf spark.driver.memory=1g "
        "--conf spark.executor.cores=2 --conf 'spark.a=b c' --conf spark.yarn.maxAppAttempts=1 "
        "--py-files ./code.zip ./main.py "
        "--lake LAKE --dag-id DAG --run-id RUN --task-id TASK --attempt 1\n"
    )


# This library is not in the environment of the tests.
INFLECTION = "inflection==0.5.1 --hash=sha256:{}\n"
INFLECTION_HASH = "f38b2b640938a4f35ade69ac3d053042959b62a0f1076a5bbaa1b9526605a8a2"


@pytest.fixture
def with_library(checkout):
    """Let the small Spark job declare a library, by a hash."""

    def declare(digest):
        description = FILES["jobs/count/job.toml"].replace(
            "\n[outputs", '\nrequirements = "requirements/own.txt"\n[outputs'
        )
        write(checkout, {"jobs/count/job.toml": description, "requirements/own.txt": INFLECTION.format(digest)})
        return product("count", checkout)

    return declare


def test_libraries_of_a_job_are_packed_for_all_processes(with_library):
    files = build.bundle_files(with_library(INFLECTION_HASH))
    names = zipfile.ZipFile(io.BytesIO(files["libraries.zip"])).namelist()
    assert "inflection/__init__.py" in names
    assert not [name for name in names if name.startswith("bin/") or name.endswith((".pyc", "/RECORD"))]
    assert build.bundle_files(with_library(INFLECTION_HASH)) == files  # same bytes
    command = " ".join(shlex.split(files["submit.txt"].decode()))
    for part in (
        "--archives ./libraries.zip#libraries",
        "--conf spark.yarn.appMasterEnv.PYTHONPATH=libraries",
        "--conf spark.executorEnv.PYTHONPATH=libraries",
    ):
        assert f" {part} " in command


def test_libraries_are_packed_for_the_processors_of_all_clusters(with_library, checkout, tmp_path):
    wanted = with_library(INFLECTION_HASH)
    pinned = (build.ROOT / "requirements/airflow.txt").read_text()
    markupsafe = re.search(r"(?m)^markupsafe==.*\n(    --hash=.*\n)+", pinned)[0]
    write(checkout, {"requirements/own.txt": markupsafe})
    files = build.libraries(product("count", checkout))
    for machine in ("aarch64", "x86_64"):
        assert f"{machine}/markupsafe/_speedups.cpython-311-{machine}-linux-gnu.so" in files
    build.stage(tmp_path / "libraries", files)
    path = {"PYTHONPATH": "libraries"}  # relative, as for the processes of a cluster
    program = "import markupsafe; print(markupsafe.__file__)"
    found = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=path, capture_output=True, text=True)
    assert found.stdout.strip() == str(tmp_path / "libraries" / platform.machine() / "markupsafe" / "__init__.py")
    clusters = [json.loads(file.read_text()) for file in build.ROOT.glob("airflow_dags/*/cluster.json")]
    types = [group["InstanceType"] for cluster in clusters for group in cluster["Instances"]["InstanceGroups"]]
    assert types and all(re.match(r"[a-z]+\d+g", name) for name in types)  # Graviton, which is aarch64
    version = "--python-version 3.11 --python-platform"
    assert wanted.settings["cluster"] == f"{version} aarch64-manylinux_2_28 {version} x86_64-manylinux_2_28"


def test_library_with_another_hash_is_refused(with_library):
    with pytest.raises(TaskError, match=r"(?s)requirements/own\.txt can't be installed.*[Hh]ash mismatch"):
        build.bundle_files(with_library("0" * 64))


@pytest.mark.system  # a Spark process
def test_job_with_own_libraries_runs_from_its_bundle(tmp_path, lake, monkeypatch):
    root = tmp_path / "real"
    root.mkdir()
    for name in ("common", "dockerfiles"):
        (root / name).symlink_to(build.ROOT / name)
    job = '[job]\ndescription = "Uses a library."\nengine = "spark"\nrequirements = "requirements/own.txt"\n'
    shutil.copytree(build.ROOT / "requirements", root / "requirements")
    write(root, {"requirements/own.txt": INFLECTION.format(INFLECTION_HASH)})
    program = (build.ROOT / "tests" / "programs" / "use_library.py").read_text()
    write(root, {"jobs/words/job.toml": job, "jobs/words/main.py": program})
    wanted = product("words", root)
    build.build_bundle(wanted)
    identity = ["--lake", lake, "--dag-id", "d", "--run-id", "r", "--task-id", "t", "--attempt", "1"]
    assert submit.run_here(wanted, identity) == 0
    manifest = json.loads(storage.read(f"{lake}/intermediate/d/r/t/manifest.json")[0])
    assert manifest["metrics"]["words"] == ["CD", "AB"]


def test_existing_bundle_is_not_rebuilt(checkout, tmp_path):
    wanted = product("count", checkout)
    built, size = build.build_bundle(wanted)
    file = tmp_path / "dist" / "count" / wanted.fingerprint / "main.py"
    before = file.stat()
    assert (built, size > 0) == (True, True)
    assert build.build_bundle(wanted) == (False, size)
    assert file.stat().st_ino == before.st_ino


def test_failed_build_leaves_no_folder(tmp_path):
    with pytest.raises(TypeError):
        build.stage(tmp_path / "job" / "0123", {"main.py": b"", "job.toml": None})
    assert list((tmp_path / "job").iterdir()) == []


def test_release_file_keeps_the_last_product_of_each_job(checkout, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "RELEASE", tmp_path / "dist" / "release.json")
    count, learn = product("count", checkout), product("learn", checkout)
    build.record_build(count)
    build.record_build(learn)
    write(checkout, {"jobs/count/more.txt": ""})
    newer = product("count", checkout)
    build.record_build(newer)
    write(checkout, LIGHT)
    light = product("sum-light", checkout, "other:1", "other:1@sha256:0")
    build.record_build(light)
    release = json.loads(build.RELEASE.read_text())
    assert release == {"count": newer.fingerprint, "learn": learn.fingerprint, "sum-light": light.fingerprint}
    assert json.loads(build.BASES.read_text())["other:1"] == "other:1@sha256:0"
    assert newer.fingerprint != count.fingerprint


def test_a_kind_selects_among_the_products_of_jobs(checkout, monkeypatch):
    write(checkout, LIGHT)
    monkeypatch.setattr(build, "select_jobs", lambda names: names or ["count", "learn", "sum"])
    monkeypatch.setattr(build, "products", functools.partial(products, checkout))
    both = ["count", "learn", "sum", "sum-light"]
    assert build.select_products(None, None) == both
    assert build.select_products(None, "light") == ["sum-light"]
    assert build.select_products(None, "image") == ["count", "learn", "sum"]
    assert build.select_products(["sum"], None) == ["sum", "sum-light"]
    assert build.select_products(["count"], "light") == ["count-light"]  # which `product` refuses with the reason


def test_unknown_job_is_reported_with_nearest_name():
    with pytest.raises(TaskError, match="did you mean 'ingest_events'"):
        select_jobs(["ingest_event"])


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a Python with its standard library, pyspark, and a library of bundles only."""
    folder = tmp_path_factory.mktemp("bare")
    site = Path(sysconfig.get_path("purelib"))
    for package in ("pyspark", "py4j", "sqlglot"):  # the last is in the bundle's libraries
        (folder / package).symlink_to(site / package)
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    python.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "SPARK"))}
    environment |= {"PYTHONPATH": str(folder), "PYSPARK_PYTHON": str(python), "SPARK_HOME": str(site / "pyspark")}
    for package, importable in (("py4j", True), ("common", False), ("numpy", False), ("boto3", False)):
        process = subprocess.run([python, "-c", f"import {package}"], env=environment, cwd=folder, capture_output=True)
        assert (process.returncode == 0) == importable, package
    return environment


EVENT = {"event_id": "e1", "user_id": "u", "item_id": "cup", "type": "purchase", "quantity": 1, "unit_price": 2.5}


@pytest.mark.system
@pytest.mark.parametrize("main_elsewhere", [False, True], ids=["unpacked", "as on a cluster"])
def test_real_bundle_runs_with_its_libraries_only(bare_python, tmp_path, main_elsewhere):
    wanted = product("ingest_events")
    build.build_bundle(wanted)
    folder = tmp_path / "unpacked"
    shutil.copytree(tmp_path / "dist" / "ingest_events" / wanted.fingerprint, folder)
    main = folder / "main.py"
    if main_elsewhere:  # alone in a folder, without the other files of the bundle
        main = tmp_path / "staging" / "main.py"
        main.parent.mkdir()
        (folder / "main.py").rename(main)
        (folder / "job.toml").unlink()
        (folder / "fingerprint").unlink()
    lake = f"file://{tmp_path}/lake"
    event = EVENT | {"time": f"{datetime.date(2011, 6, 1)}T10:00:00Z", "country": None}
    deliveries = f"{lake}/raw/events/arrival=2011-06-01/events.jsonl.gz"
    storage.write(deliveries, gzip.compress(json.dumps(event).encode()))
    quick = "spark.driver.extraJavaOptions=-XX:TieredStopAtLevel=1 -XX:+UseParallelGC"
    submit = [f"{bare_python['SPARK_HOME']}/bin/spark-submit", "--master", "local[2]", "--conf", quick]
    submit += ["--py-files", folder / "code.zip"]
    identity = ["--lake", lake, "--dag-id", "d", "--run-id", "r", "--task-id", "t", "--attempt", "1"]
    process = subprocess.run([*submit, main, *identity], env=bare_python, cwd=folder, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
    manifest = json.loads(storage.read(f"{lake}/intermediate/d/r/t/manifest.json")[0])
    assert (manifest["job"], manifest["fingerprint"]) == ("ingest_events", wanted.fingerprint)
    assert manifest["outputs"]["events"]["rows"] == 1


def test_image_is_built_once_and_labelled(docker_engine, checkout, tmp_path):
    write(checkout, {"jobs/learn/unique.txt": uuid.uuid4().hex})
    wanted = product("learn", checkout)
    name = image("learn", wanted.fingerprint)
    assert name == f"tandem/learn:{wanted.fingerprint}"
    try:
        built, size = build.build_image(wanted)
        assert built
        assert build.build_image(wanted) == (False, size)
        bill = json.loads((tmp_path / f"dist/learn/{wanted.fingerprint}.cdx.json").read_text())
        assert bill["metadata"]["component"]["version"] == wanted.fingerprint
        assert "pkg:pypi/numpy@1" in {component.get("purl") for component in bill["components"]}
        labels = json.loads(build.docker("image", "inspect", "--format", "{{json .Config.Labels}}", name).stdout)
        assert labels["tandem.job"] == "learn"
        assert labels["tandem.fingerprint"] == wanted.fingerprint
        assert labels["tandem.contracts"] == "rows@1"
        revision = subprocess.run(["git", "rev-parse", "HEAD"], cwd=build.ROOT, capture_output=True, text=True)
        assert labels["tandem.revision"].removesuffix("-dirty") == revision.stdout.strip()
    finally:
        build.docker("image", "rm", name)


def test_spark_image_has_the_name_of_its_bundle_on_any_base(docker_engine, checkout):
    write(checkout, {"jobs/count/unique.txt": uuid.uuid4().hex})
    bundle = product("count", checkout)
    upon = {base: product("count", checkout, base_image=base) for base in (BASE_IMAGE, "scratch")}
    assert {wanted.fingerprint for wanted in upon.values()} == {bundle.fingerprint}
    name = image("count", bundle.fingerprint)
    try:
        for base, wanted in upon.items():
            assert [build.build_image(wanted)[0], build.build_image(wanted)[0]] == [True, False]
            assert build.label(name, "tandem.base") == with_digest(base)
    finally:
        build.docker("image", "rm", name)


def test_unsupported_kind_of_product_is_refused(checkout):
    with pytest.raises(TaskError, match="learn is a Python job, expected a Spark job"):
        build.build_bundle(product("learn", checkout))
    for wanted in (product("learn", checkout, base_image="emr"), product("count", checkout)):
        with pytest.raises(TaskError, match="An emr-image needs a Spark job and an EMR release"):
            build.build_image(wanted, "emr-image")


def test_build_context_has_all_files_of_an_image(checkout):
    wanted = product("learn", checkout)
    files = build.context_files(wanted)
    assert sorted(files) == [
        "Dockerfile",
        "app/common/__init__.py",
        "app/common/contracts/rows@1.toml",
        "app/common/far.py",
        "app/common/near.py",
        "app/jobs/learn/fingerprint",
        "app/jobs/learn/job.toml",
        "app/jobs/learn/main.py",
        "requirements.txt",
        "start.py",
    ]
    assert files["app/jobs/learn/fingerprint"].decode() == f"{wanted.fingerprint} learn\n"
    files = build.context_files(product("count", checkout))
    bundle = [f"app/{name}" for name in ("code.zip", "fingerprint", "job.toml", "main.py")]
    assert sorted(name for name in files if not name.startswith("spark-jars/")) == [
        *("Dockerfile", *bundle, "requirements/spark.txt")
    ]
    write(checkout, LIGHT)
    light = product("sum-light", checkout)
    files = build.context_files(light)
    assert {"requirements.txt", "app/jobs/sum/main.py", "app/common/engines/light/submit.py"} <= set(files)
    assert files["app/jobs/sum/fingerprint"].decode() == f"{light.fingerprint} sum\n"
    assert light.fingerprint != product("sum", checkout).fingerprint
    files = build.context_files(product("count", checkout))
    assert {name for name in files if name.startswith("spark-jars/")} == {
        f"spark-jars/{name}" for name in spark_jars.pinned()
    }


def test_failed_docker_build_is_reported_with_its_output(docker_engine, checkout, capsys):
    missing = uuid.uuid4().hex
    write(checkout, {"dockerfiles/python-job.Dockerfile": f"FROM scratch\nCOPY {missing} /\n"})
    with pytest.raises(TaskError, match="image of learn could not be built"):
        build.build_image(product("learn", checkout))
    assert missing in capsys.readouterr().err


def test_missing_engine_or_client_is_reported(checkout, tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER", "no-such-client")
    with pytest.raises(TaskError, match="no docker client 'no-such-client'"):
        build.build_image(product("learn", checkout))
    client = tmp_path / "docker"
    client.write_text("#!/bin/sh\necho 'Cannot connect to the Docker daemon' >&2\nexit 1\n")
    client.chmod(0o755)
    monkeypatch.setenv("DOCKER", str(client))
    with pytest.raises(TaskError, match="Docker does not answer"):
        build.build_image(product("learn", checkout))

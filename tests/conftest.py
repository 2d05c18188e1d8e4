"""Shared fixtures: tiny jobs run as real processes, a lake of files or on an S3 server, and other parts.

A test belongs to `make test-system` if it is in tests/system or tests/shapes, if a fixture that it uses needs a part or
Airflow's scheduler, or if it is marked `system`; all others belong to `make test`.
"""

import fcntl
import gc
import hashlib
import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest
from hypothesis import settings

from common import sources
from common.handover import s3
from tools.sandbox import local_airflow, local_s3, parts

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from common.delivery import tables

settings.register_profile("tests", deadline=None)  # a slow machine does not disprove a property
settings.load_profile("tests")

ROOT = Path(__file__).parents[1]
QUICK = "-XX:TieredStopAtLevel=1 -XX:+UseParallelGC"  # half the processor time of a Spark that runs for seconds
os.environ.setdefault("SPARK_SUBMIT_OPTS", QUICK)  # of Spark in processes that tests start
REGISTRY = """version: 0.1
storage: {{filesystem: {{rootdirectory: {folder}}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""
FOLDERS = {ROOT / "tests" / "system", ROOT / "tests" / "shapes"}  # of tests that take long
# Fixtures that need a part (tools/sandbox/parts.py) and, with `home`, Airflow's scheduler.
SYSTEM = {"docker_engine", "kubernetes", "versitygw", "strict_dynamodb", "home"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if SYSTEM.intersection(getattr(item, "fixturenames", ())) or FOLDERS.intersection(item.path.parents):
            item.add_marker("system")
    items.sort(key=lambda item: item.path.name != "test_races.py")  # a fork takes longer, the more memory is in use


def pytest_collection_finish() -> None:
    """Spare the garbage collector the modules of all tests, and most of its runs: a fifth of the processor time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000)


def need(part: str) -> None:
    """Skip the test if the machine lacks a part; fail it in CI, unless TANDEM_WITHOUT names the part."""
    if sentence := parts.lack(part):
        expected = os.environ.get("CI") and part not in os.environ.get("TANDEM_WITHOUT", "").split()
        (pytest.fail if expected else pytest.skip)(sentence)


@pytest.fixture(scope="session")
def docker_engine() -> None:
    """A Docker engine that answers, and a client that builds."""
    need("docker")


@pytest.fixture(scope="session")
def kubernetes() -> None:
    """The cluster that KUBECONFIG names, and a way to load images into it."""
    need("kubernetes")


@pytest.fixture(scope="session")
def node_control(kubernetes: None) -> str:
    """The command that makes a node's kubelet `stop` and `start`."""
    need("node-control")
    return os.environ["TANDEM_NODE_CONTROL"]


@pytest.fixture
def lake(tmp_path: Path) -> str:
    return f"file://{tmp_path}/lake"


class JobFolder:
    """A job made for a test, run as in every runtime: a process with the command line of every job."""

    def __init__(self, folder: Path, lake: str) -> None:
        self.folder = folder
        self.lake = lake

    def command(self, *arguments: str, task: str = "task", attempt: int = 1, run: str = "run") -> list[str]:
        identity = ["--lake", self.lake, "--dag-id", "dag", "--run-id", run, "--task-id", task]
        return [sys.executable, str(self.folder / "main.py"), *identity, "--attempt", str(attempt), *arguments]

    def run(self, *arguments: str, environment: dict[str, str] | None = None, **names) -> subprocess.CompletedProcess:
        return subprocess.run(
            self.command(*arguments, **names),
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
        )

    def key(self, task: str = "task", run: str = "run") -> str:
        return f"{self.lake}/intermediate/dag/{run}/{task}"

    def document(self, name: str, task: str = "task", run: str = "run") -> dict:
        return json.loads(Path(f"{self.key(task, run)}/{name}".removeprefix("file://")).read_text())


@pytest.fixture
def make_job(tmp_path: Path, lake: str) -> Callable[..., JobFolder]:
    """Make a job's folder from the text of its `job.toml` after the description, and of its `main.py`."""

    def make(tables: str, main: str, name: str = "toy") -> JobFolder:
        folder = tmp_path / "jobs" / name
        folder.mkdir(parents=True)
        (folder / "job.toml").write_text(f'[job]\ndescription = "A toy."\nengine = "python"\n{tables}')
        (folder / "main.py").write_text(main)
        return JobFolder(folder, lake)

    return make


@pytest.fixture
def make_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], Path]:
    """Write files of the folder `sources`, by path, next to the shipped tracking plan; jobs in this process read it."""

    def make(files: dict[str, str]) -> Path:
        folder = tmp_path / "sources"
        shipped = {"tracking_plan.toml": (ROOT / "sources" / "tracking_plan.toml").read_text("utf-8")}
        for path, text in {**shipped, **files}.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
        monkeypatch.setattr(sources, "folder", lambda: folder)
        return folder

    return make


@pytest.fixture(scope="session")
def session() -> "SparkSession":
    """One Spark for all tests of Spark jobs, on this machine."""
    from pyspark.sql import SparkSession

    # Imported here, so that tests without Spark do not load it.
    from common.engines.spark.session import LOCAL_SETTINGS, SETTINGS, WITHOUT_CHECKSUMS

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    local = {**SETTINGS, **LOCAL_SETTINGS, **WITHOUT_CHECKSUMS, "spark.master": "local[2]"}
    local["spark.driver.extraJavaOptions"] = QUICK
    return SparkSession.builder.config(map=local).getOrCreate()


@pytest.fixture(scope="session")
def make_home(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Make homes of Airflow, each with a copy of a database that is made once, in half a minute."""
    version = hashlib.sha256((ROOT / "requirements" / "airflow.txt").read_bytes()).hexdigest()
    first = ROOT / ".tandem" / f"airflow-{version[:12]}"
    first.mkdir(parents=True, exist_ok=True)
    with (first / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        local_airflow.migrate(first, local_airflow.settings(first, first, 0), print)

    def make() -> Path:
        home = tmp_path_factory.mktemp("home")
        for file in ("airflow.db", "migrated"):
            shutil.copy(first / file, home / file)
        return home

    return make


@pytest.fixture(scope="session")
def versitygw() -> None:
    """The program of a real S3 server."""
    need("versitygw")


@pytest.fixture(scope="session")
def s3_server(versitygw: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A real S3 server on loopback, as the environment variables that point clients at it."""
    with local_s3.running(tmp_path_factory.mktemp("s3")) as environment:
        yield environment


@pytest.fixture(scope="session")
def serve_s3(versitygw: None) -> Callable[[Path, str], AbstractContextManager[dict[str, str]]]:
    """Serve S3 from a folder at another address of this machine."""
    return local_s3.running


@pytest.fixture(autouse=True)
def clients_of_this_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drop clients of the previous test: boto3's shared session keeps the first credentials that it found."""
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    s3.client.cache_clear()


@pytest.fixture(params=["file", pytest.param("s3", marks=pytest.mark.system)])
def any_lake(request: pytest.FixtureRequest, lake: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The root of a lake, once of files and once on the S3 server."""
    if request.param == "file":
        return lake
    for name, value in request.getfixturevalue("s3_server").items():
        monkeypatch.setenv(name, value)
    return f"s3://tandem-lake/{uuid.uuid4().hex}"


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    """The address of moto's server."""
    from tools.sandbox import local_dynamodb  # takes a second, which most tests save

    with local_dynamodb.served() as url:
        yield url


@pytest.fixture
def dynamodb(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The DynamoDB that DYNAMODB_ENDPOINT names, else moto's, as the environment names it."""
    if "DYNAMODB_ENDPOINT" not in os.environ:
        point_at(request.getfixturevalue("moto"), monkeypatch)
    return os.environ["DYNAMODB_ENDPOINT"]


def point_at(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point clients at a DynamoDB of this machine."""
    variables = {"DYNAMODB_ENDPOINT": endpoint, "AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests"}
    for name, value in {**variables, "AWS_DEFAULT_REGION": "eu-central-1"}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def dynalite() -> Iterator[str]:
    """The address of dynalite, as strict as Amazon's DynamoDB, but without transactions and expiry."""
    need("dynalite")
    port = local_airflow.free_port()
    command = [parts.program("dynalite"), "--port", str(port), "--createTableMs", "0"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        local_s3.wait_for(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def strict_dynamodb(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A DynamoDB as strict as Amazon's: the one that DYNAMODB_ENDPOINT names, else dynalite."""
    if "DYNAMODB_ENDPOINT" not in os.environ:
        point_at(request.getfixturevalue("dynalite"), monkeypatch)
    return os.environ["DYNAMODB_ENDPOINT"]


@pytest.fixture
def product_table(dynamodb: str) -> "tables.Table":
    """An empty table of recommendations with a unique prefix, for four threads."""
    from common.delivery import tables

    client = tables.client(4)
    name = tables.table_name(f"t{uuid.uuid4().hex}-", "recommendations@2")
    assert tables.create(client, name, None)
    return tables.Table(client, name, 4)


@pytest.fixture(scope="session")
def registry(docker_engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a registry for the Docker engine."""
    need("docker-registry")
    program = parts.program("docker-registry")
    port = local_airflow.free_port()
    folder = tmp_path_factory.mktemp("registry")
    file = folder / "registry.yml"
    file.write_text(REGISTRY.format(folder=folder, port=port))
    server = subprocess.Popen([program, "serve", str(file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        local_s3.wait_for(port)
        yield f"127.0.0.1:{port}/team"
    finally:
        server.terminate()
        server.wait()

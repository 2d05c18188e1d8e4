"""Shared fixtures: tiny jobs run as real processes, a lake of files or on an S3 server, and other parts.

A test belongs to `make test-system` if it is in tests/system or tests/shapes, if a fixture that it uses needs a part or
Airflow's scheduler, or if it is marked `system`; all others belong to `make test`. A process has one engine of Spark
jobs: DuckDB, or Spark with TANDEM_ENGINE=spark, as in `make test-spark`, which runs the tests with the fixture
`session` and those in tests/spark.
"""

import contextlib
import fcntl
import gc
import hashlib
import importlib.util
import io
import json
import os
import runpy
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
from common.engines.light.activate import activate
from common.handover import storage
from tests import lakes
from tools.sandbox import local_airflow, local_gcs, local_s3, parts, servers

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from common.delivery.dynamodb.store import DynamoDB
    from common.delivery.store import Store

settings.register_profile("tests", deadline=None)  # a slow machine does not disprove a property
settings.load_profile("tests")

ROOT = Path(__file__).parents[1]
# The engine of Spark jobs in this process. Airflow's environment has neither.
ENGINE = os.environ.setdefault("TANDEM_ENGINE", "light")
if ENGINE == "light" and importlib.util.find_spec("sqlframe"):
    activate()
collect_ignore = [] if ENGINE == "spark" else ["spark"]
# Half the processor time of a Spark that runs for seconds. Without room for code, methods are compiled again and again.
QUICK = (
    "-XX:TieredStopAtLevel=1 -XX:+UseParallelGC -XX:ReservedCodeCacheSize=240m "
    "-XX:+UnlockDiagnosticVMOptions -XX:-BytecodeVerificationRemote"
)
os.environ.setdefault("SPARK_SUBMIT_OPTS", QUICK)  # of Spark in processes that tests start
REGISTRY = """version: 0.1
storage: {{filesystem: {{rootdirectory: {folder}}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""
FOLDERS = {ROOT / "tests" / "system", ROOT / "tests" / "shapes"}  # of tests that take long
SPARK = ROOT / "tests" / "spark"  # tests of Spark itself
# Fixtures that need a part (tools/sandbox/parts.py) and, with `home`, Airflow's scheduler.
SYSTEM = {"browser", "docker_engine", "kubernetes", "versitygw", "fake_gcs", "strict_dynamodb", "home"}
SYSTEM |= {"bigtable_emulator", "redis_server", "serve_redis"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if SYSTEM.intersection(getattr(item, "fixturenames", ())) or FOLDERS.intersection(item.path.parents):
            item.add_marker("system")
        if "session" in getattr(item, "fixturenames", ()) or SPARK in item.path.parents:
            item.add_marker("frames")
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
def browser() -> Path:
    """The Python that drives a real browser."""
    need("browser")
    return ROOT / ".venv-graph" / "bin" / "python"


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
        return json.loads(storage.read(f"{self.key(task, run)}/{name}")[0])


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


@pytest.fixture
def run_tool(capfd: pytest.CaptureFixture[str]) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Run a module's file as a program in this process, which has most of its imports already."""

    def run(module: str, *arguments: str, stdin: str = "", **variables: str) -> "subprocess.CompletedProcess[str]":
        file = str(ROOT / f"{module.replace('.', '/')}.py")
        capfd.readouterr()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [file, *arguments])
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()), "utf-8"))
            patch.chdir(ROOT)
            for name, value in variables.items():
                patch.setenv(name, value)
            try:
                runpy.run_path(file, run_name="__main__")
                code: str | int | None = 0
            except SystemExit as ended:
                code = ended.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
            code = 1
        printed = capfd.readouterr()
        return subprocess.CompletedProcess(arguments, code or 0, printed.out, printed.err)

    return run


@pytest.fixture(scope="session")
def session(tmp_path_factory: pytest.TempPathFactory) -> "SparkSession":
    """One session for all tests of Spark jobs, on the engine of this process."""
    if ENGINE == "light":
        from common.engines.light.session import start  # here, so that tests without frames do not load it

        return start(str(tmp_path_factory.mktemp("scratch")))
    from pyspark.sql import SparkSession

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


@pytest.fixture(scope="session")
def fake_gcs() -> Iterator[dict[str, str]]:
    """A server of Google's object store on loopback, as the environment variables that point clients at it."""
    need("fake-gcs-server")
    with local_gcs.serve() as environment:
        yield environment


@pytest.fixture
def gcs(fake_gcs: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of an empty bucket of Google's object store, at which the environment points clients."""
    for name, value in fake_gcs.items():
        monkeypatch.setenv(name, value)
    bucket = f"tandem-{uuid.uuid4().hex}"
    local_gcs.make_bucket(fake_gcs["STORAGE_EMULATOR_HOST"], bucket)
    return f"gs://{bucket}"


@pytest.fixture(autouse=True)
def clients_of_this_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drop clients of the previous test: boto3's shared session keeps the first credentials that it found."""
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    lakes.forget_clients()


REMOTE = [pytest.param(kind, marks=pytest.mark.system) for kind in lakes.SERVERS]


@pytest.fixture(params=["file", *REMOTE])
def any_lake(request: pytest.FixtureRequest, lake: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The root of a lake: of files, on the S3 server, and on the server of Google's object store."""
    if request.param == "file":
        return lake
    for name, value in request.getfixturevalue(lakes.SERVERS[request.param][0]).items():
        monkeypatch.setenv(name, value)
    return f"{request.param}://tandem-lake/{uuid.uuid4().hex}"


@pytest.fixture(params=REMOTE)
def remote(request: pytest.FixtureRequest) -> Iterator[lakes.Remote]:
    """Each object store in turn, behind a proxy."""
    with lakes.behind_proxy(request.param, request.getfixturevalue(lakes.SERVERS[request.param][0])) as found:
        yield found


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
    with servers.listening(command, port, stdout=subprocess.DEVNULL):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def strict_dynamodb(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A DynamoDB as strict as Amazon's: the one that DYNAMODB_ENDPOINT names, else dynalite."""
    if "DYNAMODB_ENDPOINT" not in os.environ:
        point_at(request.getfixturevalue("dynalite"), monkeypatch)
    return os.environ["DYNAMODB_ENDPOINT"]


@pytest.fixture(scope="session")
def bigtable_emulator() -> Iterator[dict[str, str]]:
    """Google's emulator of Bigtable, as the environment variable that points clients at it."""
    need("bigtable-emulator")
    from tools.sandbox import local_bigtable

    with local_bigtable.serve() as environment:
        yield environment


@pytest.fixture
def bigtable(bigtable_emulator: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of Bigtable as a store of products."""
    for name, value in bigtable_emulator.items():
        monkeypatch.setenv(name, value)
    return "bigtable://project/instance"


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A real Redis server, as the environment variable that points clients at it."""
    need("redis-server")
    from tools.sandbox import local_redis

    with local_redis.serve(tmp_path_factory.mktemp("redis")) as environment:
        yield environment


@pytest.fixture
def redis(redis_server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of Redis as a store of products."""
    for name, value in redis_server.items():
        monkeypatch.setenv(name, value)
    return "redis:"


@pytest.fixture(scope="session")
def readers() -> Path:
    """The folder node_modules with the clients of stores for TypeScript, and its compiler."""
    need("readers")
    return parts.CACHE / "readers" / "node_modules"


@pytest.fixture(
    params=[
        "dynamodb",
        pytest.param("bigtable", marks=pytest.mark.system),
        pytest.param("redis", marks=pytest.mark.system),
    ]
)
def store_url(request: pytest.FixtureRequest) -> str:
    """The URL of a store of products, once of each kind; clients reach it."""
    found: str = request.getfixturevalue(request.param)
    return "dynamodb:" if request.param == "dynamodb" else found


@pytest.fixture
def any_store(store_url: str) -> "Store":
    """An empty store of recommendations with a unique prefix, for four threads; once of each kind."""
    from common.delivery.stores import open_store

    store = open_store(store_url, f"t{uuid.uuid4().hex}-recommendations", 4)
    store.create(None)
    return store


@pytest.fixture
def serve_redis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., AbstractContextManager[None]]:
    """Run another Redis server with its own options, to which clients are pointed."""
    need("redis-server")
    from tools.sandbox import local_redis

    @contextlib.contextmanager
    def serve(*options: str) -> Iterator[None]:
        with local_redis.serve(tmp_path, *options) as environment:
            for name, value in environment.items():
                monkeypatch.setenv(name, value)
            yield

    return serve


@pytest.fixture
def product_table(dynamodb: str) -> "DynamoDB":
    """An empty table of recommendations with a unique prefix, for four threads."""
    from common.delivery.dynamodb.store import DynamoDB

    store = DynamoDB.open("dynamodb:", f"t{uuid.uuid4().hex}-recommendations", 4)
    assert store.create(None)
    return store


@pytest.fixture(scope="session")
def registry(docker_engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a registry for the Docker engine."""
    need("docker-registry")
    program = parts.program("docker-registry")
    port = local_airflow.free_port()
    folder = tmp_path_factory.mktemp("registry")
    file = folder / "registry.yml"
    file.write_text(REGISTRY.format(folder=folder, port=port))
    command = [program, "serve", str(file)]
    with servers.listening(command, port, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        yield f"127.0.0.1:{port}/team"

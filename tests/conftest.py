"""What tests share: tiny jobs run as real processes, and a lake of files or on the S3 server that is named."""

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

from common import s3
from tools import local_s3
from tools.local_airflow import free_port

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from common.delivery import tables

settings.register_profile("tests", deadline=None)  # a busy machine says nothing of a property
settings.load_profile("tests")

ROOT = Path(__file__).parents[1]
REGISTRY = """version: 0.1
storage: {{filesystem: {{rootdirectory: {folder}}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


@pytest.fixture
def lake(tmp_path: Path) -> str:
    return f"file://{tmp_path}/lake"


class JobFolder:
    """A job made for a test, run as every runtime runs one: a process with the command line of every job."""

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
    """Make a job's folder from the text of its `job.toml` and of its `main.py`."""

    def make(description: str, main: str, name: str = "toy") -> JobFolder:
        folder = tmp_path / "jobs" / name
        folder.mkdir(parents=True)
        (folder / "job.toml").write_text(description)
        (folder / "main.py").write_text(main)
        return JobFolder(folder, lake)

    return make


@pytest.fixture(scope="session")
def session() -> "SparkSession":
    """One Spark for all tests of Spark jobs, on this machine."""
    from pyspark.sql import SparkSession

    from common import spark  # here, so that tests without Spark do not load it

    local = {**spark.SETTINGS, **spark.LOCAL_SETTINGS, **spark.WITHOUT_CHECKSUMS, "spark.master": "local[2]"}
    return SparkSession.builder.config(map=local).getOrCreate()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A real S3 server on loopback, as the environment variables by which every client finds it."""
    with s3_at(tmp_path_factory.mktemp("s3"), "127.0.0.1") as environment:
        yield environment


@pytest.fixture(scope="session")
def serve_s3() -> Callable[[Path, str], AbstractContextManager[dict[str, str]]]:
    """Serves S3 from a folder at another address of this machine."""
    return s3_at


def s3_at(folder: Path, address: str) -> AbstractContextManager[dict[str, str]]:
    if local_s3.program() is None:
        pytest.skip(local_s3.HOW)
    return local_s3.running(folder, address)


@pytest.fixture(autouse=True)
def clients_of_this_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """No client of the test before: boto3's shared session keeps the first credentials that it found."""
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    s3.client.cache_clear()


@pytest.fixture(params=["file", "s3"])
def any_lake(request: pytest.FixtureRequest, lake: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The root of a lake: of files, and on the S3 server."""
    if request.param == "file":
        return lake
    for name, value in request.getfixturevalue("s3_server").items():
        monkeypatch.setenv(name, value)
    return f"s3://tandem-lake/{uuid.uuid4().hex}"


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    """The address of moto's server."""
    from tools import local_dynamodb  # takes a second, which most tests need not wait

    with local_dynamodb.served() as url:
        yield url


@pytest.fixture(scope="session")
def dynamodb_local() -> Iterator[str]:
    """The address of DynamoDB Local, which refuses what Amazon's refuses."""
    jars = Path.home() / ".cache" / "tandem" / "dynamodb-local"
    if not jars.is_dir():
        pytest.skip(f"no DynamoDB Local in {jars}; .ci/run shows how it is installed")
    port = free_port()
    main = "com.amazonaws.services.dynamodbv2.local.main.ServerRunner"
    program = shutil.which("java") or f"{ROOT}/.tandem/java/bin/java"  # as tools.java has it
    java = [program, "-Xmx512m", f"-Djava.library.path={jars}", "-cp", f"{jars}/*", main]
    server = subprocess.Popen([*java, "-inMemory", "-disableTelemetry", "-port", str(port)], stdout=subprocess.DEVNULL)
    try:
        local_s3.wait_for(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


@pytest.fixture(params=["moto", "dynamodb_local"])
def dynamodb(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A DynamoDB as the environment names it: the one that DYNAMODB_ENDPOINT named before, else each of two."""
    if "DYNAMODB_ENDPOINT" not in os.environ:
        monkeypatch.setenv("DYNAMODB_ENDPOINT", request.getfixturevalue(request.param))
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "tests")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "tests")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    elif request.param == "dynamodb_local":
        pytest.skip("DYNAMODB_ENDPOINT names the only DynamoDB to test with")
    return os.environ["DYNAMODB_ENDPOINT"]


@pytest.fixture
def product_table(dynamodb: str) -> "tables.Table":
    """An empty table of recommendations, of a prefix of its own, for four threads."""
    from common.delivery import tables

    client = tables.client(4)
    name = tables.table_name(f"t{uuid.uuid4().hex}-", "recommendations@1")
    assert tables.create(client, name, None)
    return tables.Table(client, name, 4)


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry's address; skipped where there is no registry or no engine."""
    from tools import build

    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("no docker-registry on PATH; install Debian's package of that name")
    if shutil.which(os.environ.get("DOCKER", "docker")) is None or build.docker("version").returncode:
        pytest.skip("no docker engine answers; name its client in DOCKER and its address in DOCKER_HOST")
    port = free_port()
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

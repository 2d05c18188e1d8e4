"""Images of jobs, built and run by the Docker engine that DOCKER_HOST names."""

import contextlib
import gzip
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from common.handover import storage
from common.handover.job_toml import load
from common.protocol import image, light_product
from tools.data.generate_data import generate
from tools.data.shop_model import Settings
from tools.packaging import build
from tools.packaging.base_image import BASE_IMAGE
from tools.packaging.build import build_image, context_files, docker, image_size, stage
from tools.packaging.fingerprint import ROOT, job_of, product, products
from tools.packaging.image_report import probe
from tools.run.run import options as run_options

PROGRAMS = ROOT / "tests" / "programs"
# Products that are images: of Python jobs, and light ones of Spark jobs.
IMAGES = [name for name in products() if name != job_of(name) or load(ROOT / "jobs" / name).engine == "python"]
LOCKED_DOWN = ["--read-only", "--network", "none", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
ON_DISK = ["--read-only", "--volume", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
SOMEONE = ["--user", "54321:0"]  # a user unknown to the image
OTHER_VERSION = """file=$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')/sitecustomize.py; \\
  echo 'import sys, collections as c' >$file; \\
  echo 'sys.version_info = c.namedtuple("V", "major minor micro releaselevel serial")(3, 10, 0, "final", 0)' >>$file"""
NEVER = f"tandem-test/never:{uuid.uuid4().hex}"  # of images whose build must fail
IDENTITY = ["--dag-id", "dag", "--run-id", "run", "--attempt", "1"]

TOY_DESCRIPTION = """
[job]
description = "Does what a test asks for."
engine = "python"
requirements = "requirements/learning.txt"
[outputs.table]
contract = "items@2"
[parameters.what]
type = "string"
help = "what to do"
[parameters.number]
type = "integer"
default = 0
help = "how much of it"
"""

RANK_DESCRIPTION = """
[job]
description = "Ranks pairs of numbers."
engine = "spark"
[parameters.side]
type = "integer"
help = "the root of the number of pairs"
[resources]
memory = "256Mi"
"""

pytestmark = pytest.mark.usefixtures("docker_engine")


class Images(dict[str, str]):
    """The names of products' images by product, each built on first use."""

    def __missing__(self, name: str) -> str:
        build_image(product(name))
        return self.setdefault(name, image(name, product(name).fingerprint))


@pytest.fixture(scope="session")
def images() -> Images:
    return Images()


def image_of_program(folder: Path, program: str, description: str, name: str) -> Iterator[str]:
    """Build the image of a program for tests as a product of that name, and remove it afterwards."""
    for part in ("common", "dockerfiles", "requirements"):
        (folder / part).symlink_to(ROOT / part)
    job = folder / "jobs" / job_of(name)
    job.mkdir(parents=True)
    (job / "job.toml").write_text(description)
    shutil.copy(PROGRAMS / program, job / "main.py")
    wanted = product(name, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "DIST", folder / "dist")
        build_image(wanted)
    built = image(name, wanted.fingerprint)
    yield built
    docker("image", "rm", "--force", built)


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The image of a job whose behaviour a parameter selects."""
    yield from image_of_program(tmp_path_factory.mktemp("checkout"), "toy_job.py", TOY_DESCRIPTION, "toy")


@pytest.fixture(scope="session")
def light(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The light image of a Spark job that ranks as many rows as a parameter says."""
    yield from image_of_program(tmp_path_factory.mktemp("checkout"), "rank_pairs.py", RANK_DESCRIPTION, "rank-light")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A lake's folder with write access for everyone."""
    lake = tmp_path / "lake"
    lake.mkdir()
    lake.chmod(0o777)
    return lake


@pytest.fixture
def start() -> Iterator[Callable[..., str]]:
    """Start containers in the background; they are removed afterwards."""
    names: list[str] = []

    def started(*arguments: str) -> str:
        names.append(f"tandem-test-{uuid.uuid4().hex[:12]}")
        process = docker("run", "--detach", "--name", names[-1], *arguments)
        assert process.returncode == 0, process.stderr
        return names[-1]

    yield started
    for name in names:
        docker("rm", "--force", name)


def mounted(folder: Path) -> list[str]:
    return ["--volume", f"{folder}:/lake"]


def task(name: str, *arguments: str, lake: str = "file:///lake") -> list[str]:
    """Return the command line of a task."""
    return ["--lake", lake, "--task-id", name, *IDENTITY, *arguments]


def run(*arguments: str) -> subprocess.CompletedProcess:
    return docker("run", "--rm", *arguments)


def inside(name: str, script: str, *options: str) -> str:
    """Run a script in a shell of an image; return its output."""
    process = docker("run", "--rm", *options, "--entrypoint", "sh", name, "-c", script)
    assert process.returncode == 0, process.stderr
    return process.stdout


def manifest(folder: Path, name: str) -> dict:
    return json.loads((folder / "intermediate/dag/run" / name / "manifest.json").read_text())


def published(folder: Path) -> list[Path]:
    return list(folder.rglob("manifest.json"))


def last_line(process: subprocess.CompletedProcess) -> str:
    return process.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("name", IMAGES)
def test_image_prints_help_of_its_job(images: Images, name: str) -> None:
    process = run(*LOCKED_DOWN, *SOMEONE, images[name], "--help")
    assert process.returncode == 0, process.stderr
    assert product(name).job.description.split()[:5] == process.stdout.split("\n\n")[1].split()[:5]
    assert process.stderr == ""


@pytest.mark.parametrize("name", IMAGES)
def test_image_is_small_and_imports_little(images: Images, name: str) -> None:
    """1,700 modules take 1.0 s of a processor at most; the seconds themselves are for `make image-report`."""
    assert image_size(images[name]) - image_size(BASE_IMAGE) <= (300e6 if name == job_of(name) else 250e6)
    assert 100 < probe(images[name])["modules"] <= 1700


def test_images_sign_with_a_key_of_google(images: Images) -> None:
    for name in ("train_recommender", light_product("build_interactions")):
        locked = ["run", "--rm", "--interactive", *LOCKED_DOWN, "--entrypoint", "python"]
        process = docker(*locked, images[name], "-", stdin=(PROGRAMS / "sign_for_google.py").read_text())
        assert (process.stdout, process.returncode) == ("256\n", 0), process.stderr


def test_report_lists_sizes_by_layer_and_package(images: Images) -> None:
    command = [sys.executable, "-m", "tools.packaging.image_report", "--job", "ingest_items"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    (total,) = re.findall(r"^│ ingest_items +│ +([\d.]+)", process.stdout, re.MULTILINE)
    assert float(total) == round(image_size(images["ingest_items"]) / 1e6, 1)
    assert re.search(r"│ +\d+ │ COPY /packages /packages", process.stdout)
    packages = re.findall(r"^│ (\S+) +│ +([\d.]+) │ +[\d.]+ │$", process.stdout, re.MULTILINE)
    assert packages[0][0] == "pyarrow" and {"pandas", "numpy", "boto3"} <= {name for name, _ in packages}
    assert sum(float(size) for _, size in packages) < float(total)


@pytest.mark.parametrize("name", IMAGES)
def test_image_contains_its_product_and_no_build_tools(images: Images, name: str) -> None:
    listed = inside(images[name], "cd /app && find * -mindepth 1 -type f ! -name '*.pyc'").split()
    context = context_files(product(name))
    assert set(listed) == {path.removeprefix("app/") for path in context if path.startswith("app/")}
    tools = inside(images[name], "ls /usr/bin /usr/local/bin | grep -E '^(pip.*|gcc.*|cc|g[+][+].*|make|uv)$' || true")
    assert tools == ""
    process = docker("run", "--rm", "--entrypoint", "python", images[name], "-c", "import pip")
    assert "No module named 'pip'" in process.stderr
    patterns = (".cache", "pip", "pip[-0-9]*", "requirements*", "tests", "*.h", "*.a")
    leftovers = " -o ".join(f"-name '{pattern}'" for pattern in patterns)
    folders = "/app /packages /start /home /root /tmp /var/tmp /usr/local"
    assert inside(images[name], f"find {folders} {leftovers}", "--user", "0").split() == []


@pytest.mark.parametrize("name", IMAGES)
def test_every_module_of_an_image_is_compiled(images: Images, name: str) -> None:
    """Own code is compiled with unchecked hashes, so that file times never slow a start down."""
    script = (
        "import pathlib as p; print(sorted(p.Path('/packages').rglob('*.py')), [str(f) for r in ('/app', '/start') "
        "for f in p.Path(r).rglob('*.py') "
        "if not (c := f.parent / '__pycache__' / f'{f.stem}.cpython-311.pyc').exists() or c.read_bytes()[4] != 1])"
    )
    process = docker("run", "--rm", "--entrypoint", "python", images[name], "-c", script)
    assert process.stdout.strip() == "[] []", process.stderr


def test_models_work_without_the_removed_files(toy: str) -> None:
    locked = ("run", "--rm", "--interactive", *LOCKED_DOWN, *SOMEONE, "--tmpfs", "/tmp")
    process = docker(*locked, "--entrypoint", "python", toy, "-", stdin=(PROGRAMS / "fit_models.py").read_text())
    assert process.returncode == 0, process.stderr
    assert min(json.loads(process.stdout)) > 0.8


def test_container_can_write_to_its_scratch_folder_only(toy: str) -> None:
    writable = "find / -xdev -type d -writable 2>/dev/null | grep -vE '^/(proc|dev|sys)' || true"
    assert inside(toy, writable).split() == ["/tmp"]
    assert inside(toy, "id -u; echo $TMPDIR").split() == ["10001", "/tmp"]
    assert inside(toy, "echo x >$TMPDIR/x && cat $TMPDIR/x", "--read-only", "--tmpfs", "/tmp", *SOMEONE) == "x\n"


def put_raw_items(folder: Path) -> None:
    place = folder / "raw/items/arrival=2011-08-31"
    place.mkdir(parents=True)
    (place / "items.csv").write_text(
        "item_id,description,seen\n22719,LARGE PAPER BAG,2011-01-01T00:00:00Z\n21034,BLUE BOX,2011-01-01T00:00:00Z\n"
    )


def test_locked_down_container_works_on_a_mounted_folder(images: Images, folder: Path) -> None:
    put_raw_items(folder)
    process = run(*LOCKED_DOWN, *SOMEONE, *mounted(folder), images["ingest_items"], *task("items"))
    assert process.returncode == 0, process.stderr
    document = manifest(folder, "items")
    assert document["fingerprint"] == product("ingest_items").fingerprint
    assert document["metrics"]["items"] == 2


def test_container_on_s3_keeps_credentials_in_its_environment(
    images: Images, tmp_path: Path, s3_server: dict[str, str], monkeypatch: pytest.MonkeyPatch, start: Callable
) -> None:
    import boto3

    for name, value in s3_server.items():
        monkeypatch.setenv(name, value)
    prefix = uuid.uuid4().hex
    put_raw_items(tmp_path)
    client = boto3.client("s3")
    raw = "raw/items/arrival=2011-08-31/items.csv"
    client.upload_file(str(tmp_path / raw), "tandem-lake", f"{prefix}/{raw}")
    options = ["--network", "host", "--read-only", *SOMEONE, *(part for name in s3_server for part in ("--env", name))]
    container = start(*options, images["ingest_items"], *task("items", lake=f"s3://tandem-lake/{prefix}"))
    assert docker("wait", container).stdout.strip() == "0", docker("logs", container).stderr
    logs = docker("logs", container)
    document = client.get_object(Bucket="tandem-lake", Key=f"{prefix}/intermediate/dag/run/items/manifest.json")
    texts = {
        "manifest": document["Body"].read().decode(),
        "logs": logs.stdout + logs.stderr,
        "inspect": docker("image", "inspect", images["ingest_items"]).stdout,
        "history": docker("history", "--no-trunc", images["ingest_items"]).stdout,
    }
    for text in texts.values():
        assert text and s3_server["AWS_SECRET_ACCESS_KEY"] not in text and s3_server["AWS_ACCESS_KEY_ID"] not in text


@pytest.mark.parametrize(
    ("job", "level", "output"), [("build_interactions", "curated", "interactions"), ("ingest_events", "raw", "events")]
)
def test_light_image_runs_a_spark_job_on_any_lake(
    images: Images, any_lake: str, job: str, level: str, output: str
) -> None:
    """As `make run` does: on a read-only file system, by a user unknown to the image, within job.toml's memory."""
    generate(Settings(200, 50, 3000, 1, 60, date(2025, 1, 1)), level, any_lake, 1)
    name = light_product(job)
    options = run_options(load(ROOT / "jobs" / job), any_lake)
    process = docker("run", *options, images[name], *task("task", lake=any_lake))
    assert process.returncode == 0, process.stderr
    document = json.loads(storage.read(f"{any_lake}/intermediate/dag/run/task/manifest.json")[0])
    assert document["fingerprint"] == product(name).fingerprint
    assert document["outputs"][output]["rows"] > 1000


@pytest.fixture
def lakes_network(s3_server: dict[str, str]) -> Iterator[tuple[str, str]]:
    """A network that only reaches the S3 server: its name, and the server's URL in it."""
    name = f"tandem-test-{uuid.uuid4().hex[:12]}"
    process = docker("network", "create", "--internal", name)
    assert process.returncode == 0, process.stderr
    try:
        gateway = docker("network", "inspect", "--format", "{{(index .IPAM.Config 0).Gateway}}", name).stdout.strip()
        port = urlsplit(s3_server["AWS_ENDPOINT_URL"]).port
        with socket.create_server((gateway, 0)) as server:
            threading.Thread(target=forward, args=[server, ("127.0.0.1", port)], daemon=True).start()
            yield name, f"http://{gateway}:{server.getsockname()[1]}"
    finally:
        docker("network", "rm", name)


def forward(server: socket.socket, address: tuple[str, int]) -> None:
    """Forward connections of a server to an address, until the server is closed."""

    def copy(source: socket.socket, target: socket.socket) -> None:
        while content := source.recv(65536):
            target.sendall(content)
        target.shutdown(socket.SHUT_WR)

    with contextlib.suppress(OSError):
        while True:
            client, beyond = server.accept()[0], socket.create_connection(address)
            for pair in ((client, beyond), (beyond, client)):
                threading.Thread(target=copy, args=pair, daemon=True).start()


def test_job_needs_no_network_except_the_lakes(
    images: Images, tmp_path: Path, s3_server: dict[str, str], lakes_network: tuple[str, str]
) -> None:
    network, endpoint = lakes_network
    variables = s3_server | {"AWS_ENDPOINT_URL": endpoint}
    given = [
        "--network",
        network,
        *(part for name, value in variables.items() for part in ("--env", f"{name}={value}")),
    ]
    prefix = f"s3://tandem-lake/{uuid.uuid4().hex}"
    put = "from common.handover import storage; import sys; storage.write(sys.argv[1], sys.stdin.buffer.read())"
    put_raw_items(tmp_path)
    raw = "raw/items/arrival=2011-08-31/items.csv"
    command = ["run", "--rm", "--interactive", *given, "--entrypoint", "python", images["ingest_items"], "-c", put]
    process = docker(*command, f"{prefix}/{raw}", stdin=(tmp_path / raw).read_text())
    assert process.returncode == 0, process.stderr
    process = run(*given, images["ingest_items"], *task("items", lake=prefix))
    assert process.returncode == 0, process.stderr
    assert f"{prefix}/intermediate/dag/run/items/manifest.json" in process.stdout


@pytest.mark.parametrize(
    ("what", "number", "line"),
    [("wait", 0, "here"), ("invert", 14000, "computing"), ("multiply", 12000, "computing")],
)
def test_sigterm_ends_a_container_without_publishing(
    toy: str, folder: Path, start: Callable, what: str, number: int, line: str
) -> None:
    settings = ["--set", f"what={what}", "--set", f"number={number}"]
    container = start(*mounted(folder), toy, *task("toy", *settings))
    while line not in docker("logs", container).stdout:
        time.sleep(0.1)
    time.sleep(1)  # into the middle of it
    docker("kill", "--signal", "TERM", container)
    assert docker("wait", container).stdout.strip() == "143"
    assert published(folder) == []
    assert json.loads(next(folder.rglob("failure.json")).read_text())["exit_code"] == 143
    assert last_line(docker("logs", container)) == "Terminated by SIGTERM before publishing; rerun the task."


def test_sigterm_ends_a_container_during_imports(toy: str, folder: Path, start: Callable) -> None:
    for seconds in (0.05, 0.1, 0.2):
        container = start(*mounted(folder), toy, *task("toy", "--set", "what=wait"))
        time.sleep(seconds)
        docker("kill", "--signal", "TERM", container)
        assert docker("wait", container).stdout.strip() == "143"
    assert published(folder) == []


@pytest.mark.parametrize(("cpus", "threads"), [("1", 1), ("0.5", 1), (None, len(os.sched_getaffinity(0)))])
def test_all_thread_pools_have_the_size_of_the_cpu_limit(
    toy: str, folder: Path, cpus: str | None, threads: int
) -> None:
    limit = ["--cpus", cpus] if cpus else []
    process = run(*limit, *SOMEONE, *mounted(folder), toy, *task("toy", "--set", "what=threads"))
    assert process.returncode == 0, process.stderr
    found = manifest(folder, "toy")["metrics"]["threads"]
    assert len(found) >= 4  # our own, Arrow's, numpy's and scipy's OpenBLAS
    assert set(found) == {threads}


def test_light_container_spills_to_its_scratch_folder_within_its_cpu_limit(light: str, folder: Path) -> None:
    """16 million rows take 700 MB in memory."""
    limits = ["--memory", "500m", "--memory-swap", "500m", "--cpus", "1"]
    process = run(*ON_DISK, *limits, *SOMEONE, *mounted(folder), light, *task("rank", *side(4000)))
    assert process.returncode == 0, process.stderr
    assert manifest(folder, "rank")["metrics"] == {"rows": 16_000_000, "threads": 1}


def side(number: int) -> list[str]:
    return ["--set", f"side={number}"]


def test_sigterm_ends_a_light_container_in_a_query(light: str, folder: Path, start: Callable) -> None:
    container = start(*ON_DISK, *SOMEONE, *mounted(folder), light, *task("rank", *side(100_000)))
    while "ranking" not in docker("logs", container).stdout:
        time.sleep(0.1)
    time.sleep(1)  # into the middle of it
    docker("kill", "--signal", "TERM", container)
    assert docker("wait", container).stdout.strip() == "143"
    assert published(folder) == []
    assert last_line(docker("logs", container)) == "Terminated by SIGTERM before publishing; rerun the task."


def test_full_scratch_folder_is_reported(toy: str, folder: Path) -> None:
    settings = ["--set", "what=scratch", "--set", "number=5000000"]
    process = run("--tmpfs", "/tmp:size=1m", "--read-only", *SOMEONE, *mounted(folder), toy, *task("toy", *settings))
    assert process.returncode == 1
    assert last_line(process).startswith("No space is left in the lake or in the scratch folder /tmp (")
    assert published(folder) == []


def test_missing_mount_is_reported(images: Images) -> None:
    process = run(*LOCKED_DOWN, images["ingest_items"], *task("items"))
    assert process.returncode == 3
    assert last_line(process) == "There is no lake at file:///lake; mount it there, or correct --lake."


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """The build context of a job, for a test to break."""
    place = tmp_path / "context"
    stage(place, context_files(product("ingest_items")))
    return place


def build_image_from(context: Path, *options: str) -> subprocess.CompletedProcess:
    return docker("build", "--no-cache", "--tag", NEVER, *options, str(context))


@pytest.mark.parametrize(
    ("hashes", "complaint"),
    [
        (f" --hash=sha256:{'0' * 64}", "THESE PACKAGES DO NOT MATCH THE HASHES"),
        ("", "Hashes are required in --require-hashes mode"),
    ],
)
def test_requirement_without_its_hash_fails_the_build(context: Path, hashes: str, complaint: str) -> None:
    (context / "requirements.txt").write_text(f"six==1.17.0{hashes}\n")
    process = build_image_from(context)
    assert process.returncode != 0
    assert complaint in process.stdout + process.stderr
    assert image_size(NEVER) is None


@pytest.mark.parametrize(
    "spoiling",
    [
        "rm -f /usr/local/bin/python",
        OTHER_VERSION,
    ],
)
def test_unsuitable_base_image_is_reported(context: Path, spoiling: str) -> None:
    wrong = f"tandem-test/wrong-base:{uuid.uuid4().hex}"
    place = context.parent / "wrong"
    stage(place, {"Dockerfile": f"FROM {BASE_IMAGE}\nRUN {spoiling}\n".encode()})
    assert docker("build", "--tag", wrong, str(place)).returncode == 0
    try:
        process = build_image_from(context, "--build-arg", f"BASE_IMAGE={wrong}")
    finally:
        docker("image", "rm", "--force", wrong)
    assert process.returncode != 0
    message = r"(?m)^(#\d+ [\d.]+ )?BASE_IMAGE has no 'python' 3.11 with pip and the GNU C library"
    assert re.search(message, process.stdout + process.stderr)


def test_job_with_a_missing_import_fails_the_build(context: Path) -> None:
    main = context / "app/jobs/ingest_items/main.py"
    main.write_text(f"import scipy\n{main.read_text()}")
    process = docker("build", "--tag", NEVER, str(context))
    assert process.returncode != 0
    assert "No module named 'scipy'" in process.stdout + process.stderr


def test_file_modes_of_a_checkout_do_not_matter(context: Path) -> None:
    for file in context.rglob("*"):
        file.chmod(0o700 if file.is_dir() else 0o600)
    name = "tandem-test/rights"
    assert docker("build", "--tag", name, str(context)).returncode == 0
    try:
        assert run(*LOCKED_DOWN, *SOMEONE, name, "--help").returncode == 0
    finally:
        docker("image", "rm", "--force", name)


SPARK_JOB = "ingest_events"
WITHOUT_NETWORK = ["--network", "none", "--hostname", "job", "--add-host", "job:127.0.0.1"]
QUICK = ["--env", "JAVA_TOOL_OPTIONS=-XX:TieredStopAtLevel=1 -XX:+UseParallelGC"]
EVENT = {"event_id": "e1", "user_id": "u", "item_id": "cup", "type": "purchase", "quantity": 1, "unit_price": 2.5}
RAW_EVENTS = "raw/events/arrival=2011-06-01/events.jsonl.gz"
DELIVERY = gzip.compress(json.dumps(EVENT | {"time": "2011-06-01T10:00:00Z", "country": None}).encode())


@pytest.fixture(scope="session")
def spark_image() -> str:
    wanted = product(SPARK_JOB)
    build_image(wanted)
    return image(SPARK_JOB, wanted.fingerprint)


def test_spark_image_runs_without_network_or_known_user(spark_image: str, folder: Path) -> None:
    (folder / RAW_EVENTS).parent.mkdir(parents=True)
    (folder / RAW_EVENTS).write_bytes(DELIVERY)
    process = run(*ON_DISK, *WITHOUT_NETWORK, *QUICK, *SOMEONE, *mounted(folder), spark_image, *task("events"))
    assert process.returncode == 0, process.stderr
    document = manifest(folder, "events")
    assert document["fingerprint"] == product(SPARK_JOB).fingerprint
    assert document["outputs"]["events"]["rows"] == 1
    assert "Exception" not in process.stderr


def test_spark_image_runs_on_s3(spark_image: str, s3_server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3

    for name, value in s3_server.items():
        monkeypatch.setenv(name, value)
    prefix = uuid.uuid4().hex
    client = boto3.client("s3")
    client.put_object(Bucket="tandem-lake", Key=f"{prefix}/{RAW_EVENTS}", Body=DELIVERY)
    credentials = [part for name in s3_server for part in ("--env", name)]
    options = ["--network", "host", *ON_DISK, *QUICK, *SOMEONE, *credentials]
    process = run(*options, spark_image, *task("events", lake=f"s3://tandem-lake/{prefix}"))
    assert process.returncode == 0, process.stderr
    document = client.get_object(Bucket="tandem-lake", Key=f"{prefix}/intermediate/dag/run/events/manifest.json")
    assert json.loads(document["Body"].read())["outputs"]["events"]["rows"] == 1
    assert s3_server["AWS_SECRET_ACCESS_KEY"] not in process.stdout + process.stderr


def test_sigterm_ends_a_spark_job_without_publishing(spark_image: str, folder: Path, start: Callable) -> None:
    (folder / RAW_EVENTS).parent.mkdir(parents=True)
    (folder / RAW_EVENTS).write_bytes(DELIVERY)
    container = start(*ON_DISK, *WITHOUT_NETWORK, *SOMEONE, *mounted(folder), spark_image, *task("events"))
    while "Setting Spark log level" not in docker("logs", container).stderr:  # Java is up
        time.sleep(0.1)
    docker("kill", "--signal", "TERM", container)
    assert docker("wait", container).stdout.strip() == "143"
    assert published(folder) == []
    assert json.loads(next(folder.rglob("failure.json")).read_text())["exit_code"] == 143


def test_spark_image_is_small(spark_image: str) -> None:
    assert image_size(spark_image) - image_size(BASE_IMAGE) <= 365e6
    assert (
        inside(spark_image, "ls /packages/pyspark/jars | grep -cE '^(rocksdbjni|hive-exec|spark-mllib)' || true")
        == "0\n"
    )


@pytest.fixture
def emr_base(tmp_path: Path) -> Iterator[str]:
    """An image with the parts of an EMR release that the build needs, and its own entry point."""
    name = f"tandem-test/emr:{uuid.uuid4().hex}"
    stage(
        tmp_path / "emr",
        {"Dockerfile": f'FROM {BASE_IMAGE}\nRUN useradd hadoop\nENTRYPOINT ["/usr/bin/entrypoint.sh"]\n'.encode()},
    )
    assert docker("build", "--tag", name, str(tmp_path / "emr")).returncode == 0
    yield name
    docker("image", "rm", "--force", name)


def test_emr_image_is_the_release_with_the_code_at_its_path(emr_base: str, tmp_path: Path) -> None:
    files = context_files(product(SPARK_JOB))
    stage(tmp_path / "context", files)
    name = f"tandem-test/emr-image:{uuid.uuid4().hex}"
    build_it = ["build", "--tag", name, "--target", "emr-image", str(tmp_path / "context"), "--build-arg"]
    refused = docker(*build_it, f"BASE_IMAGE={BASE_IMAGE}")
    assert "BASE_IMAGE has no user 'hadoop'" in refused.stdout + refused.stderr
    process = docker(*build_it, f"BASE_IMAGE={emr_base}")
    assert process.returncode == 0, process.stderr
    try:
        settings = json.loads(docker("image", "inspect", "--format", "{{json .Config}}", name).stdout)
        assert (settings["User"], settings["Entrypoint"]) == ("hadoop:hadoop", ["/usr/bin/entrypoint.sh"])
        assert inside(name, "cd /app && ls").split() == ["code.zip", "fingerprint", "job.toml", "main.py"]
        assert inside(
            name,
            "python3.11 -c 'import common.errors as e; print(e.__file__)'",
            "--env",
            "PYTHONPATH=/app/code.zip",
        )
        assert inside(name, "python3.11 -c 'import boto3'") == ""
        assert image_size(name) - image_size(emr_base) < 60e6
    finally:
        docker("image", "rm", "--force", name)

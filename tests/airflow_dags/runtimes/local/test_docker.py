"""A job as a container: its rights, the explanation of its end, and its removal whichever process dies."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import factories
import psutil
import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowTaskTimeout
from docker.errors import APIError, DockerException, NotFound
from tandem.runtimes.local.docker import Docker, lines, quantity, remove
from waiting import until

from tools.airflow_api import quote_id
from tools.sandbox import local_airflow

ROOT = Path(__file__).parents[4]
FINGERPRINT = uuid.uuid4().hex[:16]
TEXT = '[parameters.text]\ntype = "string"\ndefault = ""\nhelp = "what it does, in Python"'
RESOURCES = '[resources]\ncpu = "500m"\nmemory = "64Mi"'
DOCKERFILE = """
FROM python:3.11-slim-bookworm
COPY common /app/common
COPY jobs /app/jobs
ENV PYTHONPATH=/app PYTHONUNBUFFERED=1 HOME=/tmp
USER 10001:10001
ENTRYPOINT ["python", "/app/jobs/toy/main.py"]
"""
RUN_ID = "run: 1+0"
runtime = Docker()


def toy(workshop):
    workshop.job("toy", "exec(task.parameters['text'])", more=f"{TEXT}\n{RESOURCES}")


@pytest.fixture(scope="module")
def image(engine, tmp_path_factory, make_workshop):
    """The image of a job that executes its parameter `text`."""
    workshop = make_workshop(tmp_path_factory.mktemp("image"))
    toy(workshop)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "common", workshop.code / "context" / "common", ignore=ignored)
    shutil.copytree(workshop.code / "jobs", workshop.code / "context" / "jobs", ignore=ignored)
    (workshop.code / "context" / "Dockerfile").write_text(DOCKERFILE)
    name = f"tandem/toy:{FINGERPRINT}"
    engine.images.build(path=str(workshop.code / "context"), tag=name, rm=True)
    yield name
    engine.images.remove(name)


@pytest.fixture
def make_attempt(image, engine, tmp_path, monkeypatch):
    """Makes an attempt of the toy job; no container and no result may remain at the end."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "results"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "results").mkdir()

    def make(text="", number=1, map_index=None, lake=f"file://{tmp_path}/lake", run=RUN_ID, seconds=None, **request):
        product = {"product": "toy", "fingerprint": FINGERPRINT, "scratch_on_disk": False}
        request = {**product, "cpu": "500m", "memory": "64Mi", **request}
        names = {"run_id": run, "number": number, "map_index": map_index, "deadline_seconds": seconds}
        return factories.attempt(lake=lake, **names, parameters={"text": text}, request=request)

    yield make
    assert containers(engine, tmp_path) == []
    assert list((tmp_path / "results").iterdir()) == []


def containers(engine, folder):
    """The containers whose lake is in a folder."""
    found = engine.containers.list(all=True, ignore_removed=True, filters={"label": "tandem.key"})
    return [each for each in found if each.labels["tandem.key"].startswith(f"file://{folder}/")]


def await_output(container, text):
    return until(lambda: text in container.logs().decode())


SLEEPS = "print('sleeping'); import time; time.sleep(600)"
SEES = """
status = dict(line.split(':', 1) for line in open('/proc/self/status'))
task.metrics.update(
    user=[os.getuid(), os.getgid()],
    capabilities=int(status['CapEff'], 16) + int(status['CapBnd'], 16),
    no_new_privileges=status['NoNewPrivs'].strip(),
    interfaces=os.listdir('/sys/class/net'),
    writable=[folder for folder in ('/', '/app', '/tmp', '/var') if os.access(folder, os.W_OK)],
    variables=dict(os.environ),
)
"""


def test_container_gets_lake_and_scratch_folder_only(make_attempt, engine, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Nehalem")
    (tmp_path / "lake").mkdir()
    if os.getuid() == 0:
        os.chown(tmp_path / "lake", 1234, 1235)
    running = runtime.submit(make_attempt(SEES))
    limits = running.attrs["HostConfig"]
    outcome = runtime.watch(running)
    owner = (tmp_path / "lake").stat()
    manifest = tmp_path / "lake" / "intermediate" / "d" / "run~3a~201~2b0" / "t" / "manifest.json"
    assert (manifest.stat().st_uid, manifest.stat().st_gid) == (owner.st_uid, owner.st_gid)
    document = json.loads(manifest.read_text())
    metrics = document["metrics"]
    assert json.loads(outcome.result) == {"manifest": f"file://{manifest}", "metrics": metrics}
    assert metrics["user"] == [owner.st_uid, owner.st_gid]
    assert metrics["capabilities"] == 0
    assert metrics["no_new_privileges"] == "1"
    assert metrics["interfaces"] == ["lo"]
    assert metrics["writable"] == ["/tmp"]
    assert "AWS_SECRET_ACCESS_KEY" not in metrics["variables"]
    assert metrics["variables"]["OPENBLAS_CORETYPE"] == "Nehalem"
    assert document["peak_memory_bytes"] > 2**20
    assert (limits["Memory"], limits["MemorySwap"]) == (64 * 2**20, 64 * 2**20)
    assert limits["CpuQuota"] == 50_000  # of 100,000 microseconds, the default period
    assert limits["ReadonlyRootfs"]


WAITS = """import time
print('first ä')
while not os.path.exists(task.lake.removeprefix('file://') + '/go'): time.sleep(0.1)
print('a\\nb')
raise ValueError('x')"""


def test_log_is_live_and_last_line_is_kept(make_attempt, caplog, tmp_path):
    caplog.set_level("INFO", "tandem")
    (tmp_path / "lake").mkdir()
    running = runtime.submit(make_attempt(WAITS))
    outcomes = []
    thread = threading.Thread(target=lambda: outcomes.append(runtime.watch(running)))
    thread.start()
    until(lambda: "first ä" in caplog.messages)
    assert "b" not in caplog.messages
    (tmp_path / "lake" / "go").touch()
    thread.join()
    assert [line for line in caplog.messages if line in ("a", "b")] == ["a", "b"]
    assert outcomes[0].exit_code == 1
    assert outcomes[0].result is None
    assert outcomes[0].last_line == "ValueError at <string>:5: x; the stack is above, a retry may help."
    assert outcomes[0].explanation == ""


LEFT = {  # the result file of a container
    "link": "os.symlink('/etc/passwd', os.environ['TANDEM_RESULT_FILE'])",
    "pipe": "os.mkfifo(os.environ['TANDEM_RESULT_FILE'])",
    "folder": "os.mkdir(os.environ['TANDEM_RESULT_FILE'])",
    "large": "open(os.environ['TANDEM_RESULT_FILE'], 'wb').truncate(300 << 20)",
}


@pytest.mark.parametrize("name", LEFT)
def test_result_that_is_not_a_small_file_is_ignored(make_attempt, name):
    leave = f"import atexit; atexit.register(lambda: (os.path.exists(FILE) and os.remove(FILE), {LEFT[name]}))"
    text = f"global FILE; FILE = os.environ['TANDEM_RESULT_FILE']; {leave}"
    outcome = runtime.watch(runtime.submit(make_attempt(text)))
    assert (outcome.exit_code, outcome.result) == (0, None)


def test_container_has_a_limit_of_processes(make_attempt):
    text = """
import threading, time
try:
    for _ in range(3000): threading.Thread(target=time.sleep, args=[60], daemon=True).start()
except RuntimeError as error:
    task.metrics['threads'] = threading.active_count()
    os._exit(7)
"""
    assert runtime.watch(runtime.submit(make_attempt(text, memory="512Mi"))).exit_code == 7


def test_deadline_ends_container_with_explanation(make_attempt):
    outcome = runtime.watch(runtime.submit(make_attempt(SLEEPS, seconds=2)))
    assert outcome.exit_code == 143
    assert outcome.explanation.startswith("It ran into its deadline of 2 s; give it more by deadline_seconds")


@pytest.fixture
def crippled(monkeypatch, request):
    """An engine that can neither stop nor remove a container, as with some kernels' security modules."""
    patch = pytest.MonkeyPatch()

    def refuse(*_, **__):
        raise APIError("cannot stop container: permission denied")

    patch.setattr("docker.models.containers.Container.stop", refuse)
    patch.setattr("docker.models.containers.Container.remove", refuse)
    yield patch
    patch.undo()


def test_success_counts_if_engine_cannot_remove_container(make_attempt, crippled, caplog):
    running = runtime.submit(make_attempt("task.metrics['n'] = 7"))
    outcome = runtime.watch(running)
    assert outcome.exit_code == 0
    assert json.loads(outcome.result)["metrics"] == {"n": 7}
    assert "remove it yourself" in caplog.text
    crippled.undo()
    remove(running)


def test_watch_ends_at_deadline_if_engine_cannot_stop_container(make_attempt, crippled):
    running = runtime.submit(make_attempt(SLEEPS, seconds=2))
    outcome = runtime.watch(running)
    assert (outcome.exit_code, outcome.guessed) == (1, True)
    assert "The engine could not end its container: cannot stop container" in outcome.explanation
    crippled.undo()
    remove(running)


def test_hostile_texts_reach_a_container_unchanged(make_attempt):
    run = 'manual it\'s "$(id)" `id` $HOME \\ {{x}} ä😀'
    outcome = runtime.watch(
        runtime.submit(make_attempt("task.metrics['run'] = task.run_id  # `id` $(id) \"'", run=run))
    )
    assert json.loads(outcome.result)["metrics"] == {"run": run}


def test_exhausted_memory_is_reported(make_attempt):
    outcome = runtime.watch(runtime.submit(make_attempt("print('much'); b'x' * 2**30")))
    assert outcome.exit_code == 137
    assert outcome.last_line == "much"
    assert "out of memory at its limit of 64 MiB" in outcome.explanation
    assert outcome.out_of_memory


def test_scratch_folder_of_light_engine_is_on_disk_and_goes_with_the_container(make_attempt, engine):
    write = "open('/tmp/x', 'wb').write(b'x' * (1 << 20)); [os.system('cat /tmp/x >>/tmp/y') for _ in range(100)]"
    text = f"import os; {write}; task.metrics['bytes'] = os.stat('/tmp/y').st_size"
    running = runtime.submit(make_attempt(text, scratch_on_disk=True))
    (volume,) = [mount["Name"] for mount in running.attrs["Mounts"] if mount["Type"] == "volume"]
    outcome = runtime.watch(running)
    assert json.loads(outcome.result)["metrics"] == {"bytes": 100 << 20}, "more than its memory"
    assert volume not in {each.name for each in engine.volumes.list()}


def test_killed_container_is_not_reported_as_out_of_memory(make_attempt):
    running = runtime.submit(make_attempt(SLEEPS))
    await_output(running, "sleeping")
    running.kill()
    outcome = runtime.watch(running)
    assert (outcome.exit_code, outcome.last_line, outcome.explanation) == (137, "sleeping", "")
    assert not outcome.out_of_memory


@pytest.mark.parametrize(
    ("text", "exit_code"),
    [(SLEEPS, 143), (f"signal.set_wakeup_fd(-1); signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPS}", 137)],
    ids=["obedient", "stubborn"],
)
def test_cancel_ends_container(make_attempt, text, exit_code):
    running = runtime.submit(make_attempt(text))
    await_output(running, "sleeping")
    threading.Thread(target=runtime.cancel, args=[running]).start()
    assert runtime.watch(running).exit_code == exit_code
    runtime.cancel(running)  # on_kill also comes after a timeout, when all has ended


def test_signal_handler_can_cancel_while_same_thread_watches(make_attempt):
    running = runtime.submit(make_attempt(SLEEPS))
    await_output(running, "sleeping")
    former = signal.signal(signal.SIGALRM, lambda *_: runtime.cancel(running))
    signal.setitimer(signal.ITIMER_REAL, 1)
    try:
        assert runtime.watch(running).exit_code == 143
    finally:
        signal.signal(signal.SIGALRM, former)


def test_interrupted_watch_ends_job_gently_and_removes_container(make_attempt, tmp_path):
    def interrupt(*_):
        raise AirflowTaskTimeout

    running = runtime.submit(make_attempt(SLEEPS))
    await_output(running, "sleeping")
    former = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 1)
    try:
        with pytest.raises(AirflowTaskTimeout):
            runtime.watch(running)
    finally:
        signal.signal(signal.SIGALRM, former)
    (failure,) = (tmp_path / "lake").rglob("failure.json")
    assert "Terminated by SIGTERM" in json.loads(failure.read_text())["sentence"]


def test_superseded_worker_ends_with_its_container(make_attempt):
    first = runtime.submit(make_attempt(SLEEPS))
    ends = []

    def watch():
        try:
            ends.append(runtime.watch(first).exit_code)
        except NotFound:  # removed before its end could be read
            ends.append(137)

    thread = threading.Thread(target=watch)
    thread.start()
    await_output(first, "sleeping")
    assert runtime.watch(runtime.submit(make_attempt(number=2))).exit_code == 0
    thread.join()
    assert ends == [137]


@pytest.mark.parametrize("ended", [False, True])
def test_resumed_attempt_finds_container_with_log_and_result(make_attempt, ended, caplog):
    caplog.set_level("INFO", "tandem")
    mine = make_attempt("print('once'); import time; time.sleep(1); task.metrics['n'] = 1")
    first = runtime.submit(mine)
    if ended:
        first.wait()
    second = runtime.submit(mine)
    assert second.id == first.id
    outcome = runtime.watch(second)
    assert outcome.exit_code == 0
    assert json.loads(outcome.result)["metrics"] == {"n": 1}
    assert caplog.messages.count("once") == 1


def test_created_container_is_started_by_resumed_attempt(make_attempt, engine, tmp_path, monkeypatch):
    class Died(BaseException):
        pass

    def die(*_):
        raise Died

    with monkeypatch.context() as patch, pytest.raises(Died):
        patch.setattr("docker.models.containers.Container.start", die)
        patch.setattr("tandem.runtimes.local.docker.remove", die)
        runtime.submit(make_attempt())
    (created,) = containers(engine, tmp_path)
    assert created.status == "created"
    running = runtime.submit(make_attempt())
    assert running.id == created.id
    assert runtime.watch(running).exit_code == 0


def test_retry_removes_container_of_dead_worker_only(make_attempt, engine, tmp_path):
    """The worker is a separate process, killed by SIGKILL."""
    arguments = json.dumps([make_attempt(SLEEPS).__dict__, make_attempt(SLEEPS, map_index=0).__dict__])
    worker = (
        f"import sys, json; sys.path.insert(0, {str(ROOT / 'airflow_dags')!r})\n"
        "from tandem.runtimes.base import Attempt; from tandem.runtimes.local.docker import Docker\n"
        f"handles = [Docker().submit(Attempt(**each)) for each in json.loads({arguments!r})]\n"
        "print('submitted', flush=True); Docker().watch(handles[0])"
    )
    with subprocess.Popen([sys.executable, "-c", worker], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "submitted\n"
        process.kill()
    left = containers(engine, tmp_path)
    assert {each.status for each in left} == {"running"}
    assert len(left) == 2
    assert runtime.watch(runtime.submit(make_attempt(number=2))).exit_code == 0
    (sibling,) = containers(engine, tmp_path)
    assert sibling.labels["tandem.map_index"] == "0"
    assert sibling.labels["tandem.run_id"] == "run: 1+0"
    assert "d-t-0-" in sibling.name
    runtime.cancel(sibling)
    runtime.watch(sibling)


def test_retry_tolerates_container_that_dying_worker_removes(make_attempt, monkeypatch):
    first = runtime.submit(make_attempt(SLEEPS))
    first.remove(force=True)  # between the listing and the removal
    with monkeypatch.context() as patch:
        patch.setattr("docker.models.containers.ContainerCollection.list", lambda *_, **__: [first])
        second = runtime.submit(make_attempt(number=2))
    assert runtime.watch(second).exit_code == 0


def test_late_older_attempt_leaves_newer_one_alone(make_attempt):
    newer = runtime.submit(make_attempt(SLEEPS, number=2))
    assert runtime.watch(runtime.submit(make_attempt(number=1))).exit_code == 0
    newer.reload()
    assert newer.status == "running"
    runtime.cancel(newer)
    runtime.watch(newer)


def test_missing_release_image_and_engine_are_named(make_attempt, monkeypatch):
    with pytest.raises(AirflowFailException, match=r"'release' names no fingerprint of toy; build the job"):
        runtime.check_product(make_attempt(fingerprint=""))
    with pytest.raises(AirflowFailException, match=r"no image tandem/toy:0123; build it: make build JOB=toy\."):
        runtime.submit(make_attempt(fingerprint="0123"))
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    with pytest.raises(
        AirflowException, match=r"No Docker engine answers .*; start it, or name another in DOCKER_HOST"
    ):
        runtime.submit(make_attempt())


def test_container_that_fails_to_start_is_removed(make_attempt, engine):
    with pytest.raises(DockerException, match="CPU"):
        runtime.submit(make_attempt(cpu="1m"))
    inside_proc = make_attempt(lake="file:///proc/self")
    with pytest.raises(DockerException, match="inside /proc"):
        runtime.submit(inside_proc)
    assert not engine.containers.list(all=True, ignore_removed=True, filters={"label": f"tandem.key={inside_proc.key}"})


@pytest.mark.parametrize(
    ("endpoint", "network"),
    [
        ("http://127.0.0.1:9000", "host"),
        ("http://[::1]:9000", "host"),
        ("http://localhost", "host"),
        ("https://s3.example.com", "bridge"),
        ("", "bridge"),
    ],
)
def test_lake_on_s3_is_reached_by_variables_missing_in_log(monkeypatch, make_attempt, endpoint, network):
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("TANDEM_S3_KMS_KEY", "alias/lake")
    mine = make_attempt(lake="s3://bucket/prefix")
    line = runtime.rerun_command(mine)
    assert f"--network={network} " in line
    assert "--env=AWS_SECRET_ACCESS_KEY " in line
    assert "secret" not in line
    running = runtime.submit(mine)
    try:
        assert {"AWS_SECRET_ACCESS_KEY=secret", "TANDEM_S3_KMS_KEY=alias/lake"} <= set(running.attrs["Config"]["Env"])
        assert running.attrs["HostConfig"]["NetworkMode"] == network
        assert [mount["Destination"] for mount in running.attrs["Mounts"]] == ["/result"]
    finally:
        running.kill()
        runtime.watch(running)


def test_job_with_service_reaches_it(monkeypatch, make_attempt):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    line = runtime.rerun_command(make_attempt(services=["delivery"]))
    assert "--network=bridge " in line
    monkeypatch.setenv("DYNAMODB_ENDPOINT", "http://127.0.0.1:7080")
    line = runtime.rerun_command(make_attempt(services=["delivery"]))
    assert {"--network=host", "--env=DYNAMODB_ENDPOINT", "--env=AWS_SECRET_ACCESS_KEY"} <= set(line.split())
    assert "--volume=" in line
    assert "DYNAMODB" not in runtime.rerun_command(make_attempt())


def test_pipeline_runs_containers_and_reports_their_ends(workshop, image, engine, monkeypatch):
    monkeypatch.setenv("TANDEM_CONTAINERS", "docker")
    monkeypatch.setenv("AIRFLOW_VAR_RELEASE", json.dumps({"toy": FINGERPRINT}))
    toy(workshop)
    workshop.job("unbuilt", more=RESOURCES)
    texts = {
        "fine": "task.metrics['attempt'] = task.attempt",
        "refused": "raise errors.GateRefused('The gate refused it.')",
        "starved": "if task.attempt == 1: b'x' * 2**30",
    }
    settings = {name: {"parameters": {"text": text}} for name, text in texts.items()}
    tasks = [f'dag.container("toy", task_id="{name}")' for name in texts]
    workshop.pipeline("contained", "\n".join([*tasks, 'dag.container("unbuilt")']), unbuilt={}, **settings)
    ran = workshop.run("contained")
    assert ran.states.pop("look_for_input") == ran.states.pop("pin_release") == "success"
    assert ran.states == {"fine": "success", "refused": "failed", "starved": "success", "unbuilt": "failed"}
    assert ran.tries.pop("look_for_input") == ran.tries.pop("pin_release") == 1
    assert ran.tries == {"fine": 1, "refused": 1, "starved": 2, "unbuilt": 1}
    assert ran.xcoms["fine"]["metrics"] == {"attempt": 1}
    begin = ran.log.index("Attempt 1 of starved was killed by SIGKILL.")
    assert ran.log[begin + 1].startswith("It ran out of memory at its limit of 64 MiB;")
    assert "Airflow will retry it." in ran.log[begin + 2 : begin + 5]
    assert any(line.startswith("The Airflow variable 'release' names no fingerprint of unbuilt;") for line in ran.log)
    assert containers(engine, workshop.lake.parent) == []
    (again,) = [line for line in ran.log if "To run it manually: docker run" in line and "--task-id=refused" in line]
    command = again.removeprefix("To run it manually: ").replace("docker", docker_program(), 1)
    by_hand = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert by_hand.returncode == 4
    assert by_hand.stderr.splitlines()[-1] == "The gate refused it."


def test_killed_worker_and_manual_failure_leave_no_container(workshop, image, engine, home, tmp_path, monkeypatch):
    """With a real scheduler; the worker is killed by SIGKILL, and Airflow retries the task."""
    monkeypatch.setenv("TANDEM_CONTAINERS", "docker")
    monkeypatch.setenv("AIRFLOW_VAR_RELEASE", json.dumps({"toy": FINGERPRINT}))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "results"))
    (tmp_path / "results").mkdir()
    toy(workshop)
    sleeps_once = f"if task.attempt != 2: {SLEEPS}"
    for name in ("killed", "failed"):
        workshop.pipeline(name, 'dag.container("toy")', toy={"parameters": {"text": sleeps_once}})

    def sleeping():
        (found,) = until(lambda: containers(engine, tmp_path))
        await_output(found, "sleeping")

    def left():
        return containers(engine, tmp_path) or list((tmp_path / "results").glob("tandem-*"))

    with local_airflow.start(home=home, dags=workshop.dags) as airflow:
        run = airflow.trigger("killed")
        sleeping()
        (worker,) = [each for each in psutil.Process().children(recursive=True) if is_worker(each)]
        worker.kill()
        assert airflow.wait("killed", run) == "success"
        *_, instance = airflow.instances("killed", run)
        assert instance.try_number == 2
        assert not left()

        run = airflow.trigger("failed")
        sleeping()
        path = f"/api/v2/dags/failed/dagRuns/{quote_id(run)}/taskInstances/toy"
        airflow.call(path, {"new_state": "failed"}, "PATCH")
        until(lambda: not left())
        assert airflow.wait("failed", run) == "failed"


def is_worker(process):
    """Return True if a process runs a task; its title has the ID of the task's try."""
    with contextlib.suppress(psutil.Error):
        return re.match(r"airflow worker -- [0-9a-f]{8}-", " ".join(process.cmdline()))


def docker_program():
    program = os.environ.get("DOCKER") or shutil.which("docker")
    return program or pytest.skip("no docker program on PATH, which the last line of a failed task's log calls")


def test_variable_selects_runtime_of_environment(workshop, monkeypatch):
    monkeypatch.setenv("TANDEM_CONTAINERS", "dokcer")
    workshop.job("toy")
    workshop.pipeline("p", 'dag.container("toy")', toy={})
    with pytest.raises(AssertionError, match=r"names the runtime 'dokcer', .* did you mean 'docker'"):
        workshop.load("p")


def test_output_is_cut_into_lines_for_any_chunks():
    content = "eins\n\nzwei ä\r\ndrei".encode()
    for size in range(1, len(content) + 1):
        pieces = [content[start : start + size] for start in range(0, len(content), size)]
        assert list(lines(pieces)) == ["eins", "", "zwei ä\r", "drei"]
    assert list(lines([b"\xff\n"])) == ["�"]


def test_quantities_have_notation_of_kubernetes():
    assert [quantity(text) for text in ("2", "0.5", "500m", "1Ki", "64Mi", "4Gi")] == [
        2,
        0.5,
        0.5,
        2**10,
        64 * 2**20,
        4 * 2**30,
    ]

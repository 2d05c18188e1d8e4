"""A job as a pod and as a Job of a real cluster: each end is explained, and nothing is left."""

import json
import logging
import os
import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import factories
import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowTaskTimeout
from cluster import Proxy, prepared
from structlog.testing import capture_logs
from tandem import catalogue
from tandem.operator import JobOperator
from tandem.recording import exception_lines
from tandem.runtimes.kubernetes import manifest
from tandem.runtimes.kubernetes.job import KubernetesJob
from tandem.runtimes.kubernetes.pod import KubernetesPod
from waiting import until

ROOT = Path(__file__).parents[4]
TOY = "0123456789abcdef"  # the fingerprint of the toy's image
TEXT = '[parameters.text]\ntype = "string"\ndefault = ""\nhelp = "what it does, in Python"'
RESOURCES = '[resources]\ncpu = "200m"\nmemory = "192Mi"'
DOCKERFILE = """
FROM {base}
COPY jobs/toy /app/jobs/toy
ENTRYPOINT ["python", "/app/jobs/toy/main.py"]
"""
BASE = "train_recommender"  # the base of the toy's image
LAKE = "s3://tandem-lake/kubernetes"
SLEEPS = "print('sleeping'); import time; time.sleep(600)"


@pytest.fixture(scope="module")
def base(kubernetes, engine):
    """The image of a real job, built unless it exists."""
    subprocess.run([ROOT / ".venv/bin/python", "-m", "tools.packaging.build", "--job", BASE], cwd=ROOT, check=True)
    return f"tandem/{BASE}:{json.loads((ROOT / 'dist' / 'release.json').read_text())[BASE]}"


@pytest.fixture(scope="module")
def toy(base, engine, tmp_path_factory, make_workshop):
    """The image of a job that executes its parameter `text`."""
    workshop = make_workshop(tmp_path_factory.mktemp("toy"))
    workshop.job("toy", "exec(task.parameters['text'])", more=f"{TEXT}\n{RESOURCES}")
    (workshop.code / "Dockerfile").write_text(DOCKERFILE.format(base=base))
    (workshop.code / "common").unlink()
    engine.images.build(path=str(workshop.code), tag=f"tandem/toy:{TOY}", rm=True)
    yield workshop.dags / "job_catalogue.json"
    engine.images.remove(f"tandem/toy:{TOY}")


@pytest.fixture(scope="module")
def cluster(toy, serve_s3, tmp_path_factory):
    with prepared(tmp_path_factory.mktemp("cluster"), serve_s3, [f"tandem/toy:{TOY}"]) as found:
        yield found


@pytest.fixture(params=["kubernetes_pod", "kubernetes_job"])
def runtime(request, cluster):
    yield make_runtime(cluster, request.param)
    until(lambda: not cluster.resources())


def make_runtime(cluster, name, **settings):
    defaults = {"registry": "", "template": cluster.template, "startup_seconds": 300, "keep_failed": False}
    settings = {**defaults, "cpu_reserved": 1.0, **settings}
    if name == "kubernetes_pod":
        return KubernetesPod(**settings)
    return KubernetesJob(**settings, ttl_seconds=600)


@pytest.fixture
def make_attempt(toy, request):
    """Makes an attempt of the toy job, in a run that is named after the test."""
    run = request.node.name

    def make(runtime, text="", number=1, run=run, task="t", fingerprint=TOY, **resources):
        job = catalogue.find(toy, "toy", "python", "")
        job = catalogue.Job(**{**job.__dict__, "resources": {**job.resources, **resources}})
        request = runtime.request(job, {})
        rendered = json.dumps(request).replace(json.dumps(request["fingerprint"])[1:-1], fingerprint)
        names = {"dag_id": "dag", "run_id": run, "task_id": task, "number": number}
        return factories.attempt(lake=LAKE, **names, parameters={"text": text}, request=json.loads(rendered))

    return make


@dataclass
class Ended:
    """The end of an attempt: the state that Airflow gives its task, the warnings and the last lines of its log."""

    state: str
    xcom: object = None
    last_lines: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def run_attempt(runtime, attempt):
    """Run an attempt as its task runs it."""
    operator = JobOperator(
        task_id=attempt.task_id,
        job=attempt.job,
        runtime=runtime,
        lake=attempt.lake,
        predecessors=attempt.predecessors,
        parameters=attempt.parameters,
        request=attempt.request,
        cluster=None,
        declarations={"text": {"type": "string", "default": "", "help": "what it does"}},
        shard=attempt.map_index,
    )
    instance = SimpleNamespace(
        dag_id=attempt.dag_id,
        run_id=attempt.run_id,
        task_id=attempt.task_id,
        try_number=attempt.number,
        map_index=-1,
        xcom_push=lambda name, value: None,  # the failure notice reads it; here the exception is the same
    )
    ended = Ended("")
    handler = logging.Handler()
    thread = threading.get_ident()
    handler.emit = lambda record: ended.warnings.append(record.getMessage()) if record.thread == thread else None
    logging.getLogger("tandem").addHandler(handler)
    try:
        ended.xcom = operator.execute({"ti": instance, "dag_run": SimpleNamespace(start_date=None)})
        ended.state = "success"
    except AirflowException as error:
        ended.state = "failed" if isinstance(error, AirflowFailException) else "up_for_retry"
        ended.last_lines = exception_lines(error)
    finally:
        logging.getLogger("tandem").removeHandler(handler)
    return ended


ENDS = {  # the text of the job, other values of its attempt, its task's state, and parts of its last lines
    "fine": ("print('eins'); task.metrics['n'] = 7", {}, "success", []),
    "code_1": (
        "raise OSError('network')",
        {},
        "up_for_retry",
        ["Attempt 1 of t ended with exit code 1.", "OSError at <string>:1: network; the stack is above"],
    ),
    "code_2": (
        "from common.errors import ArgumentError; raise ArgumentError('Wrong.')",
        {},
        "failed",
        ["Attempt 1 of t ended with exit code 2 (wrong arguments).", "Wrong."],
    ),
    "code_3": (
        "raise errors.InputError('It is missing.')",
        {},
        "failed",
        ["Attempt 1 of t ended with exit code 3 (an input is missing", "It is missing."],
    ),
    "code_4": (
        "raise errors.GateRefused('The gate refused it.')",
        {},
        "failed",
        ["Attempt 1 of t ended with exit code 4 (a quality gate refused", "The gate refused it."],
    ),
    "code_5": (
        "raise errors.StaleAttempt('A newer one has published.')",
        {},
        "failed",
        ["Attempt 1 of t ended with exit code 5 (fenced", "A newer one has published."],
    ),
    "memory": (
        "print('much'); b'x' * 2**30",
        {},
        "up_for_retry",
        [
            "was killed by SIGKILL.",
            "out of memory at its limit of 192Mi; give it more in [resources]",
            "Last log line: much",
        ],
    ),
    "deadline": (
        SLEEPS,
        {"deadline_seconds": 6},
        "up_for_retry",
        ["Attempt 1 of t", "It ran into its deadline of 6 s; give it more by deadline_seconds in [resources]"],
    ),
    "image": (
        "",
        {"fingerprint": "never-built"},
        "up_for_retry",
        ["did not start: its image", "127.0.0.1:1/tandem/toy:never-built cannot be pulled (", "; push it"],
    ),
    "node": (
        "",
        {"cpu": "640"},
        "up_for_retry",
        ["did not start: no node takes it (", "Insufficient cpu", "request less in [resources] of job.toml"],
    ),
    "quota": ("", {"memory": "4Ti"}, "up_for_retry", ["exceeded quota: much", "request less in [resources]"]),
    "not_json": (
        "import atexit; task.metrics['n'] = 7\n"
        "atexit.register(lambda: open(os.environ['TANDEM_RESULT_FILE'], 'w').write('{'))",
        {},
        "success",
        [],
    ),
    "too_large": (
        "import atexit; task.metrics['n'] = 7\n"
        "atexit.register(lambda: open(os.environ['TANDEM_RESULT_FILE'], 'w').write('\"' + 'x' * 10**6 + '\"'))",
        {},
        "success",
        [],
    ),
    "evicted": (
        f"open('/tmp/much', 'wb').write(bytes(2**24)); {SLEEPS}",
        {},
        "up_for_retry",
        ["Attempt 1 of t", "Its node evicted it (", "the limit", "give it more scratch space in the pod template"],
    ),
    "deleted": (
        SLEEPS,
        {},
        "up_for_retry",
        ["Attempt 1 of t", "Its pod was deleted while it ran, and not by Airflow."],
    ),
}


@pytest.fixture(scope="module", params=["kubernetes_pod", "kubernetes_job"])
def ends(request, cluster, toy):
    """All these ends concurrently, each in a separate run, and two runs of the first."""
    little = json.loads(cluster.template.read_text())
    little["spec"]["volumes"][0]["emptyDir"]["sizeLimit"] = "1Mi"
    template = cluster.folder / "little_scratch.json"
    template.write_text(json.dumps(little))
    runtimes = {
        "evicted": make_runtime(cluster, request.param, template=template),
        "image": make_runtime(cluster, request.param, registry="127.0.0.1:1"),
        "node": make_runtime(cluster, request.param, startup_seconds=5),
        "quota": make_runtime(cluster, request.param, startup_seconds=5),
    }
    make = make_attempt.__wrapped__(toy, request)

    def end(name):
        text, settings, _, _ = ENDS[name.removesuffix("-2")]
        runtime = runtimes.get(name, make_runtime(cluster, request.param))
        mine = make(runtime, text, run=f"{request.param}-{name}", **settings)
        if name == "deleted":
            threading.Thread(target=delete, args=[cluster, mine]).start()
        return run_attempt(runtime, mine)

    with ThreadPoolExecutor(7) as pool, capture_logs() as records:
        found = dict(zip([*ENDS, "fine-2"], pool.map(end, [*ENDS, "fine-2"])))
    yield found, [each["event"] for each in records]
    until(lambda: not cluster.resources())


def delete(cluster, attempt):
    found = cluster.await_output(f"run_id={manifest.labels(attempt)['run_id']}", "sleeping")
    cluster.core.delete_namespaced_pod(found.metadata.name, cluster.namespace)


@pytest.mark.parametrize("name", ENDS)
def test_each_end_is_explained_and_retried_if_that_may_help(ends, name):
    _, _, state, lines = ENDS[name]
    ended = ends[0][name]
    assert (ended.state, ended.last_lines) == (state, ended.last_lines)
    for line in lines:
        assert line in "\n".join(ended.last_lines)


def test_output_is_in_the_log_and_result_is_the_xcom(ends):
    ended, messages = ends
    assert messages.count("eins") == 2  # in two runs
    for name in ("fine", "not_json", "too_large"):
        assert ended[name].xcom["metrics"] == {"n": 7}
        assert ended[name].xcom["manifest"].endswith(f"-{name}/t/manifest.json")
        warned = any("result file" in line for line in ended[name].warnings)
        assert warned == (name != "fine")


def test_hostile_texts_reach_a_pod_without_expanded_secrets(cluster, make_attempt):
    """Kubernetes itself expands $(NAME) in arguments; the lake's secret is a variable of the pod."""
    runtime = make_runtime(cluster, "kubernetes_pod")
    run = "manual $(AWS_SECRET_ACCESS_KEY) $$(AWS_SECRET_ACCESS_KEY) $(A '\" `id` \\ $HOME ä $"
    text = "task.metrics['same'] = [task.run_id, task.parameters['text']]  # $(AWS_SECRET_ACCESS_KEY) $$ $("
    ended = run_attempt(runtime, make_attempt(runtime, text, run=run))
    assert ended.state == "success"
    assert ended.xcom["metrics"] == {"same": [run, text]}
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in json.dumps(ended.xcom)


LEFT = {  # the result file of a pod
    "link": "os.symlink('/etc/passwd', FILE)",
    "pipe": "os.mkfifo(FILE)",
    "folder": "os.mkdir(FILE)",
}


@pytest.mark.parametrize("name", LEFT)
def test_result_of_pod_that_is_not_a_file_is_ignored(cluster, make_attempt, name):
    runtime = make_runtime(cluster, "kubernetes_pod")
    leave = f"import atexit; atexit.register(lambda: (os.path.exists(FILE) and os.remove(FILE), {LEFT[name]}))"
    text = f"global FILE; FILE = os.environ['TANDEM_RESULT_FILE']; task.metrics['n'] = 7; {leave}"
    ended = run_attempt(runtime, make_attempt(runtime, text))
    assert (ended.state, ended.xcom["metrics"]) == ("success", {"n": 7})


def test_concurrent_runs_do_not_interfere(ends):
    one, other = ends[0]["fine"], ends[0]["fine-2"]
    assert one.state == other.state == "success"
    assert one.xcom["manifest"] != other.xcom["manifest"]


def test_pod_has_only_the_rights_that_its_job_needs(runtime, cluster, make_attempt):
    """Besides the restricted standard of Kubernetes, which the namespace enforces."""
    text = """
task.metrics.update(
    user=[os.getuid(), os.getgid()],
    writable=[folder for folder in ("/", "/app", "/tmp", "/var") if os.access(folder, os.W_OK)],
    token=os.path.exists("/var/run/secrets/kubernetes.io"),
)
"""
    mine = make_attempt(runtime, text)
    running = runtime.submit(mine)
    (found,) = until(lambda: cluster.pods(running.labels))
    outcome = runtime.watch(running)
    metrics = json.loads(outcome.result)["metrics"]
    assert metrics["user"] == [10001, 10001]
    assert metrics["writable"] == ["/tmp"]
    assert not metrics["token"]
    labels = [found.metadata.labels[name] for name in ("dag_id", "run_id", "task_id", "try_number")]
    assert labels == ["dag", manifest.labels(mine)["run_id"], "t", "1"]
    base, sidecar = found.spec.containers
    assert base.resources.limits == base.resources.requests == {"cpu": "200m", "memory": "192Mi"}
    assert sidecar.resources.limits == sidecar.resources.requests
    assert found.status.qos_class == "Guaranteed"


@pytest.mark.parametrize("attempt", [1, 2])  # resumed and retried by Airflow
def test_pod_of_killed_worker_is_adopted_and_not_doubled(runtime, cluster, make_attempt, attempt):
    text = "print('once'); import time; time.sleep(2); task.metrics['n'] = 1"
    first = runtime.submit(make_attempt(runtime, text))
    cluster.await_output(first.labels, "once")
    with capture_logs() as records:
        ended = run_attempt(runtime, make_attempt(runtime, text, number=attempt))
    assert (ended.state, ended.xcom["metrics"]) == ("success", {"n": 1})
    assert len([each for each in records if "started job=toy attempt=1" in each["event"]]) == 1
    assert not [each for each in records if "started job=toy attempt=2" in each["event"]]


def test_retry_with_other_arguments_ends_only_its_own_older_pod(runtime, cluster, make_attempt):
    older = runtime.submit(make_attempt(runtime, SLEEPS))
    sibling = runtime.submit(make_attempt(runtime, SLEEPS, task="sibling"))
    cluster.await_output(older.labels, "sleeping")
    cluster.await_output(sibling.labels, "sleeping")
    newer = runtime.submit(make_attempt(runtime, number=2))
    until(lambda: not cluster.pods(older.labels))
    assert runtime.watch(newer).exit_code == 0
    until(lambda: len(cluster.pods()) == 1)
    assert cluster.pods()[0].metadata.labels["task_id"] == "sibling"
    runtime.cancel(sibling)


def test_cancel_ends_job_gently(runtime, cluster, make_attempt):
    running = runtime.submit(make_attempt(runtime, SLEEPS))
    outcomes = []
    thread = threading.Thread(target=lambda: outcomes.append(runtime.watch(running)))
    thread.start()
    cluster.await_output(running.labels, "sleeping")
    runtime.cancel(running)
    until(lambda: not cluster.pods(running.labels))
    thread.join()
    assert outcomes[0].exit_code != 0
    assert outcomes[0].last_line.startswith("Terminated by SIGTERM before publishing")


def test_interrupted_watch_leaves_nothing(runtime, cluster, make_attempt):
    def interrupt(*_):
        raise AirflowTaskTimeout

    running = runtime.submit(make_attempt(runtime, SLEEPS))
    cluster.await_output(running.labels, "sleeping")
    former = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 2)
    try:
        with pytest.raises(AirflowTaskTimeout):
            runtime.watch(running)
    finally:
        signal.signal(signal.SIGALRM, former)
    until(lambda: not cluster.pods(running.labels))


@pytest.mark.parametrize("name", ["kubernetes_pod", "kubernetes_job"])
def test_keep_failed_keeps_failed_pods_only(cluster, make_attempt, name):
    runtime = make_runtime(cluster, name, keep_failed=True)
    failing = make_attempt(runtime, "raise OSError")
    assert run_attempt(runtime, failing).state == "up_for_retry"
    assert run_attempt(runtime, make_attempt(runtime, number=2)).state == "success"
    until(lambda: [each.status.phase for each in cluster.pods()] == ["Failed"])  # its sidecar has ended, too
    assert cluster.pods()[0].metadata.labels["try_number"] == "1"
    runtime.cancel(runtime.submit(failing))
    until(lambda: not cluster.resources())


def evict(cluster, found):
    name = {"name": found.metadata.name, "namespace": cluster.namespace}
    cluster.core.create_namespaced_pod_eviction(found.metadata.name, cluster.namespace, {"metadata": name})


SLEEPS_ONCE = f"""
first = not storage.files(f"{{task.lake}}/seen/{{task.run_id}}")
storage.write(f"{{task.lake}}/seen/{{task.run_id}}/{{os.getpid()}}-{{os.uname().nodename}}", b"")
if first:
    {SLEEPS}
"""


def test_evicted_pod_is_retried_by_airflow_or_replaced_by_job(runtime, cluster, make_attempt):
    mine = make_attempt(runtime, SLEEPS_ONCE)
    labels = ",".join(f"{name}={value}" for name, value in manifest.labels(mine).items())
    thread = threading.Thread(target=lambda: evict(cluster, cluster.await_output(labels, "sleeping")))
    thread.start()
    with capture_logs() as records:
        ended = run_attempt(runtime, mine)
    thread.join()
    if isinstance(runtime, KubernetesJob):
        assert ended.state == "success"
        lines = [each["event"] for each in records]
        assert lines.count("sleeping") == 1
        assert len([line for line in lines if "started job=toy attempt=1" in line]) == 2
    else:
        assert ended.state == "up_for_retry"
        assert "Kubernetes took its pod or its node away (EvictionByEvictionAPI" in "".join(ended.last_lines)


COUNTS = "import time\nfor n in range(14): print(f'line {n}', flush=True); time.sleep(1)\ntask.metrics['n'] = 1"


@pytest.fixture
def proxy(cluster):
    proxy = Proxy((cluster.server.hostname, cluster.server.port or 443))
    with cluster.behind(proxy):
        yield proxy


def test_log_and_task_survive_restart_of_api_server(cluster, runtime, make_attempt, proxy):
    mine = make_attempt(runtime, COUNTS)
    labels = ",".join(f"{name}={value}" for name, value in manifest.labels(mine).items())

    def away():
        cluster.await_output(labels, "line 1")
        proxy.away(6)

    thread = threading.Thread(target=away)
    thread.start()
    with capture_logs() as records:
        ended = run_attempt(runtime, mine)
    thread.join()
    assert (ended.state, ended.xcom["metrics"]) == ("success", {"n": 1})
    assert {f"line {n}" for n in range(14)} <= {each["event"] for each in records}


def test_log_and_task_survive_cut_of_silent_connections(cluster, runtime, make_attempt, proxy):
    """A job is silent for longer than a load balancer keeps its connection."""
    proxy.idle = 2
    text = "print('before', flush=True); import time; time.sleep(8); print('after'); task.metrics['n'] = 1"
    with capture_logs() as records:
        ended = run_attempt(runtime, make_attempt(runtime, text))
    assert (ended.state, ended.xcom["metrics"]) == ("success", {"n": 1})
    assert {"before", "after"} <= {each["event"] for each in records}
    assert proxy.cuts >= 2


def test_pod_on_lost_node_is_given_up_and_retry_runs(node_control, cluster, make_attempt):
    """TANDEM_NODE_CONTROL is a command that stops the node's kubelet with `stop` and resumes it with `start`.

    It takes three quarters of a minute until the API server itself sees that no log comes from there any more.
    """
    runtime = make_runtime(cluster, "kubernetes_pod")
    mine = make_attempt(runtime, SLEEPS)
    labels = ",".join(f"{key}={value}" for key, value in manifest.labels(mine).items())

    nodes = []

    def stop():
        """Taint a lost node as Kubernetes itself does, except in a small cluster that has lost all nodes."""
        nodes.append(cluster.await_output(labels, "sleeping").spec.node_name)
        subprocess.run(f"{node_control} stop", shell=True, check=True)
        lost = {"key": "tests/lost", "effect": "NoExecute"}
        cluster.core.patch_node(nodes[0], {"spec": {"taints": [lost]}})

    thread = threading.Thread(target=stop)
    thread.start()
    try:
        ended = run_attempt(runtime, mine)
    finally:
        thread.join()
        subprocess.run(f"{node_control} start", shell=True, check=True)
        cluster.core.patch_node(nodes[0], {"spec": {"taints": []}})
    assert ended.state == "up_for_retry"
    assert "Kubernetes took its pod or its node away (DeletionByTaintManager" in "".join(ended.last_lines)
    assert run_attempt(runtime, make_attempt(runtime, number=2)).state == "success"
    until(lambda: not cluster.resources())

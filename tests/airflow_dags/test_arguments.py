"""Hostile texts in parameters and run IDs: each reaches a job unchanged, or is refused before it is sent."""

import dataclasses
import functools
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import factories
import pytest
from tandem.dag_errors import PipelineError
from tandem.runtimes.dataproc.batches import DataprocServerless
from tandem.runtimes.dataproc.jobs import Dataproc
from tandem.runtimes.emr.serverless import EmrServerless
from tandem.runtimes.emr.steps import Emr
from tandem.runtimes.kubernetes import manifest
from tandem.runtimes.kubernetes.job import KubernetesJob
from tandem.runtimes.kubernetes.pod import KubernetesPod
from tandem.runtimes.local.docker import Docker
from tandem.runtimes.local.process import Process
from tandem.runtimes.local.spark_submit import SparkSubmit
from tandem.texts import IN_NAMES, check_texts

ROOT = Path(__file__).parents[2]
PROGRAMS = ROOT / ".venv" / "bin"
PLAIN = {  # no runtime has a reason to refuse these
    "plain": "2011-06-01",
    "space": "a  b ",
    "run ID": "manual__2026-01-01T00:00:00+00:00",
    "quote": "it's",
    "double quote": 'say "no"',
    "both quotes": "\"'\"'",
    "dollar": "$",
    "two dollars": "$$",
    "variable": "$HOME",
    "braces": "${HOME}",
    "reference": "$(AWS_SECRET_ACCESS_KEY)",
    "escaped reference": "$$(AWS_SECRET_ACCESS_KEY)",
    "nested": "$($(HOME))",
    "open reference": "$(HOME",
    "arithmetic": "$((1+1))",
    "semicolon": "a; id",
    "pipe": "a | id && id || id &",
    "redirection": "> /tmp/x < /etc/passwd",
    "glob": "* ? [a-z] ~",
    "comment": "# a",
    "history": "!!",
    "percent": "%PATH% %s",
    "dash": "--attempt",
    "equals": "a=b=c",
    "json": '{"a": ["b"]}',
    "brace": "{HOME} }{",
    "tags": "<b>&lt;</b>",
}
REFUSABLE = {  # YARN's shells or Java's encodings change these
    "backtick": "`id`",
    "one backtick": "2011`",
    "backslash": "C:\\temp\\new",
    "last backslash": "a\\",
    "escaped quote": '\\"; id; \\"',
    "escaped dollar": "\\$(id)",
    "yarn variable": "{{HOME}}",
    "yarn command": "{{(id)}}",
    "yarn folder": "<LOG_DIR>/x",
    "yarn separator": "a<CPS>b",
    "umlaut": "Müller",
    "emoji": "😀",
    "dollar umlaut": "$ä",
    "newline": "a\nb\n",
    "tab": "\ta\tb",
}
NOWHERE = {  # control characters and surrogates without encoding
    "carriage return": "a\rb",
    "nul": "a\0b",
    "escape": "\x1b[2J",
    "delete": "a\x7f",
    "next line": "a\x85b",
    "line separator": "a\u2028b",
    "surrogate": "\ud83d",
    "very long": "x" * 10_000,
}
VALUES = {**PLAIN, **REFUSABLE, **NOWHERE}
RUN_ID = 'manual it\'s  $(AWS_SECRET_ACCESS_KEY) "${HOME}"; id'
PRINTS = "import json, sys; print(json.dumps(sys.argv[1:]))"
POD = {"metadata": {"namespace": "n"}, "spec": {"containers": [{"name": "base", "image": "i"}]}}
SPARK = {"fingerprint": "f0", "conf": {}, "options": [], "properties": {}, "libraries": None}


@pytest.fixture(scope="module")
def runtimes(tmp_path_factory):
    """All runtimes, and a function that starts a job of each; local ones run a job that prints its arguments."""
    code = tmp_path_factory.mktemp("code")
    (code / "jobs" / "toy").mkdir(parents=True)
    (code / "jobs" / "toy" / "main.py").write_text(PRINTS)
    pods = {"registry": "", "template": Path(), "startup_seconds": 1, "keep_failed": False, "cpu_reserved": 1.0}
    python = PROGRAMS / "python"
    return {
        "process": (Process(code=code, python=python), started),
        "spark_submit": (
            SparkSubmit(code=code, python=python, spark_submit=PROGRAMS / "spark-submit", master="local[1]"),
            started,
        ),
        "docker": (Docker(), docker_arguments),
        "kubernetes_pod": (KubernetesPod(**pods), pod_arguments),
        "kubernetes_job": (KubernetesJob(**pods, ttl_seconds=1), pod_arguments),
        "emr": (
            Emr(),
            lambda runtime, attempt: on_yarn(*after_main(runtime.payload(attempt)["HadoopJarStep"]["Args"])),
        ),
        "emr_serverless": (
            EmrServerless(execution_role="r"),
            lambda runtime, attempt: on_yarn(
                *runtime.payload(attempt)["jobDriver"]["sparkSubmit"]["entryPointArguments"]
            ),
        ),
        "dataproc": (
            Dataproc(project="p", region="r"),
            lambda runtime, attempt: on_yarn(*runtime.payload(attempt)["job"]["pyspark_job"]["args"]),
        ),
        "dataproc_serverless": (
            DataprocServerless(project="p", region="r"),
            lambda runtime, attempt: on_yarn(*runtime.payload(attempt)["batch"]["pyspark_batch"]["args"]),
        ),
    }


ON_YARN = ("emr", "emr_serverless", "dataproc", "dataproc_serverless")
RUNTIMES = ("process", "spark_submit", "docker", "kubernetes_pod", "kubernetes_job", *ON_YARN)


def make_attempt(texts, run_id=RUN_ID):
    """An attempt with texts as its parameters."""
    request = {**SPARK, "product": "toy", "scratch_on_disk": False, "pod": POD, "memory": "1Gi"}
    parameters = {f"p{number}": text for number, text in enumerate(texts)}
    return factories.attempt(run_id=run_id, parameters=parameters, request=request, cluster="c")


def accepted(runtime, attempt):
    try:
        check_texts(attempt.names, IN_NAMES)
        check_texts({**attempt.names, **attempt.values}, runtime.refused)
    except PipelineError:
        return False
    return True


def after_main(command):
    return command[[argument.endswith("/main.py") for argument in command].index(True) + 1 :]


def started(runtime, attempt):
    """The arguments of a real process, where the locale of the machine has ASCII only."""
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", **runtime.environment()}
    command = runtime.payload(attempt)
    printed = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, encoding="utf-8")
    return json.loads(printed.stdout.splitlines()[-1])


def docker_arguments(runtime, attempt):
    """The engine gets a container's arguments unchanged; a real shell makes the same of the rerun command."""
    words = json.loads(
        subprocess.check_output(["bash", "-c", f"{sys.executable} -c '{PRINTS}' {runtime.rerun_command(attempt)}"])
    )
    arguments = words[words.index("tandem/toy:f0") + 1 :]
    assert arguments == attempt.arguments
    return arguments


def pod_arguments(runtime, attempt):
    """The arguments that the kubelet gives to the container; the rerun command creates the same pod."""
    bare = manifest.bare(attempt)
    for shell in ("sh", "bash"):
        line = runtime.rerun_command(attempt).rpartition(" | ")[0]
        assert json.loads(subprocess.check_output([shell, "-c", line])) == bare
    (container,) = bare["spec"]["containers"]
    return [expanded(argument) for argument in container["args"]]


def expanded(text):
    """The rule of k8s.io/kubernetes/third_party/forked/golang/expansion, every name denoting a secret."""
    found, at = [], 0
    while at < len(text):
        after = text[at + 1 : at + 2]
        if text[at] != "$" or not after:
            found.append(text[at])
            at += 1
        elif after == "(" and ")" in text[at:]:
            end = text.index(")", at)
            found.append(f"secret of {text[at + 2 : end]}")
            at = end + 1
        else:
            found.append("$" if after == "$" else f"${after}")
            at += 2
    return "".join(found)


ESCAPE = """
import json, sys
from pyspark.java_gateway import launch_gateway
gateway = launch_gateway()
escape = gateway.jvm.org.apache.spark.deploy.yarn.YarnSparkHadoopUtil.escapeForShell
print(json.dumps([escape(argument) for argument in json.load(sys.stdin)]))
"""


@functools.cache  # a JVM starts once for clusters that get the same arguments
def on_yarn(*arguments):
    """The arguments of a driver in a container of YARN: Spark's own escaping, YARN's expansion, its script by bash."""
    escape = [PROGRAMS / "python", "-c", ESCAPE]
    escaped = json.loads(subprocess.check_output(escape, input=json.dumps(arguments).encode()).splitlines()[-1])
    command = " ".join([sys.executable, "print_arguments.py", *escaped])
    for expression, value in {"<LOG_DIR>": "/logs", "<CPS>": ":", "<ADD_OPENS>": "", "{{": "$", "}}": ""}.items():
        command = command.replace(expression, value)
    script = f'exec /bin/bash -c "{command}"'
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "print_arguments.py").write_text(PRINTS)
        return json.loads(subprocess.check_output(["bash"], input=script.encode(), cwd=folder))


@pytest.fixture(scope="module")
def received(runtimes):
    """The text that a job gets for each value on each runtime, None if it is refused; all values in one start."""
    found = {}
    for name, (runtime, start) in runtimes.items():
        accepted_values = {value: text for value, text in VALUES.items() if accepted(runtime, make_attempt([text]))}
        attempt = make_attempt(accepted_values.values())
        got = start(runtime, attempt)
        assert len(got) == len(attempt.arguments)
        texts = [argument.split("=", 2)[2] for argument in got if argument.startswith("--set=")]
        found[name] = {**dict.fromkeys(VALUES), **dict(zip(accepted_values, texts, strict=True))}
        (found[name]["run ID itself"],) = [each[9:] for each in got if each.startswith("--run-id=")]
    return found


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("value", VALUES)
def test_hostile_value_arrives_unchanged_or_is_refused(received, runtime, value):
    got = received[runtime][value]
    assert got in (VALUES[value], None)
    assert (got is None) <= (value not in PLAIN)
    assert (got is None) >= (value in NOWHERE)
    if value in REFUSABLE:
        assert (got is None) == (runtime in ON_YARN)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_hostile_run_id_arrives_unchanged(received, runtime):
    assert received[runtime]["run ID itself"] == RUN_ID


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("value", ["backtick", "surrogate", "escaped dollar"])
def test_hostile_run_id_is_refused_where_a_value_is(received, runtimes, runtime, value):
    attempt = make_attempt([], run_id=f"manual {VALUES[value]}")
    assert accepted(runtimes[runtime][0], attempt) == (received[runtime][value] is not None)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("value", ["newline", "tab", "carriage return"])
def test_run_id_with_line_breaks_is_refused(runtimes, runtime, value):
    assert not accepted(runtimes[runtime][0], make_attempt([], run_id=VALUES[value]))


@pytest.mark.parametrize(
    ("description", "changes"),
    [
        ("The parameter 'since'", {"parameters": {"since": "a`b"}}),
        ("The run ID", {"run_id": "a`b"}),
        ("The lake", {"lake": "s3://a`b"}),
        ("The task ID of 'events'", {"predecessors": {"events": "a`b"}}),
    ],
)
def test_refusal_names_text_and_character(description, changes):
    attempt = dataclasses.replace(make_attempt([]), **changes)
    with pytest.raises(PipelineError, match=rf"^{description} is '.*a`b', but '`' does not reach a job"):
        check_texts({**attempt.names, **attempt.values}, Emr.refused)

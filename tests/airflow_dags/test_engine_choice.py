"""Spark jobs in containers or on a cluster: by setting, by the bytes of their inputs, after memory ran out."""

import json
from pathlib import Path
from types import SimpleNamespace

import boto3
import pytest
from tandem import input_sizes
from tandem.engine_choice import as_size
from tandem.protocol import attempt_folder, manifest_uri, run_uri, scheduler_uri, task_key

from common.handover import storage

DELIVERIES = """
[inputs.deliveries]
raw = "raw/events"
dates = ["since", "until"]
[parameters.since]
type = "date"
default = ""
help = "a day"
[parameters.until]
type = "date"
default = ""
help = "a day"
"""
INTERACTIONS = 'contract = "interactions@2"'
WRITES = f"[outputs.interactions]\n{INTERACTIONS}"
RESOURCES = '[resources]\ncpu = "1"\nmemory = "1Gi"'
READS = f"[inputs.interactions]\n{INTERACTIONS}"
CLUSTER = {
    "Name": "{{ dag.dag_id }}",
    "Instances": {
        "KeepJobFlowAliveWhenNoSteps": True,
        "InstanceGroups": [{"InstanceRole": "MASTER", "InstanceType": "m6g.xlarge", "InstanceCount": 1}],
    },
    "AutoTerminationPolicy": {"IdleTimeout": 60},
}
ENGINE = "task.metrics['light'] = 'sqlframe' in sys.modules"
NO_MEMORY = "if task.attempt == 1: raise MemoryError"
GROWS = """storage.write(f"{task.lake}/raw/events/arrival=2011-06-02/b.jsonl.gz", b"x" * 5000)
    if task.attempt == 1: raise OSError('network')"""


def deliver(lake, size):
    storage.write(f"{lake}/raw/events/arrival=2011-06-01/a.jsonl.gz", b"x" * size)


def set_auto(workshop, cluster, max_bytes="1KiB"):
    file = workshop.dags / "environments" / "laptop.toml"
    file.write_text(f'{file.read_text()}[spark.auto]\ncluster = "{cluster}"\nmax_bytes = "{max_bytes}"\n')


def account(lake, ran, dag, task, attempt=1):
    """The engine, the reason and the runtime of an attempt, by its account."""
    document = json.loads(storage.read(account_uri(lake, ran, dag, task, attempt))[0])
    return document["engine"], document["engine_reason"], document["runtime"]


def account_uri(lake, ran, dag, task, attempt):
    return scheduler_uri(attempt_folder(task_key(lake, dag, ran.run_id, task), attempt))


def ran_light(ran, task):
    return ran.xcoms[task]["metrics"]["light"]


def test_settings_of_environment_and_task_decide(workshop, monkeypatch):
    for name in ("build", "other"):
        workshop.job(name, ENGINE, engine="spark")
    body = 'dag.spark("build")\ndag.spark("other")'
    monkeypatch.setenv("TANDEM_SPARK", "container")
    workshop.pipeline("in_containers", body, build={"conf": {"a": "b"}}, other={})  # without a file of a cluster
    ran = workshop.run("in_containers")
    assert [ran_light(ran, task) for task in ("build", "other")] == [True, True]
    assert "It runs in a container (process): [spark] of the environment 'laptop' says so." in ran.log
    monkeypatch.delenv("TANDEM_SPARK")
    workshop.pipeline("by_task", body, cluster={}, build={"runtime": "container"}, other={"runtime": "cluster"})
    ran = workshop.run("by_task")
    assert [ran_light(ran, task) for task in ("build", "other")] == [True, False]
    reason = "by_task/build.json says so"
    assert account(f"file://{workshop.lake}", ran, "by_task", "build") == ("light", reason, "process")
    assert account(f"file://{workshop.lake}", ran, "by_task", "other")[::2] == ("spark", "spark_submit")


@pytest.mark.parametrize(
    ("environment", "table", "settings", "sentence"),
    [
        (
            "spark_submit",
            "",
            {"runtime": "contayner"},
            "p/build.json names the runtime 'contayner', which does not",
        ),
        (
            "container",
            "",
            {"runtime": "cluster"},
            "'laptop' names no Spark runtime; name one under [spark.auto] as",
        ),
        ("auto", "", {}, "cluster is set neither in [spark.auto] of laptop.toml nor in shared.toml; name the Spark"),
        ("auto", 'cluster = "auto"', {}, "[spark.auto] of laptop.toml names the runtime 'auto', which does not exist"),
        (
            "auto",
            'cluster = "emr"\nmax_bytes = "2 parsec"',
            {},
            "sets max_bytes = '2 parsec', expected a size such as 2GiB.",
        ),
        (
            "contayner",
            "",
            {},
            "TANDEM_SPARK or [spark] of laptop.toml names the runtime 'contayner', whi",
        ),
    ],
)
def test_wrong_choice_is_refused_while_parsing(workshop, monkeypatch, environment, table, settings, sentence):
    shared = workshop.dags / "environments" / "shared.toml"
    shared.write_text(shared.read_text().replace('cluster = "emr" ', "# "))
    file = workshop.dags / "environments" / "laptop.toml"
    file.write_text(f"{file.read_text()}[spark.auto]\n{table}\n")
    monkeypatch.setenv("TANDEM_SPARK", environment)
    workshop.job("build", engine="spark")
    workshop.pipeline("p", 'dag.spark("build")', cluster={}, build=settings)
    with pytest.raises(AssertionError) as error:
        workshop.load("p")
    assert sentence in str(error.value).splitlines()[-1]


def test_each_run_chooses_by_size_and_keeps_it_until_memory_runs_out(workshop, monkeypatch):
    """Without a cluster to open: the choice of a task is made in its first attempt."""
    set_auto(workshop, "spark_submit")
    monkeypatch.setenv("TANDEM_SPARK", "auto")
    workshop.job("small", f"{ENGINE}\n    {GROWS}", DELIVERIES, engine="spark")
    workshop.job("large", ENGINE, DELIVERIES, engine="spark")
    workshop.job("hungry", f"{ENGINE}\n    {NO_MEMORY}", engine="spark")
    workshop.job("killed", f"{ENGINE}\n    if task.attempt == 1: os.kill(os.getpid(), signal.SIGKILL)", engine="spark")
    body = 'dag.spark("small") >> dag.spark("large")\ndag.spark("hungry")\ndag.spark("killed")'
    workshop.pipeline("p", body, cluster={}, small={}, large={}, hungry={}, killed={})
    lake = f"file://{workshop.lake}"
    deliver(lake, 1000)
    ran = workshop.run("p")
    assert ran.state == "success"
    few = "its inputs have 1000 bytes, up to 1 KiB do (spark.auto.max_bytes)"
    assert [account(lake, ran, "p", "small", attempt) for attempt in (1, 2)] == [("light", few, "process")] * 2
    many = "its inputs have 5.9 KiB, more than 1 KiB (spark.auto.max_bytes)"
    assert account(lake, ran, "p", "large") == ("spark", many, "spark_submit")
    for task in ("hungry", "killed"):
        assert account(lake, ran, "p", task)[::2] == ("light", "process")
        again = ("spark", "attempt 1 ran out of memory in a container", "spark_submit")
        assert account(lake, ran, "p", task, 2) == again
    assert {task: ran_light(ran, task) for task in ran.xcoms if "metrics" in (ran.xcoms[task] or {})} == {
        "small": True,
        "large": False,
        "hungry": False,
        "killed": False,
    }
    assert f"It runs in a container (process): {few}." in ran.log
    assert f"It runs on a cluster (spark_submit): {many}." in ran.log


CLUSTERS = {
    "emr_serverless": {"name": "c", "type": "SPARK"},
    "dataproc": {"config": {"lifecycle_config": {"idle_delete_ttl": "600s"}}},
}


@pytest.mark.parametrize("runtime", CLUSTERS)
def test_nothing_is_opened_or_closed_for_small_inputs(workshop, monkeypatch, runtime):
    """A request would fail: there is no service."""
    set_auto(workshop, runtime)
    file = workshop.dags / "environments" / "laptop.toml"
    file.write_text(file.read_text().replace("[spark.dataproc]\n", '[spark.dataproc]\nproject = "p"\n'))
    monkeypatch.setenv("TANDEM_SPARK", "auto")
    workshop.job("build", ENGINE, engine="spark")
    workshop.pipeline("p", 'dag.spark("build")', build={})
    (workshop.dags / "p" / f"cluster.{runtime}.json").write_text(json.dumps(CLUSTERS[runtime]))
    ran = workshop.run("p")
    assert ran.state == "success"
    assert ran.states["close_cluster"] == "success"
    assert ran_light(ran, "build")


@pytest.fixture(scope="module")
def on_emr(aws, make_workshop, tmp_path_factory):
    """A workshop whose runs choose between processes and EMR for inputs of more than 1 KiB."""
    with pytest.MonkeyPatch.context() as patch:
        workshop = make_workshop(tmp_path_factory.mktemp("auto"))
        set_auto(workshop, "emr")
        workshop.job("report_run")
        workshop.job("build", ENGINE, f"{DELIVERIES}{WRITES}\n{RESOURCES}", engine="spark")
        workshop.job("refine", ENGINE, READS, engine="spark")
        workshop.job("plain", ENGINE, engine="spark")
        workshop.job("grows", f"{ENGINE}\n    {NO_MEMORY}", engine="spark")
        workshop.job("breaks", f"{NO_MEMORY}\n    raise errors.GateRefused('It is too bad.')", engine="spark")
        workshop.on_aws("auto", aws, patch)
        yield workshop


def costs(lake, ran, dag, task):
    """The units that a task costs, and the time since which they count, as the report on the run gets them."""
    document = json.loads(storage.read(run_uri(task_key(lake, dag, ran.run_id, "report_run")))[0])["tasks"][task]
    return [(each["unit"], each.get("runtime")) for each in document["rates"]], document.get("opened")


def states_of_clusters(dag):
    found = boto3.client("emr").list_clusters()["Clusters"]
    return [each["Status"]["State"] for each in found if each["Name"] == dag]


def test_no_cluster_opens_for_small_inputs_and_one_for_large_ones(on_emr):
    lake = on_emr.uri
    deliver(lake, 1000)
    body = 'dag.spark("refine", interactions=dag.spark("build"))\ndag.spark("plain")'
    on_emr.pipeline("auto_small", body, cluster=CLUSTER, build={}, refine={}, plain={})
    ran = on_emr.run("auto_small")
    around = {task: ran.states[task] for task in ("open_cluster", "await_cluster", "close_cluster", "watcher")}
    assert (ran.state, set(around.values())) == ("success", {"success"})
    assert [ran_light(ran, task) for task in ("build", "refine", "plain")] == [True, True, True]
    engine, reason, _ = account(lake, ran, "auto_small", "refine")  # it chose when its input was there
    assert (engine, reason.startswith("its inputs have ")) == ("light", True)
    assert states_of_clusters("auto_small") == []
    assert costs(lake, ran, "auto_small", "open_cluster") == ([], None)
    on_emr.pipeline("auto_large", body, cluster=CLUSTER, build={}, refine={}, plain={})
    deliver(lake, 2000)
    ran = on_emr.run("auto_large")
    assert ran.state == "success"
    reasons = {task: account(lake, ran, "auto_large", task) for task in ("build", "refine", "plain")}
    assert reasons == {
        "build": ("spark", "its inputs have 2.0 KiB, more than 1 KiB (spark.auto.max_bytes)", "emr"),
        "refine": ("spark", "its cluster is open anyway, for 'build'", "emr"),
        "plain": ("spark", "its cluster is open anyway, for 'build'", "emr"),
    }
    assert not any(ran_light(ran, task) for task in reasons)
    assert states_of_clusters("auto_large") == ["TERMINATED"]
    assert costs(lake, ran, "auto_large", "open_cluster") == ([("hours of m6g.xlarge", None)], None)
    assert costs(lake, ran, "auto_large", "build")[0] == [("vCPU hours", "process"), ("GiB hours", "process")]


def test_cluster_that_opens_after_memory_ran_out_is_shared_and_closed_after_a_failure(on_emr):
    lake = on_emr.uri
    body = 'dag.spark("grows") >> dag.spark("breaks")'
    on_emr.pipeline("auto_late", body, cluster=CLUSTER, grows={}, breaks={})
    ran = on_emr.run("auto_late")
    assert ran.states["grows"] == "success"
    assert ran_light(ran, "grows") is False
    assert (ran.states["breaks"], ran.states["close_cluster"], ran.state) == ("failed", "success", "failed")
    late = ("spark", "attempt 1 ran out of memory in a container", "emr")
    assert [account(lake, ran, "auto_late", task, 2) for task in ("grows", "breaks")] == [late, late]
    assert states_of_clusters("auto_late") == ["TERMINATED"]
    rates, opened = costs(lake, ran, "auto_late", "open_cluster")
    assert rates == [("hours of m6g.xlarge", None)]
    assert opened > json.loads(storage.read(account_uri(lake, ran, "auto_late", "grows", 1))[0])["ended"]


@pytest.fixture
def lake(tmp_path):
    """A lake with partitions of a dataset, of which one has old files, and the hand-overs of two tasks."""
    uri = f"file://{tmp_path}/lake"
    for day in range(1, 6):
        folder = f"{uri}/curated/events/date=2011-06-0{day}"
        write(manifest_uri(folder), {"outputs": {"events": {"bytes": 10**day, "contract": "events@3"}}})
        storage.write(f"{folder}/version=old/part-0", b"x" * 99)
    write(manifest_uri(f"{uri}/curated/items/all"), {"outputs": {"items": {"bytes": 7}}})
    two = {"items": {"bytes": 1, "contract": "items@2"}, "more": {"bytes": 2, "contract": "items@2"}}
    write(manifest_uri(f"{uri}/intermediate/d/r/t"), {"outputs": two | {"other": {"bytes": 4, "contract": "x@1"}}})
    for shard in range(3):
        write(manifest_uri(f"{uri}/intermediate/d/r/mapped/map-{shard}"), {"outputs": {"more": two["more"]}})
        storage.write(f"{uri}/intermediate/d/r/mapped/map-{shard}/attempt-1/p/manifest.json", b"{}")
    return uri


def write(uri, document):
    storage.write(uri, json.dumps(document).encode())


@pytest.mark.parametrize(
    ("first", "end", "length", "expected"),
    [("", "", 2, 110_000), ("", "2011-06-04", 2, 1100), ("2011-06-02", "", None, 111_100), ("2011-06-06", "", None, 0)],
)
def test_size_of_a_dataset_is_that_of_its_partitions_in_the_window(lake, first, end, length, expected):
    assert input_sizes.dataset_bytes(f"{lake}/curated/events", True, first, end, length) == expected


def test_size_of_other_inputs_is_that_of_what_a_task_reads(lake):
    assert input_sizes.dataset_bytes(f"{lake}/curated/items", False, "", "", None) == 7
    assert input_sizes.dataset_bytes(f"{lake}/curated/users", False, "", "", None) == 0
    hand_over = f"{lake}/intermediate/d/r"
    assert input_sizes.handed_over_bytes(f"{hand_over}/t", "more", ["items@2"]) == 2
    assert input_sizes.handed_over_bytes(f"{hand_over}/t", "source", ["items@2"]) == 3
    assert input_sizes.handed_over_bytes(f"{hand_over}/mapped", "source", ["items@2"]) == 6
    for day, size in (("2011-06-01", 3), ("2011-06-02", 5)):
        storage.write(f"{lake}/raw/events/arrival={day}/a.gz", b"x" * size)
    (file,) = storage.files(f"{lake}/raw/events/arrival=2011-06-01")
    entry = {"bytes": 3, "tag": str((lake_path(file.uri)).stat().st_mtime_ns), "unusable": 0}
    ledger = {"format": 1, "files": {"raw/events/arrival=2011-06-01/a.gz": entry}}
    write(f"{lake}/curated/events/ingested/2011-06.json", ledger)
    assert input_sizes.raw_bytes(lake, "raw/events", "", "") == 5
    assert input_sizes.raw_bytes(lake, "raw/events", "2011-06-01", "") == 8
    assert input_sizes.raw_bytes(lake, "raw/events", "", "2011-06-02") == 3


def test_size_is_not_known_before_a_parameter_of_the_window(lake):
    entry = {"dataset": "curated/events", "contract": "events@3", "dates": ["since", "until"], "window": "days"}
    task = SimpleNamespace(auto=SimpleNamespace(inputs={"events": entry}))
    values = {"since": None, "until": "", "days": 2}
    assert input_sizes.input_bytes({}, lake, task, values, set()) == 110_000
    for late in ("since", "days"):
        with pytest.raises(input_sizes.Unknown, match=f"its parameter '{late}' is not known yet"):
            input_sizes.input_bytes({}, lake, task, values | {late: input_sizes.Unknown}, set())


def lake_path(uri):
    return Path(uri.removeprefix("file://"))


def test_sizes_are_texts_for_people():
    assert [as_size(count) for count in (0, 1023, 1536, 3 << 20, 2**41)] == [
        "0 bytes",
        "1023 bytes",
        "1.5 KiB",
        "3 MiB",
        "2048 GiB",
    ]

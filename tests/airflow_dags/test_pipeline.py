"""Pipelines: refusals while parsing, clusters around Spark, mapping, settings."""

import pytest
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk.exceptions import AirflowFailException
from tandem import environment
from tandem.operator import log_failure
from tandem.runtimes.base import Cluster
from tandem.runtimes.local.spark_submit import SparkSubmit

INTERACTIONS = 'contract = "interactions@2"'
READS = f"[inputs.interactions]\n{INTERACTIONS}"
WRITES = f"[outputs.interactions]\n{INTERACTIONS}"
PARAMETER = '[parameters.factors]\ntype = "integer"\ndefault = 1\nhelp = "a number"'


class Closing(EmptyOperator):
    """Closes a cluster; the one whose task ID ends in `leak` fails."""

    def execute(self, context):
        if self.dag.dag_id.endswith("leak"):
            raise RuntimeError("the cluster stays")


class Opening(EmptyOperator):
    def execute(self, context):
        return "cluster-1"


class WithCluster(SparkSubmit):
    """spark-submit with a cluster that is only opened and closed."""

    def open_and_close(self, name, request, where):
        assert request == {"Name": "big"}
        assert where == f"{where.partition('/')[0]}/{name.partition('_refine')[0]}.json"
        suffix = name.removeprefix("cluster")
        ready = Opening(task_id=f"ready{suffix}", on_execute_callback=lambda context: None)
        opened = Opening(task_id=f"open{suffix}", on_execute_callback=lambda context: None)
        closing = Closing(task_id=f"close{suffix}", on_execute_callback=lambda context: None, retries=0)
        return Cluster(opened, ready, closing)

    def request(self, job, settings):
        return {"conf": {"spark.app.name": "{{ dag.dag_id }}"}}

    def submit(self, attempt):
        assert attempt.cluster == "cluster-1"
        return super().submit(attempt)


@pytest.fixture
def jobs(workshop):
    workshop.job("build", more=WRITES, engine="spark")
    workshop.job("train", more=f'{READS}\n{PARAMETER}\n[outputs.model]\ncontract = "events@2"')
    workshop.job("refine", more=f"{READS}\n{WRITES}", engine="spark")
    workshop.job("broken", more=READS, engine="spark", body='raise errors.GateRefused("The result is too bad.")')
    return workshop


@pytest.fixture
def clustered(jobs, monkeypatch):
    monkeypatch.setitem(environment.SPARK_RUNTIMES, "spark_submit", WithCluster)
    return jobs


HYBRID = """
before = EmptyOperator(task_id="before")
built = dag.spark("build")
before >> built
trained = dag.container("train", interactions=built)
after = EmptyOperator(task_id="after")
trained >> after
"""


@pytest.mark.parametrize(
    ("body", "settings", "sentence"),
    [
        ('dag.container("tran")', {}, "p names the job 'tran', which does not exist; did you mean 'train'"),
        ('dag.container("build")', {}, "p runs 'build' as a python job, but its job.toml sets engine = \"spark\"."),
        (
            'dag.container("train", interaction=dag.spark("build"))',
            {},
            "Task 'train' of p names the role 'interaction', which does not exist; did you mean 'interactions'",
        ),
        (
            'dag.container("train")',
            {},
            "Task 'train' of p lacks the role 'interactions'; name the task that hands it over: interactions=TASK.",
        ),
        (
            'a = dag.container("train", interactions=dag.spark("build"))\n'
            'dag.container("train", task_id="again", interactions=a)',
            {"again": {}},
            "Task 'again' of p reads interactions@2 in the role 'interactions', but 'train' writes model (events@2); "
            "name a task that writes it, or move both jobs to one version of the contract.",
        ),
        (
            'dag.container("train", interactions=EmptyOperator(task_id="empty"))',
            {},
            "gets <Task(EmptyOperator): empty> in the role 'interactions', expected the task of a job.",
        ),
        (
            'dag.container("train", interactions=dag.spark("build"))',
            {"train": {"parameters": {"factor": 3}}},
            "p/train.json names the parameter 'factor', which does not exist; did you mean 'factors'",
        ),
        (
            'dag.container("train", interactions=dag.spark("build"))',
            {"train": {"conf": {}}},
            "p/train.json names the setting 'conf', which does not exist; expected one of at_trigger, parameters.",
        ),
        ('dag.spark("build", task_id="other")', {}, "p has no other.json; write it, {} if there is nothing to set."),
        (
            'dag.container("mapped")',
            {"mapped": {}},
            "Task 'mapped' of p is mapped by 'parts'; give the number of tasks:",
        ),
    ],
)
def test_misfit_is_refused_while_parsing_in_one_sentence(jobs, body, settings, sentence):
    parts = '[parameters.parts]\ntype = "integer"\ndefault = 1\nhelp = "a number"'
    jobs.job("mapped", engine='python"\nmapped_by = "parts', more=parts)
    jobs.pipeline("p", body, **{"cluster": {"Name": "big"}, "build": {}, "train": {}, **settings})
    with pytest.raises(AssertionError) as error:
        jobs.load("p")
    assert sentence in str(error.value).splitlines()[-1]


def test_readme_is_documentation_and_options_override_environment(jobs):
    jobs.job("single")
    jobs.pipeline("p", 'dag.container("single")', single={})
    dag_file = jobs.dags / "p" / "dag.py"
    options = '__file__, tags=["team"], default_args={"owner": "ann", "retries": 7}'
    dag_file.write_text(dag_file.read_text().replace("__file__", options))
    dag = jobs.load("p")
    assert (dag.description, dag.tags) == ("Made for a test.", {"team"})
    assert dag.doc_md.endswith("Nothing more.\n")
    task = dag.get_task("single")
    assert (task.owner, task.retries, task.on_failure_callback) == ("ann", 7, [log_failure])
    (jobs.dags / "p" / "README.md").unlink()
    with pytest.raises(AssertionError, match=r"p has no README.md; write it, Airflow shows it"):
        jobs.load("p")


def test_role_accepts_any_of_several_contracts(jobs):
    jobs.job("publish", more='[inputs.product]\ncontracts = ["interactions@2", "items@2"]')
    jobs.pipeline("p", 'dag.container("publish", product=dag.spark("build"))', cluster={}, build={}, publish={})
    assert jobs.load("p").get_task("publish").predecessors == {"product": "build"}
    body = 'dag.container("publish", product=dag.container("train", interactions=dag.spark("build")))'
    jobs.pipeline("q", body, cluster={}, build={}, train={}, publish={})
    with pytest.raises(
        AssertionError, match=r"reads interactions@2 or items@2 in the role 'product', but 'train' writes"
    ):
        jobs.load("q")


def test_unknown_environment_and_misspelt_key_are_refused(jobs, monkeypatch):
    jobs.pipeline("p", 'dag.spark("build")', cluster={}, build={})
    file = jobs.dags / "environments" / "laptop.toml"
    file.write_text(file.read_text().replace("master =", "mater ="))
    with pytest.raises(
        AssertionError, match=r"\[spark.spark_submit\] of laptop.toml names the key 'mater'.*did you mean 'master'"
    ):
        jobs.load("p")
    monkeypatch.setenv("TANDEM_ENVIRONMENT", "labtop")
    with pytest.raises(AssertionError, match=r"names the environment 'labtop'.*did you mean 'laptop'"):
        jobs.load("p")


def test_environment_has_the_schedule_of_every_pipeline(jobs):
    jobs.pipeline("daily", 'dag.spark("build")', 'schedule = "5 4 * * *"', cluster={}, build={})
    jobs.pipeline("by_hand", 'dag.spark("build")', cluster={}, build={})
    assert (jobs.load("daily").schedule, jobs.load("by_hand").schedule) == ("5 4 * * *", None)
    shared = jobs.dags / "environments" / "shared.toml"
    known = shared.read_text()
    shared.write_text(known.replace("[pipelines.daily]", "[pipelines.dayly]"))
    with pytest.raises(AssertionError, match=r"names the pipeline 'dayly', which does not exist; did you mean 'daily'"):
        jobs.load("by_hand")
    shared.write_text(known.replace("[pipelines.by_hand]", ""))
    with pytest.raises(
        AssertionError, match=r"by_hand has no table \[pipelines.by_hand\] in laptop.toml or shared.toml"
    ):
        jobs.load("by_hand")
    shared.write_text(known.replace("schedule =", "scheduler ="))
    with pytest.raises(
        AssertionError, match=r"\[pipelines.daily\] of shared.toml names the key 'scheduler'.*'schedule'"
    ):
        jobs.load("daily")


def test_cluster_opens_before_first_spark_task_and_closes_after_last(clustered):
    clustered.pipeline("p", HYBRID, cluster={"Name": "big"}, build={}, train={})
    dag = clustered.load("p")
    assert dag.get_task("open").upstream_task_ids == {"before"}
    assert dag.get_task("ready").upstream_task_ids == {"open"}
    assert dag.get_task("build").upstream_task_ids == {"before", "open", "ready"}
    assert dag.get_task("close").upstream_task_ids == {"build", "open"}
    assert dag.get_task("open").is_setup
    assert dag.get_task("close").is_teardown
    assert dag.get_task("watcher").upstream_task_ids == {"after", "close"}
    assert dag.get_task("watcher").is_teardown
    assert dag.get_task("watcher").on_failure_fail_dagrun


def test_cluster_stays_open_for_spark_task_after_container(clustered):
    body = HYBRID.replace("trained >> after", 'trained >> dag.spark("refine", interactions=built) >> after')
    clustered.pipeline("p", body, cluster={"Name": "big"}, build={}, train={}, refine={})
    dag = clustered.load("p")
    assert dag.get_task("open").upstream_task_ids == {"before"}
    assert dag.get_task("close").upstream_task_ids == {"refine", "open"}
    assert "ready" not in dag.get_task("refine").upstream_task_ids


def test_reopen_opens_another_cluster_after_container(clustered):
    body = HYBRID.replace(
        "trained >> after", 'trained >> dag.spark("refine", interactions=built, reopen=True) >> after'
    )
    clustered.pipeline("p", body, cluster={"Name": "big"}, build={}, train={}, refine={})
    dag = clustered.load("p")
    assert dag.get_task("close").upstream_task_ids == {"build", "open"}
    assert dag.get_task("open_refine").upstream_task_ids == {"train"}
    assert dag.get_task("refine").upstream_task_ids == {"build", "train", "open_refine", "ready_refine"}
    assert dag.get_task("close_refine").upstream_task_ids == {"refine", "open_refine"}
    assert dag.get_task("watcher").upstream_task_ids == {"after", "close", "close_refine"}


def test_tasks_of_one_pipeline_use_clusters_of_different_files(clustered):
    body = """
built = dag.spark("build")
dag.spark("refine", interactions=built, cluster="cluster_large")
dag.spark("refine", task_id="again", interactions=built, cluster="cluster_large")
"""
    big = {"Name": "big"}
    clustered.pipeline("p", body, cluster=big, cluster_large=big, build={}, refine={}, again={})
    dag = clustered.load("p")
    assert dag.get_task("close").upstream_task_ids == {"build", "open"}
    assert dag.get_task("open_large").upstream_task_ids == {"build"}
    assert dag.get_task("close_large").upstream_task_ids == {"refine", "again", "open_large"}
    assert dag.get_task("watcher").upstream_task_ids == {"refine", "again", "close", "close_large"}


def test_runtime_without_cluster_adds_no_tasks(jobs):
    jobs.pipeline("p", HYBRID, cluster={"Name": "big"}, build={}, train={})
    assert set(jobs.load("p").task_dict) == {"look_for_input", "before", "build", "train", "after"}


def test_report_is_the_last_task_and_decides_nothing(clustered):
    clustered.job("report_run", more="[parameters.days]\ntype = 'integer'\ndefault = 1\nhelp = 'a number'")
    clustered.pipeline("p", HYBRID, cluster={"Name": "big"}, build={}, train={})
    dag = clustered.load("p")
    report = dag.get_task("report_run")
    assert [task.task_id for task in dag.tasks if not task.downstream_task_ids] == ["report_run"]
    assert report.upstream_task_ids == {"watcher"}
    assert (report.is_teardown, report.on_failure_fail_dagrun, report.retries) == (True, False, 1)
    assert dag.get_task("watcher").upstream_task_ids == {"after", "close"}
    assert report.parameters == {}
    clustered.pipeline("q", HYBRID, cluster={"Name": "big"}, build={}, train={}, report_run={"parameters": {"days": 2}})
    assert clustered.load("q").get_task("report_run").parameters == {"days": 2}
    looks = [clustered.load(name).get_task("look_for_input") for name in "pq"]
    assert looks[0].settings == looks[1].settings, "another report is no reason to run"
    clustered.pipeline("no_jobs", 'EmptyOperator(task_id="alone")')
    assert set(clustered.load("no_jobs").task_dict) == {"alone"}


@pytest.mark.parametrize(
    ("name", "body", "states"),
    [
        ("fine", HYBRID, {"build": "success", "close": "success", "watcher": "success", "run": "success"}),
        (
            "work_fails",
            'dag.spark("broken", interactions=dag.spark("build"))',
            {"broken": "failed", "close": "success", "watcher": "failed", "run": "failed"},
        ),
        ("leak", HYBRID, {"build": "success", "close": "failed", "watcher": "failed", "run": "failed"}),
    ],
)
def test_failure_closes_cluster_and_fails_run(clustered, name, body, states):
    clustered.pipeline(name, body, cluster={"Name": "big"}, build={}, train={}, broken={})
    ran = clustered.run(name)
    assert {**ran.states, "run": ran.state}.items() >= states.items()
    assert f"--conf spark.app.name={name}" in " ".join(ran.log)


class Ended:
    """The instance of the watcher in a run whose other tasks have ended in some states."""

    dag_id, run_id = "p", "r"

    def __init__(self, states, reasons):
        self.states, self.reasons = states, reasons

    def get_task_states(self, dag_id, run_ids):
        assert (dag_id, run_ids) == ("p", ["r"])
        return {"r": self.states}

    def xcom_push(self, key, value):
        self.pushed = {key: value}

    def xcom_pull(self, task_ids, key):
        return self.reasons.get(task_ids)


@pytest.mark.parametrize(
    ("skipped", "manual"),
    [
        (["look_for_input", "before", "open", "ready", "build", "close", "train", "after"], ["look_for_input"]),
        (["nothing_new", "before", "open", "ready", "build", "close", "train", "after", "parts_0", "parts_1"], []),
        (["backfill_0", "backfill_1", "after"], []),
        (["open", "ready", "build", "close", "train", "after", "parts_0", "parts_1"], ["open"]),
        (["train", "after", "parts_0", "parts_1"], ["parts", "train"]),
        (["parts_1"], ["parts"]),
        (["before", "open", "ready", "build", "close", "train", "after", "parts_0", "parts_1"], []),
        (["after"], []),
        ([], []),
    ],
)
def test_watcher_tells_manual_skips_from_consequent_ones(clustered, skipped, manual):
    clustered.job("parts", engine='python"\nmapped_by = "factors', more=f"{READS}\n{PARAMETER}")
    clustered.job("report_run")
    body = f'{HYBRID}dag.container("parts", factors=2, interactions=built)'
    clustered.pipeline("p", body, cluster={"Name": "big"}, build={}, train={}, parts={})
    watcher = clustered.load("p").get_task("watcher")
    all_of_them = ["look_for_input", "before", "open", "ready", "build", "close", "train", "after"]
    own_reasons = {"nothing_new": ("look_for_input", "look_for_input"), "backfill": ("parts", "parts_0")}
    reasons = {task: "a reason" for name, (task, _) in own_reasons.items() if f"{name}_0" in skipped or name in skipped}
    skipped = {each.replace("nothing_new", "look_for_input").replace("backfill", "parts") for each in skipped}
    instance = Ended(
        {task: "skipped" if task in skipped else "success" for task in [*all_of_them, "parts_0", "parts_1"]}
        | {"watcher": "running", "report_run": "failed"},  # of an earlier end of the run
        reasons,
    )
    if not manual:
        watcher.execute({"ti": instance})
        return
    with pytest.raises(AirflowFailException, match=rf"manually.*skipped manually: {', '.join(manual)}\.$") as error:
        watcher.execute({"ti": instance})
    assert instance.pushed == {"failure": str(error.value)}


def test_run_succeeds_if_other_operator_skips_its_successors(clustered):
    body = 'ShortCircuitOperator(task_id="enough", python_callable=lambda: False) >> dag.spark("build")'
    clustered.pipeline(
        "p",
        f"from airflow.providers.standard.operators.python import ShortCircuitOperator\n{body}",
        cluster={"Name": "big"},
        build={},
    )
    ran = clustered.run("p")
    assert ran.state == "success"
    assert ran.states == {
        "look_for_input": "success",
        "enough": "success",
        "open": "skipped",
        "ready": "skipped",
        "build": "skipped",
        "close": "skipped",
        "watcher": "success",
    }

"""Parameters of tasks: Airflow checks them as jobs do; a run may set declared ones only."""

import json
from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.exceptions import ParamValidationError
from tandem.dag_errors import PipelineError
from tandem.parameters import airflow_param, check_parameters, effective_values
from tandem.protocol import to_text

from common.errors import ArgumentError
from common.handover.job_toml import Job, parameter_values, read_parameter

DAGS = Path(__file__).parents[2] / "airflow_dags"
DECLARATIONS = {
    "whole": {"type": "integer", "help": "a number", "default": 1, "range": [1, 5]},
    "share": {"type": "number", "help": "a share", "default": 0.5, "range": [0, 1]},
    "free": {"type": "number", "help": "any number", "default": 0},
    "flag": {"type": "boolean", "help": "yes or no", "default": False},
    "day": {"type": "date", "help": "a day", "default": ""},
    "due": {"type": "date", "help": "a required day"},
    "kind": {"type": "string", "help": "one of two", "default": "one", "choices": ["one", "two"]},
    "text": {"type": "string", "help": "a text", "default": ""},
}
GIVEN = {"due": "2011-06-01"}
CASES = [  # a parameter, a value, True if a job accepts it
    *(("whole", value, True) for value in (1, 5, "3", " 3 ", "0_3", "٣")),
    *(("whole", value, False) for value in (0, 6, -1, 2.0, "2.0", "", "x", True, "1e0", 10**30, "1" * 5000, [1])),
    *(("share", value, True) for value in (0, 1, 0.5, "1e-3", "0.25", -0.0)),
    *(("share", value, False) for value in (1.01, -0.1, "", "half", "nan", "inf", "-inf", float("nan"), True)),
    *(("free", value, False) for value in ("nan", "Infinity", "1e999", "0x10")),
    *(("flag", value, True) for value in (True, False, "true", "FALSE", "True")),
    *(("flag", value, False) for value in (1, 0, "yes", "", "no", "truee")),
    *(("day", value, True) for value in ("", "2011-06-01", "2012-02-29", "20110601")),
    *(("day", value, False) for value in ("2011-02-29", "2011-13-01", "01.06.2011", "today", 20110, "2011-06-01`id`")),
    *(("day", value, False) for value in ("None", "null", "2011-06-01T00:00:00", " 2011-06-01", "0000-01-01")),
    *(("kind", value, True) for value in ("one", "two")),
    *(("kind", value, False) for value in ("three", "", "One", " one", True)),
    *(("text", value, True) for value in ("", "a b", "ä", 7, True)),
    *(("texd", value, False) for value in ("", "a")),
]


def job():
    parameters = {name: read_parameter(dict(entry), name) for name, entry in DECLARATIONS.items()}
    return Job("toy", "a job", "python", parameters=parameters)


def refusal(error, check, *arguments):
    """The message of a check that refuses its arguments, empty if it accepts them."""
    try:
        check(*arguments)
    except error as refused:
        return str(refused)
    return ""


@pytest.mark.parametrize(("name", "value", "good"), CASES)
def test_airflow_and_job_agree_on_a_value(name, value, good):
    values = {**GIVEN, name: value}
    by_airflow = refusal(PipelineError, check_parameters, DECLARATIONS, values, "Task 't'")
    by_job = refusal(ArgumentError, parameter_values, job(), {each: to_text(text) for each, text in values.items()})
    assert (not by_airflow, not by_job) == (good, good)
    if not good:
        assert f"'{name}'" in by_airflow and f"'{name}'" in by_job
        assert len(by_airflow) < 500


def test_missing_parameter_is_refused_by_both():
    assert "'due'" in refusal(PipelineError, check_parameters, DECLARATIONS, {}, "Task 't'")
    assert "'due'" in refusal(ArgumentError, parameter_values, job(), {})


@pytest.mark.parametrize(
    ("name", "value", "good"),
    [
        *((name, None, True) for name in DECLARATIONS),
        *(("whole", value, value == 3) for value in (3, 0, 6, "3", 2.5, True)),
        *(("share", value, value in (0, 0.25)) for value in (0, 0.25, 2, "0.25", True)),
        *(("flag", value, value is True) for value in (True, "true", 1)),
        *(("day", value, value in ("2011-06-01", "")) for value in ("2011-06-01", "", "2011-02-30", "`id`", 7)),
        *(("kind", value, value == "two") for value in ("two", "three")),
    ],
)
def test_trigger_accepts_values_of_the_job_and_null(name, value, good):
    param = airflow_param(DECLARATIONS[name], DECLARATIONS[name].get("default"))
    assert param.description == DECLARATIONS[name]["help"]
    assert (refusal(ParamValidationError, param.resolve, value) == "") == good


def test_null_of_a_run_keeps_value_of_pipeline():
    own = {"whole": 3, "kind": None, "text": "own"}
    assert effective_values(own, {"whole": None, "day": "2011-06-01", "text": "x"}, ["whole", "day"]) == {
        "whole": 3,
        "text": "own",
        "day": "2011-06-01",
    }


@pytest.fixture(scope="module")
def bag():
    return DagBag(str(DAGS))


@pytest.mark.parametrize("folder", sorted(file.parent.name for file in DAGS.glob("*/dag.py")))
def test_run_can_set_every_gate_of_a_pipeline(bag, folder):
    """The limits that the message of a gate advises to raise, and the window of days."""
    dag = bag.dags[folder]
    tasks = [task.unmap({"shard": 0}) if task.is_mapped else task for task in dag.tasks]
    gates = {
        "since",
        "until",
        "max_quarantined_share",
        "max_key_drop",
        "max_default_share",
        "min_overlap",
        "max_auc_loss",
    }
    gates |= {"max_key_drop", "max_dropped_share", "max_unpublishable_share"}
    declared = {name for task in tasks for name in getattr(task, "declarations", ())}
    assert declared & gates <= set(dag.params)
    for name in dag.params:
        assert dag.params.get_param(name).description


WRITES = '[outputs.interactions]\ncontract = "interactions@2"'
PARAMETERS = """
[parameters.since]
type = "date"
default = ""
help = "first day"
[parameters.max_quarantined_share]
type = "number"
default = 0.05
range = [0.0, 1.0]
help = "a share"
[parameters.text]
type = "string"
default = ""
help = "a text"
"""
RUNS = {  # the configuration of a run, and the message of the first failed task, empty if the run succeeds
    "nothing": (None, ""),
    "null": ({"since": None, "max_quarantined_share": None}, ""),
    "empty date": ({"since": ""}, ""),
    "given": ({"since": "2011-06-01", "max_quarantined_share": 0.5}, ""),
    "misspelt key": ({"sinse": "2031-01-01"}, "names the key 'sinse', which does not exist; did you mean 'since'"),
    "not for runs": ({"text": "a"}, "names the key 'text', which does not exist; expected one of"),
}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory, make_workshop):
    workshop = make_workshop(tmp_path_factory.mktemp("runs"))
    body = "task.metrics['got'] = [str(task.parameters[name]) for name in ('since', 'max_quarantined_share')]"
    workshop.job("toy", body, more=f"{WRITES}\n{PARAMETERS}")
    settings = {"parameters": {"max_quarantined_share": 0.25}, "at_trigger": ["since", "max_quarantined_share"]}
    workshop.pipeline("runs", 'dag.container("toy")', toy=settings)
    return workshop


@pytest.mark.parametrize("name", RUNS)
def test_run_accepts_declared_parameters_only(pipeline, name):
    conf, sentence = RUNS[name]
    ran = pipeline.run("runs", conf=conf)
    assert ran.state == ("failed" if sentence else "success")
    if sentence:
        assert any(sentence in line for line in ran.log)
        assert ran.states == {"look_for_input": "failed", "toy": "upstream_failed"}
        assert ran.tries["look_for_input"] == 1
    else:
        got = ["2011-06-01", "0.5"] if name == "given" else ["None", "0.25"]
        assert ran.xcoms["toy"]["metrics"]["got"] == got


@pytest.mark.parametrize(
    "conf", [{"since": "2011-02-30"}, {"since": "`id`"}, {"max_quarantined_share": 2}, {"since": [1]}]
)
def test_trigger_refuses_invalid_value(pipeline, conf):
    with pytest.raises(ValueError, match=f"Invalid input for param {next(iter(conf))}: "):
        pipeline.run("runs", conf=conf)


CLUSTER = {
    "Name": "c",
    "Instances": {"KeepJobFlowAliveWhenNoSteps": True, "InstanceCount": 1},
    "AutoTerminationPolicy": {"IdleTimeout": 60},
}


@pytest.mark.parametrize(
    ("conf", "parameters", "sentence"),
    [
        ({"sinse": "2011-01-01"}, {}, "names the key 'sinse'"),
        ({"note": "`id`"}, {}, "The parameter 'note' is '`id`', but '`' does not reach a job"),
        ({}, {"number": "{{ 3 + 3 }}"}, "Task 'build' gives the parameter 'number' the value '6', expected a value"),
        ({}, {"note": "{{ dag_run.run_id }}\\"}, "does not reach a job"),
    ],
)
def test_run_with_invalid_parameters_opens_no_cluster(workshop, monkeypatch, conf, parameters, sentence):
    monkeypatch.setenv("TANDEM_SPARK", "emr")
    monkeypatch.setenv("AIRFLOW_VAR_LAKE", "s3://bucket/lake")
    number = '[parameters.number]\ntype = "integer"\ndefault = 1\nrange = [1, 5]\nhelp = "a number"'
    texts = '[parameters.note]\ntype = "string"\ndefault = ""\nhelp = "a text"'
    workshop.job("build", engine="spark", more=f"{number}\n{texts}\n{PARAMETERS.partition('[parameters.text]')[0]}")
    settings = {"parameters": parameters, "at_trigger": ["since", "note"]}
    workshop.pipeline("clustered", 'dag.spark("build")', cluster=CLUSTER, build=settings)
    ran = workshop.run("clustered", conf=conf)
    assert ran.states["look_for_input"] == "failed"
    assert ran.states["open_cluster"] == "upstream_failed"
    assert any(sentence in line for line in ran.log)


def test_value_from_other_task_is_checked_in_its_own_task(workshop, monkeypatch):
    """The first task of a run cannot know it, and accepts it."""
    monkeypatch.setenv("TANDEM_CONTAINERS", "docker")  # its runs pin a release
    number = '[parameters.number]\ntype = "integer"\nrange = [1, 5]\nhelp = "a number"'
    workshop.job("toy", more=number)
    late = {"number": "{{ ti.xcom_pull(task_ids='other') }}"}
    workshop.pipeline("late", 'dag.container("toy")', toy={"parameters": late})
    ran = workshop.run("late")
    assert ran.states == {"look_for_input": "success", "pin_release": "success", "toy": "failed"}
    assert any("gives the parameter 'number' the value 'None', expected an integer." in line for line in ran.log)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"parameters": {"max_quarantined_share": 7}},
            "gives the parameter 'max_quarantined_share' the value '7', expected a value from",
        ),
        ({"parameters": {"since": "today"}}, "the value 'today', expected a date such as 2011-06-01."),
        (
            {"at_trigger": ["sinse"]},
            "p/toy.json names the parameter 'sinse', which does not exist; did you mean 'since'",
        ),
    ],
)
def test_settings_that_job_would_refuse_do_not_import(workshop, settings, sentence):
    workshop.job("toy", more=PARAMETERS)
    workshop.pipeline("p", 'dag.container("toy")', toy=settings)
    with pytest.raises(AssertionError) as error:
        workshop.load("p")
    assert sentence in str(error.value)


def test_tasks_with_conflicting_parameter_do_not_import(workshop):
    workshop.job("toy", more=PARAMETERS)
    workshop.job("other", more=PARAMETERS)
    shared = {"at_trigger": ["since"]}
    workshop.pipeline("p", 'dag.container("toy")\ndag.container("other")', toy=shared, other=shared)
    assert json.loads(json.dumps(workshop.load("p").params.dump())) == {"since": None}
    differs = {"parameters": {"max_quarantined_share": 0.1}, "at_trigger": ["max_quarantined_share"]}
    body = 'dag.container("toy")\ndag.container("other")'
    workshop.pipeline("q", body, toy=differs, other={"at_trigger": ["max_quarantined_share"]})
    with pytest.raises(
        AssertionError, match="lets a run set 'max_quarantined_share', for which another task has other"
    ):
        workshop.load("q")

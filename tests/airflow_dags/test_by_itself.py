"""An environment under Airflow's scheduler without a hand: thirty days, skipped runs, overdue notices, backfills.

A simulated day takes seconds: pipelines have schedules of seconds, and each day's delivery arrives a moment after the
one before.
"""

import functools
import gzip
import json
import time
from datetime import date
from pathlib import Path

import pytest
from waiting import until
from web_hook import web_hook

from common.errors import ArgumentError
from tools.airflow_api import AirflowError
from tools.sandbox import local_airflow
from tools.sandbox.backfill import create, follow

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(1800)  # several conditions are waited for in one test
DAYS = [f"2011-06-{day:02}" for day in range(1, 31)]
SECONDS = 2  # of a simulated day
READS_USERS = '[inputs.users]\ncontract = "users@2"\ndataset = "curated/users"\noptional = true'
INTERACTIONS = 'contract = "interactions@2"'
UNTIL = '[parameters.until]\ntype = "date"\ndefault = ""\nhelp = "the day after the last"'
FROM_JUNE = """
    until = str(task.parameters['until'])
    task.metrics['until'] = until
    if until < '2011-06-02': raise errors.InputError(f'There is no data before {until}; select a later day.')
"""


@pytest.fixture(scope="module")
def started(tmp_path_factory, make_workshop, home):
    """An Airflow whose pipelines start by themselves, the notices that it sends, and a backfill under way."""
    workshop = make_workshop(tmp_path_factory.mktemp("by_itself"))
    (workshop.code / "jobs" / "ingest_users").symlink_to(ROOT / "jobs" / "ingest_users")
    (workshop.code / "sources").symlink_to(ROOT / "sources")
    workshop.job("count", "task.metrics['users'] = task.input('users').rows", more=READS_USERS)
    workshop.job("as_of", FROM_JUNE.strip(), more=f"[outputs.interactions]\n{INTERACTIONS}\n{UNTIL}")
    workshop.job("deliver", more=f'services = ["delivery"]\n[inputs.interactions]\n{INTERACTIONS}')
    workshop.pipeline("ingest_users", 'dag.container("ingest_users")', 'schedule = "* * * * * */4"', ingest_users={})
    workshop.pipeline("users", 'dag.container("count")', 'schedule = "* * * * * */5"', count={})
    daily = 'dag.container("deliver", interactions=dag.container("as_of"))'
    of_day = {"parameters": {"until": "{{ until() }}"}, "at_trigger": ["until"]}
    workshop.pipeline("daily", daily, 'schedule = "0 2 * * *"', as_of=of_day, deliver={})
    workshop.pipeline("twice", 'dag.container("count")', 'schedule = "0 3,4 * * *"', count={})
    workshop.pipeline("forgotten", 'dag.container("count")', "overdue_hours = 0.002", count={})
    watch = (ROOT / "airflow_dags" / "overdue" / "dag.py").read_text()
    workshop.pipeline("overdue", "pass", 'schedule = "* * * * * */7"')
    (workshop.dags / "overdue" / "dag.py").write_text(watch)
    file = workshop.dags / "environments" / "laptop.toml"
    file.write_text(
        file.read_text().replace("max_active_runs = 16", "max_active_runs = 1") + '[failures]\nwebhook = "hook"\n'
    )
    with web_hook() as (url, notices), pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_HOOK", url)
        patch.setenv("AIRFLOW_VAR_RELEASE", "{}")
        options, dags, days = local_airflow.ON_SCHEDULE, workshop.dags, (date(2011, 6, 1), date(2011, 6, 4))
        begun = []
        prepare = lambda airflow: begun.append(create(airflow, "daily", days, 2))  # noqa: E731
        with local_airflow.start(home=home, dags=dags, options=options, prepare=prepare) as airflow:
            yield workshop, airflow, notices, begun[0]


def deliver(lake, number, day):
    """Deliver the changes of a day: one new user."""
    row = {"user_id": f"user {number}", "time": f"{day}T12:00:00Z", "change": "subscribe", "plan": "basic"}
    folder = lake / "raw" / "users" / f"arrival={day}"
    folder.mkdir(parents=True)
    part = folder / ".users.jsonl.gz"
    part.write_bytes(gzip.compress(f"{json.dumps(row)}\n".encode()))
    part.rename(folder / "users.jsonl.gz")


wait_for = functools.partial(until, seconds=600, pause=0.5)  # each look asks Airflow for many runs


def ended(airflow, dag):
    """The ended runs of a pipeline, oldest first, with the states of their tasks."""
    runs = [run for run in airflow.runs(dag) if run["state"] in ("success", "failed")]
    states = lambda run: {each.task_id: each.state for each in airflow.instances(dag, run["dag_run_id"])}  # noqa: E731
    return [(run, states(run)) for run in reversed(runs)]


def look_for_input(airflow, dag, run):
    """The first task of a run."""
    return next(each for each in airflow.instances(dag, run["dag_run_id"]) if each.task_id == "look_for_input")


def skip_reason(airflow, dag, run):
    """The sentence with which a run was skipped, None if it was not."""
    look = look_for_input(airflow, dag, run)
    return airflow.xcom(dag, run["dag_run_id"], look, "skipped") if look.state == "skipped" else None


def counts(airflow):
    """The users that each run of the product knew, unless it was skipped."""
    instances = [
        (run["dag_run_id"], each)
        for run, _ in ended(airflow, "users")
        for each in airflow.instances("users", run["dag_run_id"])
    ]
    made = [(run, each) for run, each in instances if each.task_id == "count" and each.state == "success"]
    return [airflow.xcom("users", run, each)["metrics"]["users"] for run, each in made]


def ingested(lake):
    """The files in the ledger."""
    documents = lake.glob("curated/users/ingested/*.json")
    return {path for document in documents for path in json.loads(document.read_text())["files"]}


def test_thirty_days_are_ingested_and_counted_without_a_hand(started):
    workshop, airflow, _, _ = started
    for number, day in enumerate(DAYS):
        deliver(workshop.lake, number, day)
        time.sleep(SECONDS)
    wait_for(lambda: len(ingested(workshop.lake)) == len(DAYS))

    def last_skipped(dag, reason=""):
        """The ended runs of a pipeline once the newest of them was skipped for a reason."""
        runs = ended(airflow, dag)
        return runs if runs and reason in (skip_reason(airflow, dag, runs[-1][0]) or []) else None

    sentence = "There is nothing to ingest: raw/users has 30 files, and the ledger has them all."
    ingestion = wait_for(lambda: last_skipped("ingest_users", sentence))
    wait_for(lambda: counts(airflow)[-1:] == [len(DAYS)])
    products = wait_for(lambda: last_skipped("users"))
    for runs in (ingestion, products):
        assert {(run["run_type"], run["state"]) for run, _ in runs} == {("scheduled", "success")}
    counted = counts(airflow)
    assert counted == sorted(counted), "later runs know more users"
    assert counted[-1] == len(DAYS)

    run, states = ingestion[-1]
    assert states == {"look_for_input": "skipped", "ingest_users": "skipped"}
    look = look_for_input(airflow, "ingest_users", run)
    assert "Skipping task" in " ".join(airflow.log("ingest_users", run["dag_run_id"], look))
    took = [run for run, states in ingestion if states["ingest_users"] == "success"]
    assert len(took) < len(ingestion)
    events = airflow.call("/api/v2/assets/events?limit=100")["asset_events"]
    events = [event for event in events if event["source_dag_id"] == "ingest_users"]
    assert {event["source_run_id"] for event in events} == {run["dag_run_id"] for run in took}
    newest = max(events, key=lambda event: event["timestamp"])["extra"]
    assert newest["rows"] == len(DAYS)
    assert Path(newest["manifest"].removeprefix("file://")).exists()


def test_pipeline_that_never_started_is_reported_once(started):
    _, airflow, notices, _ = started
    wait_for(lambda: any(notice["dag"] == "forgotten" for notice in notices))
    seen = {run["dag_run_id"] for run, _ in ended(airflow, "overdue")}
    wait_for(lambda: len({run["dag_run_id"] for run, _ in ended(airflow, "overdue")} - seen) >= 2)
    (notice,) = [notice for notice in notices if notice["dag"] == "forgotten"]
    assert notice["text"].startswith("laptop: forgotten is overdue\n")
    assert notice["reason"].startswith("forgotten has not succeeded since ")
    assert "or ever, expected a success every 0.002 hours" in notice["reason"]
    assert {run["state"] for run, _ in ended(airflow, "overdue")} == {"success"}
    airflow.wait("forgotten", airflow.trigger("forgotten"))


def test_backfill_makes_each_day_as_of_its_day_without_publishing(started):
    _, airflow, _, backfill = started
    lines = []
    assert follow(airflow, backfill, lines.append) == ["2011-06-01"]
    reports = {line.split()[3]: line for line in lines}
    assert reports.keys() == {"2011-06-01", "2011-06-02", "2011-06-03", "2011-06-04"}
    assert "There is no data before 2011-06-01; select a later day." in reports["2011-06-01"]
    runs = {run["logical_date"][:10]: (run, states) for run, states in ended(airflow, "daily")}
    for day in ("2011-06-02", "2011-06-03", "2011-06-04"):
        run, states = runs[day]
        assert states == {"look_for_input": "success", "as_of": "success", "deliver": "skipped"}
        assert (run["run_type"], run["state"]) == ("backfill", "success")
        (made,) = [each for each in airflow.instances("daily", run["dag_run_id"]) if each.task_id == "as_of"]
        assert airflow.xcom("daily", run["dag_run_id"], made)["metrics"]["until"] == day


@pytest.mark.parametrize(
    ("pipeline", "first", "error", "sentence"),
    [
        ("dayly", "2011-06-01", ArgumentError, "There is no pipeline 'dayly' in Airflow; did you mean 'daily'."),
        ("twice", "2011-06-01", ArgumentError, r"twice runs more than once a day \(2 times in 1 days\)"),
        ("daily", "2999-06-01", AirflowError, r"Airflow refused the backfill of daily \(422: .*future dates"),
        ("forgotten", "2011-06-01", AirflowError, "Airflow refused the backfill of forgotten .*non-periodic"),
    ],
)
def test_backfill_that_cannot_run_is_refused_in_one_sentence(started, pipeline, first, error, sentence):
    _, airflow, _, _ = started
    days = (date.fromisoformat(first),) * 2
    with pytest.raises(error, match=sentence) as raised:
        create(airflow, pipeline, days, 1)
    assert len(str(raised.value).splitlines()) == 1

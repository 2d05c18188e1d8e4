"""The tab "Card" of Airflow's page: the card of a run, for users who may read its DAG, and for nobody else."""

import datetime
import importlib.util
from pathlib import Path
from urllib.parse import quote

import pytest
from tandem.protocol import card_uri, report_name

ROOT = Path(__file__).parents[2]
DUE = datetime.datetime(2026, 3, 1, 2, tzinfo=datetime.UTC)
RUN = "scheduled__2026-03-01T02:00:00+00:00"
ODD = "../../odd <b>&?#+é"


@pytest.fixture(scope="module")
def client(database, tmp_path_factory):
    """A client of the plugin's application as Airflow mounts it, with tokens by role, and a lake with a card."""
    from airflow.api_fastapi.app import init_auth_manager, purge_cached_app
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from airflow.utils.types import DagRunType
    from fastapi import FastAPI
    from fastapi.testclient import TestClient

    lake = tmp_path_factory.mktemp("lake")
    spec = importlib.util.spec_from_file_location("tandem_card", ROOT / "airflow_dags/plugins/tandem_card.py")
    plugin = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plugin)
    app = FastAPI()
    for each in plugin.CardPlugin.fastapi_apps:
        app.mount(each["url_prefix"], each["app"])
    manager = init_auth_manager(app)
    with create_session() as session, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW__SCHEDULER__ALLOWED_RUN_ID_PATTERN", ".*")
        patch.setenv("AIRFLOW__CORE__ALLOW_DOUBLE_DOT_IN_IDS", "True")
        for run in (RUN, ODD, "without", "unreadable"):
            session.add(DagRun("shop", run, run_type=DagRunType.MANUAL, run_after=DUE))
    for run in (RUN, ODD, "<other>"):
        file = Path(card_uri(str(lake), "shop", report_name(DUE, run)))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"<h1>card of {run}</h1>")
    Path(card_uri(str(lake), "shop", report_name(DUE, "unreadable"))).mkdir()
    client = TestClient(app, follow_redirects=False)
    client.plugin = plugin.CardPlugin
    roles = {"viewer": "viewer", "nobody": None}
    users = {name: SimpleAuthManagerUser(username=name, role=role) for name, role in roles.items()}
    client.tokens = {name: {"Authorization": f"Bearer {manager.generate_jwt(user)}"} for name, user in users.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_VAR_LAKE", f"file://{lake}")
        yield client
    purge_cached_app()


def get(client, run, role="viewer", query=""):
    headers = client.tokens[role] if role else {}
    return client.get(f"/tandem/card/shop/{quote(run, safe='')}{query}", headers=headers)


@pytest.mark.parametrize("run", [RUN, ODD])
def test_card_is_served_without_access_to_airflow(client, run):
    response = get(client, run)
    assert (response.status_code, response.text) == (200, f"<h1>card of {run}</h1>")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["x-content-type-options"] == "nosniff"
    policy = dict(each.split(" ", 1) for each in response.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert policy["frame-ancestors"] == "'self'"
    assert "allow-same-origin" not in policy["sandbox"]


@pytest.mark.parametrize(("role", "status"), [(None, 401), ("nobody", 403)])
def test_card_is_refused_to_users_without_access(client, role, status):
    response = get(client, RUN, role)
    assert response.status_code == status
    assert "card of" not in response.text


def test_task_leads_to_its_row(client):
    response = get(client, RUN, query="?task=_caf%C3%A9")
    assert (response.status_code, response.headers["location"]) == (307, "?#task-~5fcaf~c3~a9")


def test_sentence_explains_a_missing_card(client):
    missing = get(client, "without")
    assert (missing.status_code, "report_run, writes it" in missing.text) == (200, True)
    foreign = get(client, "<other>")  # a file is there, but Airflow has no such run
    assert (foreign.status_code, "shop has no run &lt;other&gt;" in foreign.text) == (404, True)
    unreadable = get(client, "unreadable")
    assert (unreadable.status_code, "is not a regular file" in unreadable.text) == (502, True)


def test_tabs_show_the_address_of_the_application(client):
    (app,) = client.plugin.fastapi_apps
    assert {view["destination"] for view in client.plugin.external_views} == {"dag_run", "task_instance"}
    for view in client.plugin.external_views:
        assert f"/{view['href']}".startswith(f"{app['url_prefix']}/{{DAG_ID}}/{{RUN_ID}}")

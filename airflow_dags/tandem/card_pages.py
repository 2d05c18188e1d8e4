"""The web pages in Airflow's tab "Card": the page about a run, from the lake, for users who may read its DAG.

Runs in Airflow's API server, behind its login (plugins/tandem_card.py).
"""

import logging
from html import escape
from pathlib import Path

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.common.db.common import SessionDep
from airflow.api_fastapi.core_api.security import requires_access_dag
from airflow.models.dagrun import DagRun
from airflow.sdk.execution_time.context import VariableAccessor
from fastapi import Depends, FastAPI
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, StrictUndefined
from sqlalchemy import select

from tandem import lake, settings
from tandem.protocol import REPORT_TASK, card_uri, encode, report_name

log = logging.getLogger(__name__)
# A card is a file of the lake, so it gets no access to Airflow: the browser treats it as a page of an unknown site,
# which loads nothing and sends nothing.
POLICY = {
    "sandbox": "allow-scripts allow-popups allow-popups-to-escape-sandbox",
    "default-src": "'none'",
    "script-src": "'unsafe-inline'",
    "style-src": "'unsafe-inline'",
    "img-src": "data:",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'self'",
}
HEADERS = {
    "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in POLICY.items()),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Card</title>
<style>:root {{color-scheme: light dark}} body {{font: 1rem/1.5 system-ui, sans-serif; margin: 2rem}}</style></head>
<body><p>{}</p></body></html>
"""


def application(environments: Path) -> FastAPI:
    """The application of the environment of this process, from the folder with one file per environment."""
    loaded = settings.of_this_process(environments)
    template = Environment(undefined=StrictUndefined).from_string(loaded["lake"])
    app = FastAPI(title="Cards of Tandem's runs", openapi_url=None)

    @app.get("/{dag_id}/{run_id:path}", dependencies=[Depends(requires_access_dag("GET", DagAccessEntity.RUN))])
    def card(dag_id: str, run_id: str, session: SessionDep, task: str | None = None) -> Response:
        if task:  # the row of a task in the same page
            return RedirectResponse(f"?#task-{encode(task)}", headers=HEADERS)
        due = session.scalar(select(DagRun.run_after).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id))
        if due is None:
            return page(f"{dag_id} has no run {run_id}; open this tab on the page of a run.", 404)
        root = template.render(var={"value": VariableAccessor(deserialize_json=False)}, code=loaded.code)
        return read_card(card_uri(root, dag_id, report_name(due, run_id)))

    return app


def read_card(uri: str) -> Response:
    """The card at a URI, or a page with the reason why there is none."""
    try:
        return HTMLResponse(lake.read(uri), headers=HEADERS)
    except FileNotFoundError:
        return page(
            f"The run has no card yet: its last task, {REPORT_TASK}, writes it. A run that is skipped for lack of new "
            "input gets none."
        )
    except Exception as error:  # of the store, which only its client knows
        log.exception("The card %s can't be read.", uri)
        return page(f"The card {uri} can't be read: {type(error).__name__}: {error}", 502)


def page(sentence: str, status: int = 200) -> Response:
    """A page with one sentence instead of a card."""
    return HTMLResponse(PAGE.format(escape(sentence)), status, headers=HEADERS)

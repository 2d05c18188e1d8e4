"""Airflow's plugin with the tab "Card" of each run and each task, and the pages in it.

Airflow names this folder as its plugins folder, and every process loads this file: the scheduler, the DAG processor,
each task. Only the API server needs the library for it, so it is imported at the first request of a card.
"""

import functools
from typing import Any, ClassVar

import tandem_library
from airflow.sdk.plugins_manager import AirflowPlugin

CARD = "tandem/card/{DAG_ID}/{RUN_ID}"  # relative to Airflow's own address, which may have a path


@functools.cache
def application() -> Any:
    """The web application; its environment is next to its code."""
    folder = tandem_library.find()
    from tandem import card_pages

    return card_pages.application(folder / "environments")


async def serve(scope: Any, receive: Any, send: Any) -> None:
    await application()(scope, receive, send)


class CardPlugin(AirflowPlugin):
    name = "tandem_card"
    fastapi_apps: ClassVar = [{"name": "Tandem's cards", "app": serve, "url_prefix": "/tandem/card"}]
    external_views: ClassVar = [
        {"name": "Card", "destination": "dag_run", "url_route": "tandem-card-of-run", "href": CARD},
        {
            "name": "Card",
            "destination": "task_instance",
            "url_route": "tandem-card-of-task",
            "href": f"{CARD}?task={{TASK_ID}}",
        },
    ]

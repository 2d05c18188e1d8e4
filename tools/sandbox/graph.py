"""Write a picture of a pipeline's graph on Airflow's page, with its newest run in this checkout's Airflow, if any.

Needs an environment with Playwright (`make graph`); the browser is the machine's own.
"""

import argparse
import sys
from pathlib import Path

from playwright.sync_api import Error, Page

from common.errors import TaskError
from tools.airflow_api import Airflow, quote_id
from tools.sandbox import browser
from tools.sandbox.local_airflow import ROOT, start

DAGS = ROOT / "airflow_dags"
SIZE = (3200, 1400)  # points of the page; the graph gets about half of its width
MARGIN = 24
# Elements on top of the graph: minimap, controls, buttons.
HIDDEN = ".react-flow__minimap, .react-flow__controls, .react-flow__panel {display: none !important}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    pipelines = sorted(file.parent.name for file in DAGS.glob("*/dag.py"))
    parser.add_argument("--dag", required=True, choices=pipelines, metavar="ID", help="the pipeline")
    parser.add_argument("--file", type=Path, required=True, metavar="PNG", help="file to write")
    arguments = parser.parse_args()
    try:
        with start(report=print) as airflow, browser.opened(*SIZE, device_scale_factor=2) as page:
            page.add_init_script("localStorage.setItem('default_dag_view', '\"graph\"')")
            write_picture(airflow, page, arguments.dag, arguments.file)
    except (TaskError, Error) as error:
        sys.exit(str(error))
    print(f"{arguments.file} shows {arguments.dag}.")


def write_picture(airflow: Airflow, page: Page, dag: str, file: Path) -> None:
    """Write the part of Airflow's page with the graph of a pipeline's newest run."""
    runs = airflow.runs(dag)
    page.goto(f"{airflow.url}/dags/{dag}" + (f"/runs/{quote_id(runs[0]['dag_run_id'])}" if runs else ""))
    page.wait_for_selector(".react-flow__node")
    page.add_style_tag(content=HIDDEN)
    page.wait_for_timeout(3000)  # states load, and the graph is moved into view
    boxes = [box for node in page.locator(".react-flow__node").all() if (box := node.bounding_box())]
    left, top = (min(box[side] for box in boxes) - MARGIN for side in ("x", "y"))
    right = max(box["x"] + box["width"] for box in boxes) + MARGIN
    bottom = max(box["y"] + box["height"] for box in boxes) + MARGIN
    file.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=file, clip={"x": left, "y": top, "width": right - left, "height": bottom - top})


if __name__ == "__main__":
    main()

"""All products from real data, through Airflow, on this machine: frontends' reads, a rollback, a refusal."""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rich.table import Table

from common import protocol
from common.handover import storage
from tools import tables
from tools.airflow_api import Airflow, AirflowError
from tools.command_line import exit_on_task_error
from tools.data import load_sample
from tools.sandbox import demo, local_dynamodb
from tools.sandbox.demo import ROOT, Clock, console
from tools.sandbox.local_airflow import start

EARLIER = "2011-08-18"  # trends before this day are published first, to roll back to them
PRODUCTS = ("user_characteristics", "trending_items")  # pipelines in addition to the daily recommendations
SHOWN = {  # of each product: keys, columns, rows per key
    "recommendations": (("12347", "nobody"), ("item_id", "item_name", "reason"), 3),
    "characteristics": (
        ("12347", "12748", "14911"),
        ("segment", "churn_probability", "top_feature_1", "contribution_1", "family_1", "share_1", "preferred_hour"),
        1,
    ),
    "similar_items": (("22423", "85123A", "23084"), ("similar_item_id", "similar_item_name", "reason"), 3),
    "trending_items": (("country=France", "country=Atlantis"), ("item_id", "item_name", "people", "score"), 3),
}


@exit_on_task_error()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lake", default=f"file://{ROOT}/.tandem/lake", metavar="URI", help="root of the lake")
    root = parser.parse_args().lake.rstrip("/")
    clock = Clock()
    with local_dynamodb.running(), ThreadPoolExecutor(len(PRODUCTS)) as pool:
        loading = pool.submit(load_sample.load, load_sample.SOURCE, root)  # while Airflow starts
        with start(root, report=clock.report) as airflow:
            clock.report(f"Airflow is at {airflow.url}, the lake is {root}")
            loading.result()
            runs = demo.run_pipelines(airflow, clock)
            run_pipeline(airflow, clock, "trending_items", until=EARLIER)
            made = {pipeline: pool.submit(run_pipeline, airflow, clock, pipeline) for pipeline in PRODUCTS}
            runs |= {pipeline: ended.result() for pipeline, ended in made.items()}
            for pipeline in (demo.RECOMMENDING, *PRODUCTS):
                demo.print_card(root, pipeline, runs[pipeline])
            for product in SHOWN:
                print_product(product)
            roll_back(clock)
            show_refusal(airflow, clock, root)
    console.print(f"Done in {clock.seconds:.0f} s; `make airflow` shows the runs.")


def run_pipeline(airflow: Airflow, clock: Clock, pipeline: str, **conf: str) -> str:
    """Run a pipeline to its end and return the run; raise AirflowError if it fails."""
    run = airflow.trigger(pipeline, conf)
    demo.finish(airflow, pipeline, run, clock)
    return run


def read(product: str, key: str) -> list[dict[str, Any]]:
    """Read the rows of a key, as a frontend does."""
    content = tables.open_product(tables.delivery("laptop"), product).shown(key)
    return content if isinstance(content, list) else [content] if content else []


def print_product(product: str) -> None:
    """Print a few keys of a product; the last may be unknown, which shows the rows for all others."""
    keys, columns, max_rows = SHOWN[product]
    table = Table(title=f"{product}, as frontends read it", title_justify="left")
    for heading in ("key", *columns):
        table.add_column(heading)
    for key in keys:
        for number, row in enumerate(read(product, key)[:max_rows]):
            table.add_row("" if number else key, *(format_value(row[name]) for name in columns))
    console.print(table)


def format_value(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else f"{value:.4g}"


def roll_back(clock: Clock) -> None:
    """Roll the trends back to the version that was published before."""
    newest = read("trending_items", "all others")[0]["item_name"]
    clock.report(f"the newest trends are published: '{newest}' leads")
    command = ["-m", "tools.deploy.rollback", "--product", "trending_items", "--environment", "laptop"]
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, env={**os.environ})
    if done.returncode:
        raise AirflowError(f"The rollback failed: {done.stderr.strip()}")
    restored = read("trending_items", "all others")[0]["item_name"]
    clock.report(f"make rollback PRODUCT=trending_items ENV=laptop: '{restored}' leads, the trends before {EARLIER}")


def show_refusal(airflow: Airflow, clock: Clock, root: str) -> None:
    """Recommend by half a year's sales only, with a guard that allows no change; it refuses, the tables stay."""
    before = read("recommendations", "12347")
    run = airflow.trigger(demo.RECOMMENDING, {"since": "2011-06-01", "min_overlap": 1})
    if airflow.wait(demo.RECOMMENDING, run, show=clock.show(demo.RECOMMENDING)) == "success":
        raise AirflowError("Changed recommendations were published; the guard should have refused them.")
    key = protocol.task_key(root, demo.RECOMMENDING, run, "publish_product")
    failure = json.loads(storage.read(protocol.failure_uri(protocol.attempt_folder(key, 1)))[0])
    clock.report(f"[red]refused[/] with exit code {failure['exit_code']}: {failure['sentence']}")
    same = "the same as" if read("recommendations", "12347") == before else "NOT the same as"
    clock.report(f"frontends read {same} before")


if __name__ == "__main__":
    main()

"""Recommendations from real data, through Airflow, on this machine: loads, runs, and shows what came out."""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.dataset as ds
from rich.console import Console
from rich.table import Table

from common.delivery import reader
from common.delivery.tables import client
from common.engines import arrow
from common.handover import manifest
from common.handover.manifest import Manifest
from tools.airflow_api import Airflow, AirflowError, Instance
from tools.data import load_sample
from tools.sandbox import local_dynamodb
from tools.sandbox.local_airflow import start

ROOT = Path(__file__).parents[2]

INGESTING = ("ingest_items", "ingest_events")
RECOMMENDING = "daily_recommendations"
FAILED = ("failed", "upstream_failed")
Published = list[tuple[str, Instance, Manifest]]  # by tasks: their DAG, how they ran, what they published

console = Console(width=None if sys.stdout.isatty() else 110)


class Clock:
    """Lines of progress with the seconds since the start."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.said: set[tuple[Any, ...]] = set()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def say(self, text: str) -> None:
        console.print(f"[dim]{self.seconds:5.0f} s[/]  {text}", highlight=False)

    def show(self, dag: str) -> Callable[[list[Instance]], None]:
        """Say what changed among the tasks of a run."""

        def show(instances: list[Instance]) -> None:
            for each in instances:
                change = (dag, each.task_id, each.map_index, each.try_number, each.state)
                if change in self.said or each.state not in ("running", "success", "up_for_retry", *FAILED):
                    continue
                self.said.add(change)
                part = f"\\[{each.map_index}]" if each.map_index >= 0 else ""
                colour = {"success": "green", "running": "cyan"}.get(each.state, "red")
                took = f" in {each.seconds:.1f} s" if each.state == "success" and each.seconds else ""
                self.say(f"{dag}.{each.task_id}{part} [{colour}]{each.state}[/]{took}")

        return show


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lake", default=f"file://{ROOT}/.tandem/lake", metavar="URI", help="root of the lake")
    parser.add_argument("--containers", default="process", choices=("process", "docker"), help="what runs Python jobs")
    arguments = parser.parse_args()
    lake = arguments.lake.rstrip("/")
    clock = Clock()
    clock.say(f"lake: {lake}")
    os.environ["TANDEM_CONTAINERS"] = arguments.containers
    if arguments.containers == "docker":
        clock.say("building the images of all Python jobs that the engine does not have yet")
        os.environ["AIRFLOW_VAR_RELEASE"] = built()
    try:
        with local_dynamodb.running():
            found = run(lake, load_sample.SOURCE, clock)
            table_of_users(found, read_as_frontends_do(found))
    except AirflowError as error:
        sys.exit(str(error))
    console.print(f"Everything is in {lake}; `make airflow` shows the runs. Done in {clock.seconds:.0f} s.")


def built() -> str:
    """The release of all Python jobs, as the Airflow variable that says which images run."""
    jobs = json.loads((ROOT / "airflow_dags" / "job_catalogue.json").read_text())
    chosen = [part for name, job in jobs.items() if job["engine"] == "python" for part in ("--job", name)]
    if subprocess.run([sys.executable, "-m", "tools.packaging.build", *chosen], cwd=ROOT).returncode:
        sys.exit("The images could not be built; what failed is above.")
    return (ROOT / "dist" / "release.json").read_text()


def run(lake: str, sample: Path, clock: Clock) -> Published:
    """Load the sample, run all pipelines to their end and show what tasks and models did; what they published."""
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(load_sample.load, sample, lake)  # while Airflow starts
        with start(lake, say=clock.say) as airflow:
            clock.say(f"Airflow is at {airflow.url}")
            loading.result()
            clock.say("the shop's transactions are in the raw level, as a tracking system delivers them")
            runs = ran(airflow, clock)
            finished = clock.seconds
            found = manifests(airflow, runs)
    table_of_tasks(found, finished)
    table_of_models(next(each for _, _, each in found if each.document["job"] == "train_recommender"))
    return found


def ran(airflow: Airflow, clock: Clock) -> dict[str, str]:
    """Run all pipelines to their end; the recommendations start by themselves when the events are there."""
    known = {run["dag_run_id"] for run in airflow.runs(RECOMMENDING)}
    runs = {dag: airflow.trigger(dag) for dag in INGESTING}
    with ThreadPoolExecutor(len(runs)) as pool:
        ended = [pool.submit(finish, airflow, dag, run, clock) for dag, run in runs.items()]
        for each in ended:
            each.result()
    runs[RECOMMENDING] = airflow.next_run(RECOMMENDING, known)
    clock.say(f"the events are new, so Airflow starts {RECOMMENDING}")
    finish(airflow, RECOMMENDING, runs[RECOMMENDING], clock)
    return runs


def finish(airflow: Airflow, dag: str, run: str, clock: Clock) -> None:
    """Wait for a run; AirflowError with the end of the failed task's log if it fails."""
    if airflow.wait(dag, run, show=clock.show(dag)) == "success":
        return
    failed = next(each for each in airflow.instances(dag, run) if each.state == "failed")
    log = "\n".join(airflow.log(dag, run, failed)[-15:])
    raise AirflowError(f"{dag} failed at {failed.task_id}; its log ends so:\n{log}")


def manifests(airflow: Airflow, runs: dict[str, str]) -> Published:
    """The tasks that ran and what they published, in the order in which they started."""
    found = []
    for dag, run in runs.items():
        for each in airflow.instances(dag, run):
            result = airflow.xcom(dag, run, each)
            if (
                isinstance(result, dict)
                and "manifest" in result
                and (published := manifest.load_or_none(result["manifest"]))
            ):
                found.append((dag, each, published))
    return found


def table_of_tasks(found: Published, finished: float) -> None:
    table = Table(title="Tasks", title_justify="left")
    for heading in ("task", "rows out", "MB out", "own work, s", "in Airflow, s", "peak memory, MiB"):
        table.add_column(heading, justify="left" if heading == "task" else "right")
    own = 0.0
    for _, each, published in found:
        document = published.document
        outputs = document["outputs"].values()
        part = f"[{each.map_index}]" if each.map_index >= 0 else ""
        own += document["seconds"]
        table.add_row(
            f"{each.task_id}{part}".replace("[", "\\["),
            f"{sum(output['rows'] for output in outputs):,}",
            f"{sum(output['bytes'] for output in outputs) / 1e6:.1f}",
            f"{document['seconds']:.1f}",
            f"{each.seconds or 0:.1f}",
            f"{document['peak_memory_bytes'] / 2**20:,.0f}",
        )
    console.print(table)
    inside = sum(each.seconds or 0 for _, each, _ in found)
    console.print(
        f"{finished:.0f} s from the start to the last task. The jobs' own work adds up to {own:.0f} s, their time in "
        f"Airflow to {inside:.0f} s; what is left of the {finished:.0f} s is Airflow's start and scheduling.\n"
    )


def table_of_models(published: Manifest) -> None:
    metrics = published.document["metrics"]
    table = Table(title=f"Models, measured on {metrics['test_users']:,} users of the last window", title_justify="left")
    names = {"ndcg": "nDCG@10", "recall": "recall@10", "map": "MAP@10", "coverage": "coverage"}
    for heading in ("model", "nDCG@10", "95 % interval", *list(names.values())[1:]):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for name, quality in sorted(metrics["models"].items(), key=lambda entry: entry[1]["ndcg"]):
        shown = f"[bold green]{name} (ships)[/]" if name == metrics["model"] else name
        interval = f"{quality['ndcg_low']:.4f} to {quality['ndcg_high']:.4f}"
        rest = [f"{quality[key]:.4f}" for key in list(names)[1:]]
        table.add_row(shown, f"{quality['ndcg']:.4f}", interval, *rest)
    console.print(table)


def read_as_frontends_do(found: Published) -> dict[str, list[dict[str, Any]]]:
    """What the published table shows to three users."""
    by_job = {each.document["job"]: each for _, _, each in found}
    table = by_job["publish_product"].document["metrics"]["table"]
    recommended = output(by_job["select_recommendations"], "recommendations")
    bought = output(by_job["build_interactions"], "interactions")
    return {user: reader.read(client(), table, user) for user in three_users(bought, recommended)}


def table_of_users(found: Published, served: dict[str, list[dict[str, Any]]]) -> None:
    """What users bought, and what frontends show them."""
    by_job = {each.document["job"]: each for _, _, each in found}
    names = dict(zip(*read(by_job["ingest_items"], ["item_id", "name"]).values()))
    bought = output(by_job["build_interactions"], "interactions")
    for user, shown in served.items():
        history = bought.to_table(["item_id", "last_time"], filter=ds.field("user_id") == user)
        history = history.sort_by([("last_time", "descending"), ("item_id", "ascending")])
        table = Table(title=f"User {user}: {history.num_rows} items bought", title_justify="left")
        table.add_column("bought last")
        table.add_column("recommended")
        table.add_column("because")
        last = [names.get(item, item) for item in history["item_id"].to_pylist()]
        for position, row in enumerate(shown[:5]):
            table.add_row(last[position] if position < len(last) else "", row["item_name"], row["reason"] or "")
        console.print(table)


def three_users(bought: ds.Dataset, recommended: ds.Dataset) -> list[str]:
    """Users by what they bought: one with few, one with a middling number and one with many items."""
    counts = bought.to_table(["user_id"])["user_id"].value_counts()
    users, sizes = counts.field("values"), counts.field("counts")
    served = pc.is_in(users, recommended.to_table(["user_id"])["user_id"].unique())
    chosen = []
    for least in (3, 30, 150):
        fitting = pc.and_(served, pc.greater_equal(sizes, least))
        candidates, enough = users.filter(fitting), sizes.filter(fitting)
        if len(candidates):
            chosen.append(candidates[pc.index(enough, pc.min(enough)).as_py()].as_py())
    return chosen


def output(published: Manifest, role: str) -> ds.Dataset:
    """The files of a task's output."""
    folder = published.uri.rpartition("/")[0]
    files = [arrow.path(f"{folder}/{file['path']}") for file in published.document["outputs"][role]["files"]]
    return ds.dataset(files, filesystem=arrow.filesystem(published.uri), format="parquet")


def read(published: Manifest, columns: list[str]) -> dict[str, list[Any]]:
    """Columns of the dataset that a task filled."""
    lake = published.uri.partition("/intermediate/")[0]
    dataset = published.document["outputs"]["items"]["dataset"]
    partition = manifest.load_or_none(f"{lake}/{dataset}/all/manifest.json")
    assert partition is not None
    found: dict[str, list[Any]] = output(partition, "items").to_table(columns).to_pydict()
    return found


if __name__ == "__main__":
    main()

"""Recommendations from real data, through Airflow, on this machine: load the data, run the pipelines, print results."""

import argparse
import itertools
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
from rich.markup import escape
from rich.table import Table

from common import protocol
from common.delivery.stores import open_store
from common.engines import arrow
from common.handover import manifest, storage
from common.handover.manifest import Manifest
from common.reporting import history, text
from tools.airflow_api import Airflow, AirflowError, Instance
from tools.command_line import exit_on_task_error
from tools.data import load_sample
from tools.sandbox import local_dynamodb
from tools.sandbox.local_airflow import start

ROOT = Path(__file__).parents[2]

INGESTING = ("ingest_items", "ingest_events")
RECOMMENDING = "daily_recommendations"
FAILED = ("failed", "upstream_failed")
Published = list[tuple[str, Instance, Manifest]]  # of tasks: DAG, instance and manifest

console = Console(width=None if sys.stdout.isatty() else 110)


class Clock:
    """Lines of progress with the seconds since the start."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.reported: set[tuple[Any, ...]] = set()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def report(self, text: str) -> None:
        console.print(f"[dim]{self.seconds:5.0f} s[/]  {text}", highlight=False)

    def show(self, dag: str) -> Callable[[list[Instance]], None]:
        """Return a function that reports changes among the tasks of a run."""

        def show(instances: list[Instance]) -> None:
            for each in instances:
                change = (dag, each.task_id, each.map_index, each.try_number, each.state)
                if change in self.reported or each.state not in ("running", "success", "up_for_retry", *FAILED):
                    continue
                self.reported.add(change)
                index = f"\\[{each.map_index}]" if each.map_index >= 0 else ""
                colour = {"success": "green", "running": "cyan"}.get(each.state, "red")
                took = f" in {each.seconds:.1f} s" if each.state == "success" and each.seconds else ""
                self.report(f"{dag}.{each.task_id}{index} [{colour}]{each.state}[/]{took}")

        return show


@exit_on_task_error()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lake", default=f"file://{ROOT}/.tandem/lake", metavar="URI", help="root of the lake")
    parser.add_argument(
        "--containers", default="process", choices=("process", "docker"), help="the runtime of jobs in containers"
    )
    add_sample_argument(parser)
    arguments = parser.parse_args()
    lake = arguments.lake.rstrip("/")
    clock = Clock()
    clock.report(f"lake: {lake}")
    os.environ["TANDEM_CONTAINERS"] = arguments.containers
    if arguments.containers == "docker":
        clock.report("building the missing images of all jobs")
        os.environ["AIRFLOW_VAR_RELEASE"] = build_images()
    with local_dynamodb.running():
        published = run(lake, arguments.sample, clock)
        print_users(published, read_products(published))
    console.print(f"All results are in {lake}; `make airflow` shows the runs. Done in {clock.seconds:.0f} s.")


def add_s3_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of a demo whose lake is on an S3 server of this machine."""
    parser.add_argument(
        "--folder", type=Path, default=ROOT / ".tandem" / "s3", metavar="PATH", help="folder of the S3 server"
    )
    add_sample_argument(parser)


def add_sample_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sample", type=Path, default=load_sample.SOURCE, metavar="FILE", help="transactions to load")


def build_images() -> str:
    """Build the images of all Python jobs and the light ones of Spark jobs; return the release with them."""
    jobs = json.loads((ROOT / "airflow_dags" / "job_catalogue.json").read_text())
    python_jobs = [word for name, job in jobs.items() if job["engine"] == "python" for word in ("--job", name)]
    for options in (python_jobs, ["--kind", "light"]):
        if subprocess.run([sys.executable, "-m", "tools.packaging.build", *options], cwd=ROOT).returncode:
            sys.exit("The images could not be built; the error is above.")
    return (ROOT / "dist" / "release.json").read_text()


def run(lake: str, sample: Path, clock: Clock) -> Published:
    """Load the sample, run all pipelines, print tasks and models, and return the manifests."""
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(load_sample.load, sample, lake)  # while Airflow starts
        with start(lake, report=clock.report) as airflow:
            clock.report(f"Airflow is at {airflow.url}")
            loading.result()
            clock.report("the shop's transactions are in the raw level, as from a tracking system")
            runs = run_pipelines(airflow, clock)
            finished = clock.seconds
            published = manifests(airflow, runs)
    print_tasks(published, finished)
    print_models(next(each for _, _, each in published if each.document["job"] == "train_recommender"))
    print_card(lake, RECOMMENDING, runs[RECOMMENDING])
    return published


def print_card(lake: str, dag: str, run: str) -> None:
    """Print the picture of a run as text, and the path of its card."""
    found = next((each for each in history.read(lake, dag, 10) if each.run == run), None)
    if found is None:
        raise AirflowError(f"{dag} has no report on {run}; the log of its task {protocol.REPORT_TASK} has the reason.")
    card = protocol.card_uri(lake, dag, protocol.report_name(found.run_after, run))
    console.print(escape(text.summary(found, console.width)), highlight=False, soft_wrap=True)
    console.print(f"Card of this run: {escape(card.removeprefix('file://'))}\n", highlight=False, soft_wrap=True)


def run_pipelines(airflow: Airflow, clock: Clock) -> dict[str, str]:
    """Run all pipelines to their end; the recommendations once events and items are published."""
    runs = ingest(airflow, clock, INGESTING)
    runs[RECOMMENDING] = airflow.trigger(RECOMMENDING)
    clock.report(f"events and items are published; {RECOMMENDING} follows")
    finish(airflow, RECOMMENDING, runs[RECOMMENDING], clock)
    return runs


def ingest(airflow: Airflow, clock: Clock, pipelines: tuple[str, ...]) -> dict[str, str]:
    """Run pipelines that ingest, at the same time, to their end; return their runs."""
    runs = {dag: airflow.trigger(dag) for dag in pipelines}
    with ThreadPoolExecutor(len(runs)) as pool:
        ended = [pool.submit(finish, airflow, dag, run, clock) for dag, run in runs.items()]
        for each in ended:
            each.result()
    return runs


def finish(airflow: Airflow, dag: str, run: str, clock: Clock) -> None:
    """Wait for a run; raise AirflowError with the end of the failed task's log if it fails."""
    if airflow.wait(dag, run, show=clock.show(dag)) == "success":
        return
    failed = next(each for each in airflow.instances(dag, run) if each.state == "failed")
    log = "\n".join(airflow.log(dag, run, failed)[-15:])
    raise AirflowError(f"{dag} failed at {failed.task_id}; the end of its log:\n{log}")


def failure_sentence(airflow: Airflow, lake: str, dag: str, run: str) -> str:
    """Return the sentence with which a run failed."""
    failed = next(each for each in airflow.instances(dag, run) if each.state == "failed")
    map_index = failed.map_index if failed.map_index >= 0 else None
    attempt = protocol.attempt_folder(protocol.task_key(lake, dag, run, failed.task_id, map_index), failed.try_number)
    try:
        sentence = json.loads(storage.read(protocol.failure_uri(attempt))[0])["sentence"]
    except FileNotFoundError:
        sentence = "\n".join(airflow.log(dag, run, failed)[-15:])
    return f"{dag}.{failed.task_id}: {sentence}"


def manifests(airflow: Airflow, runs: dict[str, str]) -> Published:
    """Return tasks and their manifests, in the order in which they started."""
    tasks = []
    for dag, run in runs.items():
        for each in airflow.instances(dag, run):
            result = airflow.xcom(dag, run, each)
            if (
                isinstance(result, dict)
                and "manifest" in result
                and (published := manifest.load_or_none(result["manifest"]))
            ):
                tasks.append((dag, each, published))
    return tasks


def print_tasks(tasks: Published, finished: float) -> None:
    table = Table(title="Tasks", title_justify="left")
    for heading in ("task", "rows out", "MB out", "job, s", "in Airflow, s", "peak memory, MiB"):
        table.add_column(heading, justify="left" if heading == "task" else "right")
    job_seconds = 0.0
    for _, each, published in tasks:
        document = published.document
        outputs = document["outputs"].values()
        index = f"[{each.map_index}]" if each.map_index >= 0 else ""
        job_seconds += document["seconds"]
        table.add_row(
            f"{each.task_id}{index}".replace("[", "\\["),
            f"{sum(output['rows'] for output in outputs):,}",
            f"{sum(output['bytes'] for output in outputs) / 1e6:.1f}",
            f"{document['seconds']:.1f}",
            f"{each.seconds or 0:.1f}",
            f"{document['peak_memory_bytes'] / 2**20:,.0f}",
        )
    console.print(table)
    inside = sum(each.seconds or 0 for _, each, _ in tasks)
    console.print(
        f"{finished:.0f} s from the start to the last task. The jobs took {job_seconds:.0f} s in sum, their tasks in "
        f"Airflow {inside:.0f} s; the rest of the {finished:.0f} s is Airflow's start and scheduling.\n"
    )


def print_models(published: Manifest) -> None:
    metrics = published.document["metrics"]
    if "styles" not in metrics:
        console.print(f"Trending items ship for everyone: {metrics['because']}.\n")
        return
    for style, figures in metrics["styles"].items():
        title = f"Models, style {style}, measured on {figures['users']:,} users of the last window"
        table = Table(title=title, title_justify="left")
        names = {"ndcg": "nDCG@10", "recall": "recall@10", "map": "MAP@10", "coverage": "coverage"}
        for heading in ("model", "nDCG@10", "95 % interval", *list(names.values())[1:]):
            table.add_column(heading, justify="left" if heading == "model" else "right")
        for name, quality in sorted(figures["models"].items(), key=lambda entry: entry[1]["ndcg"]):
            shown = f"[bold green]{name} (ships)[/]" if name == figures.get("model") else name
            interval = f"{quality['ndcg_low']:.4f} to {quality['ndcg_high']:.4f}"
            rest = [f"{quality[key]:.4f}" for key in list(names)[1:]]
            table.add_row(shown, f"{quality['ndcg']:.4f}", interval, *rest)
        console.print(table)


def read_products(published: Published) -> dict[str, list[dict[str, Any]]]:
    """Read the published table for three users, as frontends do."""
    by_task = {each.task_id: document for _, each, document in published}
    metrics = by_task["publish_product"].document["metrics"]
    store = open_store(metrics["store"], metrics["table"])
    recommended = all_shards(published, "select_recommendations", "recommendations")
    bought = output(by_task["build_interactions"], "interactions")
    return {user: store.shown(user) for user in select_users(bought, recommended)}


def print_users(published: Published, served: dict[str, list[dict[str, Any]]]) -> None:
    """Print the items of users and their recommendations: those that they had, and new ones."""
    by_job = {each.document["job"]: each for _, _, each in published}
    names = item_names(by_job["build_interactions"].uri.partition("/intermediate/")[0])
    bought = output(by_job["build_interactions"], "interactions")
    for user, shown in served.items():
        history = bought.to_table(["item_id", "last_time"], filter=ds.field("user_id") == user)
        history = history.sort_by([("last_time", "descending"), ("item_id", "ascending")])
        table = Table(title=f"User {escape(user)}: {history.num_rows} items so far", title_justify="left")
        for heading in ("last", "again", "new for you", "because"):
            table.add_column(heading)
        last = [names.get(item) or item for item in history["item_id"].to_pylist()]
        again, new = ([row for row in shown if row["style"] in style] for style in (("again",), ("new", "trending")))
        for had, once_more, row in list(itertools.zip_longest(last, again, new))[:5]:
            cells = (had, once_more and once_more["item_name"], row and row["item_name"], row and row["reason"])
            table.add_row(*(escape(cell or "") for cell in cells))
        console.print(table)


def select_users(bought: ds.Dataset, recommended: ds.Dataset) -> list[str]:
    """Select a user with few, one with a medium number and one with many items; on small data those with the most."""
    counts = bought.to_table(["user_id"])["user_id"].value_counts()
    users, sizes = counts.field("values"), counts.field("counts")
    served = pc.is_in(users, recommended.to_table(["user_id"])["user_id"].unique())
    selected = []
    for minimum in (3, 30, 150):
        fitting = pc.and_(served, pc.greater_equal(sizes, minimum))
        candidates, counted = users.filter(fitting), sizes.filter(fitting)
        if len(candidates):
            selected.append(candidates[pc.index(counted, pc.min(counted)).as_py()].as_py())
    largest = pc.sort_indices(sizes, [("", "descending")])
    others = [user for user in users.take(largest).filter(served.take(largest)).to_pylist() if user not in selected]
    return [*selected, *others][:3]


def output(published: Manifest, role: str) -> ds.Dataset:
    """Open the files of a task's output as a dataset."""
    folder = published.uri.rpartition("/")[0]
    files = [arrow.path(f"{folder}/{file['path']}") for file in published.document["outputs"][role]["files"]]
    return ds.dataset(files, filesystem=arrow.filesystem(published.uri), format="parquet")


def all_shards(published: Published, task: str, role: str) -> ds.Dataset:
    """Open the files of an output of all shards of a task as a dataset."""
    return ds.dataset([output(document, role) for _, each, document in published if each.task_id == task])


def item_names(lake: str) -> dict[str, str]:
    """Return the names of the catalogue's items that have one; none without a catalogue."""
    partition = manifest.load_or_none(protocol.manifest_uri(f"{lake}/curated/items/all"))
    if partition is None:
        return {}
    items = output(partition, "items").to_table(["item_id", "name"])
    return {item: name for item, name in zip(*items.to_pydict().values(), strict=True) if name}


if __name__ == "__main__":
    main()

"""Try a file of events: adopt it, load it into its own lake, run the pipelines through Airflow, show the results."""

import argparse
import datetime
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from common.sources.source import Source
from tools.adopt import adopt, page, source_file, terminal
from tools.adopt.adopt import PAGES, ROOT, Adopted
from tools.airflow_api import Airflow
from tools.command_line import exit_on_task_error
from tools.sandbox import demo, local_dynamodb
from tools.sandbox.demo import Clock, Published, console
from tools.sandbox.demo_all import format_value, read
from tools.sandbox.local_airflow import start

LAKES = ROOT / ".tandem" / "try"
RANKED = ("trending_items",)  # pipelines in addition to the daily recommendations
SHOWN_TRENDING = 10
SHOWN_ITEMS = 3  # whose similar items are shown


@exit_on_task_error()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    adopt.add_arguments(parser)
    parser.add_argument("--name", help="of the source; by default made of the file's name")
    arguments = parser.parse_args()
    name = arguments.name or name_of(arguments.file)
    clock = Clock()
    adopted = adopt.adopt(adopt.files_of(arguments), name, console, arguments.force)
    terminal.show(adopted.report, console)
    page.write(adopted.report, PAGES / f"{name}.html")
    clock.report(f"the report with plots is {PAGES / f'{name}.html'}")
    lake = LAKES / name
    try_out(adopted, lake, clock)
    console.print(
        f"\nDone in {clock.seconds:.0f} s. The report with plots: {PAGES / f'{name}.html'}; all results: {lake}.\n"
        f"Correct sources/{name}/ and sources/tracking_plan.toml, try again, then commit both and deploy: "
        "docs/adopt.md.",
        highlight=False,
    )


def name_of(path: Path) -> str:
    """Return a name for the source of a file, such as my_clicks for My-Clicks.csv.gz."""
    stem = re.sub(r"[^a-z0-9]+", "_", path.name.split(".")[0].lower()).strip("_")
    return stem if re.match("[a-z]", stem) else f"file_{stem}"


def deliver(adopted: Adopted, lake: Path) -> None:
    """Put the files into the raw level of a new lake, as if they arrived today."""
    shutil.rmtree(lake, ignore_errors=True)  # events of a former mapping would win over those of a corrected one
    today = datetime.datetime.now(datetime.UTC).date()
    for kind, sample in adopted.samples.items():
        source = source_file.load(adopted.name, kind)
        folder = lake / source.deliveries / f"arrival={today}"
        folder.mkdir(parents=True)
        shutil.copyfile(sample.path, folder / file_name(kind, source))


def file_name(kind: str, source: Source) -> str:
    """Return a name that the source accepts."""
    return f"{kind}{source.suffix}" if source.format == "parquet" else f"{kind}.{source.format}{source.suffix}"


def try_out(adopted: Adopted, folder: Path, clock: Clock) -> None:
    """Run all pipelines on a lake of the files, and print what they made of them."""
    lake = folder.resolve().as_uri()
    ingesting = tuple(f"ingest_{kind}" for kind in ("items", "events") if kind in adopted.samples)
    with local_dynamodb.running():
        with ThreadPoolExecutor(1) as pool:
            loading = pool.submit(deliver, adopted, folder)  # while Airflow starts
            with start(lake, report=clock.report) as airflow:
                clock.report(f"Airflow is at {airflow.url}, the lake is {lake}")
                loading.result()
                runs, failures = run_pipelines(airflow, clock, lake, ingesting)
                finished = clock.seconds
                published = demo.manifests(airflow, runs)
        demo.print_tasks(published, finished)
        print_quarantine(published)
        daily = [each for each in published if each[0] not in RANKED]
        print_recommendations(daily, failures.get(demo.RECOMMENDING))
        print_trending()
        print_similar(published, demo.item_names(lake))
    for sentence in failures.values():
        console.print(f"[yellow]not made[/]  {escape(sentence)}", highlight=False)
    for dag, run in runs.items():
        demo.print_card(lake, dag, run)


def run_pipelines(
    airflow: Airflow, clock: Clock, lake: str, ingesting: tuple[str, ...]
) -> tuple[dict[str, str], dict[str, str]]:
    """Ingest, then make all products; return the runs, and the sentences of those that failed, by pipeline.

    Raises AirflowError if the ingestion fails.
    """
    runs = demo.ingest(airflow, clock, ingesting)
    products = (demo.RECOMMENDING, *RANKED)
    clock.report(f"the events are published; {', '.join(products)} follow")
    runs |= {pipeline: airflow.trigger(pipeline) for pipeline in products}
    with ThreadPoolExecutor(len(products)) as pool:
        states = pool.map(lambda dag: airflow.wait(dag, runs[dag], show=clock.show(dag)), products)
        failed = [dag for dag, state in zip(products, states, strict=True) if state != "success"]
    return runs, {dag: demo.failure_sentence(airflow, lake, dag, runs[dag]) for dag in failed}


def print_quarantine(published: Published) -> None:
    """Print the records that the ingestion left out, by reason."""
    for dag, _, each in published:
        metrics = each.document["metrics"]
        if not dag.startswith("ingest_") or not metrics.get("reasons"):
            continue
        table = Table(title=f"{dag}: quarantined records", title_justify="left")
        table.add_column("reason")
        table.add_column("records", justify="right")
        for reason, count in metrics["reasons"].items():
            table.add_row(escape(reason), f"{count:,}")
        console.print(table)


def print_recommendations(published: Published, failure: str | None) -> None:
    """Print the models and the recommendations of some users, or the products that are possible without them."""
    by_job = {each.document["job"]: each for _, _, each in published}
    training = by_job.get("train_recommender")
    if training:
        demo.print_models(training)
    if training and "styles" in training.document["metrics"] and failure is None:
        demo.print_users(published, demo.read_products(published))
        return
    console.print(
        "[yellow]No recommendations for single users[/]: these need users with events on several days, before the last "
        "days and in them. Trending items and similar items need none, and follow.",
        highlight=False,
    )


def print_trending() -> None:
    """Print the items that trend, as frontends read them for anyone; else the recommendations for unknown users."""
    rows = read("trending_items", "all others") or read("recommendations", "all others")
    if not rows:
        return
    table = Table(title="Trending items, for anyone", title_justify="left")
    for heading in ("item", "people", "score"):
        table.add_column(heading, justify="left" if heading == "item" else "right")
    for row in rows[:SHOWN_TRENDING]:
        table.add_row(escape(row["item_name"]), format_value(row.get("people")), format_value(row["score"]))
    console.print(table)


def print_similar(published: Published, names: dict[str, str]) -> None:
    """Print the similar items of the items with the most users."""
    by_job = {each.document["job"]: each for _, _, each in published}
    if "build_interactions" not in by_job:
        return
    counts = demo.output(by_job["build_interactions"], "interactions").to_table(["item_id"])["item_id"].value_counts()
    ranked = sorted(zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist()), key=lambda e: -e[1])
    table = Table(title="Similar items", title_justify="left")
    for heading in ("item", "similar", "because"):
        table.add_column(heading)
    for item, _ in ranked[:SHOWN_ITEMS]:
        for number, row in enumerate(read("similar_items", item)[:SHOWN_ITEMS]):
            shown = "" if number else names.get(item) or item
            table.add_row(escape(shown), escape(row["similar_item_name"]), escape(row["reason"] or ""))
    console.print(table)


if __name__ == "__main__":
    main()

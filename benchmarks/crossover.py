"""Time and cost of a Spark job against the size of its input: on DuckDB in a container, and on Spark.

Both engines are measured on this machine. A cluster is not: it is Spark's work here, divided by more cores without any
loss, after the opening of the cluster. So the crossover that is printed favours the cluster.
"""

import argparse
import itertools
import json
import shutil
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from benchmarks import engines, job, measure
from benchmarks.measure import Measurement
from benchmarks.preprocessing import shop
from common.handover.job_toml import load
from common.protocol import quantity
from common.reporting.charts import svg
from tools import environment

# Assumptions of the estimates. Prices, CPU and memory are those of the environment, its cluster.json and job.toml.
ENVIRONMENT = "prod"
CLUSTER = job.ROOT / "airflow_dags" / "daily_recommendations" / "cluster.json"
OPENING = (
    420  # seconds until an EMR cluster runs a step: users report 5 to 10 minutes; the cards of your runs have yours
)
POD = 5  # seconds until the process of a pod runs, by docs/kubernetes.md
CORES = {"m6g.xlarge": 4, "r6g.xlarge": 4}  # of Amazon's types

PLOT = job.ROOT / "docs" / "images" / "crossover.svg"
INPUTS = {"build_interactions": ("curated", "curated/events"), "ingest_events": ("raw", "raw/events")}  # level, folder
DATA = (".parquet", ".gz")
CONTAINER, MACHINE, ON_CLUSTER = "light engine, container", "Spark, one machine", "Spark, cluster"
METRICS = ("seconds", "cost")


class Estimate(NamedTuple):
    """Seconds until a job has ended in a place, and their cost."""

    seconds: float
    cost: float


class Point(NamedTuple):
    """A job on an input of a size: its runs by engine, and the estimate for each place."""

    events: int
    bytes: int
    runs: dict[str, Measurement]
    places: dict[str, Estimate]


class Prices:
    """Prices per hour, and cores, of the container of a job and of a cluster."""

    def __init__(self, name: str) -> None:
        settings = environment.load(ENVIRONMENT)
        prices = settings["prices"]
        resources = load(job.ROOT / "jobs" / name).resources
        self.threads = int(quantity(resources["cpu"]))
        self.container = quantity(resources["cpu"]) * prices["vcpu_hour"]
        self.container += quantity(resources["memory"]) / 2**30 * prices["gib_hour"]
        groups = {each["Name"]: dict(each) for each in json.loads(CLUSTER.read_text())["Instances"]["InstanceGroups"]}
        changed = settings["spark"]["emr"]["cluster"].get("Instances", {}).get("InstanceGroups", {})
        for group, values in changed.items():
            groups[group] |= values
        hours = prices["instance_hours"]
        self.cluster = sum(hours[each["InstanceType"]] * each["InstanceCount"] for each in groups.values())
        self.cluster *= 1 + prices["surcharges"]["emr"]
        self.cores = CORES[groups["core"]["InstanceType"]] * groups["core"]["InstanceCount"]
        self.currency = prices["currency"]

    def estimates(self, runs: dict[str, Measurement]) -> dict[str, Estimate]:
        """Estimate each place from the runs of both engines on this machine."""
        spark = runs["spark"]
        work = spark.figures["work"]
        seconds = {
            CONTAINER: POD + runs["light"].wall,
            MACHINE: POD + spark.wall,
            ON_CLUSTER: OPENING + spark.wall - work + work * self.threads / self.cores,
        }
        hourly = {CONTAINER: self.container, MACHINE: self.container, ON_CLUSTER: self.cluster}
        return {place: Estimate(each, each / 3600 * hourly[place]) for place, each in seconds.items()}


def measured(name: str, events: int) -> Point:
    """Run a job on both engines with the threads of its job.toml."""
    prices = Prices(name)
    level, folder = INPUTS[name]
    lake = shop(events, level)
    runs = {}
    for engine, shown in engines.ENGINES.items():
        print(f"  {name}, {events:,} events, {shown} …", end="", file=sys.stderr, flush=True)
        one = runs[engine] = measure.run(engines.command(engine, lake, name), {"OMP_NUM_THREADS": str(prices.threads)})
        print(f" {one.wall:.1f} s, CPU {one.cpu:.1f} s, {one.peak >> 20:,} MiB", file=sys.stderr, flush=True)
    shutil.rmtree(lake / "intermediate")
    size = sum(file.stat().st_size for file in (lake / folder).rglob("*") if file.suffix in DATA)
    return Point(events, size, runs, prices.estimates(runs))


def line(points: Sequence[Point], place: str, metric: str) -> tuple[float, float]:
    """Return a metric of a place at no input, and its growth per byte, by the two largest sizes."""
    smaller, larger = points[-2:]
    values = [getattr(each.places[place], metric) for each in (smaller, larger)]
    slope = max(0.0, values[1] - values[0]) / (larger.bytes - smaller.bytes)  # noise is larger than tiny data
    return values[1] - slope * larger.bytes, slope


def crossover(points: Sequence[Point], metric: str) -> float | None:
    """Return the bytes of input from which the cluster is better by a metric; None if it never is.

    Beyond the largest size both places grow as between the two largest ones.
    """
    differences: list[tuple[int, float]] = [
        (each.bytes, getattr(each.places[CONTAINER], metric) - getattr(each.places[ON_CLUSTER], metric))
        for each in points
    ]
    for (smaller, before), (larger, after) in itertools.pairwise(differences):
        if before <= 0 < after:
            return smaller + (larger - smaller) * before / (before - after)
    (container, growth), (cluster, other_growth) = (line(points, place, metric) for place in (CONTAINER, ON_CLUSTER))
    return (cluster - container) / (growth - other_growth) if growth > other_growth else None


def conclusion(found: dict[str, list[Point]]) -> str:
    """Return Markdown: the crossovers of each job, and the `max_bytes` that follows from the earliest one in time."""
    lines, earliest = [], []
    for name, points in found.items():
        for metric in METRICS:
            at = crossover(points, metric)
            beyond = ", beyond the largest size measured" if at and at > points[-1].bytes else ""
            shown = (
                f"{at / 2**20:,.0f} MiB ({at:,.0f} bytes){beyond}"
                if at
                else "none, the container is better at any size"
            )
            lines.append(f"- {name}: crossover of {metric}: {shown}")
            earliest += [at] if at and metric == "seconds" else []
    follows = f'max_bytes = "{power_of_two(min(earliest))}"' if earliest else 'runtime = "container"'
    return "\n".join([*lines, f"- the default that follows: `{follows}`"])


def power_of_two(size: float) -> str:
    """Round a size down to a power of two of GiB, or of MiB if it is smaller."""
    exponent = max(20, int(size).bit_length() - 1)
    return f"{2 ** (exponent - 30)}GiB" if exponent >= 30 else f"{2 ** (exponent - 20)}MiB"


def table(found: dict[str, list[Point]], currency: str) -> str:
    """Return Markdown: for each job and size the runs on both engines, and the estimates."""
    heads = [f"{engine}: wall s / CPU s / peak MiB" for engine in engines.ENGINES.values()]
    heads += [f"{place}: s / {currency}" for place in (CONTAINER, MACHINE, ON_CLUSTER)]
    lines = [f"| job | events | input, MiB | {' | '.join(heads)} |", "|---|" + "---|" * (len(heads) + 2)]
    for name, points in found.items():
        for point in points:
            cells = [f"{one.wall:.1f} / {one.cpu:.1f} / {one.peak >> 20:,}" for one in point.runs.values()]
            cells += [f"{each.seconds:,.0f} / {each.cost:.4f}" for each in point.places.values()]
            lines.append(f"| {name} | {point.events:,} | {point.bytes / 2**20:,.1f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def values_of(name: str, points: Sequence[Point], metric: str) -> list[dict[str, Any]]:
    """Return the values of a plot: those of the sizes, and beyond them more of each place, to twice the crossover."""
    at, largest = crossover(points, metric), points[-1].bytes
    further = [largest * (2 * at / largest) ** (step / 8) for step in range(1, 9)] if at and at > largest else []
    values = []
    for place in points[0].places:
        start, growth = line(points, place, metric)
        known = [(each.bytes, getattr(each.places[place], metric)) for each in points]
        beyond = [known[-1], *((size, start + growth * size) for size in further)] if further else []
        for state, pairs in (("estimated", known), ("beyond the sizes", beyond)):
            values += [
                {"job": name, "metric": metric, "place": place, "state": state, "MiB": size / 2**20, "value": value}
                for size, value in pairs
            ]
    return values


def plot(found: dict[str, list[Point]], currency: str) -> str:
    """Return an SVG: seconds and cost by bytes of input, one line per place, one row per job."""
    titles = {"seconds": "seconds", "cost": f"cost, {currency}"}
    logarithmic: dict[str, Any] = {"scale": {"type": "log"}, "type": "quantitative"}

    def chart(name: str, metric: str) -> dict[str, Any]:
        return {
            "data": {"values": values_of(name, found[name], metric)},
            "title": {"text": name, "color": "currentColor", "fontSize": 12},
            "mark": {"type": "line", "point": True},
            "width": 300,
            "height": 220,
            "encoding": {
                "x": {"field": "MiB", **logarithmic, "title": "input, MiB"},
                "y": {"field": "value", **logarithmic, "title": titles[metric]},
                "color": {"field": "place", "type": "nominal", "sort": None, "title": None},
                "strokeDash": {
                    "field": "state",
                    "type": "nominal",
                    "sort": None,
                    "title": None,
                    "legend": {"symbolType": "stroke", "symbolStrokeColor": "currentColor"},
                },
            },
        }

    return svg({"vconcat": [{"hconcat": [chart(name, metric) for metric in METRICS]} for name in found]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000, 10_000_000], help="events")
    parser.add_argument(
        "--jobs", nargs="+", default=list(INPUTS), choices=INPUTS, metavar="JOB", help=", ".join(INPUTS)
    )
    arguments = parser.parse_args()
    if len(set(arguments.sizes)) < 2:
        parser.error("one size has no crossover, expected two or more; name them in --sizes.")
    found = {name: [measured(name, events) for events in sorted(set(arguments.sizes))] for name in arguments.jobs}
    prices = Prices(arguments.jobs[0])
    PLOT.write_text(plot(found, prices.currency))
    assumptions = (
        f"Estimated for {ENVIRONMENT}: a cluster of {prices.cores} executors' cores opens in {OPENING} s and costs "
        f"{prices.cluster:.2f} {prices.currency} per hour; a pod starts in {POD} s and costs {prices.container:.3f}."
    )
    body = [table(found, prices.currency), conclusion(found), assumptions]
    body.append(measure.versions("pyspark", "pyarrow", "duckdb", "sqlframe"))
    command = " ".join(["python -m benchmarks.crossover", *sys.argv[1:]])
    measure.record("the light engine and Spark by the size of the input", command, "\n\n".join(body))


if __name__ == "__main__":
    main()

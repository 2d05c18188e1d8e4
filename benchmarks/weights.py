"""Gain of weights by type of event: views, carts and purchases of people with known tastes, against purchases alone.

Each plan is a tracking plan for the same events, which go through `ingest_events`, `build_interactions` and
`train_recommender`. The truth is the same, too: items that people buy in the last 30 days, for everyone with a history,
who all bought before. Of the views a third are of curiosity: of any topic, and never bought.
"""

import argparse
import datetime
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import measure
from benchmarks.job import ROOT, run

START, DAYS = datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC), 120
PEOPLE, ITEMS, TOPICS = 1500, 800, 40
SESSIONS = 10  # of a person, after the first, which ends with a purchase
SOURCE = """
description = "Views, carts and purchases of people with known tastes."
format = "parquet"

[fields]
person = "bigint"
item = "bigint"
type = "string"
time = "timestamp"

[columns]
user_id = "person"
item_id = "item"
type = "type"
time = "time"
"""
PLANS = {  # weights of a view, a cart and a purchase
    "far apart": (0.1, 1, 3),
    "closer": (0.5, 1, 2),
    "all alike": (1, 1, 1),
    "purchases alone": (0, 0, 1),
}


def events(seed: int) -> pa.Table:
    """Return events of people who like three topics each, of items that are popular within their topic."""
    random = np.random.default_rng(seed)
    topic_of, popular = np.arange(ITEMS) % TOPICS, 1 / (1 + np.arange(ITEMS) // TOPICS)
    columns: dict[str, list[object]] = {"person": [], "item": [], "type": [], "time": []}

    def add(person: int, item: int, kind: str, time: datetime.datetime) -> None:
        for name, value in zip(columns, (person, item, kind, time), strict=True):
            columns[name].append(value)

    of_all = np.cumsum(popular)
    for person in range(PEOPLE):
        liked = random.permutation(TOPICS)[:3]
        liking = random.gamma(0.5, 1, ITEMS)  # nobody likes all of a topic
        taste = np.cumsum(popular * np.isin(topic_of, liked) * liking)
        days = [int(random.integers(0, 30)), *np.sort(random.integers(30, DAYS, SESSIONS))]
        for session, day in enumerate(days):
            time = START + datetime.timedelta(days=int(day), minutes=int(random.integers(0, 1380)))
            for place in range(5):
                curious = place > 0 and random.random() < 1 / 3
                weights = of_all if curious else taste
                item = int(np.searchsorted(weights, random.random() * weights[-1], side="right"))
                add(person, item, "view", time + datetime.timedelta(seconds=60 * place))
                if not curious and (random.random() < 0.3 or (session, place) == (0, 0)):
                    add(person, item, "cart", time + datetime.timedelta(seconds=60 * place + 20))
                    if random.random() < 0.4 or (session, place) == (0, 0):
                        add(person, item, "purchase", time + datetime.timedelta(seconds=60 * place + 40))
    times = pa.array(columns.pop("time"), pa.timestamp("us", "UTC"))
    return pa.table({**columns, "time": times})


def code(folder: Path, weights: tuple[float, ...]) -> Path:
    """Return a folder with the code of the jobs and a tracking plan with these weights."""
    folder.mkdir()
    for name in ("common", "jobs"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "sources" / "known_tastes").mkdir(parents=True)
    (folder / "sources" / "known_tastes" / "events.toml").write_text(SOURCE)
    plan = "".join(
        f'[types.{name}]\ndescription = "A {name}."\nweight = {weight}\ntarget = {str(name == "purchase").lower()}\n'
        for name, weight in zip(("view", "cart", "purchase"), weights, strict=True)
    )
    (folder / "sources" / "tracking_plan.toml").write_text(plan)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seed", type=int, default=1, help="of the events")
    seed = parser.parse_args().seed
    with tempfile.TemporaryDirectory() as scratch:
        lake, table = Path(scratch) / "lake", events(seed)
        arrival = START.date() + datetime.timedelta(days=DAYS)
        delivery = lake / "raw" / "events" / "known_tastes" / f"arrival={arrival}" / "events.parquet"
        delivery.parent.mkdir(parents=True)
        pq.write_table(table, delivery)
        lines = ["| weights | view | cart | purchase | users | model | nDCG@10 | 95 % |", "|---" * 8 + "|"]
        for number, (name, weights) in enumerate(PLANS.items()):
            folder = code(Path(scratch) / f"plan-{number}", weights)
            if number == 0:
                counts = run(lake, "ingest_events", run_id="ingest", code=folder)["events_by_type"]
            run(lake, "build_interactions", run_id=folder.name, code=folder)
            source = ("--from", "interactions=build_interactions")
            found = run(lake, "train_recommender", *source, run_id=folder.name, code=folder)
            best = found["models"][found["model"]]
            cells = (name, *weights, f"{found['test_users']:,}", found["model"], f"{best['ndcg']:.4f}")
            lines.append(f"| {' | '.join(map(str, cells))} | {best['ndcg_low']:.4f} to {best['ndcg_high']:.4f} |")
    body = "\n".join([f"Events: {', '.join(f'{count:,} {kind}' for kind, count in counts.items())}", "", *lines])
    measure.record("Weights by type of event", f"python -m benchmarks.weights --seed {seed}", body)


if __name__ == "__main__":
    main()

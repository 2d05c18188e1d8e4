"""Quality of the recommenders on MovieLens 100K through the jobs, from u.data to recommendations.

The jobs cut in time: models are fitted on earlier ratings and judged on those of the last days. So the figures are not
those of the published protocol (`benchmarks.movielens`), which draws ratings at random. Nobody rates a film twice, so
only films new to the user are recommended.
"""

import argparse
import json
import tempfile
from pathlib import Path

from benchmarks.job import run

ARRIVAL = "1998-04-23"  # the day after the last rating
WINDOWS = ["test_days=60", "tuning_days=60"]
INTERACTIONS = ["--from", "interactions=build_interactions"]
MODEL = ["--from", "model=train_recommender"]


def deliver(source: Path, lake: Path) -> None:
    """Write the ratings as u.data, which has no header, and the films as u.item if the source has them."""
    raw = lake / "raw" / "events" / "movielens_100k" / f"arrival={ARRIVAL}" / "u.data"
    raw.parent.mkdir(parents=True)
    with source.open() as lines, raw.open("w") as file:
        file.writelines(line for line in lines if line[:1].isdigit())
    films = source.with_name("u.item")
    if films.exists():
        copy = lake / "raw" / "items" / "movielens_100k" / f"arrival={ARRIVAL}" / "u.item"
        copy.parent.mkdir(parents=True)
        copy.write_bytes(films.read_bytes())


def settings(*values: str) -> list[str]:
    return [word for value in values for word in ("--set", value)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--movielens", type=Path, required=True, help="u.data, or a copy of it with a header")
    source = parser.parse_args().movielens
    with tempfile.TemporaryDirectory() as name:
        lake = Path(name)
        deliver(source, lake)
        run(lake, "ingest_events")
        if (lake / "raw" / "items").exists():
            run(lake, "ingest_items")
        run(lake, "build_interactions", *settings(*WINDOWS))
        trained = run(lake, "train_recommender", *INTERACTIONS, *settings("repeats=false"))
        run(lake, "predict_recommendations", *INTERACTIONS, *MODEL, "--map-index", "0")
        predictions = ["--from", "predictions=predict_recommendations"]
        selected = run(lake, "select_recommendations", *predictions, *MODEL, "--map-index", "0")
    print(json.dumps({"train_recommender": trained, "select_recommendations": selected}, indent=1, default=str))


if __name__ == "__main__":
    main()

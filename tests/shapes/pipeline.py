"""A team's way from delivered files to published products, by the jobs that the pipelines run, in this process."""

import contextlib
import datetime
import gzip
import io
import itertools
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recommending_lake import Lake
from tastes import ITEMS, PEOPLE

from common.delivery.dynamodb.store import DynamoDB
from common.delivery.store import table_name

FIRST = 3  # recommendations of a user: few that they would like are new to them
Rows = list[dict[str, Any]]


class Shop(Lake):
    """The lake of one shape; each method runs jobs that must succeed, and publishes their product."""

    def __init__(self, folder: Path, arrival: datetime.date, prefix: str) -> None:
        super().__init__(folder)
        self.arrival = arrival
        self.prefix = prefix

    def deliver(self, folder: str, name: str, text: str, encoding: str = "utf-8") -> None:
        """Write a file below the raw level, gzipped if its name says so."""
        file = self.folder / "lake" / "raw" / folder / f"arrival={self.arrival}" / name
        file.parent.mkdir(parents=True)
        content = text.encode(encoding)
        file.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)

    def metrics(self, task: str) -> dict[str, Any]:
        return self.manifest(task)["metrics"]

    def succeed(self, job: str, *arguments: str, **more: Any) -> None:
        assert self.run(job, *arguments, **more) == 0, f"{job} failed, see the last line on stderr"

    def publish(self, task: str, folder: str = "") -> DynamoDB:
        """Publish the product that a task made, its manifest in a folder; return its store."""
        (output,) = (each for each in self.manifest(folder or task)["outputs"].values())
        store = DynamoDB.open("dynamodb:", table_name(self.prefix, output["contract"]), 4)
        store.create(None)
        arguments = ["--from", f"product={task}", "--set", f"tables={self.prefix}", "--set", "store=dynamodb:"]
        self.succeed("write_product", *arguments, task=f"write_{task}", map_index=0)
        self.succeed("publish_product", "--from", f"parts=write_{task}", task=f"publish_{task}")
        return store

    # -- curated datasets

    def ingest_events(self, reasons: dict[str, int], duplicates: int = 0) -> None:
        """Ingest the events; nothing is lost, and records were quarantined for these reasons."""
        self.succeed("ingest_events")
        metrics = self.metrics("ingest_events")
        assert metrics["reasons"] == reasons
        assert metrics["duplicates"] == duplicates
        assert metrics["events"] == len(self.events())
        assert metrics["lines"] == sum(metrics[name] for name in ("events", "duplicates", "unusable")) + sum(
            metrics["not_kept"].values()
        )
        quarantined = Counter(row["reason"] for row in self.rows("ingest_events").to_pylist())
        assert quarantined == reasons

    def events(self) -> Rows:
        return self.dataset("curated/events").to_pylist(maps_as_pydicts="strict")

    def count_by(self, column: str) -> dict[str, int]:
        return dict(Counter(row[column] for row in self.events()))

    def ingest_items(self) -> dict[str, dict[str, Any]]:
        """Ingest the catalogue; return it by item."""
        self.succeed("ingest_items")
        return {row["item_id"]: row for row in self.dataset("curated/items").to_pylist(maps_as_pydicts="strict")}

    def ingest_users(self) -> Rows:
        self.succeed("ingest_users")
        return self.dataset("curated/users").to_pylist(maps_as_pydicts="strict")

    # -- products

    def weights(self) -> dict[str, dict[str, float]]:
        """Return the weights of interactions by user and item."""
        found: dict[str, dict[str, float]] = {}
        for row in self.rows("build_interactions").to_pylist():
            found.setdefault(row["user_id"], {})[row["item_id"]] = row["weight"]
        return found

    def recommend(self) -> None:
        """Make and publish recommendations."""
        self.succeed("build_interactions")
        self.succeed("train_recommender", "--from", "interactions=build_interactions")
        sources = ("--from", "interactions=build_interactions", "--from", "model=train_recommender")
        self.succeed("predict_recommendations", *sources, map_index=0)
        sources = ("--from", "predictions=predict_recommendations", "--from", "model=train_recommender")
        self.succeed("select_recommendations", *sources, map_index=0)
        store = self.publish("select_recommendations", "select_recommendations/map-0")
        assert store.shown("a user whom nobody knows")

    def recommended(self, style: str) -> Rows:
        """Return the recommendations of a style for users, by user and rank."""
        rows = [row for row in self.rows("select_recommendations").to_pylist() if row["user_id"]]
        return sorted((row for row in rows if row["style"] == style), key=lambda row: (row["user_id"], row["rank"]))

    def names(self) -> set[str]:
        """Return the names of all recommended items."""
        return {row["item_name"] for row in self.recommended("mixed")}

    def assert_tastes(self, user: Callable[[int], Any], item: Callable[[int], Any]) -> None:
        """Assert that nearly all of the first items that are new to a user are of the taste of that user."""
        people = {str(user(person)): person for person in range(PEOPLE)}
        items = {str(item(number)): number for number in range(ITEMS)}
        fits, users = [], []
        for name, rows in itertools.groupby(self.recommended("new"), key=lambda row: row["user_id"]):
            if name in people:
                users.append(name)
                fits += [(people[name] - items[row["item_id"]]) % 2 == 0 for row in itertools.islice(rows, FIRST)]
        assert set(users) == set(people)
        assert sum(fits) >= 0.9 * len(fits)

    def similar_items(self) -> Rows:
        self.succeed("build_similar_items", "--from", "interactions=build_interactions")
        self.publish("build_similar_items")
        return self.rows("build_similar_items").to_pylist()

    def trending_items(self) -> Rows:
        settings = {"recent_days": 14, "window_days": 70, "min_people": 2}
        self.succeed("build_trending_items", *(f"--set={name}={value}" for name, value in settings.items()))
        self.publish("build_trending_items")
        return self.rows("build_trending_items").to_pylist()

    def features(self) -> None:
        """Make features of users as of four cuts and now."""
        cuts = {"horizon_days": 14, "labelled_cuts": 4, "cut_spacing_days": 14, "active_days": 60}
        self.succeed("build_user_features", *(f"--set={name}={value}" for name, value in cuts.items()))

    def characteristics(self) -> Rows:
        """Learn who churns, and publish the characteristics of all users."""
        self.features()
        self.succeed("train_churn", "--from", "features=build_user_features")
        sources = ("--from", "features=build_user_features", "--from", "model=train_churn")
        self.succeed("predict_churn", *sources, map_index=0)
        self.succeed("join_characteristics", "--from", "predictions=predict_churn")
        self.publish("join_characteristics")
        return self.rows("join_characteristics").to_pylist()

    def make_others(self) -> Rows:
        """Make and publish all products but recommendations; return the characteristics of all users."""
        assert self.similar_items()
        assert self.trending_items()
        return self.characteristics()

    # -- the impossible

    def refused(self, job: str, sentence: str, *arguments: str) -> None:
        """Run a job that must end with a sentence, found by a pattern, not with an error of the code."""
        with contextlib.redirect_stderr(io.StringIO()) as printed:
            code = self.run(job, *arguments)
        assert code in (2, 3, 4)
        assert re.search(sentence, printed.getvalue().splitlines()[-1])

    def no_future(self) -> None:
        """Make all products that need no times: no model can be judged, so popular items are shown."""
        self.recommend()
        assert self.metrics("train_recommender")["model"] == "trending"
        assert "nobody has items before a window" in self.metrics("train_recommender")["because"]
        assert not self.recommended("mixed")
        self.make_all_but_churn()

    def make_all_but_churn(self) -> None:
        """Make the other products where everyone was seen on the last day, so that nobody churned."""
        assert self.similar_items()
        assert self.trending_items()
        self.features()
        sentence = "nothing can be learned|Training needs two labelled cuts"
        self.refused("train_churn", sentence, "--from", "features=build_user_features")

"""Publications of a product into any store, in this process or in one that a test kills, and its state in the store."""

import datetime
import itertools
import json
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
from interruptions import InterruptedCalls
from recommending_lake import Lake, table

import common.delivery.bigtable.store
import common.delivery.dynamodb.store
import common.delivery.redis.store  # noqa: F401 (a forked process has imported all)
from common.delivery import versions
from common.delivery.json_values import unpacked
from common.delivery.store import POINTER, VERSIONS, Place, Store
from jobs.publish_product import main as publishing
from jobs.write_product import main as writing

CONTRACT = "recommendations@2"
AT_ONCE = datetime.timedelta(0)
HOUR = datetime.timedelta(hours=1)
BUCKETS = 3
NUMBERS = itertools.count()


class Interrupted(InterruptedCalls):
    """A store of which one call is interrupted."""

    names: ClassVar = {"read", "versions", "commit", "put", "find", "get", "items", "expire", "delete"}


class Product:
    """Runs that publish recommendations which show the run's name to each user, and the name in capitals to others."""

    def __init__(self, folder: Path, url: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.url, self.store, self.monkeypatch = folder, url, store, monkeypatch
        self.lakes: dict[str, Lake] = {}

    def compute(self, name: str, users: int = 5, age: datetime.timedelta = HOUR / 2) -> None:
        """Compute the product of a run; later ones are newer by default."""
        self.lakes[name] = lake = Lake(self.folder / name)
        rows = [
            {"user_id": user, "style": "mixed", "rank": rank, "item_id": item, "item_name": item, "score": 0.1}
            for user in (*(f"user-{number}" for number in range(users)), None)
            for rank, item in enumerate(["both", name] if user else [name.upper()], 1)
        ]
        lake.put("select", CONTRACT, table(CONTRACT, rows))
        ended = datetime.datetime.now(datetime.UTC) - age + datetime.timedelta(milliseconds=next(NUMBERS))
        manifest = lake.folder / "lake/intermediate/dag/run/select/manifest.json"
        document = json.loads(manifest.read_text())
        manifest.write_text(json.dumps({**document, "ended": ended.isoformat(timespec="milliseconds")}))

    def run(self, name: str, store: Any = None, *settings: str) -> int:
        """Return the exit code of a publication, in this process, with the store or a replaced one."""
        for task in ("write_product/map-0", "publish_product"):
            (self.lakes[name].folder / f"lake/intermediate/dag/run/{task}/manifest.json").unlink(missing_ok=True)
        with self.monkeypatch.context() as patch:
            for job in (writing, publishing):
                patch.setattr(job, "open_store", lambda url, name, threads: store or self.store)
            return publish(self.lakes[name].folder, self.url, self.store.name, 1, *settings)

    def start(self, name: str, attempt: int) -> multiprocessing.Process:
        """Start a publication, or its next attempt, in a process of its own."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["publications"])
        arguments = (self.lakes[name].folder, self.url, self.store.name, attempt)
        process: Any = context.Process(target=exit_with, args=(dict(os.environ), *arguments))
        with self.monkeypatch.context() as patch:
            patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # a server of forks has no other path
            process.start()
        return process

    def publish(self, *names: str) -> None:
        """Compute and publish products, one after another."""
        for name in names:
            self.compute(name)
            assert self.run(name) == 0

    def metrics(self, name: str, task: str = "publish_product") -> dict[str, Any]:
        metrics: dict[str, Any] = self.lakes[name].manifest(task)["metrics"]
        return metrics

    def shown(self, users: int = 5) -> str:
        """Return the run that all users and the others are shown; assert that its version is whole and lasts."""
        live = versions.pointer(self.store)
        assert live is not None
        entry = self.store.versions()[live.values["version"]]
        assert not {"kept_until", "retired", "expires"} & {*entry.values, *live.values}
        contents = [self.store.shown(f"user-{number}") for number in range(users)]
        (shown,) = {content[-1]["item_id"] for content in contents}
        assert {len(content) for content in contents} == {2}
        assert self.store.shown("nobody")[0]["item_id"] == shown.upper()
        return str(shown)

    def lasting(self) -> set[str]:
        """Return the versions with items that last, by what they show."""
        parts = {place.part for place in self.store.scan(None)}
        return {unpacked(content)[-1]["item_id"] for part in parts for _, content in self.store.items(part)}

    def unlisted(self) -> set[str]:
        """Return the versions with lasting items but no document, so that no publication would remove them."""
        parts = {place.part for place in self.store.scan(None)}
        return {part.rpartition("/")[0] for part in parts if any(True for _ in self.store.items(part))} - {
            *self.store.versions()
        }

    def end_keeping(self, *names: str) -> None:
        """End the time for which the versions of the named runs, or of all, are kept."""
        for version, entry in self.store.versions().items():
            shown = entry.values.get("content", [{"item_id": ""}])[0]["item_id"].lower()
            if "kept_until" in entry.values and (not names or shown in names):
                key = VERSIONS + version
                assert self.store.commit({key: {**entry.values, "kept_until": 1}}, {key: entry.tag})

    def copy(self, store: Store) -> "Product":
        """Copy the content of the store into another, and return the same product there."""
        pointer = versions.pointer(self.store)
        assert pointer is not None
        documents = {VERSIONS + name: entry.values for name, entry in self.store.versions().items()}
        documents[POINTER] = pointer.values
        assert store.commit(documents, dict.fromkeys(documents))
        for part in {place.part for place in self.store.scan(None)}:
            if items := [(Place(part, key), content) for key, content in self.store.items(part)]:
                store.put(items)
        other = Product(self.folder, self.url, store, self.monkeypatch)
        other.lakes = self.lakes
        return other


def publish(folder: Path, url: str, name: str, attempt: int, *settings: str) -> int:
    """Write and publish a lake's product as an attempt of both tasks; return the exit code."""
    lake = Lake(folder)
    prefix = name.removesuffix("recommendations")
    common = ("--attempt", str(attempt), "--set", "parallel=1")
    if not (lake.folder / "lake/intermediate/dag/run/write_product/map-0/manifest.json").exists():
        target = ("--set", f"store={url}", "--set", f"tables={prefix}")
        if code := lake.run("write_product", "--from", "product=select", *target, *common, map_index=0):
            return code
    limits = [argument for setting in settings for argument in ("--set", setting)]
    return lake.run("publish_product", "--from", "parts=write_product", *common, *limits)


def exit_with(environment: dict[str, str], folder: Path, url: str, name: str, attempt: int) -> None:
    """End this process with the exit code of a publication, into few buckets."""
    os.environ.update(environment)
    writing.bucket_count = lambda product, rows: BUCKETS
    sys.exit(publish(folder, url, name, attempt))

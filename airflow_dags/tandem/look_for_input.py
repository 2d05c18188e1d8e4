"""The first task of every pipeline: it checks the run, and skips it if it is scheduled and would read nothing new."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

from airflow.sdk import BaseOperator, Context, Variable

from tandem import lake
from tandem.engine_choice import FIRST_TASK
from tandem.input_sizes import deliveries
from tandem.recording import recording
from tandem.run_check import check_run
from tandem.run_kind import is_scheduled, until
from tandem.skipping import skip

TASK = FIRST_TASK
STATE = "state"  # the XCom with the state of all that a scheduled run reads
State = Mapping[str, Any]


class LookForInput(BaseOperator):
    """Checks the configuration and the parameters of a run. Skips the rest of a scheduled one if there is nothing new.

    New are raw deliveries that the ledger of their dataset lacks, or has with another size or tag. Without deliveries
    to look for, the run's datasets, its release and the settings of its tasks are compared with those of the last
    successful scheduled run. A run that a person started, a backfill, and a run that was cleared are never skipped.
    """

    template_fields = ("lake",)

    def __init__(
        self,
        *,
        lake: str,
        raw: Sequence[str],
        datasets: Sequence[str],
        products: Sequence[str],
        settings: str,
        as_of_day: bool,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.lake = lake
        self.raw = raw
        self.datasets = datasets
        self.products = products  # their fingerprints in the release count
        self.settings = settings  # a digest
        self.as_of_day = as_of_day  # True if a task reads only the data of the days before the run's

    def execute(self, context: Context) -> None:
        instance: Any = context["ti"]
        with recording(context):
            check_run(context)
            if not is_scheduled(context):
                self.log.info("A person started this run, or a backfill, so it runs whether there is new input or not.")
                return
            root = self.lake.rstrip("/")
            nothing_new = self.raw_files(root) if self.raw else self.state_since_success(root, context)
            if nothing_new and instance.max_tries <= (self.retries or 0):  # clearing a task gives it more tries
                skip(instance, nothing_new)

    def raw_files(self, root: str) -> str:
        """Return a sentence if no delivery is new, else nothing."""
        compared = []
        for folder in self.raw:
            files, new = deliveries(root, folder, datetime.now(UTC).date())
            if new:
                path = new[0].uri.removeprefix(f"{root}/")
                self.log.info("New below %s: %s of %s files, such as %s.", folder, len(new), files, path)
                return ""
            compared.append(
                f"{folder} has {files} files, and the ledger has them all" if files else f"{folder} is empty"
            )
        return f"There is nothing to ingest: {'; '.join(compared)}."

    def state_since_success(self, root: str, context: Context) -> str:
        """Return a sentence if nothing has changed since the last success, else nothing; keep the state for later."""
        if not self.datasets:
            self.log.info("No task of this pipeline reads the lake's datasets, so there is nothing to compare.")
            return ""
        instance: Any = context["ti"]
        state = self.state(root, context)
        instance.xcom_push(STATE, state)
        previous = instance.get_previous_dagrun(state="success")
        before = previous and instance.xcom_pull(task_ids=TASK, key=STATE, run_id=previous.run_id)
        if not before:
            self.log.info("No scheduled run has succeeded right before this one, so there is nothing to compare.")
            return ""
        if changed := changes(before, state):
            self.log.info("Changed since %s: %s.", previous.run_id, ", ".join(changed))
            return ""
        if self.as_of_day and not is_complete(before):
            self.log.info("Nothing changed since %s, but it was too early for the newest data.", previous.run_id)
            return ""
        return (
            f"Nothing that this pipeline reads has changed since {previous.run_id}: "
            f"{', '.join(sorted(self.datasets))}, the release and the settings are the same."
        )

    def state(self, root: str, context: Context) -> dict[str, Any]:
        """The state of all that the run reads, small enough for an XCom."""
        release = Variable.get("release", default={}, deserialize_json=True)
        return {
            "datasets": {dataset: dataset_state(root, dataset) for dataset in self.datasets},
            "release": {product: release[product] for product in self.products if product in release},
            "settings": self.settings,
            "until": until(context),
        }


def dataset_state(root: str, dataset: str) -> dict[str, Any]:
    """The state of a dataset: a digest of its partitions' manifests, and the day on which the newest was written."""
    folder = f"{root}/{dataset}"
    manifests = [each for each in lake.files(folder) if each.uri.endswith("/manifest.json")]
    digest = hashlib.sha256(json.dumps([[each.uri, each.tag] for each in manifests]).encode()).hexdigest()
    newest = max((each.changed for each in manifests), default=0.0)
    return {"manifests": len(manifests), "digest": digest, "day": str(datetime.fromtimestamp(newest, UTC).date())}


def changes(before: State, now: State) -> list[str]:
    """The names of datasets and other inputs that differ between two states."""
    datasets = [name for name, state in now["datasets"].items() if before["datasets"].get(name) != state]
    return [*datasets, *(name for name in ("release", "settings") if before[name] != now[name])]


def is_complete(state: State) -> bool:
    """Return True if a run as of a day read all that its datasets have: rows arrive until the day after ingestion."""
    newest = max(each["day"] for each in state["datasets"].values())
    return bool(state["until"] > str(date.fromisoformat(newest) + timedelta(days=1)))

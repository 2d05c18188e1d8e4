"""AWS's environment and Google's publish equal products from the same deliveries, each by its own values.

Pipelines, jobs and parameters are those of both. Only the places of tasks are not: all run as processes here.
"""

import datetime
import gzip
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest

from common.delivery.store import POINTER
from common.delivery.stores import open_store
from common.handover import storage
from tests.events import event
from tests.shapes.tastes import ITEMS, PEOPLE, iso, json_lines, separated, visits
from tools import environment
from tools.packaging.fingerprint import ROOT
from tools.sandbox import local_gcs

pytestmark = pytest.mark.timeout(1200)  # two runs of the hybrid pipeline
PYTHON = ROOT / ".venv-airflow" / "bin" / "python"
DAGS = ("ingest_events", "ingest_items", "daily_recommendations")
SEEN = "2011-06-19T10:00:00Z"  # the items, at last
PRODUCTS = ("recommendations", "similar_items")
SETTINGS = {
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "TANDEM_CODE": str(ROOT),
    "TANDEM_CONTAINERS": "process",
    "TANDEM_SPARK": "container",
}


@pytest.fixture(scope="module")
def clouds(s3_server, moto, fake_gcs, bigtable_emulator):
    """The variables of each environment that point clients at servers of this machine; both lakes have deliveries."""
    variables = {"dev": {**s3_server, "DYNAMODB_ENDPOINT": moto}, "gcp-dev": {**fake_gcs, **bigtable_emulator}}
    aws, google = (environment.load(name)["lake"] for name in variables)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**variables["dev"], **variables["gcp-dev"]}.items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket=aws.removeprefix("s3://"))
        local_gcs.make_bucket(fake_gcs["STORAGE_EMULATOR_HOST"], google.removeprefix("gs://"))
        deliver(aws)
        deliver(google)
        yield variables


def deliver(lake: str) -> None:
    """Deliver visits of people with a known taste, as purchases, and the names of the items."""
    bought = [
        event(each.number, user_id=f"u{each.person}", item_id=f"{10000 + each.item}", time=iso(each.time))
        for each in visits(datetime.date(2011, 3, 1))
    ]
    names = separated(
        [("item_id", "description", "seen"), *((f"{10000 + n}", f"Item {n}", SEEN) for n in range(ITEMS))]
    )
    events = gzip.compress(json_lines(bought).encode())
    storage.write(f"{lake}/raw/events/arrival=2011-06-20/visits.jsonl.gz", events)
    storage.write(f"{lake}/raw/items/arrival=2011-06-20/items.csv", names.encode())


def run(name: str, variables: dict[str, str], home: Path) -> None:
    """Create the tables of an environment, and run its pipelines."""
    folder = home / "dags"
    shutil.copytree(ROOT / "airflow_dags", folder, ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "environments" / f"{name}.toml").open("a") as file:
        file.write(f'\n[container.process]\npython = "{sys.executable}"\n')
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW_", "TANDEM_", "AWS_"))}
    settings = {**inherited, **variables, **SETTINGS, "TANDEM_ENVIRONMENT": name}
    settings |= {"AIRFLOW_HOME": str(home), "AIRFLOW__CORE__DAGS_FOLDER": str(folder)}
    for command in (
        [sys.executable, "-m", "tools.tables", "--environment", name],
        [PYTHON, "-m", "tests.programs.run_dags", folder, *DAGS],
    ):
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        ran = subprocess.run(command, cwd=ROOT, env=settings, **output)
        assert ran.returncode == 0, ran.stdout[-20000:]


def published(name: str) -> dict[str, dict[str, object]]:
    """All items of the live versions of an environment's products, and their default items."""
    delivery = environment.load(name)["delivery"]
    found = {}
    for product in PRODUCTS:
        store = open_store(delivery["store"], f"{delivery['tables']}{product}")
        version = store.read(POINTER)[0].values
        parts = [f"{version['version']}/{bucket}" for bucket in range(version["buckets"])]
        found[product] = {key: content for part in parts for key, content in store.items(part)}
        found[f"default of {product}"] = version.get("default")
    return found


def test_clouds_publish_equal_products_from_the_same_deliveries(clouds, make_home):
    with ThreadPoolExecutor() as pool:
        runs = [pool.submit(run, name, variables, make_home()) for name, variables in clouds.items()]
    for ended in runs:
        ended.result()
    aws, google = published("dev"), published("gcp-dev")
    assert aws == google
    assert len(aws["recommendations"]) == PEOPLE
    assert len(aws["similar_items"]) == ITEMS

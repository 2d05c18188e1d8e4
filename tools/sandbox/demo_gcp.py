"""The demo on Google's parts: a lake on gs://, Spark jobs through Dataproc's API, products in Bigtable.

All of them are servers on this machine, which are stopped at the end; their data are lost then.
"""

import argparse
import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.table import Table

from tools import tables
from tools.command_line import exit_on_task_error
from tools.packaging.fingerprint import ROOT
from tools.sandbox import local_bigtable, local_gcs, servers
from tools.sandbox.demo import Clock, add_sample_argument, console, print_users, read_products, run
from tools.sandbox.demo_emr import print_lake, release_bundles

NODE = "tools.sandbox.dataproc_node"
PYTHON = ROOT / ".venv-airflow" / "bin" / "python"  # has the messages of Dataproc's API
STORE = "bigtable://tandem-123456/tandem"


@exit_on_task_error()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_sample_argument(parser)
    show(parser.parse_args().sample, Clock())


def show(sample: Path, clock: Clock) -> None:
    """Run the pipelines; print tasks, models, clusters with their jobs, the lake, and users with recommendations."""
    lake = f"gs://{local_gcs.BUCKET}/lake"
    with local_gcs.serve() as storage, local_bigtable.serve() as bigtable, dataproc(storage) as (endpoint, ended):
        variables = {**storage, **bigtable, "DATAPROC_ENDPOINT": endpoint, "TANDEM_SPARK": "dataproc"}
        os.environ.update(variables, TANDEM_STORE=STORE)
        for name, value in variables.items():
            clock.report(f"{name}={value}")
        for _ in tables.create("laptop"):
            pass
        os.environ["AIRFLOW_VAR_RELEASE"] = json.dumps(release_bundles(lake))
        clock.report(f"the bundles of all Spark jobs are in {lake}, and Airflow's variable `release` names them")
        published = run(lake, sample, clock)
        print_clusters(ended())
        print_lake(lake)
        print_users(published, read_products(published))
    console.print(f"All servers are stopped. Done in {clock.seconds:.0f} s.")


@contextlib.contextmanager
def dataproc(variables: dict[str, str]) -> Iterator[Any]:
    """Run Dataproc's API and its node during this block; yield its address, and a function that ends it earlier.

    That one returns the clusters that are gone.
    """
    environment = {**os.environ, **variables, "PYTHONPATH": str(ROOT)}
    with servers.announcing(PYTHON, NODE, environment) as (endpoint, node):

        def end() -> Any:
            node.terminate()
            return json.loads(node.communicate()[0])

        yield endpoint, end


def print_clusters(clusters: list[dict[str, Any]]) -> None:
    """Print clusters that are gone, and their jobs."""
    table = Table(title="Clusters and their jobs", title_justify="left")
    for heading in ("", "state", "began after, s", "took, s"):
        table.add_column(heading, justify="right" if heading.endswith(", s") else "left", overflow="fold")
    for cluster in clusters:
        for each, name in [(cluster, f"[bold]{cluster['name']}[/]"), *((job, job["name"]) for job in cluster["jobs"])]:
            waited = "" if each["waited"] is None else f"{each['waited']:.1f}"
            table.add_row(name, each["state"], waited, f"{each['took']:.1f}")
    console.print(table)


if __name__ == "__main__":
    main()

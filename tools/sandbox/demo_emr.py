"""The demo with its Spark jobs on EMR: moto provides the interface, a node on this machine runs the steps.

The lake is on an S3 server on this machine. All servers are stopped at the end; the lake stays in a folder.
"""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.table import Table

from common.handover import storage
from tools.command_line import exit_on_task_error
from tools.packaging.build import build_bundle
from tools.packaging.fingerprint import jobs, product
from tools.run.submit import upload
from tools.sandbox import local_dynamodb, local_s3, servers
from tools.sandbox.demo import Clock, add_s3_arguments, console, run

NODE = "tools.sandbox.emr_node"


@exit_on_task_error()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_s3_arguments(parser)
    arguments = parser.parse_args()
    show(arguments.folder, arguments.sample, Clock())


def show(folder: Path, sample: Path, clock: Clock) -> None:
    """Run the pipelines and print tasks, clusters, steps and the lake."""
    lake = f"s3://{local_s3.BUCKET}/lake"
    with local_s3.running(folder) as variables:
        os.environ.update(variables)
        clock.report(f"an S3 server is at {variables['AWS_ENDPOINT_URL']}, the lake in its {lake}")
        with emr(clock), local_dynamodb.running():
            os.environ["AIRFLOW_VAR_RELEASE"] = json.dumps(release_bundles(lake))
            clock.report("the bundles of all Spark jobs are in the lake, and Airflow's variable `release` names them")
            run(lake, sample, clock)
            print_clusters()
            print_lake(lake)
    console.print(f"The lake stays in {folder / local_s3.BUCKET}. Done in {clock.seconds:.0f} s.")


@contextlib.contextmanager
def emr(clock: Clock) -> Iterator[None]:
    """Run EMR's interface and its node in a separate process; Spark jobs run there during this block."""
    with servers.announcing(sys.executable, NODE) as (url, _):
        clock.report(f"EMR's interface is at {url}")
        os.environ.update(AWS_ENDPOINT_URL_EMR=url, TANDEM_SPARK="emr")
        try:
            yield
        finally:
            for name in ("AWS_ENDPOINT_URL_EMR", "TANDEM_SPARK"):
                os.environ.pop(name, None)


def release_bundles(lake: str) -> dict[str, str]:
    """Build the bundles of all Spark jobs and upload them to the lake; return their fingerprints by job."""
    release = {}
    for wanted in map(product, jobs()):
        if wanted.job.engine == "spark":
            build_bundle(wanted)
            upload(wanted, lake)
            release[wanted.job.name] = wanted.fingerprint
    return release


def print_clusters() -> None:
    """Print all clusters and their steps."""
    import boto3

    client = boto3.client("emr")
    table = Table(title="Clusters and their steps", title_justify="left")
    for heading in ("", "state", "began after, s", "took, s"):
        table.add_column(heading, justify="right" if heading.endswith(", s") else "left", overflow="fold")
    listed = client.list_clusters()["Clusters"]
    clusters = [client.describe_cluster(ClusterId=each["Id"])["Cluster"] for each in listed]
    for cluster in sorted(clusters, key=lambda cluster: moment(cluster, "CreationDateTime")):
        status, created = cluster["Status"], moment(cluster, "CreationDateTime")
        ready, ended = moment(cluster, "ReadyDateTime"), moment(cluster, "EndDateTime")
        reason = status["StateChangeReason"]["Code"]
        name = f"[bold]{cluster['Name']}[/] {cluster['Id']}"
        table.add_row(name, f"{status['State']} ({reason})", seconds(created, ready), seconds(created, ended))
        for step in reversed(client.list_steps(ClusterId=cluster["Id"])["Steps"]):
            began, done = moment(step, "StartDateTime"), moment(step, "EndDateTime")
            table.add_row(f"  {step['Name']}", step["Status"]["State"], seconds(created, began), seconds(began, done))
    console.print(table)


def moment(described: dict[str, Any], name: str) -> datetime:
    time: datetime = described["Status"]["Timeline"][name]
    return time


def seconds(since: datetime, until: datetime) -> str:
    return f"{(until - since).total_seconds():.1f}"


def print_lake(lake: str) -> None:
    table = Table(title="The lake", title_justify="left")
    for heading in ("folder", "files", "MB"):
        table.add_column(heading, justify="left" if heading == "folder" else "right")
    sizes: dict[str, list[int]] = {}
    for file in storage.files(lake):
        top = "/".join(file.uri.removeprefix(f"{lake}/").split("/")[:2])
        sizes.setdefault(top, []).append(file.bytes)
    for top, amounts in sorted(sizes.items()):
        table.add_row(top, f"{len(amounts):,}", f"{sum(amounts) / 1e6:.1f}")
    console.print(table)


if __name__ == "__main__":
    main()

"""The tables that an environment's products are published to: make those that are missing."""

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from common import contracts
from common.delivery import tables
from common.errors import ArgumentError, TaskError
from tools.environment import load

ROOT = Path(__file__).resolve().parent.parent
LOCAL = ROOT / ".tandem" / "dynamodb"  # where a local Airflow notes the server that it brought along


def delivery(environment: str) -> dict[str, Any]:
    """The section [delivery] of an environment; ArgumentError if there is no such environment."""
    section: dict[str, Any] = load(environment)["delivery"]
    return section


def reach(environment: str) -> None:
    """Let DYNAMODB_ENDPOINT name a local Airflow's server, if it names none and the environment is the laptop's."""
    if environment == "laptop" and not os.environ.get("DYNAMODB_ENDPOINT"):
        if not LOCAL.is_file():
            raise ArgumentError(
                "The laptop's DynamoDB runs while a local Airflow does; start one (make airflow), or name another "
                "server in DYNAMODB_ENDPOINT."
            )
        os.environ["DYNAMODB_ENDPOINT"] = LOCAL.read_text()
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            os.environ.setdefault(name, "local")
        os.environ.setdefault("AWS_DEFAULT_REGION", "eu-central-1")


def products() -> list[str]:
    """The names of all products, sorted: one for all versions of a contract that says [product]."""
    files = (ROOT / "common" / "contracts").glob("*.toml")
    return sorted({file.stem.partition("@")[0] for file in files if contracts.load(file.stem).product})


def create(environment: str) -> Iterator[tuple[str, list[str]]]:
    """Make the table of each product, complete; its name, and what of it was missing."""
    section = delivery(environment)
    capacity = None
    if section["billing"] == "provisioned":
        capacity = {"ReadCapacityUnits": section["read_units"], "WriteCapacityUnits": section["write_units"]}
    client = tables.client()
    for product in products():
        name = tables.table_name(section["tables"], product)
        yield name, tables.create(client, name, capacity)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environment", required=True, metavar="NAME", help="one of airflow_dags/environments")
    environment = parser.parse_args().environment
    shown = Table("table", "", title=f"Tables of {environment}", title_justify="left")
    try:
        reach(environment)
        for name, missing in create(environment):
            shown.add_row(name, f"[green]made: {', '.join(missing)}[/]" if missing else "was there")
    except TaskError as error:
        sys.exit(str(error))
    Console().print(shown)


if __name__ == "__main__":
    main()

"""Create the missing tables of an environment's products in its store."""

import argparse
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from common import contracts
from common.delivery.store import Store, table_name
from common.delivery.stores import open_store
from common.errors import ArgumentError
from tools.command_line import exit_on_task_error
from tools.environment import load

ROOT = Path(__file__).resolve().parent.parent
LOCAL = ROOT / ".tandem" / "dynamodb"  # a local Airflow writes the endpoint of its server there


def delivery(environment: str) -> dict[str, Any]:
    """Return the section [delivery] of an environment; ArgumentError if there is no such environment."""
    section: dict[str, Any] = load(environment)["delivery"]
    return section


def open_product(section: Mapping[str, Any], product: str, threads: int = 1) -> Store:
    """Return the store of a product by the section [delivery] of an environment."""
    return open_store(section["store"], table_name(section["tables"], product), threads)


def needs_local_server(environment: str) -> bool:
    """Return True if the products are in the DynamoDB of a local Airflow, and DYNAMODB_ENDPOINT names no other one."""
    if os.environ.get("DYNAMODB_ENDPOINT") or environment != "laptop":
        return False
    return bool(delivery(environment)["store"] == "dynamodb:")


def lacks_local_server(environment: str) -> bool:
    """Return True if the products are in the DynamoDB of a local Airflow, which does not run."""
    return needs_local_server(environment) and not LOCAL.is_file()


def use_local_server(environment: str) -> None:
    """Set DYNAMODB_ENDPOINT to a local Airflow's server if the products are there."""
    if needs_local_server(environment):
        if not LOCAL.is_file():
            raise ArgumentError(
                "The laptop's DynamoDB runs only while a local Airflow does; start one (make airflow), or set "
                "DYNAMODB_ENDPOINT to another server."
            )
        os.environ["DYNAMODB_ENDPOINT"] = LOCAL.read_text()
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            os.environ.setdefault(name, "local")
        os.environ.setdefault("AWS_DEFAULT_REGION", "eu-central-1")


def products() -> list[str]:
    """Return the names of all products, sorted: one for all versions of a contract with a section [product]."""
    files = (ROOT / "common" / "contracts").glob("*.toml")
    return sorted({file.stem.partition("@")[0] for file in files if contracts.load(file.stem).product})


def create(environment: str) -> Iterator[tuple[str, list[str]]]:
    """Create or complete the table of each product; yield its name and its missing parts."""
    section = delivery(environment)
    units = (section["read_units"], section["write_units"]) if section["billing"] == "provisioned" else None
    for product in products():
        store = open_product(section, product)
        with store.explained():
            yield store.name, store.create(units)


@exit_on_task_error()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environment", required=True, metavar="NAME", help="one of airflow_dags/environments")
    environment = parser.parse_args().environment
    summary = Table("table", "", title=f"Tables of {environment}", title_justify="left")
    use_local_server(environment)
    for name, missing in create(environment):
        summary.add_row(name, f"[green]created: {', '.join(missing)}[/]" if missing else "up to date")
    Console().print(summary)


if __name__ == "__main__":
    main()

"""What tools know of an environment; by itself: all its values, and the file that each comes from."""

import argparse
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from common.errors import ArgumentError

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENTS = ROOT / "airflow_dags" / "environments"
sys.path.append(str(ROOT / "airflow_dags"))  # the part of it that needs no Airflow

from tandem import settings  # noqa: E402
from tandem.dag_errors import PipelineError as PipelineError  # noqa: E402
from tandem.settings import Settings as Settings  # noqa: E402
from tandem.texts import ON_YARN as ON_YARN  # noqa: E402
from tandem.texts import check_texts as check_texts  # noqa: E402


def load(name: str) -> Settings:
    """An environment's settings; ArgumentError names what is wrong or missing in its files."""
    try:
        return settings.load(ENVIRONMENTS, name, "ENV")
    except PipelineError as error:
        raise ArgumentError(str(error)) from None


def needed(said: Settings, key: str, example: str) -> Any:
    """A value that an environment may leave out; ArgumentError says what to write if it does."""
    if said.get(key) is None:
        raise ArgumentError(f'{said.file} names no {key}, expected {key} = "{example}"; add it there.')
    return said[key]


def lake(said: Settings) -> str:
    """The URI of an environment's lake; ArgumentError where only Airflow can tell it."""
    if "{{" in said["lake"]:
        raise ArgumentError(
            f"The lake of {said.file} is a template of Airflow's; {said.name} has nothing to deploy to."
        )
    return str(said["lake"]).rstrip("/")


def root(said: Settings, named: str | None) -> str:
    """The URI of the lake that a tool works on: the one that was named, else the environment's, here on a laptop."""
    here = f"file://{ROOT}/.tandem/lake"
    return (named or (here if said.name == "laptop" else lake(said))).rstrip("/")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environment", required=True, metavar="NAME", help="one of airflow_dags/environments")
    try:
        said = load(parser.parse_args().environment)
    except ArgumentError as error:
        sys.exit(str(error))
    table = Table("key", "value", "from", title=f"Environment {said.name}", title_justify="left")
    for path, value in sorted(settings.leaves(said.table)):
        table.add_row(".".join(path), str(value), said.sources[path])
    Console(width=None if sys.stdout.isatty() else 160).print(table)


if __name__ == "__main__":
    main()

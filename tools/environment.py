"""Settings of an environment, for tools; as a program: print all values, and the file of each."""

import argparse
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from common.errors import ArgumentError
from common.handover.command_line import lake_uri
from tools.command_line import exit_on_task_error

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENTS = ROOT / "airflow_dags" / "environments"
sys.path.append(str(ROOT / "airflow_dags"))  # its modules without an import of Airflow

from tandem import settings  # noqa: E402
from tandem.dag_errors import PipelineError as PipelineError  # noqa: E402
from tandem.settings import Settings as Settings  # noqa: E402
from tandem.texts import ON_YARN as ON_YARN  # noqa: E402
from tandem.texts import check_texts as check_texts  # noqa: E402


def load(name: str) -> Settings:
    """Load an environment's settings; ArgumentError names the wrong or missing value in its files."""
    try:
        return settings.load(ENVIRONMENTS, name, "ENV")
    except PipelineError as error:
        raise ArgumentError(str(error)) from None


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that name the environment and the lake of a tool, for `load` and `resolve_lake`."""
    parser.add_argument(
        "--environment", default="laptop", metavar="NAME", help="its lake, tables and settings; laptop if absent"
    )
    parser.add_argument("--lake", type=lake_uri, metavar="URI", help="root of another lake")


def require(settings: Settings, key: str, example: str) -> Any:
    """Return a value that an environment may omit; ArgumentError with an example if it does."""
    if settings.get(key) is None:
        raise ArgumentError(f'{settings.file} has no {key}, expected {key} = "{example}"; add it there.')
    return settings[key]


def lake(settings: Settings) -> str:
    """Return the URI of an environment's lake; ArgumentError if only Airflow can render it."""
    if "{{" in settings["lake"]:
        raise ArgumentError(
            f"The lake in {settings.file} is an Airflow template; {settings.name} has nothing to deploy to."
        )
    return str(settings["lake"]).rstrip("/")


def resolve_lake(settings: Settings, uri: str | None) -> str:
    """Return the URI of the lake for a tool: the given one, else the environment's, on a laptop the checkout's."""
    local = f"file://{ROOT}/.tandem/lake"
    return (uri or (local if settings.name == "laptop" else lake(settings))).rstrip("/")


@exit_on_task_error()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environment", required=True, metavar="NAME", help="one of airflow_dags/environments")
    loaded = load(parser.parse_args().environment)
    table = Table("key", "value", "from", title=f"Environment {loaded.name}", title_justify="left")
    for path, value in sorted(settings.leaves(loaded.table)):
        table.add_row(".".join(path), str(value), loaded.sources[path])
    Console(width=None if sys.stdout.isatty() else 160).print(table)


if __name__ == "__main__":
    main()

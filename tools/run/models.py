"""List the models that shipped: when, by which run, with which quality, and the card of each."""

import argparse
import sys

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common import protocol
from common.errors import InputError
from common.reporting import history
from common.reporting.history import ShippedModel
from tools import environment
from tools.command_line import exit_on_task_error

RUNS = 400  # of each pipeline: a year of daily ones
PUBLISHED = {True: "yes", False: "refused", None: ""}

console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)


@exit_on_task_error()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    environment.add_options(parser)
    arguments = parser.parse_args()
    lake = environment.resolve_lake(environment.load(arguments.environment), arguments.lake)
    found = history.models(lake, RUNS)
    if not found:
        raise InputError(f"{lake} has no record of a run that shipped a model; run daily_recommendations first.")
    table = Table(title=f"Models, newest first; cards are in {lake}/{protocol.REPORTS}", title_justify="left")
    for heading in ("shipped (UTC)", "pipeline", "style", "model", "quality", "published", "run", "card"):
        table.add_column(heading, overflow="fold")
    for each in found:
        table.add_row(*map(escape, cells(each)))
    console.print(table)


def cells(each: ShippedModel) -> list[str]:
    """Return the cells of a model's row."""
    interval = f" ({each.low:.4f} to {each.high:.4f})" if each.low is not None and each.high is not None else ""
    quality = f"{each.figure} {each.value:.4f}{interval}"
    shipped = [f"{each.time:%Y-%m-%d %H:%M}", each.dag, each.style, each.model, quality]
    return [*shipped, PUBLISHED[each.published], each.run, each.card]


if __name__ == "__main__":
    main()

"""Make the index page over the runs of all pipelines anew from their records, and open it in the browser.

The page of a lake in an object store is fetched, with the cards of the newest runs.
"""

import argparse
import os
import sys
import webbrowser
from pathlib import Path

from rich.console import Console

from common.errors import InputError
from common.handover import storage
from common.reporting import index
from common.reporting.words import counted
from tools import environment
from tools.command_line import exit_on_task_error

FETCHED = 10  # cards of each pipeline

console = Console(highlight=False)


@exit_on_task_error()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    environment.add_options(parser)
    arguments = parser.parse_args()
    lake = environment.resolve_lake(environment.load(arguments.environment), arguments.lake)
    count = index.rebuild(lake)
    if not count:
        raise InputError(f"{lake} has no record of a run; run a pipeline first, such as by make demo.")
    page = fetch(lake) if storage.is_remote(lake) else storage.local(index.page_uri(lake))
    console.print(f"{counted(count, 'run')}: {page}", soft_wrap=True)
    if has_screen():
        webbrowser.open(page.as_uri())


def fetch(lake: str) -> Path:
    """Copy the index page and the newest cards to this machine; return the page's path."""
    folder = environment.ROOT / ".tandem" / "reports" / lake.partition("://")[2]
    reports = index.page_uri(lake).rpartition("/")[0]

    def copy(name: str) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            (folder / name).write_bytes(storage.read(f"{reports}/{name}")[0])
        except FileNotFoundError:  # an expired card, or one that was never made
            console.print(f"{reports}/{name} is gone.", soft_wrap=True)

    newest = index.newest(index.read(lake)[0] or [], FETCHED)
    storage.in_parallel(copy, ["index.html", *(entry.card for entry in newest)])
    return folder / "index.html"


def has_screen() -> bool:
    """Return True if a browser of this machine has a screen, and a person called this program."""
    return sys.stdout.isatty() and (
        sys.platform == "darwin" or bool({"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys())
    )


if __name__ == "__main__":
    main()

"""Forget people: remove them from a lake and its tables, and keep them out.

First they are added to the suppression list, so that ingestion drops their new records; then all files and tables are
searched until nothing is found. User IDs come from a file, from standard input (-) or from the variable
TANDEM_FORGET_USER. Without any, open requests are finished, and newly arrived data of all listed people is erased.
"""

import argparse
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table as Shown

from common.delivery.store import Store
from common.errors import ArgumentError, TaskError
from common.handover import storage
from common.ingestion import suppression
from common.ingestion.suppression import People
from tools import environment
from tools.environment import Settings
from tools.lake import forget_tables
from tools.lake.forget_lake import Lake, Pass
from tools.lake.forget_requests import RECEIPTS, Request, Requests, complete, open_requests, save
from tools.packaging.fingerprint import ROOT
from tools.tables import lacks_local_server, use_local_server

VARIABLE = "TANDEM_FORGET_USER"
REPLAYS = ROOT / ".tandem" / "replay"  # copies of task inputs, which make replay fetches anew
MAX_PASSES = 50
MAX_WAIT = 300.0  # seconds that it waits until it can finish; otherwise a second call finishes

console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)


@dataclass
class Outcome:
    """The end of a search: its last pass, the number of table items, the number of passes."""

    last: Pass
    items: int
    passes: int

    @property
    def unresolved(self) -> list[str]:
        """Files that the tool cannot change: unreadable ones, and models of people."""
        return self.last.unreadable + [f"{name} (a model that names people)" for name in self.last.models]

    def seconds_to_wait(self, requests: Requests, grace: float) -> float:
        """Return the time during which tasks may still use, or publish from, files of before the last change."""
        changes = [request.last_change for request in requests.requests if request.last_change]
        since = max([*changes, *([self.last.waiting_since] if self.last.waiting else [])], default=None)
        return 0 if since is None else max(0, since + grace - time.time())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    environment.add_options(parser)
    parser.add_argument("--users", metavar="FILE", help="user IDs, one per line; - is standard input")
    parser.add_argument(
        "--grace-minutes",
        type=float,
        metavar="NUMBER",
        help="how long a task may use files from before; forget_grace_minutes if absent",
    )
    arguments = parser.parse_args()
    settings = environment.load(arguments.environment)
    root = environment.resolve_lake(settings, arguments.lake)
    try:
        minutes = settings["forget_grace_minutes"] if arguments.grace_minutes is None else arguments.grace_minutes
        sys.exit(forget(root, settings, read_ids(arguments.users), minutes * 60))
    except TaskError as error:
        sys.exit(str(error))
    except Exception as error:
        if failure := storage.explain(error, root):
            sys.exit(str(failure))
        if isinstance(error, OSError):
            sys.exit(f"{error}; grant this tool read and write access to the lake and rerun it, it resumes from here.")
        raise


def read_ids(file: str | None) -> list[str]:
    """Return the IDs to forget, none to finish open requests; messages of ArgumentError contain no ID."""
    if file is None:
        user_id = os.environ.get(VARIABLE)
        ids = [] if user_id is None else [user_id]
    else:
        try:
            content = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
            ids = [line.removesuffix("\r") for line in content.decode("utf-8-sig").split("\n")]
        except OSError as error:
            raise ArgumentError(f"{file} can't be read ({error.strerror}); name a file of user IDs.") from None
        except UnicodeDecodeError as error:
            raise ArgumentError(f"{file} is not UTF-8 at byte {error.start}; save it as UTF-8.") from None
        ids = [each for each in ids if each]
        if not ids:
            raise ArgumentError(f"{file} has no user ID, expected one per line.")
    if "" in ids:
        raise ArgumentError("The user ID is empty, expected USER=ID or USERS_FILE=FILE.")
    return sorted(set(ids))


def forget(root: str, settings: Settings, ids: list[str], grace: float) -> int:
    """Forget people, or finish open requests; return 0 if all is done, 1 if files have to wait or to be repaired."""
    if not storage.is_remote(root) and not storage.local(root).is_dir():
        raise ArgumentError(f"There is no lake at {root}; correct LAKE or ENV.")
    stores = personal_stores(settings)
    people, requests = begin(root, ids)
    if people is None:
        console.print(f"Nobody was forgotten in {root} so far; there is nothing to finish.")
        return 0
    shutil.rmtree(REPLAYS, ignore_errors=True)
    lake = Lake(root, people, requests, grace, console)
    while True:
        outcome = search(lake, stores, settings)
        if outcome.unresolved or not (wait := outcome.seconds_to_wait(requests, grace)):
            return finish(root, requests, outcome, [store.name for store in stores], grace)
        if wait > MAX_WAIT:
            return postpone(outcome, wait)
        with console.status(f"waiting {wait:.0f} s for running tasks, which may read replaced files"):
            time.sleep(wait)


def begin(root: str, ids: list[str]) -> tuple[People | None, Requests]:
    """Return the people to search for and their requests; no people if nobody was ever forgotten."""
    known = open_requests(root)
    if ids:
        people = suppression.add(root, ids)
        users = sorted(people.hashes)
        request = next((each for each in known if each.users == users), None) or Request(users)
        save(root, request)
        return people, Requests(root, [request])
    everyone = suppression.load(root)
    if everyone is None:
        return None, Requests(root, [])
    others = everyone.hashes - {user for request in known for user in request.users}
    return everyone, Requests(root, [*known, Request(sorted(others))])


def personal_stores(settings: Settings) -> list[Store]:
    """Return the existing stores of an environment's products with items per user."""
    if lacks_local_server(settings.name):
        console.print("The laptop's DynamoDB does not run, and keeps no data while it is stopped.")
        return []
    use_local_server(settings.name)
    return list(forget_tables.personal_stores(settings["delivery"]))


def search(lake: Lake, stores: list[Store], settings: Settings) -> Outcome:
    """Erase people from the lake and the tables until a pass changes nothing."""
    delivery = settings["delivery"]
    units = delivery["read_units"] if delivery["billing"] == "provisioned" else None
    for number in range(1, MAX_PASSES + 1):
        last = lake.sweep()
        items, deleted = 0, 0
        for store in stores:
            with console.status(f"reading {store.name}"), store.explained():
                counts = forget_tables.erase(store, lake.people, lake.requests, units)
            items, deleted = items + counts[0], deleted + counts[1]
        console.print(f"pass {number}: {last.files:,} files, {last.changed:,} changed; {deleted:,} items deleted")
        if not last.changed and not deleted:
            return Outcome(last, items, number)
    raise TaskError(
        f"Each of {MAX_PASSES} passes found people; find the writer that brings them back, then rerun this command."
    )


def postpone(outcome: Outcome, wait: float) -> int:
    moment = time.strftime("%Y-%m-%d %H:%M", time.localtime(time.time() + wait + 60))
    console.print(
        f"Tasks and frontends no longer find these people. {outcome.last.waiting:,} files stay for running tasks; "
        f"finish with make forget ENV=… (no ID needed) after {moment}."
    )
    return 1


def finish(root: str, requests: Requests, outcome: Outcome, tables: list[str], grace: float) -> int:
    """Complete each request with a receipt, or list the files that have to be repaired first."""
    for name in outcome.unresolved[:20]:
        console.print(f"[red]left[/]: {escape(name)}", soft_wrap=True)
    if outcome.unresolved:
        console.print(
            f"{len(outcome.unresolved):,} files are left; see docs/forget.md, then finish with make forget ENV=…."
        )
        return 1
    checked = {
        "passes": outcome.passes,
        "files": outcome.last.files,
        "bytes": outcome.last.bytes,
        "tables": tables,
        "items": outcome.items,
        "grace_seconds": grace,
        "not_looked_at": ["code", "dags", "logs", "releases", "deliveries of which no job makes anything about users"],
    }
    completed = [request for request in requests.requests if request.saved]
    for request in completed:
        show(complete(root, request, checked), root)
    if not completed:
        console.print("No new data of the forgotten people has arrived since.")
    return 0


def show(receipt: dict[str, Any], root: str) -> None:
    """Print a receipt."""
    table = Shown("person", "found", "where", title=f"Receipt {receipt['request']}", title_justify="left")
    for user in receipt["users"][:50]:
        where = ", ".join(f"{folder} {count:,}" for folder, count in user["places"].items())
        table.add_row(user["hash"][:16] + "…", f"{user['found']:,}", where or "nowhere")
    console.print(table)
    console.print(f"{len(receipt['users']):,} forgotten: {root}/{RECEIPTS}/{receipt['request']}.json", soft_wrap=True)


if __name__ == "__main__":
    main()

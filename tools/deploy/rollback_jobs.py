"""Return an environment to the release before the one in place; new runs take it, runs under way keep theirs."""

import argparse
import sys

from common.errors import InputError, TaskError
from common.handover import storage
from common.protocol import code_folder
from tools import environment
from tools.deploy import releases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environment", required=True, metavar="NAME", help="one of airflow_dags/environments")
    try:
        left, taken = roll_back(parser.parse_args().environment)
    except TaskError as error:
        sys.exit(str(error))
    print(f"New runs take {taken} again, instead of {left}:")
    for name in sorted(left.jobs | taken.jobs):
        if left.jobs.get(name) != taken.jobs.get(name):
            print(f"  {name}: {left.jobs.get(name, 'none')} -> {taken.jobs.get(name, 'none')}")


def roll_back(name: str) -> tuple[releases.Release, releases.Release]:
    """Return to the release before; the one that was in place, and the one that is now.

    InputError if a product of it is not in the lake any more.
    """
    said = environment.load(name)
    lake, server = environment.lake(said), releases.airflow(said)
    left, tag = releases.current(lake, server)
    taken = releases.before(lake, left)
    for job, fingerprint in taken.jobs.items():
        place = code_folder(lake, job, fingerprint)
        if not storage.files(place):
            raise InputError(f"{place} is empty, expected the product of {job} in {taken}; {left} stays in place.")
    releases.switch(lake, server, taken, tag)
    return left, taken


if __name__ == "__main__":
    main()

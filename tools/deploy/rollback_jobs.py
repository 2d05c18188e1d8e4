"""Roll an environment back to the release before the live one; new runs use it, runs under way keep theirs."""

import argparse

from common.errors import InputError
from common.handover import storage
from common.protocol import code_folder
from tools import environment
from tools.command_line import exit_on_task_error
from tools.deploy import releases


@exit_on_task_error()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environment", required=True, metavar="NAME", help="one of airflow_dags/environments")
    left, live = roll_back(parser.parse_args().environment)
    print(f"Rolled back: new runs use {live} instead of {left}:")
    for name in sorted(left.jobs | live.jobs):
        if left.jobs.get(name) != live.jobs.get(name):
            print(f"  {name}: {left.jobs.get(name, 'none')} -> {live.jobs.get(name, 'none')}")


def roll_back(name: str) -> tuple[releases.Release, releases.Release]:
    """Roll back to the release before; return the one that was live, and the one that is now.

    InputError if one of its products is no longer in the lake.
    """
    settings = environment.load(name)
    lake, server = environment.lake(settings), releases.connect(settings)
    left, tag = releases.current(lake, server)
    target = releases.predecessor(lake, left)
    for job, fingerprint in target.jobs.items():
        uri = code_folder(lake, job, fingerprint)
        if not storage.files(uri):
            raise InputError(f"{uri} is empty, expected the product of {job} in {target}; {left} stays live.")
    releases.switch(lake, server, target, tag)
    return left, target


if __name__ == "__main__":
    main()

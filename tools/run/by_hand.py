"""Default identity of a task that runs manually, for `make run` and `make submit`."""

import argparse
import datetime

from common.handover.command_line import lake_uri
from tools.packaging.fingerprint import ROOT


def add_task(parser: argparse.ArgumentParser) -> None:
    """Add the options that identify a task to a command."""
    started = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H-%M-%S")
    laptop = f"file://{ROOT}/.tandem/lake"
    parser.add_argument("--lake", type=lake_uri, default=laptop, metavar="URI", help="root, the laptop's if absent")
    parser.add_argument("--dag-id", default="by_hand", metavar="ID", help="by_hand if absent")
    parser.add_argument("--run-id", default=f"by-hand-{started}", metavar="ID", help="by-hand- and the time if absent")
    parser.add_argument("--task-id", metavar="ID", help="the job's name if absent")
    parser.add_argument("--attempt", type=int, default=1, metavar="NUMBER", help="1 if absent")
    parser.add_argument("--run-started", metavar="TIME", help="start of the run, if an earlier run had the same ID")
    parser.add_argument("--map-index", type=int, metavar="NUMBER", help="the instance of a mapped job")

"""Command line of every job: parsing, --help, and errors in one sentence."""

import argparse
import datetime
from typing import Any, NoReturn

from common.errors import ArgumentError
from common.handover import storage
from common.handover.job_toml import Job
from common.protocol import nearest


class Parser(argparse.ArgumentParser):
    """A parser that raises its errors as ArgumentError."""

    def error(self, message: str) -> NoReturn:
        raise ArgumentError(f"The command line is wrong: {message}; see {self.prog} --help.")


def parse(job: Job, arguments: list[str]) -> argparse.Namespace:
    """Parse the command line of a job; ArgumentError describes a wrong one."""
    parser = Parser(
        prog=f"{job.name}/main.py",
        description=job.description,
        epilog=describe(job),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--lake", required=True, metavar="URI", type=lake_uri, help="root of the lake, file:///…, s3://… or gs://…")
    add("--dag-id", required=True, metavar="ID", type=identifier, help="the pipeline")
    add("--run-id", required=True, metavar="ID", type=identifier, help="the run of the pipeline")
    add("--task-id", required=True, metavar="ID", type=identifier, help="the task's own ID, under which it hands over")
    add("--attempt", required=True, metavar="NUMBER", type=int, help="1 for the first try, one more for each retry")
    add(
        "--run-started",
        metavar="TIME",
        type=moment,
        help="start of the run; of two runs with the same ID the newer counts",
    )
    add("--map-index", metavar="NUMBER", type=int, help="number of this instance, if the task is mapped")
    pairs: Any = {"default": [], "action": "append", "type": pair}
    add("--from", dest="predecessors", metavar="ROLE=TASK_ID", help="the predecessor that fills an input", **pairs)
    add("--set", dest="settings", metavar="NAME=VALUE", help="a parameter", **pairs)
    return parser.parse_args(arguments)


def describe(job: Job) -> str:
    """Describe the inputs, outputs and parameters of a job, for --help."""
    lines = ["inputs:"]
    for kind, tables in (("inputs", job.inputs), ("outputs", job.outputs)):
        if kind == "outputs":
            lines.append("outputs:")
        for role, table in tables.items():
            source = table.raw or table.dataset or ("--from " + role + "=TASK_ID" if kind == "inputs" else "")
            lines.append(f"  {role:22} {' or '.join(table.fitting) or 'as received':24} {source}".rstrip())
    lines.append("parameters (--set NAME=VALUE):")
    for name, parameter in job.parameters.items():
        default = "" if parameter.default is None else f" (default {parameter.default})"
        limits = f" from {parameter.range[0]} to {parameter.range[1]}" if parameter.range else ""
        lines.append(f"  {name:22} {parameter.type}{limits}: {parameter.help}{default}")
    return "\n".join(lines)


def lake_uri(text: str) -> str:
    try:
        storage.is_remote(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).rstrip(".")) from None
    return text


def identifier(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("an ID is empty, expected at least one character")
    return text


def moment(text: str) -> str:
    """Return a time with its offset as text in UTC that sorts by time."""
    try:
        time = datetime.datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        raise argparse.ArgumentTypeError(f"'{text}' is not a time, expected one such as 2011-06-01T03:00:00+00:00")
    return time.astimezone(datetime.UTC).isoformat(timespec="microseconds")


def pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"'{text}' is not a pair, expected NAME=VALUE")
    return name, value


def checked_predecessors(job: Job, predecessors: dict[str, str]) -> dict[str, str]:
    """Return the task ID by role of each handed-over input; ArgumentError for an unknown or missing role."""
    roles = [role for role, table in job.inputs.items() if table.handed_over]
    for role in predecessors:
        if role not in roles:
            raise ArgumentError(f"{job.name} has no input '{role}' that a task hands over{nearest(role, roles)}.")
    for role in roles:
        if role not in predecessors:
            raise ArgumentError(f"The predecessor of input '{role}' is missing; give it as --from {role}=TASK_ID.")
    return predecessors

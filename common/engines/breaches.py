"""Breaches of the checks of a contract: the same sentence by every engine, refused or reported as the contract says."""

from common.contracts import Check, Contract
from common.errors import GateRefused
from common.handover.task import Task

MAX_SHOWN = 60  # characters of a value in a sentence


def report_values(task: Task, role: str, contract: Contract, check: Check, count: int, example: str) -> None:
    """Report the number of values that a check does not allow, and one of them."""
    report(
        task,
        check,
        f"Output '{role}' has {count:,} values in '{check.column}' that {contract.name} does not allow, such as "
        f"'{shown(example)}', expected {', '.join(check.allowed)}; fix the job or the check.",
    )


def report_repeated(task: Task, role: str, contract: Contract, check: Check, count: int) -> None:
    """Report the number of rows beyond the first with the same values of a key."""
    report(
        task,
        check,
        f"Output '{role}' has {count:,} rows whose {', '.join(check.unique)} a row before them has, {contract.name} "
        "allows none; fix the job or the check.",
    )


def report(task: Task, check: Check, sentence: str) -> None:
    """Raise GateRefused if the check refuses, else warn."""
    if check.severity == "refuse":
        raise GateRefused(sentence)
    task.warn(sentence)


def shown(value: str) -> str:
    """Return a value as a sentence has it."""
    return value if len(value) <= MAX_SHOWN else f"{value[:MAX_SHOWN]}…"

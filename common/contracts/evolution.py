"""Versions of a contract: the differences of two, and the older ones whose files a job can take."""

import itertools
from typing import NamedTuple

from common.contracts import Check, Column, Contract, load
from common.errors import ArgumentError

GUIDE = "docs/change_a_contract.md"


class Difference(NamedTuple):
    """A difference of two versions, and the migration that it needs; none if older files can be read by the newer."""

    text: str
    migration: str = ""


def compare(old: Contract, new: Contract) -> list[Difference]:
    """Return the differences of two versions, without descriptions; only an added nullable column needs no migration.

    A removed column counts as renamed if a column with the same settings was added. Checks judge rows when these are
    written, so only a refusal that is loosened is a difference.
    """
    added = {name: column for name, column in new.columns.items() if name not in old.columns}
    found = []
    for name, column in old.columns.items():
        if name in new.columns:
            found += compare_columns(name, column, new.columns[name])
            continue
        twin = next((other for other, each in added.items() if each == column), None)
        if twin is None:
            migration = f"keep '{name}', or fill a new dataset from the raw level"
            found.append(Difference(f"column '{name}' is removed", migration))
        else:
            del added[twin]
            migration = f"keep '{name}', add '{twin}' as a nullable column, and write both"
            found.append(Difference(f"column '{name}' is renamed to '{twin}'", migration))
    for name, column in added.items():
        if column.nullable:
            found.append(Difference(f"nullable column '{name}' is added"))
        else:
            migration = f"let '{name}' be nullable, or fill a new dataset from the raw level"
            found.append(Difference(f"column '{name}' is added, which older files lack", migration))
    if old.arrays != new.arrays:
        found.append(Difference("a table and a model replace each other", "give the contract another name"))
    if old.product != new.product:
        migration = "give the contract another name, so that the product gets a table of its own"
        found.append(Difference(f"the product changes from {old.product} to {new.product}", migration))
    return found + compare_checks(old.checks, new.checks)


def compare_checks(old: tuple[Check, ...], new: tuple[Check, ...]) -> list[Difference]:
    """Return a difference for each refusal that was loosened; other checks promise nothing to readers."""
    found = []
    for check in old:
        text = f"column '{check.column}' no longer refuses other values than {', '.join(check.allowed)}"
        if check.unique:
            text = f"rows with the same {', '.join(check.unique)} are no longer refused"
        kept = any(is_as_strict(check, other) for other in new)
        if check.severity == "refuse" and not check.volume and not kept:
            found.append(Difference(text, "keep the check, because readers may rely on it"))
    return found


def is_as_strict(check: Check, other: Check) -> bool:
    """Return True if another check refuses all that a check of allowed values or a unique key refuses."""
    unique = other.unique and set(other.unique) <= set(check.unique)
    allowed = other.allowed and set(other.allowed) <= set(check.allowed)
    return other.severity == "refuse" and other.column == check.column and bool(unique or allowed)


def compare_columns(name: str, old: Column, new: Column) -> list[Difference]:
    """Return the differences in the settings of a column."""
    widen = f"keep '{name}', and add a nullable column of the new kind under another name"
    narrow = f"keep '{name}' as it is, and let the job that writes it refuse other values"
    if old.type != new.type:
        return [Difference(f"column '{name}' changes from {old.type} to {new.type}", widen)]
    found = []
    if old.nullable != new.nullable:
        kinds = ("nullable", "required") if old.nullable else ("required", "nullable")
        text = f"column '{name}' changes from {kinds[0]} to {kinds[1]}"
        found.append(Difference(text, narrow if old.nullable else widen))
    for setting, sign in (("minimum", -1), ("maximum", 1), ("max_bytes", 1)):
        before, after = getattr(old, setting), getattr(new, setting)
        if before != after:
            wider = after is None or (before is not None and sign * after > sign * before)
            text = f"{setting} of column '{name}' changes from {words(before)} to {words(after)}"
            found.append(Difference(text, widen if wider else narrow))
    return found


def words(bound: float | None) -> str:
    return "none" if bound is None else f"{bound:,}"


def split(contract: str) -> tuple[str, int]:
    """Return name and version of a contract; ArgumentError if it is not `name@number`."""
    name, _, version = contract.partition("@")
    if not name or not (version.isascii() and version.isdigit()):
        raise ArgumentError(f"The contract is '{contract}', expected a name and a version such as events@2.")
    return name, int(version)


def is_older(contract: str, other: str) -> bool:
    """Return True if a contract is an older version of another."""
    (name, version), (other_name, other_version) = split(contract), split(other)
    return name == other_name and version < other_version


def versions(newest: str, oldest: str) -> tuple[str, ...]:
    """Return the versions of a contract from the newest to the oldest."""
    name, last = split(newest)
    return tuple(f"{name}@{version}" for version in range(last, split(oldest)[1] - 1, -1))


def check_extends(newest: str, oldest: str, where: str) -> None:
    """Raise ArgumentError unless each version of a contract, from the oldest on, only adds nullable columns."""
    if not is_older(oldest, newest):
        raise ArgumentError(f"oldest of {where} is '{oldest}', expected an older version of {newest}.")
    for new, old in itertools.pairwise(versions(newest, oldest)):
        for difference in compare(load(old), load(new)):
            if difference.migration:
                raise ArgumentError(
                    f"oldest of {where} is '{oldest}', but {difference.text} from {old} to {new}; "
                    f"{difference.migration}, see {GUIDE}."
                )


def remedy(found: str, taken: str, where: str) -> str:
    """Return the end of a sentence about files of a version that a table of job.toml does not take."""
    if is_older(found, taken):
        return f'set oldest = "{found}" in [{where}] of its job.toml, or fill a new dataset, see {GUIDE}'
    return "run the two jobs at versions that agree"

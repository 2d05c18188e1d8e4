"""Checks of a contract on the tables that a Python job writes as one output: allowed values and unique keys."""

import secrets

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from common.contracts import Check, Contract
from common.engines import breaches
from common.handover.task import Task

Numbers = NDArray[np.uint64]
SALT = np.uint64(secrets.randbits(64))
NULL = np.uint64(0x9E3779B97F4A7C15)


class Checks:
    """The checks of an output, fed with its tables; keys take eight bytes per row.

    Keys are compared by a salted hash of 64 bits: among ten million rows without a repetition, one is reported in one
    of 400,000 runs, and not in its retry.
    """

    def __init__(self, task: Task, role: str, contract: Contract) -> None:
        self.task, self.role, self.contract = task, role, contract
        self.allowed = [check for check in contract.checks if check.allowed]
        self.unique = [check for check in contract.checks if check.unique]
        self.counts: dict[Check, int] = {}
        self.examples: dict[Check, str] = {}
        self.hashes: dict[Check, list[Numbers]] = {check: [] for check in self.unique}

    def add_values(self, rows: pa.Table) -> None:
        """Check the values of rows."""
        for check in self.allowed:
            values = rows[check.column].drop_null()
            wrong = values.filter(pc.invert(pc.is_in(values, value_set=pa.array(check.allowed, pa.string()))))
            if len(wrong):
                least = pc.min(wrong).as_py()
                self.counts[check] = self.counts.get(check, 0) + len(wrong)
                self.examples[check] = min(least, self.examples.get(check, least), key=str.encode)

    def add_keys(self, rows: pa.Table) -> None:
        """Remember the keys of rows."""
        for check in self.unique:
            self.hashes[check].append(hashes_of(rows, check.unique))

    def report(self) -> None:
        """Report each check that is broken; GateRefused if one refuses."""
        for check in self.contract.checks:
            if check in self.counts:
                count, example = self.counts[check], self.examples[check]
                breaches.report_values(self.task, self.role, self.contract, check, count, example)
            if repeated := number_repeated(self.hashes.get(check, [])):
                breaches.report_repeated(self.task, self.role, self.contract, check, repeated)


def number_repeated(pieces: list[Numbers]) -> int:
    """Return the number of values that are repetitions of another."""
    values = np.sort(np.concatenate([np.empty(0, np.uint64), *pieces]))
    return int(np.count_nonzero(values[1:] == values[:-1]))


def hashes_of(rows: pa.Table, columns: tuple[str, ...]) -> Numbers:
    """Return a hash of each row's values in some columns."""
    result = np.full(rows.num_rows, SALT)
    for name in columns:
        chunks = [numbers_of(chunk) for chunk in rows[name].chunks]
        result = mixed(result ^ np.concatenate([np.empty(0, np.uint64), *chunks]))
    return result


def numbers_of(values: pa.Array) -> Numbers:
    """Return a number for each value, the same for equal ones: itself, or the hash of a text."""
    if pa.types.is_string(values.type):
        encoded = values.dictionary_encode("encode")
        hashes = [0 if text is None else hash(text) for text in encoded.dictionary.to_pylist()]
        numbers: NDArray[np.int64] = np.array(hashes, np.int64)[encoded.indices.to_numpy()]
    else:
        whole = values.cast(pa.int32()) if pa.types.is_date32(values.type) else values
        numbers = whole.cast(pa.int64()).fill_null(0).to_numpy()
    result: Numbers = numbers.view(np.uint64) ^ nulls(values)
    return result


def nulls(values: pa.Array) -> Numbers:
    """Return NULL for each null, else 0."""
    return np.where(values.is_null().to_numpy(zero_copy_only=False), NULL, np.uint64(0))


def mixed(numbers: Numbers) -> Numbers:
    """Return other numbers, one to one, in which each bit depends on all of them: the finalizer of splitmix64."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))

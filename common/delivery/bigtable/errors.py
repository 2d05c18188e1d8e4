"""Bigtable's errors as sentences, and the reasons for which a request is repeated."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

from google.api_core.exceptions import (
    Aborted,
    DeadlineExceeded,
    FailedPrecondition,
    Forbidden,
    NotFound,
    ResourceExhausted,
    ServiceUnavailable,
    Unauthorized,
)
from google.auth.exceptions import DefaultCredentialsError
from google.cloud.bigtable.data.exceptions import MutationsExceptionGroup, RetryExceptionGroup

from common.errors import ArgumentError, TaskError

UNREACHABLE = ("failed to connect", "DNS resolution failed")
NOT_RENEWED = "Getting metadata from plugin failed"  # gRPC has no other sign of it


@dataclass(frozen=True)
class Address:
    """A table's project, instance and name."""

    project: str
    instance: str
    table: str

    def __str__(self) -> str:
        emulator = os.environ.get("BIGTABLE_EMULATOR_HOST")
        return f"bigtable://{self.project}/{self.instance}" + (f" on emulator {emulator}" if emulator else "")


def last(error: BaseException) -> BaseException:
    """Return the error of Bigtable's last response; Google's client wraps it once it stops to retry."""
    if isinstance(error, MutationsExceptionGroup):
        error = error.exceptions[0].__cause__ or error
    group = error if isinstance(error, RetryExceptionGroup) else error.__cause__
    if not isinstance(group, RetryExceptionGroup):
        return error
    # The last one may only tell that the client's time is over.
    return next((each for each in group.exceptions[::-1] if not isinstance(each, DeadlineExceeded)), error)


def busy(error: Exception) -> str | None:
    """Return the reason why the same request may succeed later, None if it won't."""
    final = last(error)
    if isinstance(final, ResourceExhausted):
        return "is throttled; add nodes to its instance"
    if final is not error and any(sign in str(final) for sign in (*UNREACHABLE, NOT_RENEWED)):
        return None  # Google's client has retried for a minute
    if isinstance(final, (Aborted, DeadlineExceeded, ServiceUnavailable)):
        return f"answers {type(final).__name__}; check the state of its instance"
    return None


@contextlib.contextmanager
def explained(address: Address, creating: bool = False) -> Iterator[None]:
    """Explain errors of Bigtable: ArgumentError if no retry helps (no table, no credentials, no rights)."""
    try:
        yield
    except DefaultCredentialsError:
        raise ArgumentError(
            f"There are no Google credentials for {address}, expected those of a service account or a user; attach "
            "one, or set GOOGLE_APPLICATION_CREDENTIALS."
        ) from None
    except Exception as error:
        if sentence := refusal(last(error), address, creating):
            raise ArgumentError(sentence) from None
        if isinstance(last(error), (DeadlineExceeded, ServiceUnavailable)):
            raise TaskError(
                f"{address} can't be reached; check 'store', BIGTABLE_EMULATOR_HOST and the network, then retry."
            ) from None
        raise


def refusal(error: BaseException, address: Address, creating: bool) -> str | None:
    """Return the sentence for an error that no retry cures."""
    if isinstance(error, NotFound) and creating:
        return f"{address} does not exist; create the instance, or correct 'store'."
    if isinstance(error, NotFound):
        return (
            f"{address} has no table {address.table}, or not all of its columns; create them with make create-tables "
            "ENV=…, or correct 'store' or 'tables'."
        )
    if isinstance(error, (Forbidden, Unauthorized)) or NOT_RENEWED in str(error):
        return (
            f"{address} refuses these credentials ({type(error).__name__}) for table '{address.table}'; use "
            "credentials with access to it."
        )
    if isinstance(error, FailedPrecondition):
        return (
            f"{address} refuses conditional writes, expected a default app profile that routes to a single cluster and "
            "allows single-row transactions; correct the profile."
        )
    return None

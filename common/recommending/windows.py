"""Interactions as of three moments: histories, and the target events between the moments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import scipy.sparse as sp

from common.recommending import MICROSECONDS_PER_DAY
from common.recommending.evaluation import Truth
from common.recommending.histories import History, history, without_long_rows
from common.recommending.models import of_style

NEVER = np.datetime64("NaT", "us")


class Interactions(Protocol):
    """Users x items in compressed rows, with values by the names of their columns."""

    @property
    def indptr(self) -> np.ndarray: ...

    @property
    def indices(self) -> np.ndarray: ...

    @property
    def values(self) -> dict[str, np.ndarray]: ...


@dataclass(frozen=True)
class Snapshot:
    """Data as of a moment: histories (all users x items), those to fit on, last event of each item (NaT: none yet)."""

    moment: np.datetime64
    pairs: History
    fitted: History
    last_event: np.ndarray


@dataclass(frozen=True)
class Window:
    """Evaluation window: rank for the rows of `queries`; `truth` has their later target events, row by row."""

    queries: History
    truth: Truth

    def of_style(self, style: str) -> Window:
        """Return the users with target events that a style of recommendations can reach, and these."""
        truth = of_style(self.truth, self.queries, style)
        rows = np.flatnonzero(truth.counts)
        return Window(self.queries.rows(rows), Truth(truth.items[rows]))


def snapshot(interactions: Interactions, suffix: str, items: int, max_user_items: int) -> Snapshot:
    """Return the pairs that existed as of a moment, that of the last event among them.

    `suffix` names the columns of the moment. Items at position -1 are left out.
    """
    values, indices = interactions.values, interactions.indices
    exists = (values[f"weight{suffix}"] > 0) & (indices >= 0)
    times = values[f"last_time{suffix}"]
    moment = times[exists].max() if exists.any() else np.datetime64("1970-01-01T00:00:00", "us")
    pairs = history(
        interactions.indptr,
        indices,
        exists,
        values[f"events{suffix}"],
        values[f"weight{suffix}"],
        (moment - times).astype(np.int64) / MICROSECONDS_PER_DAY,
        items,
    )
    last_event = np.full(items, NEVER)
    np.fmax.at(last_event, indices[exists], times[exists])
    return Snapshot(moment, pairs, without_long_rows(pairs, max_user_items), last_event)


def first_events(interactions: Interactions, items: int) -> np.ndarray:
    """Return the time of the first event of each item."""
    known, first = interactions.indices >= 0, np.full(items, NEVER)
    np.fmin.at(first, interactions.indices[known], interactions.values["first_time"][known])
    return first


def targets_between(interactions: Interactions, later: str, earlier: str, items: int) -> Truth:
    """Return the pairs with more target events as of the later moment than as of the earlier one."""
    grew = interactions.values[f"events{later}"] > interactions.values[f"events{earlier}"]
    grew &= interactions.indices >= 0
    before = np.concatenate(([0], np.cumsum(grew)))
    columns = interactions.indices[grew]
    shape = (len(interactions.indptr) - 1, items)
    return Truth(sp.csr_matrix((np.ones(len(columns), np.int8), columns, before[interactions.indptr]), shape=shape))


def window(pairs: History, truth: Truth, max_users: int, seed: int) -> Window:
    """Draw at most `max_users` of the users with a history and with target events in the window."""
    rows = np.flatnonzero((pairs.lengths > 0) & (truth.counts > 0))
    if len(rows) > max_users:
        rows = np.sort(np.random.default_rng(seed).choice(rows, max_users, replace=False))
    return Window(pairs.rows(rows), Truth(truth.items[rows]))

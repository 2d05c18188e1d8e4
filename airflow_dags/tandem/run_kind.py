"""Kinds of runs, and the macros that depend on them: `until`, the day as of which a run reads, and `publishes`."""

from collections.abc import Mapping
from datetime import UTC
from typing import Any

from jinja2 import pass_context

SCHEDULED, BACKFILL = "scheduled", "backfill"


def run_type(context: Mapping[str, Any]) -> str:
    """The type of a run; a run that is rendered without Airflow counts as started by a person."""
    return getattr(context["dag_run"], "run_type", "manual")


def is_scheduled(context: Mapping[str, Any]) -> bool:
    return run_type(context) == SCHEDULED


def is_backfill(context: Mapping[str, Any]) -> bool:
    return run_type(context) == BACKFILL


@pass_context
def until(context: Mapping[str, Any]) -> str:
    """The day (UTC) before which all that a run reads occurred; empty, so not set, if a person started the run."""
    if not (is_scheduled(context) or is_backfill(context)):
        return ""
    return str(context["dag_run"].logical_date.astimezone(UTC).date())


@pass_context
def publishes(context: Mapping[str, Any]) -> bool:
    """Return False in a backfill: its results are for the lake, not for frontends."""
    return not is_backfill(context)

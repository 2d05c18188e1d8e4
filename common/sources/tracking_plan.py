"""The tracking plan: the event types that a team knows, with their weights, targets, reversals and verbs."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common import sources
from common.contracts import check_keys, check_types, tables_by_name
from common.errors import ArgumentError
from common.protocol import nearest
from common.sources import expressions

FILE = "tracking_plan.toml"
FIELDS = {"value": "double", "quantity": "bigint", "unit_price": "double"}  # that weights and targets may use


@dataclass(frozen=True)
class EventType:
    """A type of events. `weight` and `target` are values, or Spark SQL over value, quantity and unit_price."""

    description: str
    weight: float | str = 1.0
    target: bool | str = False
    reverses: str | None = None
    verb: str = "chosen"


@dataclass(frozen=True)
class TrackingPlan:
    """The known event types by name."""

    types: dict[str, EventType]

    @property
    def weight_sql(self) -> str:
        """Spark SQL of an event's weight: negative for a reversal, 0 for an unknown type, 1 without a needed value."""
        cases = []
        for name, kind in self.types.items():
            weighed = self.types[kind.reverses] if kind.reverses else kind
            weight = f"CAST(coalesce({weighed.weight}, 1) AS DOUBLE)"
            cases.append(f"WHEN {_quoted(name)} THEN {'-' if kind.reverses else ''}{weight}")
        return f"CASE type {' '.join(cases)} ELSE 0D END"

    @property
    def target_sql(self) -> str:
        """Spark SQL of a boolean: true for an event that models predict, false without a needed value."""
        cases = []
        for name, kind in self.types.items():
            condition = str(kind.target).lower() if isinstance(kind.target, bool) else kind.target
            cases.append(f"WHEN {_quoted(name)} THEN coalesce({condition}, false)")
        return f"CASE type {' '.join(cases)} ELSE false END"

    @property
    def targets(self) -> list[str]:
        """The types of which some events are targets."""
        return [name for name, kind in self.types.items() if kind.target is not False]

    @property
    def reversals(self) -> list[str]:
        """The types that reverse another."""
        return [name for name, kind in self.types.items() if kind.reverses]

    @property
    def positive_types(self) -> list[str]:
        """The types whose events show interest in an item: neither reversals nor of weight 0."""
        return [name for name, kind in self.types.items() if not kind.reverses and kind.weight != 0]

    def verb_of(self, counts: Mapping[str, int]) -> str:
        """Return the verb of the type with the most events among the targets, for reasons.

        Without an event of a target type it is that of the most frequent type, and without any the first target's.
        """
        known = {name: count for name, count in counts.items() if count and name in self.types}
        targets = {name: count for name, count in known.items() if name in self.targets}
        most = max(targets or known, key=lambda name: (targets or known)[name], default=self.targets[0])
        return self.types[most].verb


def load() -> TrackingPlan:
    """Return the tracking plan; ArgumentError names a wrong entry."""
    where = f"sources/{FILE}"
    try:
        document = tomllib.loads((sources.folder() / FILE).read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ArgumentError(
            f"{where} cannot be read ({error}); expected a table [types.NAME] per event type."
        ) from None
    check_keys(document, {"types"}, where)
    types = {
        name: read_type(settings, f"[types.{name}] of {where}")
        for name, settings in tables_by_name(document.get("types", {}), f"[types] of {where}").items()
    }
    for name, kind in types.items():
        if kind.reverses and (kind.reverses not in types or types[kind.reverses].reverses):
            raise ArgumentError(
                f"reverses of [types.{name}] of {where} is '{kind.reverses}'{nearest(kind.reverses, sorted(types))}, "
                "expected a type that is not a reversal itself."
            )
    if not any(kind.target is not False for kind in types.values()):
        raise ArgumentError(f"No type of {where} is a target, expected target = true for the events to predict.")
    return TrackingPlan(types)


def read_type(settings: dict[str, Any], where: str) -> EventType:
    """Return an event type from its table; ArgumentError names a wrong entry."""
    check_keys(settings, {"description", "weight", "target", "reverses", "verb"}, where)
    if "description" not in settings:
        raise ArgumentError(f'{where} has no description, expected one sentence: description = "…".')
    check_types(settings, EventType, where)
    if "reverses" in settings and {"weight", "target"} & settings.keys():
        raise ArgumentError(f"{where} reverses another type, so it has that type's weight; remove weight and target.")
    for key in ("weight", "target"):
        if isinstance(text := settings.get(key), str):
            expressions.check(text, FIELDS, f"{key} of {where}")
    return EventType(**settings)


def _quoted(name: str) -> str:
    return "'" + name.replace("\\", "\\\\").replace("'", "\\'") + "'"

"""Types of a file's events in the tracking plan: the meaning of their names, weights, targets and verbs."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

# By meaning, the strongest sign of interest first: words in names, weight, verb. Words are compared inside of names.
MEANINGS: dict[str, tuple[str, float | str, str]] = {
    "purchase": ("purchase|order|buy|bought|transaction|paid|checkout complete|sale", 1.0, "bought"),
    "rating": ("rating|rate|review|stars", "value", "rated"),
    "play": ("play|listen|scrobble|stream|watch|complete|finish|read", 1.0, "played"),
    "visit": ("check.?in|visit", 1.0, "visited"),
    "cart": ("cart|basket|added|wish.?list|fav|like|save|bookmark|follow|share|download|install", 0.5, "put aside"),
    "view": (r"view|click|open|impression|detail|^pv$|select.?item|product.?page|^clk$|tap", 0.2, "viewed"),
}
VERBS = {"watch": "watched", "read": "read", "listen": "listened to", "click": "clicked", "order": "ordered"}
REVERSALS = re.compile("refund|return|cancel|chargeback", re.IGNORECASE)
NEGATIVE = re.compile("dislike|thumbs.?down|block|hide|not.?interested|unlike|unfollow", re.IGNORECASE)
NO_ITEM = re.compile(r"search|page.?view|session|log.?(in|out)|scroll|first.?visit|begin.?checkout|checkout$|checkout.?start|start.?checkout|error|ping|heartbeat|engagement|remove|skip", re.IGNORECASE)  # fmt: skip  # noqa: E501
MAX_ADDED = 30  # types


@dataclass(frozen=True)
class Addition:
    """A type that the plan lacks, as it is written there."""

    name: str
    events: int
    weight: float | str
    target: bool | str
    verb: str
    reverses: str | None
    why: str

    @property
    def text(self) -> str:
        lines = [f"\n# Added by make adopt: {self.why}. Check weight and target.", f"[types.{toml_key(self.name)}]"]
        description = f"An event '{self.name}'."
        lines.append(f"description = {json.dumps(description, ensure_ascii=False)}")
        if self.reverses:
            return "\n".join([*lines, f"reverses = {json.dumps(self.reverses)}"]) + "\n"
        lines.append(f"weight = {json.dumps(self.weight)}")
        if self.target is not False:
            lines.append(f"target = {json.dumps(self.target)}")
            lines.append(f'verb = "{self.verb}"')
        return "\n".join(lines) + "\n"


def toml_key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)


def meaning(name: str) -> str | None:
    """Return the meaning of a type's name; None if no word of it is known, or if it shows no interest."""
    if NO_ITEM.search(name) or NEGATIVE.search(name) or REVERSALS.search(name):
        return None
    for known, (words, _, _) in MEANINGS.items():
        if re.search(words, name, re.IGNORECASE):
            return known
    return None


def additions(
    counts: dict[str, int], known: Iterable[str], known_targets: Iterable[str], values: dict[str, tuple[float, float]]
) -> list[Addition]:
    """Return the types that a plan lacks, of events counted by type; one of the types is a target if any can be.

    `values` are the smallest and largest value of each type with values.
    """
    lacking = [name for name in sorted(counts, key=lambda name: -counts[name]) if name not in set(known)][:MAX_ADDED]
    meanings = {name: meaning(name) for name in counts}
    strongest = next((m for m in MEANINGS if m in meanings.values()), None)
    has_target = bool(set(counts) & set(known_targets))
    bought = next((name for name in counts if meanings[name] == "purchase"), None)
    added = []
    for name in lacking:
        target = not has_target and meanings[name] == strongest and strongest is not None
        if strongest is None and not has_target and name == lacking[0]:
            target = True
        added.append(_addition(name, counts[name], meanings[name], target, bought, values.get(name)))
    return added


def _addition(
    name: str, events: int, known: str | None, target: bool, bought: str | None, values: tuple[float, float] | None
) -> Addition:
    why = f"{events:,} events"
    if REVERSALS.search(name) and bought:
        return Addition(name, events, 0, False, "", bought, f"{why}, taken to reverse {bought}")
    if NEGATIVE.search(name):
        return Addition(name, events, -1.0, False, "", None, f"{why}, taken for dislike")
    if known is None:
        share = 1.0 if target else 0.0
        note = "the commonest type, so it is the target" if target else "its name says nothing of interest"
        return Addition(name, events, share, target, "chosen", None, f"{why}, {note}")
    _, weight_of_meaning, verb = MEANINGS[known]
    verb = next((other for word, other in VERBS.items() if word in name.lower()), verb)
    if known == "rating":
        return _rating(name, events, target, values, why)
    weight: float | str = 1.0 if target else weight_of_meaning
    if known == "play" and values and values[1] > 1:
        weight = "log1p(value)" if values[0] >= 0 else 1.0
        why += f", values up to {values[1]:g} weigh by their logarithm"
    return Addition(name, events, weight, target, verb, None, f"{why}, taken for a {known}")


def _rating(name: str, events: int, target: bool, values: tuple[float, float] | None, why: str) -> Addition:
    """Weigh ratings from the middle of their scale, so that low ones count against an item."""
    if values is None:
        return Addition(name, events, 1.0, target, "rated", None, f"{why}, ratings without values")
    high = next((top for top in (1, 5, 10, 100) if values[1] <= top), values[1])
    middle, good = high / 2, 0.8 * high
    why += f", a scale up to {high:g}: below {middle:g} counts against an item, from {good:g} is a target"
    return Addition(name, events, f"value - {middle:g}", f"value >= {good:g}" if target else False, "liked", None, why)

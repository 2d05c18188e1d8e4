"""Suspicions about mapped events, each with a sentence that names the evidence and the remedy."""

import datetime
from collections.abc import Iterator
from dataclasses import dataclass

from common.ingestion.records import AFTER_ARRIVAL
from common.sources.tracking_plan import TrackingPlan
from tools.adopt.dry_run import Run

HEAVY = 0.05  # share of all events, from which one user is suspicious
FEW_RETURN = 0.05  # share of users with a second day, below which nobody's future can be learned
MIN_DAYS = 14  # of a history
LONG_ID = 8  # digits, from which IDs of one length are codes rather than counters
PROBLEM, CHECK, NOTE = "problem", "check", "note"
NOBODY = ("", "0", "-1", "null", "none", "unknown", "anonymous", "guest", "undefined", "nan", "n/a")


@dataclass(frozen=True)
class Finding:
    """A suspicion: `level` is PROBLEM, CHECK or NOTE."""

    level: str
    sentence: str


def find(run: Run, plan: TrackingPlan) -> list[Finding]:
    """Return the suspicions about the mapped events."""
    total = run.query("SELECT count(*) FROM mapped")[0][0]
    if not total:
        return [Finding(PROBLEM, "No record could be mapped, so there is nothing to learn from; correct the mapping.")]
    found = [*_times(run, total), *_users(run, total), *_types(run, plan), *_ids(run)]
    found += [*_duplicates(run, total), *_constants(run)]
    left_out = sum(run.reasons.values())
    if left_out > 0.01 * run.records:
        share = left_out / run.records
        found.append(
            Finding(CHECK, f"{left_out:,} of {run.records:,} records are not mapped ({share:.1%}); see the reasons.")
        )
    return found


def ordered(found: list[Finding]) -> list[Finding]:
    """Return suspicions, problems first."""
    return sorted(found, key=lambda finding: (PROBLEM, CHECK, NOTE).index(finding.level))


def _times(run: Run, total: int) -> Iterator[Finding]:
    early, first, last, days, midnight = run.query(
        "SELECT count(*) FILTER (time < '1975-01-01'), min(time), max(time), count(DISTINCT time::DATE), "
        "count(*) FILTER (time = date_trunc('day', time)) FROM mapped"
    )[0]
    future = run.reasons.get(AFTER_ARRIVAL, 0)
    if early > 0.5 * total:
        yield Finding(
            PROBLEM,
            f"{early:,} times are before 1975, as if seconds were read as milliseconds, or milliseconds as "
            "microseconds; use the other function in time.",
        )
    if future:
        yield Finding(
            PROBLEM if future > total else CHECK,
            f"{future:,} records have times in the future and are quarantined; if these are most, milliseconds may "
            "have been read as seconds.",
        )
    if (last - first).days < MIN_DAYS:
        yield Finding(
            CHECK,
            f"The events span {(last - first).days + 1} days, from {first:%Y-%m-%d} to {last:%Y-%m-%d}; a model needs "
            "a past and a future of weeks.",
        )
    if midnight == total and days > 1:
        yield Finding(NOTE, "All times are at midnight, so the order of a day's events is not known.")
    if (datetime.datetime.now(datetime.UTC) - last).days > 400:
        yield Finding(NOTE, f"The last event is of {last:%Y-%m-%d}; windows are counted from there.")


def _users(run: Run, total: int) -> Iterator[Finding]:
    without, users, returning = run.query(
        "SELECT (SELECT count(*) FROM mapped WHERE user_id IS NULL), count(*), count(*) FILTER (days > 1) FROM "
        "(SELECT count(DISTINCT time::DATE) AS days FROM mapped WHERE user_id IS NOT NULL GROUP BY user_id)"
    )[0]
    if without:
        yield Finding(
            CHECK if without > 0.1 * total else NOTE,
            f"{without:,} events ({without / total:.1%}) have no user: they count for trends, not for recommendations.",
        )
    by_user = "SELECT user_id, count(*) FROM mapped WHERE user_id IS NOT NULL GROUP BY 1 ORDER BY 2 DESC LIMIT 5"
    for user, count in run.query(by_user) if users > 2 / HEAVY else []:
        if count >= HEAVY * total:
            guess = "" if user.lower() in NOBODY else "a robot, a test account or "
            yield Finding(
                PROBLEM,
                f"The user '{user}' has {count:,} events, {count / total:.1%} of all: {guess}a word for no user? "
                f"Make it null: nullif(…, '{user}') in user_id.",
            )
    if users and returning < FEW_RETURN * users:
        yield Finding(
            PROBLEM,
            f"{returning:,} of {users:,} users have events on a second day ({returning / users:.1%}): too few to learn "
            "what users do next; trending and similar items work.",
        )
    elif users and returning < 200:
        yield Finding(CHECK, f"Only {returning:,} users have events on a second day, so models are uncertain.")


def _types(run: Run, plan: TrackingPlan) -> Iterator[Finding]:
    counts = dict(run.query("SELECT type, count(*) FROM mapped GROUP BY 1 ORDER BY 2 DESC"))
    if unknown := [name for name in counts if name not in plan.types]:
        shown = ", ".join(f"'{name}'" for name in unknown[:8]) + (" …" if len(unknown) > 8 else "")
        yield Finding(
            CHECK,
            f"The tracking plan lacks {len(unknown)} types ({shown}): their events are kept and weigh 0; add them to "
            "sources/tracking_plan.toml.",
        )
    targets = sum(counts.get(name, 0) for name in plan.targets)
    if not targets:
        yield Finding(
            PROBLEM,
            "No type of the file is a target, so no model can be judged; set target = true in the tracking plan.",
        )
    elif targets < 100:
        yield Finding(CHECK, f"There are only {targets} target events; consider a commoner type as the target.")


def _ids(run: Run) -> Iterator[Finding]:
    for column in ("user_id", "item_id"):
        distinct, dotted, exponent = run.query(
            r"SELECT count(*), count(*) FILTER (regexp_full_match(id, '[0-9]+\.0')), "
            r"count(*) FILTER (regexp_full_match(id, '[0-9](\.[0-9]+)?[eE]\+[0-9]+')) "
            f"FROM (SELECT DISTINCT {column} AS id FROM mapped WHERE {column} IS NOT NULL)"
        )[0]
        if dotted > 0.5 * distinct > 0:
            yield Finding(
                PROBLEM,
                f"{column} ends in '.0', as an export of numbers with gaps writes it; export text, or cut it: "
                f"split_part(…, '.', 1) in {column}.",
            )
        if exponent:
            yield Finding(
                PROBLEM,
                f"{exponent:,} of {column} are like 1.2E+12, as a spreadsheet rounds long numbers: several IDs "
                "became one; export them as text.",
            )
        if (shorter := _shorter(run, column)) is not None:
            count, length = shorter
            yield Finding(
                CHECK,
                f"{column} is of {length} digits, but {count:,} of {distinct:,} are shorter and none begins with 0: "
                f"did the export drop leading zeros? If so: lpad(…, {length}, '0') in {column}.",
            )


def _shorter(run: Run, column: str) -> tuple[int, int] | None:
    """Return how many IDs of digits lack digits of the usual length, if that looks like lost zeros, and the length."""
    distinct, digits, padded = run.query(
        "SELECT count(*), count(*) FILTER (regexp_full_match(id, '[0-9]+')), count(*) FILTER (id LIKE '0_%') "
        f"FROM (SELECT DISTINCT {column} AS id FROM mapped WHERE {column} IS NOT NULL)"
    )[0]
    if distinct < 50 or digits < distinct or padded:
        return None
    lengths = dict(run.query(f"SELECT length({column}), count(DISTINCT {column}) FROM mapped GROUP BY 1"))
    lengths.pop(None, None)
    length = max(lengths)
    usual = 0.75 * distinct <= lengths[length] < distinct and lengths.get(length - 1)
    return (distinct - lengths[length], length) if length >= LONG_ID and usual else None


def _duplicates(run: Run, total: int) -> Iterator[Finding]:
    if "event_id" in run.source.columns:
        double = run.query("SELECT count(DISTINCT line) - count(DISTINCT (event_id, time::DATE)) FROM mapped")[0][0]
        if double:
            yield Finding(
                CHECK,
                f"{double:,} records have the event ID and day of another, and are dropped as repeats; without "
                "event_id the record itself is the ID.",
            )
    distinct = "SELECT DISTINCT user_id, item_id, type, time, value, session_id FROM mapped"
    same = total - run.query(f"SELECT count(*) FROM ({distinct})")[0][0]
    if same > 0.01 * total:
        yield Finding(
            CHECK,
            f"{same:,} events ({same / total:.1%}) agree with another in user, item, type and time: a file that was "
            "exported twice, or times that are rounded?",
        )


def _constants(run: Run) -> Iterator[Finding]:
    for column, text in run.source.columns.items():
        if column in ("type", "time", "event_id") or text.startswith("'"):
            continue
        distinct, filled = run.query(f"SELECT count(DISTINCT {column}), count({column}) FROM mapped")[0]
        if filled == 0:
            yield Finding(CHECK, f"{column} is empty in every event; correct its expression or remove it.")
        elif distinct == 1:
            yield Finding(NOTE, f"{column} has the same value in every event, so nothing can be learned from it.")


def compare_items(run: Run, known: set[str]) -> list[Finding]:
    """Return a finding if items of the events are not in the catalogue, or only with other leading zeros."""
    ids = {row[0] for row in run.query("SELECT DISTINCT item_id FROM mapped WHERE item_id IS NOT NULL")}
    if not (missing := ids - known):
        return []
    stripped = {item.lstrip("0") for item in known}
    shorter = sum(item.lstrip("0") in stripped for item in missing)
    if shorter > 0.5 * len(missing):
        sentence = f"{shorter:,} items of the events are in the catalogue with another number of leading zeros: one "
        return [Finding(PROBLEM, sentence + "export dropped them; use lpad(…) in item_id.")]
    sentence = f"{len(missing):,} of {len(ids):,} items of the events are not in the catalogue"
    return [Finding(CHECK, f"{sentence}; their events do not take part.")]

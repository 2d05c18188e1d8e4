"""Who had which plan when: periods of users, from all deliveries of their changes, contradictions resolved.

All deliveries are read together, so the result does not depend on the order in which they came in. The rules:
- Of several changes of one user at the same moment, the one that arrived last counts, in a delivery the later line.
- `subscribe` and `change` begin a period with the plan that they name, whatever there was before.
- `cancel` begins a period without a plan. Where there is no plan to end, it goes to quarantine.
- A change that names no country or platform leaves them as they were.
- A period that says the same as the one before it is a part of that one.
"""

import gzip
import json

import pandas as pd
import pyarrow as pa

from common import storage, tables
from common.failures import InputError, Refused
from common.task import Task, run

FIELDS = ["user_id", "time", "plan", "change", "country", "platform"]
PLANS = ["free", "basic", "premium"]
LINES = pa.schema(
    {name: pa.string() for name in FIELDS}
    | {"time": pa.timestamp("us", "UTC"), "arrival": pa.timestamp("us", "UTC"), "file": pa.string()}
    | {"line": pa.int64(), "content": pa.string(), "reason": pa.string()}
)
CHANGES = ["subscribe", "change", "cancel"]


def read_delivery(uri: str) -> pa.Table:
    """The fields of each line with file, arrival day, number of the line; of what may go to quarantine, the line."""
    try:
        lines = gzip.decompress(storage.read(uri)[0]).decode("utf-8", "replace").splitlines()
    except (OSError, EOFError) as error:
        raise InputError(f"{uri} is not gzipped ({error}), expected *.jsonl.gz; pack it, or move it away.") from None
    rows = pd.DataFrame([fields(line) for line in lines], columns=FIELDS, dtype="object")
    arrival = next(part for part in uri.split("/") if part.startswith("arrival="))
    rows["arrival"] = pd.Timestamp(arrival.removeprefix("arrival="), tz="UTC")
    times = pd.to_datetime(rows["time"], utc=True, format="ISO8601", errors="coerce")
    reason = unusable(rows, times)
    kept = reason.notna() | (rows["change"] == "cancel")
    rows = rows.assign(
        time=times.astype("datetime64[us, UTC]"),
        file=uri,
        line=range(1, len(rows) + 1),
        content=pd.Series(lines, dtype="object").where(kept, None),
        reason=reason,
    )
    return pa.Table.from_pandas(rows, LINES, preserve_index=False)


def fields(line: str) -> list[str | None]:
    """The fields of a line in JSON; None for what is missing or no text, and for all if it is no object."""
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        return [None] * len(FIELDS)
    return [value if isinstance(value := row.get(name), str) and value else None for name in FIELDS]


def unusable(rows: pd.DataFrame, times: pd.Series) -> pd.Series:
    """Why a line can't be used, null if it can: the first reason of these."""
    reasons = {
        "no change of a user in JSON": rows[FIELDS].isna().all(axis=1),
        "no user ID": rows["user_id"].isna(),
        "unknown change": ~rows["change"].isin(CHANGES),
        "unknown plan": ~rows["plan"].isin(PLANS) & (rows["change"] != "cancel"),
        "bad time": times.isna(),
        "time after the arrival": times >= rows["arrival"] + pd.Timedelta(days=2),  # clocks may be a day ahead
    }
    reason = pd.Series(None, index=rows.index, dtype="object")
    for name, found in reversed(reasons.items()):
        reason[found] = name
    return reason


def as_categories(lines: pa.Table) -> pd.DataFrame:
    """The lines with numbers for their texts, which are many times as quick and as small; users in their order."""
    rows: pd.DataFrame = lines.to_pandas(categories=["user_id", "file", "plan", "change", "country", "platform"])
    users = rows["user_id"].cat
    return rows.assign(user_id=users.reorder_categories(users.categories.sort_values(), ordered=True))


def periods(changes: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of users@1, by user and time, and the cancellations that had nothing to end."""
    order = ["user_id", "time", "arrival", "file", "line"]
    changes = changes.sort_values(order).drop_duplicates(["user_id", "time"], keep="last")
    before = changes.groupby("user_id", sort=False, observed=True)["change"].shift()
    idle = (changes["change"] == "cancel") & (before.isna() | (before == "cancel"))
    changes, cancels_nothing = changes[~idle], changes[idle]
    changes = changes.assign(
        plan=changes["plan"].where(changes["change"] != "cancel", None),
        **changes.groupby("user_id", sort=False, observed=True)[["country", "platform"]].ffill(),
    )
    state = pd.DataFrame({name: changes[name].cat.codes for name in ("user_id", "plan", "country", "platform")})
    found = changes[(state != state.shift()).any(axis=1)].rename(columns={"time": "since"})
    return found.assign(until=found.groupby("user_id", sort=False, observed=True)["since"].shift(-1)), cancels_nothing


def main(task: Task) -> None:
    files = task.input("deliveries").files
    if not files:
        raise InputError(f"There is no delivery below {task.lake}/raw/users; load one first.")
    deliveries = []
    for number, file in enumerate(files):
        task.progress("deliveries read", number, len(files))
        deliveries.append(read_delivery(file.uri))
    lines = as_categories(pa.concat_tables(deliveries))
    bad = lines[lines["reason"].notna()]
    most = task.parameters["most_unusable"]
    reasons = {str(reason): int(count) for reason, count in bad["reason"].value_counts().items()}
    task.metrics |= {"lines": len(lines), "unusable": len(bad), "reasons": reasons}
    if len(bad) > most * len(lines):
        told = ", ".join(f"{reason} ({count})" for reason, count in list(reasons.items())[:3])
        raise Refused(
            f"{len(bad)} of {len(lines)} lines are unusable, at most {most:.1%} may be: {told}; nothing was published: "
            "have the deliveries mended, or raise most_unusable."
        )
    found, cancels_nothing = periods(lines[lines["reason"].isna()])
    cancels_nothing = cancels_nothing.assign(reason="cancels a plan that the user does not have")
    quarantine = pd.concat([bad, cancels_nothing]).sort_values(["file", "line"])
    tables.write(task, "quarantine", pa.Table.from_pandas(quarantine.drop(columns=FIELDS), preserve_index=False))
    tables.write(task, "users", pa.Table.from_pandas(found, preserve_index=False))
    now = found[found["until"].isna()]
    task.metrics |= {
        "users": len(now),
        "users_without_plan": int(now["plan"].isna().sum()),
        "periods": len(found),
        "cancellations_of_nothing": len(cancels_nothing),
        "users_by_plan": {str(plan): int(count) for plan, count in now["plan"].value_counts().items()},
    }
    task.log("users", **task.metrics)


if __name__ == "__main__":
    run(main)

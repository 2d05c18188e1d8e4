"""Periods of plans from the changes of users: which changes are known, which users new ones touch, their periods."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from common.engines import arrow
from common.ingestion.arrow.mapping import ATTRIBUTE

CHANGES, USERS = arrow.schema_of("user_changes@1"), arrow.schema_of("users@2")
STATE = ["plan", "country", "platform"]  # and attributes
ORDER = ["user_id", "time", "arrival", "file", "row"]


class Renewed(NamedTuple):
    """All rows of users@2, those that were computed, and the files and rows of cancellations without a plan to end."""

    users: pa.Table
    new: pa.Table
    cancels_nothing: pa.Table


def without_files(known: pa.Table, files: list[str]) -> tuple[pa.Table, pa.ChunkedArray]:
    """Return the changes without those of some files, and the users in these."""
    dropped = pc.is_in(known["file"], value_set=pa.array(files, pa.string()))
    if not pc.any(dropped).as_py():
        return known, pa.chunked_array([], pa.string())
    return known.filter(pc.invert(dropped)), known.filter(dropped)["user_id"]


def renew(users: pa.Table, changes: list[pa.Table], touched: pa.ChunkedArray) -> Renewed:
    """Return users with the periods of the touched ones, given with repetitions, computed anew from all changes."""
    touched = pc.unique(touched)
    rows = [each.filter(pc.is_in(each["user_id"], value_set=touched)).cast(CHANGES) for each in changes]
    begins, cancels_nothing = periods(as_categories(split_attributes(pa.concat_tables(rows))))
    others = users.filter(pc.invert(pc.is_in(users["user_id"], value_set=touched))).cast(USERS)
    new = join_attributes(pa.Table.from_pandas(begins, preserve_index=False)).select(USERS.names).cast(USERS)
    every = pa.concat_tables([others, new]).sort_by([("user_id", "ascending"), ("since", "ascending")])
    return Renewed(every, new, pa.Table.from_pandas(cancels_nothing[["file", "row"]], preserve_index=False))


def periods(changes: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return rows of users@2, by user and time, and the cancellations without a plan to end."""
    attributes = [name for name in changes.columns if name.startswith(ATTRIBUTE)]
    changes = changes.sort_values(ORDER).drop_duplicates(["user_id", "time"], keep="last")
    before = changes.groupby("user_id", sort=False, observed=True)["change"].shift()
    idle = (changes["change"] == "cancel") & (before.isna() | (before == "cancel"))
    changes, cancels_nothing = changes[~idle], changes[idle]
    kept = [*STATE[1:], *attributes]
    changes = changes.assign(
        plan=changes["plan"].where(changes["change"] != "cancel", None),
        **changes.groupby("user_id", sort=False, observed=True)[kept].ffill(),
    )
    state = pd.DataFrame({name: changes[name].cat.codes for name in ("user_id", *STATE, *attributes)})
    begins = changes[(state != state.shift()).any(axis=1)].rename(columns={"time": "since"})
    return begins.assign(until=begins.groupby("user_id", sort=False, observed=True)["since"].shift(-1)), cancels_nothing


def as_categories(changes: pa.Table) -> pd.DataFrame:
    """Return the changes with categories for their texts, many times as fast and as small; users and files sorted."""
    texts = [each.name for each in changes.schema if pa.types.is_string(each.type)]
    rows: pd.DataFrame = changes.to_pandas(categories=texts)
    for name in ("user_id", "file"):
        values = rows[name].cat
        rows[name] = values.reorder_categories(values.categories.sort_values(), ordered=True)
    return rows


def split_attributes(changes: pa.Table) -> pa.Table:
    """Return the changes with a column per attribute instead of the map."""
    maps = changes["attributes"].combine_chunks()
    changes = changes.drop_columns(["attributes"])
    present = maps.filter(maps.is_valid())
    rows = np.repeat(np.flatnonzero(maps.is_valid()), np.diff(present.offsets))
    for key in pc.unique(present.keys).sort().to_pylist():
        hit = pc.equal(present.keys, key)
        places = np.full(len(maps), -1)
        places[rows[hit.to_numpy(zero_copy_only=False)]] = np.arange(pc.sum(hit).as_py())
        values = present.items.filter(hit).take(pa.array(places, mask=places < 0))
        changes = changes.append_column(ATTRIBUTE + key, values)
    return changes


def join_attributes(rows: pa.Table) -> pa.Table:
    """Return the rows with a map of the attributes that are not null instead of a column per attribute."""
    names = sorted(name for name in rows.column_names if name.startswith(ATTRIBUTE))
    count, width = rows.num_rows, len(names)
    if not count * width:
        return rows.drop_columns(names).append_column("attributes", pa.nulls(count, arrow.TYPES["map"]))
    values = pa.concat_arrays([rows[name].cast(pa.string()).combine_chunks() for name in names])
    values = values.take(pa.array(np.arange(count * width).reshape(width, count).T.ravel()))
    given = values.is_valid()
    sizes = given.to_numpy(zero_copy_only=False).reshape(count, width).sum(axis=1)
    keys = pa.array([name.removeprefix(ATTRIBUTE) for name in names]).take(pa.array(np.tile(np.arange(width), count)))
    offsets = pa.array(np.concatenate([[0], np.cumsum(sizes)]), pa.int32(), mask=np.append(sizes == 0, False))
    maps = pa.MapArray.from_arrays(offsets, keys.filter(given), values.drop_null())
    return rows.drop_columns(names).append_column("attributes", maps)

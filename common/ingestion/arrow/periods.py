"""Periods of plans from the changes of users: which changes are known, which users new ones touch, their periods."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from common.engines import arrow
from common.ingestion.arrow.mapping import ATTRIBUTE

CHANGES, USERS = arrow.schema_of("user_changes@1"), arrow.schema_of("users@2")
STATE = ["plan", "country", "platform"]  # and attributes
ORDER = ["user_id", "time", "arrival", "file", "row"]


def replace_files(known: pa.Table, files: list[str], new: pa.Table) -> tuple[pa.Table, pa.Array]:
    """Return the known changes with new ones in place of those of some files, and the users whom that touches."""
    former = pc.is_in(known["file"], value_set=pa.array(files, pa.string()))
    chunks = [*known.filter(former)["user_id"].chunks, *new["user_id"].chunks]
    touched = pc.unique(pa.chunked_array(chunks, pa.string()))
    return pa.concat_tables([known.filter(pc.invert(former)), new]), touched


def replace_periods(users: pa.Table, changes: pa.Table, touched: pa.Array) -> tuple[pa.Table, pa.Table]:
    """Return rows of users@2 with the periods of the touched users computed anew from all changes.

    The second table has the file and row of their cancellations without a plan to end.
    """
    rows = changes.filter(pc.is_in(changes["user_id"], value_set=touched))
    begins, cancels_nothing = periods(as_categories(split_attributes(rows)))
    others = users.filter(pc.invert(pc.is_in(users["user_id"], value_set=touched)))
    new = join_attributes(pa.Table.from_pandas(begins, preserve_index=False)).select(users.column_names)
    renewed = pa.concat_tables([others, new.cast(users.schema)])
    places = pa.Table.from_pandas(cancels_nothing[["file", "row"]], preserve_index=False)
    return renewed.sort_by([("user_id", "ascending"), ("since", "ascending")]), places


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

"""The catalogue: one row for each good, its name picked from contradictory descriptions.

Goods are what has a stock code, that is an item ID that begins with five digits; all else (postage, bank charges, gift
vouchers, tests) goes to quarantine and is never recommended. The family of a good is these five digits: the letters
behind them are colours and sizes.

Stock keepers write notes where the name should be ("damages", "found", "?"). Of an item's descriptions the best kind
wins: several words in capitals; one word in capitals; several words that each begin with a capital. Within a kind the
last one seen, then the alphabet. A good that has only notes, or nothing, has never been named: quarantine.
"""

import io

import pandas as pd
import pyarrow as pa
import pyarrow.csv

from common import storage, tables
from common.failures import InputError
from common.task import Task, run

COLUMNS = {"item_id": pa.string(), "description": pa.string(), "seen": pa.timestamp("s", tz="UTC")}
GOOD = r"^[0-9]{5}"
SEVERAL_CAPITALISED_WORDS = r"^[^a-z\s]\S*(?: [^a-z\s]\S*)+$"


def read_delivery(uri: str) -> pd.DataFrame:
    """The rows of a delivery with the number of their line; InputError if it is no such CSV."""
    options = pyarrow.csv.ConvertOptions(column_types=COLUMNS, include_columns=list(COLUMNS), strings_can_be_null=False)
    try:
        table = pyarrow.csv.read_csv(io.BytesIO(storage.read(uri)[0]), convert_options=options)
    except (pa.ArrowInvalid, KeyError) as error:
        raise InputError(
            f"{uri} is no list of items ({str(error).splitlines()[0]}); expected a CSV with item_id, description, seen."
        ) from None
    rows: pd.DataFrame = table.to_pandas()
    return rows.assign(file=uri, line=range(2, table.num_rows + 2))


def kind_of(descriptions: pd.Series) -> pd.Series:
    """How much a description looks like a name, 3 to 1, and 0 for a note."""
    capitals, small = descriptions.str.count(r"[A-Z]"), descriptions.str.count(r"[a-z]")
    words = descriptions.str.count(" ") + 1
    in_capitals = (capitals >= 3) & (capitals >= small)  # half of the letters, for "BAG 125g MARBLES"
    capitalised = descriptions.str.match(SEVERAL_CAPITALISED_WORDS) & (small > 0)
    return (in_capitals & (words > 1)) * 3 + (in_capitals & (words == 1)) * 2 + (~in_capitals & capitalised) * 1


def catalogue(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series]:
    """item_id, name and family of each good, by item_id; and of each row why it is no part of that, null if it is."""
    names = rows["description"].str.split().str.join(" ")
    kinds, is_good = kind_of(names), rows["item_id"].str.match(GOOD)
    candidates = rows.assign(name=names, kind=kinds)[is_good & (kinds > 0)]
    best = candidates.sort_values(["item_id", "kind", "seen", "name"], ascending=[True, False, False, True])
    best = best.drop_duplicates("item_id")
    items = best[["item_id", "name"]].assign(family=best["item_id"].str[:5])
    reason = pd.Series(None, index=rows.index, dtype="object")
    reason[is_good & ~rows["item_id"].isin(items["item_id"])] = "no description is a name"
    reason[~is_good] = "no stock code: five digits at the beginning"
    return items, reason


def main(task: Task) -> None:
    files = task.input("deliveries").files
    if not files:
        raise InputError(f"There is no delivery below {task.lake}/raw/items; load one first.")
    rows = pd.concat([read_delivery(file.uri) for file in files], ignore_index=True)
    items, reason = catalogue(rows)
    quarantined = rows.assign(reason=reason)[reason.notna()]
    content = quarantined["item_id"] + "," + quarantined["description"]
    tables.write(
        task,
        "quarantine",
        pa.Table.from_pandas(quarantined[["file", "line", "reason"]].assign(content=content), preserve_index=False),
    )
    tables.write(task, "items", pa.Table.from_pandas(items, preserve_index=False))
    descriptions = rows[reason.isna()].groupby("item_id")["description"].nunique()
    task.metrics |= {
        "rows": len(rows),
        "goods": len(items),
        "goods_with_contradictory_descriptions": int((descriptions > 1).sum()),
        "quarantined": {why: int(number) for why, number in reason.value_counts().items()},
    }
    task.log("catalogue", **task.metrics)


if __name__ == "__main__":
    run(main)

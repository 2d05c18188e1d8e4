"""Items by the number of different users who bought them."""

import pyarrow as pa
import pyarrow.compute as pc

from common.engines import arrow
from common.errors import GateRefused
from common.handover import Task, run


def bought_items(events: pa.Table, min_buyers: int) -> pa.Table:
    """Return rows of new_job@1 from events, the most bought item first; events without a user do not count."""
    purchases = events.filter(pc.equal(events["type"], "purchase"))
    counted = purchases.group_by("item_id").aggregate([("user_id", "count_distinct")])
    buyers = counted.rename_columns({"user_id_count_distinct": "buyers"})
    enough = buyers.filter(pc.greater_equal(buyers["buyers"], min_buyers))
    return enough.sort_by([("buyers", "descending"), ("item_id", "ascending")])


def main(task: Task) -> None:
    min_buyers = task.parameters["min_buyers"]
    items = bought_items(arrow.read(task, "events", ["user_id", "item_id", "type"]), min_buyers)
    if not items.num_rows:
        raise GateRefused(f"No item was bought by {min_buyers} users; check the events, or lower min_buyers.")
    task.metrics["items"] = items.num_rows
    arrow.write(task, "items", items)


if __name__ == "__main__":
    run(main)

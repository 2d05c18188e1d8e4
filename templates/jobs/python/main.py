"""Items by the number of different users who chose them."""

import pyarrow as pa
import pyarrow.compute as pc

from common.engines import arrow
from common.errors import GateRefused
from common.handover import Task, run
from common.sources import tracking_plan


def chosen_items(events: pa.Table, min_users: int) -> pa.Table:
    """Return rows of new_job@1 from events, the most chosen item first; events without a user do not count."""
    types = pa.array(tracking_plan.load().positive_types, pa.string())
    known = pc.and_(events["user_id"].is_valid(), events["item_id"].is_valid())
    chosen = events.filter(pc.and_(known, pc.is_in(events["type"], value_set=types)))
    counted = chosen.group_by("item_id").aggregate([("user_id", "count_distinct")])
    users = counted.rename_columns({"user_id_count_distinct": "users"})
    enough = users.filter(pc.greater_equal(users["users"], min_users))
    return enough.sort_by([("users", "descending"), ("item_id", "ascending")])


def main(task: Task) -> None:
    min_users = task.parameters["min_users"]
    items = chosen_items(arrow.read(task, "events", ["user_id", "item_id", "type"]), min_users)
    if not items.num_rows:
        raise GateRefused(
            f"No item was chosen by {min_users} users; check the events and the tracking plan, or lower min_users."
        )
    task.metrics["items"] = items.num_rows
    arrow.write(task, "items", items)


if __name__ == "__main__":
    run(main)

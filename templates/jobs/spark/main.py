"""Items by the number of different users who chose them."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from common.engines import frames
from common.errors import GateRefused
from common.handover import Task, run
from common.sources import tracking_plan


def chosen_items(events: DataFrame, min_users: int) -> DataFrame:
    """Return rows of new_job@1 from events, the most chosen item first; events without a user do not count."""
    known = F.col("user_id").isNotNull() & F.col("item_id").isNotNull()
    chosen = events.where(known & F.col("type").isin(tracking_plan.load().positive_types))
    users = chosen.groupBy("item_id").agg(F.countDistinct("user_id").alias("users"))
    return users.where(F.col("users") >= min_users).orderBy(F.desc("users"), "item_id")


def main(task: Task) -> None:
    min_users = task.parameters["min_users"]
    with frames.session(task):
        frames.write(task, "items", chosen_items(frames.read(task, "events"), min_users))
    task.metrics["items"] = task.outputs["items"]["rows"]
    if not task.metrics["items"]:
        raise GateRefused(
            f"No item was chosen by {min_users} users; check the events and the tracking plan, or lower min_users."
        )


if __name__ == "__main__":
    run(main)

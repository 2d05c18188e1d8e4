"""Items by the number of different users who bought them."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from common.engines import spark
from common.errors import GateRefused
from common.handover import Task, run


def bought_items(events: DataFrame, min_buyers: int) -> DataFrame:
    """Return rows of new_job@1 from events, the most bought item first; events without a user do not count."""
    purchases = events.where((F.col("type") == "purchase") & F.col("user_id").isNotNull())
    buyers = purchases.groupBy("item_id").agg(F.countDistinct("user_id").alias("buyers"))
    return buyers.where(F.col("buyers") >= min_buyers).orderBy(F.desc("buyers"), "item_id")


def main(task: Task) -> None:
    min_buyers = task.parameters["min_buyers"]
    with spark.session(task):
        spark.write(task, "items", bought_items(spark.read(task, "events"), min_buyers))
    task.metrics["items"] = task.outputs["items"]["rows"]
    if not task.metrics["items"]:
        raise GateRefused(f"No item was bought by {min_buyers} users; check the events, or lower min_buyers.")


if __name__ == "__main__":
    run(main)

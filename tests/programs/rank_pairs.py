"""A Spark job that sorts as many rows as its parameter says, and more than fit into memory if it is large."""

from pyspark.sql import Window
from pyspark.sql import functions as F

from common.engines import frames
from common.handover import run


def main(task):
    side = task.parameters["side"]
    with frames.session(task) as spark:
        task.metrics["threads"] = spark.sql("SELECT current_setting('threads') AS number").collect()[0]["number"]
        task.log("ranking")
        pairs = spark.range(side).crossJoin(spark.range(side).withColumnRenamed("id", "other"))
        mixed = pairs.withColumn("place", (F.col("id") * side + F.col("other")) * 7919 % 20_000_003)
        ranked = mixed.withColumn("rank", F.row_number().over(Window.orderBy("place")))
        task.metrics["rows"] = ranked.agg(F.max("rank").alias("rows")).collect()[0]["rows"]


if __name__ == "__main__":
    run(main)

"""A Spark job that uses a library of its own on the driver and on an executor."""

from common.engines import frames
from common.handover import run


def main(task):
    import inflection

    with frames.session(task) as session:
        words = session.sparkContext.parallelize(["a_b"], 1).map(lambda word: __import__("inflection").camelize(word))
        task.metrics["words"] = [inflection.camelize("c_d"), *words.collect()]


if __name__ == "__main__":
    run(main)
